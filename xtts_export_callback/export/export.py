"""Export a checkpoint to an inference folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.checkpoint.reader import MODEL_NAMES
from xtts_export_callback.errors import ConfigError, OutputExistsError
from xtts_export_callback.inference_folder.folder import WrittenFolder, packing_of, write_inference_folder
from xtts_export_callback.inference_folder.layouts import Layout, layout_of
from xtts_export_callback.inference_folder.ownership import folder_bytes
from xtts_export_callback.inference_folder.provenance import (
    FORMATS,
    describe_source,
    provenance_of,
    read_provenance,
    training_state,
)
from xtts_export_callback.inference_folder.voice import read_clip
from xtts_export_callback.run.checkpoints import DEFAULT_FOLDER, exports_folder
from xtts_export_callback.tensors.cast import cast
from xtts_export_callback.tensors.dtypes import CASTS
from xtts_export_callback.xtts.assets import find_assets
from xtts_export_callback.xtts.companions import DVAE, MEL_STATS
from xtts_export_callback.xtts.state_dict import dvae_of, inference_model

if TYPE_CHECKING:
    import os

    from xtts_export_callback.checkpoint.reader import Checkpoint
    from xtts_export_callback.checkpoint.writer import Progress
    from xtts_export_callback.xtts.state_dict import InferenceModel


def export_checkpoint(  # noqa: PLR0913 - options of one command
    checkpoint: str | os.PathLike[str],
    output_dir: str | os.PathLike[str] | None = None,
    *,
    dtype: str = "float32",
    format: str = "pth",  # noqa: A002 - what users call it
    vocab: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    layout: str | None = None,
    voice: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> WrittenFolder:
    """Write the inference folder of a checkpoint. The checkpoint itself is never changed.

    Args:
        checkpoint: A Trainer checkpoint, an inference folder, a bare or official ``model.pth``, or ``.safetensors``.
        output_dir: The folder to create; by default ``inference/NAME`` beside the checkpoint.
        dtype: Type of the floating-point tensors: ``"float32"``, ``"float16"`` or ``"bfloat16"``.
        format: ``"pth"`` or ``"safetensors"``.
        vocab: The training ``vocab.json``, if it is neither named in the config nor beside the checkpoint.
        config: A ``config.json`` to use in place of the one in the checkpoint.
        layout: Write what this program takes: a name in `LAYOUTS`.
        voice: A WAV to put beside the model as the reference clip, with its latents where torch and Coqui are there.
        force: Replace an existing folder.
        progress: Called with the number of bytes written since the last call.

    Returns:
        The folder; ``written`` is False when an export of the same content exists already.

    Raises:
        CheckpointError: When the checkpoint is damaged or not an XTTS model.
        ConfigError: When an option is wrong, or the config or the vocabulary cannot be found.
        OutputExistsError: When something else is at ``output_dir`` and ``force`` is not given.
        VerificationError, OSError: When writing fails; nothing is left behind.

    Example:
        >>> export_checkpoint("run/checkpoint_1000.pth").path
        PosixPath('run/inference/checkpoint_1000')
    """
    check_choice("dtype", dtype, CASTS)
    check_choice("format", format, tuple(FORMATS))
    with open_checkpoint(checkpoint) as source:
        return export_opened(
            source,
            Path(output_dir) if output_dir is not None else packed_as(default_output(source.path), layout),
            dtype=dtype,
            format=format,
            vocab=vocab,
            config=config,
            layout=layout,
            voice=voice,
            force=force,
            progress=progress,
        )


def export_opened(  # noqa: PLR0913 - options of one command
    source: Checkpoint,
    output: Path,
    *,
    dtype: str = "float32",
    format: str = "pth",  # noqa: A002 - what users call it
    vocab: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    layout: str | None = None,
    voice: str | os.PathLike[str] | None = None,
    trained_in: Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> WrittenFolder:
    """Export an open checkpoint, whose ``path`` gives its name and the place of its assets; see `export_checkpoint`.

    ``trained_in`` is as for `find_assets`.
    """
    model = inference_model(source)
    chosen, clip = layout_of(layout), read_clip(Path(voice)) if voice is not None else None
    if output.exists() and not force:
        return _already_there(output, source, dtype, format, packing_of(chosen, clip))
    tensors = cast(model.tensors, dtype)
    assets = find_assets(
        source,
        model.tensors,
        vocab=Path(vocab) if vocab else None,
        config=Path(config) if config else None,
        trained_in=trained_in,
    )
    provenance = provenance_of("export", [describe_source(source)], dtype=dtype, models=[model])
    try:
        return write_inference_folder(
            output,
            tensors,
            origin=str(source.path),
            assets=assets,
            header=training_state(source),
            provenance=provenance,
            format=format,
            layout=chosen,
            clip=clip,
            extra=_needed_from(source, model, chosen),
            force=force,
            mode=source.mode,
            progress=progress,
        )
    except OutputExistsError:
        if force:
            raise
        return _already_there(output, source, dtype, format, packing_of(chosen, clip))  # another process was faster


def _needed_from(source: Checkpoint, model: InferenceModel, layout: Layout) -> dict[str, Any]:
    """Return what a layout needs and the checkpoint itself holds, in the type in which it was trained."""
    dvae = dvae_of(source) if DVAE in layout.files else {}
    mel_stats = model.tensors.get("mel_stats") if MEL_STATS in layout.files else None
    return {**({DVAE: dvae} if dvae else {}), **({MEL_STATS: mel_stats} if mel_stats is not None else {})}


def default_output(checkpoint: Path) -> Path:
    """Return where a checkpoint's export goes: ``inference/NAME`` beside it; NAME is its stem or its folder's name.

    The config of a run may name another folder in place of ``inference``: see `exports_folder`.
    """
    if checkpoint.name in MODEL_NAMES:
        return checkpoint.parent / DEFAULT_FOLDER / checkpoint.absolute().parent.name
    return checkpoint.parent / exports_folder(checkpoint.parent) / checkpoint.stem


def packed_as(output: Path, layout: str | None) -> Path:
    """Return where the same model goes for a program, beside its plain folder: ``NAME-LAYOUT``, or a ZIP of that name.

    Raises:
        ConfigError: For an unknown layout.
    """
    chosen = layout_of(layout)
    return output.with_name(f"{output.name}-{chosen.name}{'.zip' * chosen.is_archive}") if chosen.name else output


def check_choice(option: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuse a value that is not among the choices.

    Raises:
        ConfigError: Naming the option, the value and the choices.
    """
    if value not in choices:
        msg = f"{option} {value!r}: expected one of {', '.join(choices)}"
        raise ConfigError(msg)


