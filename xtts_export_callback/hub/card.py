"""The model card: ``README.md`` of a repository on the Hub, from what an export records about itself.

Fields of its front matter: huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from xtts_export_callback.evaluation.table import COLUMNS
from xtts_export_callback.files.printable import printable
from xtts_export_callback.inference_folder.layouts import LAYOUTS
from xtts_export_callback.units import human_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from xtts_export_callback.evaluation.results import Candidate, Evaluation
    from xtts_export_callback.hub.contents import Contents

BASE_MODEL = "coqui/XTTS-v2"
_LICENSE = "https://huggingface.co/coqui/XTTS-v2/blob/main/LICENSE.txt"
_TERMS = (
    f"As for XTTS v2, the [Coqui Public Model License]({_LICENSE}) applies to the model and to what it says: no "
    "commercial use."
)
_MARK = re.compile(r"(?P<card>.*)<!-- xtts-export: (?P<sha256>[0-9a-f]{64}) -->\n", re.DOTALL)
_MARKUP = re.compile(r"([\\`*_|<>\[\]#~])")

_COQUI = """pip install coqui-tts huggingface_hub
```

```python
from huggingface_hub import snapshot_download
from TTS.api import TTS

folder = snapshot_download("{repo}")
tts = TTS(model_path=folder, config_path=f"{{folder}}/config.json")
tts.tts_to_file("How are you?", speaker_wav={clip}, language="{language}", file_path="speech.wav")
```"""
_OURS = """pip install "xtts-export-callback[train]" huggingface_hub
```

```python
from huggingface_hub import snapshot_download
from xtts_export_callback import load_xtts

model = load_xtts(snapshot_download("{repo}"))
```"""
_PROGRAM = """pip install huggingface_hub
hf download {repo} --local-dir {name}
```

{put}"""


@dataclass(frozen=True)
class Origin:
    """What is known of a model beside what its folder records.

    Attributes:
        base_models: What it was fine-tuned from or merged of, as names on the Hub.
        datasets: Names of the data sets that it was trained on.
        evaluation: An evaluation that has measured it.
        candidate: The model in it.
    """

    base_models: Sequence[str] = (BASE_MODEL,)
    datasets: Sequence[str] = ()
    evaluation: Evaluation | None = None
    candidate: Candidate | None = None


def model_card(repo: str, contents: Contents, config: Mapping[str, Any], origin: Origin) -> str:
    """Write the card of a model.

    Args:
        repo: The repository, ``USER/NAME``.
        contents: What is sent.
        config: Its ``config.json``, or the one of its core for Auralis.
        origin: What else is known.

    Returns:
        Markdown with front matter in YAML. Its last line lets `is_as_written` tell whether it was edited.
    """
    kind = contents.provenance["kind"]
    languages = list(dict.fromkeys(re.split("[-_]", code)[0].lower() for code in config.get("languages") or ["en"]))
    matter = {
        "license": "other",
        "license_name": "coqui-public-model-license",
        "license_link": _LICENSE,
        "language": languages,
        "library_name": "coqui",
        "pipeline_tag": "text-to-speech",
        "base_model": list(origin.base_models),
        "base_model_relation": "merge" if kind == "merge" else "finetune",
        "tags": ["xtts", *(["merge"] if kind == "merge" else [])],
    }
    name = repo.rpartition("/")[2]
    made = {"average": "The mean of checkpoints of a fine-tune", "merge": "A merge of fine-tunes"}
    bases = " and ".join(f"[{base}](https://huggingface.co/{base})" for base in origin.base_models)
    parts = [
        f"---\n{yaml.safe_dump(matter, sort_keys=False)}---",
        f"# {name}",
        f"{made.get(kind, 'A fine-tune')} of {bases}: speech in the voice of a recording, in {', '.join(languages)}.",
        "## Use",
        f"```bash\n{_use(repo, contents, languages)}",
        "## Where it comes from",
        _facts(contents, origin),
        *_sources(contents.provenance),
        *_evaluated(origin),
        f"## License\n\n{_TERMS}",
    ]
    card = "\n\n".join(parts) + "\n\n"
    return f"{card}<!-- xtts-export: {hashlib.sha256(card.encode()).hexdigest()} -->\n"


