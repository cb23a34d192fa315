"""Build the listening page of a run or an evaluation: `write_page`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback import extras
from xtts_export_callback.comparison.trajectory import bytes_to_read, compare_run
from xtts_export_callback.errors import ConfigError, XttsExportError
from xtts_export_callback.evaluation.page.figures import disk_of, loss_points, table_of
from xtts_export_callback.evaluation.page.listening import Listening, read_listening
from xtts_export_callback.evaluation.plots import HeatMap, heat_map, loss_plot
from xtts_export_callback.evaluation.results import EVALUATION_FILE, Evaluation, read_evaluation
from xtts_export_callback.files.atomic import whole_file
from xtts_export_callback.inspection.run import RunReport, inspect_run
from xtts_export_callback.run.checkpoints import is_run
from xtts_export_callback.units import human_size

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE_FILE = "report.html"
EVALUATION_FOLDER = "evaluation"
"""Folder of a run where its evaluation is looked for."""
_HERE = Path(__file__).parent
_SCRIPTS = ("player.js", "statistics.js", "blind.js")


@dataclass(frozen=True)
class Subject:
    """What a page is about.

    Attributes:
        name: Name of the folder.
        evaluation: What was measured.
        listening: What was said.
        run: What the run holds.
        movement: Where its weights moved.
        notes: What could not be shown, and why.
    """

    name: str
    evaluation: Evaluation | None = None
    listening: Listening = field(default_factory=Listening)
    run: RunReport | None = None
    movement: HeatMap | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """The result in a sentence."""
        if self.evaluation is not None:
            return self.evaluation.verdict or "Nothing was compared yet."
        points = loss_points(None, self.run)
        if not points:
            return "Nothing was measured yet."
        best = min(points, key=lambda point: point.mean)
        return f"{best.name} has the lowest evaluation loss that training noted; how it sounds was not measured yet."


def read_subject(path: Path, *, progress: Callable[[int], None] | None = None) -> Subject:
    """Read a run, an evaluation, or a run with its evaluation.

    Args:
        path: A run folder, whose evaluation is looked for in ``evaluation/``, or the folder of an evaluation.
        progress: Called with the number of bytes of checkpoints read since the last call, from any thread.

    Returns:
        What the page shows. Checkpoints that cannot be compared leave a note.

    Raises:
        ConfigError: When the folder is neither, or a file of the evaluation cannot be read.
    """
    folder = next((place for place in (path, path / EVALUATION_FOLDER) if (place / EVALUATION_FILE).is_file()), None)
    has_run = is_run(path)
    if folder is None and not has_run:
        found = "neither; run xtts-export evaluate" if path.exists() else "no such file or folder; check the path"
        msg = f"{path}: expected a run folder or a folder with {EVALUATION_FILE}, found {found}"
        raise ConfigError(msg)
    evaluation = read_evaluation(folder) if folder is not None else None
    listening = read_listening(folder, evaluation) if folder is not None and evaluation is not None else Listening()
    run = inspect_run(path) if has_run else None
    movement, notes = None, [*listening.notes]
    if has_run:
        try:
            movement = heat_map(compare_run(path, progress=progress))
        except XttsExportError as error:
            notes.append(f"Where the layers moved is not shown. {error}")
    return Subject(path.resolve().name, evaluation, listening, run, movement, notes)


def work(path: Path) -> int:
    """Return the bytes of checkpoints that `read_subject` reads, for progress; 0 where they cannot be read."""
    try:
        return bytes_to_read(path)
    except XttsExportError:
        return 0


def render(subject: Subject) -> str:
    """Return the page: one HTML document that loads nothing else.

    Raises:
        MissingExtraError: When the template engine is not installed.
    """
    extras.require("report", "xtts-export report", "jinja2")
    import jinja2

    loader = jinja2.FileSystemLoader(_HERE)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["size"] = human_size
    evaluation = subject.evaluation
    return environment.get_template("page.html").render(
        subject=subject,
        evaluation=evaluation,
        listening=subject.listening,
        table=table_of(evaluation) if evaluation is not None and evaluation.candidates else None,
        plot=loss_plot(loss_points(evaluation, subject.run)),
        is_noted=evaluation is None or not any(one.loss for one in evaluation.candidates),
        movement=subject.movement,
        disk=disk_of(evaluation, subject.run),
        blind=_blind(subject),
        style=(_HERE / "style.css").read_text(encoding="utf-8"),
        script="\n".join((_HERE / name).read_text(encoding="utf-8") for name in _SCRIPTS),
    )


def write_page(path: Path, output: Path | None = None, *, force: bool = False, **options: Any) -> Path:
    """Write the page of a run or an evaluation.

    Args:
        path: The folder; see `read_subject`.
        output: Folder to write ``report.html`` into; the folder itself by default.
        force: Replace a page that is there.
        **options: See `read_subject`.

    Returns:
        The page.

    Raises:
        MissingExtraError: When packages of the extra ``report`` are missing.
        ConfigError: See `read_subject`.
        OutputExistsError: When the page exists and ``force`` is not given.
    """
    extras.require("report", "xtts-export report")
    folder = output or path
    page = folder / PAGE_FILE
    with whole_file(page, force=force) as temporary:
        content = render(read_subject(path, **options))
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(content, encoding="utf-8")
    return page


def _blind(subject: Subject) -> dict[str, Any]:
    """What the script needs for a blind comparison; its id names the vote in the browser's storage."""
    groups = [
        {
            "key": group.key,
            "text": group.text,
            "language": group.language,
            "clips": {clip.candidate: {"key": clip.key, "gain": subject.listening.gain(clip)} for clip in group.clips},
        }
        for group in subject.listening.groups
    ]
    created = subject.evaluation.created if subject.evaluation else ""
    digest = hashlib.sha256(json.dumps([subject.name, created, groups]).encode()).hexdigest()
    candidates = [one.name for one in subject.evaluation.candidates if one.samples] if subject.evaluation else []
    return {"id": f"{subject.name} {digest[:12]}", "candidates": candidates, "groups": groups}
