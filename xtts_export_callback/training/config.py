"""The config flag ``export`` and its options: what to export during training, and how.

Coqpit reads the annotations of its dataclasses as objects, so this module must not postpone their evaluation with a
``__future__`` import.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from coqpit import Coqpit

from xtts_export_callback.errors import ConfigError
from xtts_export_callback.export.precision import INT8, TYPES, parse_precision
from xtts_export_callback.inference_folder.layouts import LAYOUTS
from xtts_export_callback.suggestions import did_you_mean

DTYPES = TYPES
STATES = ("full", "weights")

# Names by which the Trainer finds its own files in the run folder, to resume from them and to delete them
# (`trainer.io.keep_n_checkpoints`, `get_last_checkpoint`, `save_best_model`).
_TRAINER_PREFIXES = ("checkpoint", "best_model")

# Reserved names: files of the Trainer in the same run folder, and devices on Windows, with any ending.
_TAKEN = re.compile(r"config\.json|trainer_\d+_log\.txt|(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


class _Values(NamedTuple):
    """The values that an option can take: a test, and the same in words."""

    accept: Callable[[Any], bool]
    words: str


def _one_of(*names: str) -> _Values:
    return _Values(lambda value: isinstance(value, str) and value in names, ", ".join(names))


def _is_plain_folder_name(name: Any) -> bool:
    """Whether ``name`` is one path component on every system, and one that the Trainer leaves alone."""
    return (
        isinstance(name, str)
        and PurePosixPath(name).name == name
        and PureWindowsPath(name).name == name
        and name not in ("", ".", "..")
        and name == name.strip()
        and not name.endswith((".", ".pth"))
        and name.isprintable()
        and not any(character in '<>:"|?*[]' for character in name)
        and not name.startswith(_TRAINER_PREFIXES)
        and not _TAKEN.fullmatch(name)
    )


def _is_number(value: Any, kinds: Any) -> bool:
    """Whether a value is a finite number, 0 or more, and not true, which Python would take for 1."""
    return isinstance(value, kinds) and not isinstance(value, bool) and 0 <= value < math.inf


_LAYOUT = _Values(lambda value: value in ("", *LAYOUTS), f"{', '.join(LAYOUTS)}, or empty for none")
_FILE = _Values(lambda value: isinstance(value, str), "the path of a WAV, auto, or empty for none")
_FLAG = _Values(lambda value: isinstance(value, bool), "true, false")
_COUNT = _Values(lambda value: _is_number(value, int), "a whole number, 0 or more")
_POSITIVE = _Values(lambda value: _is_number(value, int) and value > 0, "a whole number, 1 or more")
_AVERAGED = _Values(
    lambda value: _is_number(value, int) and value != 1, "0 for off, or a whole number of checkpoints, 2 or more"
)
_GIGABYTES = _Values(lambda value: _is_number(value, (int, float)), "a number of gigabytes, 0 or more")
_FOLDER = _Values(
    _is_plain_folder_name,
    "the name of one folder (no path), not starting with checkpoint or best_model and not ending in .pth, which the "
    "Trainer takes for its own files, and not the name of such a file or of a Windows device",
)


def _is_precision(value: Any) -> bool:
    try:
        return isinstance(value, str) and isinstance(parse_precision(value.split()), dict)
    except ConfigError:
        return False


_PRECISION = _Values(_is_precision, f"PATTERN=TYPE, separated by spaces, with types of {', '.join(DTYPES)}")


def _option(default: Any, values: _Values, text: str) -> Any:
    """A field with its help text, which ends in the default, and the values it can take."""
    return field(default=default, metadata={"help": f"{text}. Defaults to {default!r}", "values": values})


@dataclass
class ExportConfig(Coqpit):
    """Options of the export, carried as the field ``export`` of :class:`XttsExportTrainerConfig`.

    Raises:
        ConfigError: On construction, from JSON and from the command line alike, for an unknown option or a value of
            the wrong type or out of range. (Coqpit on its own would drop the first and replace the second with the
            default, and the user would notice after days of training.)

    Example:
        >>> ExportConfig(enabled=True, keep_last=3).dtype
        'float32'
    """

    enabled: bool = _option(False, _FLAG, "Write an inference folder beside every checkpoint that the Trainer saves")
    folder: str = _option("inference", _FOLDER, "Name of the folder inside the run folder that holds the exports")
    dtype: str = _option(
        "float32",
        _one_of(*DTYPES),
        "Floating-point type of the exported weights: float32 (bit-identical to the checkpoint), float16 or "
        "bfloat16 (half the size), int8 (under a third, for load_xtts alone)",
    )
    precision: str = _option(
        "",
        _PRECISION,
        "Other types for parts of the model, as decoder=float32, separated by spaces; the first that matches counts",
    )
    format: str = _option("pth", _one_of("pth", "safetensors"), "File format of the exported weights")
    keep_last: int = _option(0, _COUNT, "Keep the exports of the last N checkpoints, 0 keeps all")
    export_best: bool = _option(True, _FLAG, "Export the best model as well")
    average_last: int = _option(0, _AVERAGED, "Average the last N exported checkpoints when training ends, 0 is off")
    recommend: bool = _option(
        False,
        _FLAG,
        "When training ends, measure the evaluation loss of all models of the run, averages and a greedy soup "
        "included, in a process of its own, and write the best to recommended, with the reason in its export.json. "
        "Training ends up to 30 minutes later, when no further model is measured; Ctrl-C skips it",
    )
    checkpoint_state: str = _option(
        "full",
        _one_of(*STATES),
        "What the Trainer's own checkpoint_N.pth hold: full, or weights (no optimizer, scheduler and scaler: "
        "a third of the size and of the time to save). Trade-off: a resumed run has the right step, "
        "weights and learning rate, but fresh optimizer moments",
    )
    best_model_state: str = _option(
        "full",
        _one_of(*STATES),
        "What the Trainer's own best_model_N.pth hold: full or weights. Trade-off: a run resumes from its "
        "last full checkpoint even if the best model is newer, and repeats the steps between; without a "
        "full checkpoint it resumes from the best model, with fresh optimizer moments",
    )
    keep_optimizer_for: int = _option(
        0,
        _COUNT,
        "Only the newest K checkpoint_N.pth keep their optimizer state; older ones are rewritten as weights, "
        "in the background, once a newer full one is verified. 0 keeps all. Trade-off: resuming from an older "
        "checkpoint means fresh optimizer moments. No effect if checkpoint_state is weights",
    )
    link_best_model: bool = _option(
        False,
        _FLAG,
        "Make best_model.pth a hard link to the newest best_model_N.pth in place of a second copy. Trade-off: "
        "a write into one of the two files changes both. With save_all_best it stays a copy (sharing "
        "its blocks where the file system can), since a run resumed without this callback would write into "
        "it",
    )
    max_disk_gb: float = _option(
        0.0,
        _GIGABYTES,
        "Gigabytes (10^9 bytes) that the exports of a run may take, without the blocks that they share with its "
        "checkpoints; the oldest are removed first, never the last one, also to make room for a save that does not "
        "fit on the disk. 0 is no limit. Trade-off: average_last may lack the removed exports",
    )
    running_mean: str = _option(
        "off",
        _one_of("off", "mean", "ema"),
        "Average the weights while they are trained: mean (of all steps since the last checkpoint) or ema (an "
        "exponential moving average), exported as running_mean_N beside each checkpoint. Trade-off: sums in float64 "
        "take twice the memory of the GPT, and as much on the disk for each checkpoint that the Trainer keeps",
    )
    running_mean_every: int = _option(
        10, _POSITIVE, "Steps between two updates of the running mean; it changes only where the optimizer steps"
    )
    running_mean_half_life: int = _option(1000, _POSITIVE, "Steps after which a weight counts half in an ema")
    evaluate_running_mean: bool = _option(
        False,
        _FLAG,
        "Also log the evaluation loss of the running mean after each epoch, for the time of one evaluation",
    )
    layout: str = _option(
        "",
        _LAYOUT,
        "When training ends, also pack the newest export, the best and the average as what a program takes, in "
        "NAME-LAYOUT beside them",
    )
    voice: str = _option(
        "",
        _FILE,
        "A WAV of the voice, 6 to 30 s, to put beside what is packed as its reference clip, with the latents that "
        "the model makes of it; auto takes the best of the training clips. A recording is somebody's and leaves with "
        "the folder, so that none is taken unasked",
    )

    save_on_terminate: bool = _option(
        False,
        _FLAG,
        "Save a checkpoint and export it when SIGTERM asks the training to end, as clusters and notebooks do, then let "
        "the signal end it: after the step under way, one save and at most 15 s for the exports, without the average",
    )

    @property
    def stored(self) -> dict[str, Any]:
        """How weights are stored, as arguments of `export_checkpoint`."""
        return {"dtype": self.dtype, "precision": parse_precision(self.precision.split()), "format": self.format}

    def check_values(self) -> None:
        """Refuse values that make an export impossible.

        Raises:
            ConfigError: Naming the option, its value and the values it can take.
        """
        check_options({option.name: getattr(self, option.name) for option in fields(self)})

    def deserialize(self, data: dict[str, Any]) -> "ExportConfig":
        """Update the options from ``data``, refusing what Coqpit would drop or replace in silence.

        Raises:
            ConfigError: For an unknown option, or a value it cannot take.
        """
        check_options(data)
        super().deserialize(data)
        return self

    @classmethod
    def deserialize_immutable(cls, data: dict[str, Any]) -> "ExportConfig":
        """Make the options from ``data``, refusing what Coqpit would drop or replace in silence.

        Raises:
            ConfigError: For an unknown option, or a value it cannot take.
        """
        check_options(data)
        options: ExportConfig = super().deserialize_immutable(data)
        return options


def check_options(options: object) -> None:
    """Check raw export options, such as the value of ``export`` in a JSON file.

    Args:
        options: Mapping of option names to values. Options that are left out keep their defaults.

    Raises:
        ConfigError: If it is not a mapping, has an unknown option or a value that the option cannot take.
    """
    values = {option.name: option.metadata["values"] for option in fields(ExportConfig)}
    known = list(values)
    if not isinstance(options, Mapping):
        msg = f"export is {options!r}, expected an object with any of: {', '.join(known)}"
        raise ConfigError(msg)
    for name, value in options.items():
        if name not in known:
            msg = f"export.{name} is not an option{did_you_mean(str(name), known)}; the options are: {', '.join(known)}"
            raise ConfigError(msg)
        if not values[name].accept(value):
            msg = f"export.{name} is {value!r}, allowed: {values[name].words}"
            raise ConfigError(msg)
    layout = LAYOUTS.get(options.get("layout", ""))
    if layout is None:
        return
    if layout.needs_clip and not options.get("voice", ""):
        msg = f"export.layout is {layout.name!r}, which needs a recording of the voice: set export.voice to a WAV"
        raise ConfigError(msg)
    rules = parse_precision(options.get("precision", "").split())
    types = {"dtype": [options.get("dtype")], "precision": rules.values()}
    quantized = next((name for name, asked in types.items() if INT8 in asked), None)
    if quantized is not None:
        cannot = f"which {layout.program} (export.layout) cannot read; use float16 in place of int8"
        msg = f"export.{quantized} is {options[quantized]!r}, {cannot}"
        raise ConfigError(msg)