def is_as_written(card: str) -> bool:
    """Whether `model_card` has written a card and nobody has edited it since."""
    found = _MARK.fullmatch(card)
    return found is not None and hashlib.sha256(found["card"].encode()).hexdigest() == found["sha256"]


def _use(repo: str, contents: Contents, languages: Sequence[str]) -> str:
    layout = LAYOUTS.get(str(contents.provenance.get("layout")))
    name = repo.rpartition("/")[2]
    if layout is not None:
        return _PROGRAM.format(repo=repo, name=name, put=layout.put.format(path=name, folder=".", name=name))
    if "model.pth" not in contents.files or "int8" in _types(contents.provenance):
        return _OURS.format(repo=repo)
    clip = next((file for file in contents.voices if file.endswith(".wav")), "")
    speaker = f'f"{{folder}}/{clip}"' if clip else '"recording.wav"'
    language = "en" if "en" in languages else languages[0]
    return _COQUI.format(repo=repo, clip=speaker, language=language)


def _types(provenance: Mapping[str, Any]) -> list[str]:
    return [str(provenance.get("dtype")), *map(str, (provenance.get("precision") or {}).values())]


def _facts(contents: Contents, origin: Origin) -> str:
    provenance = contents.provenance
    types = " and ".join(dict.fromkeys(_types(provenance)))
    rows = {
        "Base model": ", ".join(origin.base_models),
        "Data set": ", ".join(map(_text, origin.datasets)),
        "Weights": f"{_text(types)}, {human_size(sum(contents.files.values()))} with all files",
        "Written": _text(provenance.get("created", "")),
        "By": ", ".join(f"{_text(name)} {_text(version)}" for name, version in provenance["versions"].items()),
    }
    return _table(["", ""], [[name, value] for name, value in rows.items() if value])


def _sources(provenance: Mapping[str, Any]) -> list[str]:
    """Return the checkpoints that the weights are made of, and how."""
    columns = {
        "source": [_text(each.get("name", "")) for each in provenance["sources"]],
        "step": [_number(each.get("step")) for each in provenance["sources"]],
        "epoch": [_number(each.get("epoch")) for each in provenance["sources"]],
        "training loss": [_number((each.get("model_loss") or {}).get("train_loss")) for each in provenance["sources"]],
        "evaluation loss": [_number((each.get("model_loss") or {}).get("eval_loss")) for each in provenance["sources"]],
        "weight": [_number(each.get("weight")) for each in provenance["sources"]],
    }
    known = {title: cells for title, cells in columns.items() if any(cells)}
    table = _table(known, zip(*known.values(), strict=True))
    recipe = (provenance.get("rules") or {}).get("summary") or []
    return [table, *(["\n".join(f"- {_text(line)}" for line in recipe)] if recipe else [])]


def _evaluated(origin: Origin) -> list[str]:
    if origin.evaluation is None or origin.candidate is None:
        return []
    candidates = origin.evaluation.candidates
    cells = {title: [cell(one) for one in candidates] for title, cell in COLUMNS.items()}
    known = {title: each for title, each in cells.items() if any(each)}
    names = [f"**{_text(one.name)}, this model**" if one is origin.candidate else _text(one.name) for one in candidates]
    rows = zip(names, *(map(_text, each) for each in known.values()), strict=True)
    data = origin.evaluation.data
    measured = [f"Loss on {data.clips} clips of {_text(data.dataset)}. "] if data is not None else [""]
    return [
        "## Evaluation",
        _text(origin.evaluation.verdict),
        _table(["model", *known], rows),
        f"{measured[0]}In parentheses, 95 % intervals over clips.",
    ]


def _table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(titles)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value) if isinstance(value, int) else ""


def _text(value: Any) -> str:
    """Return a text from a file as Markdown shows it, without its markup."""
    return _MARKUP.sub(r"\\\1", printable(value))