def is_export_of(
    folder: Path,
    source: Checkpoint,
    dtype: str,
    format: str = "pth",  # noqa: A002 - what users call it
    packing: dict[str, Any] | None = None,
) -> bool:
    """Whether a folder is a whole export of these weights, with this dtype, format, layout and voice."""
    found = read_provenance(folder)
    if found is None or found["kind"] != "export" or found.get("dtype") != dtype:
        return False
    if {key: found[key] for key in ("layout", "voice") if key in found} != (packing or {}):
        return False
    sources = found["sources"]
    described = sources[0] if isinstance(sources, list) and len(sources) == 1 else None
    same = isinstance(described, dict) and source.has_fingerprint(described.get("fingerprint"))
    return same and ("layout" in found or (folder / FORMATS[format]).is_file())


def _already_there(
    output: Path,
    source: Checkpoint,
    dtype: str,
    format: str,  # noqa: A002 - what users call it
    packing: dict[str, Any],
) -> WrittenFolder:
    if is_export_of(output, source, dtype, format, packing):
        return WrittenFolder(output, folder_bytes(output), written=False, provenance=read_provenance(output) or {})
    msg = (
        f"{output}: exists and is not this export (another source, dtype, format, layout or voice); "
        "use --force or another --output"
    )
    raise OutputExistsError(msg)
