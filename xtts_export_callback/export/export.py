"""Export a checkpoint to an inference folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.checkpoint.reader import MODEL_NAMES
from xtts_export_callback.errors import ConfigError, OutputExistsError
from xtts_export_callback.export.precision import (
    TYPES,
    sparsified,
    sparsity_note,
    storage_options,
    store,
    types_of,
)
from xtts_export_callback.files.json_file import read_json_object, read_small_file
from xtts_export_callback.files.paths import as_path
from xtts_export_callback.files.remote import RemotePath
from xtts_export_callback.inference_folder.folder import WrittenFolder, packing_of, write_inference_folder
from xtts_export_callback.inference_folder.layouts import Layout, layout_of
from xtts_export_callback.inference_folder.ownership import folder_bytes, not_ours
from xtts_export_callback.inference_folder.provenance import (
    FORMATS,
    describe_source,
    provenance_of,
    read_provenance,
    training_state,
)
from xtts_export_callback.inference_folder.voice import read_clip
from xtts_export_callback.run.checkpoints import DEFAULT_FOLDER, exports_folder
from xtts_export_callback.tensors.shared_storage import tie_equal
from xtts_export_callback.xtts.assets import VOCAB_FILE, find_assets
from xtts_export_callback.xtts.companions import DVAE, MEL_STATS
from xtts_export_callback.xtts.model_config import CONFIG_FILE
from xtts_export_callback.xtts.state_dict import dvae_of, inference_model

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from xtts_export_callback.checkpoint.reader import Checkpoint
    from xtts_export_callback.checkpoint.writer import Progress
    from xtts_export_callback.xtts.assets import Assets
    from xtts_export_callback.xtts.state_dict import InferenceModel


def export_checkpoint(  # noqa: PLR0913 - options of one command
    checkpoint: str | os.PathLike[str],
    output_dir: str | os.PathLike[str] | None = None,
    *,
    dtype: str | None = None,
    precision: Mapping[str, str] | None = None,
    sparsity: float = 0.0,
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
        dtype: Type of the floating-point tensors: ``"float32"``, ``"float16"``, ``"bfloat16"`` or ``"int8"``
            (see `export.precision`); by default each keeps its own, bit for bit.
        precision: Other types for parts, by pattern or alias, as ``{"decoder": "float32"}``; the first match counts.
        sparsity: Share of the weights in each matrix of the GPT's layers that become zero, the smallest ones; 0 to
            below 1.
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
    if dtype is not None:
        check_choice("dtype", dtype, TYPES)
    check_choice("format", format, tuple(FORMATS))
    with open_checkpoint(checkpoint) as source:
        return export_opened(
            source,
            as_path(output_dir) if output_dir is not None else packed_as(default_output(source.path), layout),
            dtype=dtype,
            precision=precision,
            sparsity=sparsity,
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
    dtype: str | None = None,
    precision: Mapping[str, str] | None = None,
    sparsity: float = 0.0,
    format: str = "pth",  # noqa: A002 - what users call it
    vocab: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    layout: str | None = None,
    voice: str | os.PathLike[str] | None = None,
    trained_in: Path | None = None,
    more: Mapping[str, Any] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> WrittenFolder:
    """Export an open checkpoint, whose ``path`` gives its name and the place of its assets; see `export_checkpoint`.

    ``trained_in`` is as for `find_assets`; ``more`` goes into the provenance.
    """
    model = inference_model(source)
    types = types_of(model.tensors, dtype, precision)
    chosen, clip = layout_of(layout), read_clip(as_path(voice)) if voice is not None else None
    options = storage_options(types, dtype, precision, sparsity) | packing_of(chosen, clip)
    is_there = not isinstance(output, RemotePath) and output.exists() and not force
    if is_there and not (vocab or config):
        return _already_there(output, source, options, format)
    assets = find_assets(
        source,
        model.tensors,
        vocab=as_path(vocab) if vocab else None,
        config=as_path(config) if config else None,
        trained_in=trained_in,
    )
    if is_there:
        return _already_there(output, source, options, format, assets)
    source.expect([])  # a few bytes here and there are compared, for which no whole pieces have to come
    tied = tie_equal(model.tensors)
    source.expect(model.tensors.values())
    tensors, sparse = sparsified(tied, sparsity)
    provenance = provenance_of("export", [describe_source(source)], dtype=options["dtype"], models=[model]) | options
    provenance |= more or {}
    try:
        written = write_inference_folder(
            output,
            store(tensors, types),
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
        if force or isinstance(output, RemotePath):
            raise
        return _already_there(output, source, options, format, assets)  # another process was faster
    return replace(written, notes=(*written.notes, sparsity_note(written.weights, sparse))) if sparse else written


def _needed_from(source: Checkpoint, model: InferenceModel, layout: Layout) -> dict[str, Any]:
    """Return what a layout needs and the checkpoint itself holds, in the type in which it was trained."""
    dvae = dvae_of(source) if DVAE in layout.files else {}
    mel_stats = model.tensors.get("mel_stats") if MEL_STATS in layout.files else None
    return {**({DVAE: dvae} if dvae else {}), **({MEL_STATS: mel_stats} if mel_stats is not None else {})}


def default_output(checkpoint: Path) -> Path:
    """Return where a checkpoint's export goes: ``inference/NAME`` beside it; NAME is its stem or its folder's name.

    That of a checkpoint behind a URL goes into the working directory.

    The config of a run may name another folder in place of ``inference``: see `exports_folder`.
    """
    if isinstance(checkpoint, RemotePath):
        is_standard = checkpoint.name in MODEL_NAMES
        return Path(DEFAULT_FOLDER) / (checkpoint.parent.name if is_standard else checkpoint.stem)
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


def is_export_of(folder: Path, source: Checkpoint, options: Mapping[str, Any], format: str = "pth") -> bool:  # noqa: A002
    """Whether a folder is a whole export of these weights, with these `storage_options`, `packing_of` and format."""
    found = read_provenance(folder)
    if found is None or found["kind"] != "export":
        return False
    if any(found.get(key) != options.get(key) for key in ("dtype", "precision", "sparsity", "layout", "voice")):
        return False
    sources = found["sources"]
    described = sources[0] if isinstance(sources, list) and len(sources) == 1 else None
    same = isinstance(described, dict) and source.has_fingerprint(described.get("fingerprint"))
    return same and ("layout" in found or (folder / FORMATS[format]).is_file())


def _already_there(
    output: Path,
    source: Checkpoint,
    options: Mapping[str, Any],
    format: str,  # noqa: A002
    assets: Assets | None = None,
) -> WrittenFolder:
    """Return an export that exists, if it is the one that was asked for, with these assets where they are given.

    Raises:
        OutputExistsError: When it is another.
    """
    found = _differing(output, source, options, format, assets)
    if not found:
        return WrittenFolder(output, folder_bytes(output), written=False, provenance=read_provenance(output) or {})
    remedy = "replace it with --force" if not not_ours(output) else "name another --output"
    msg = f"{output}: exists and {found}; {remedy}"
    raise OutputExistsError(msg)


def _differing(
    output: Path,
    source: Checkpoint,
    options: Mapping[str, Any],
    format: str,  # noqa: A002
    assets: Assets | None,
) -> str:
    """Say in what an existing output differs from the export that was asked for; empty when it does not."""
    if not is_export_of(output, source, options, format):
        return "is not this export (another source, dtype, format, layout or voice)"
    if assets is None:
        return ""
    if not (output / CONFIG_FILE).is_file():
        return "holds no config.json to compare with the one named"
    if read_json_object(output / CONFIG_FILE) != assets.config:
        return "has another config.json than the one named"
    return "" if read_small_file(output / VOCAB_FILE) == assets.vocab else "has another vocab.json than the one named"
