"""Write an inference folder, whole or not at all: the callback and every command that makes a model do it here."""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint import write_pth, write_zip
from xtts_export_callback.checkpoint.quantized import is_scale
from xtts_export_callback.errors import ConfigError, VerificationError
from xtts_export_callback.files.atomic import temporary_directory, whole_directory
from xtts_export_callback.files.random_access import RandomFile
from xtts_export_callback.files.remote import RemotePath, is_url
from xtts_export_callback.files.remote_output import uploaded
from xtts_export_callback.inference_folder import auralis
from xtts_export_callback.inference_folder.layouts import PLAIN, Layout, remedy
from xtts_export_callback.inference_folder.ownership import check_replaceable, folder_bytes
from xtts_export_callback.inference_folder.provenance import FORMATS, PROVENANCE_FILE, sha256_of
from xtts_export_callback.inference_folder.voice import Clip, write_latents
from xtts_export_callback.inference_folder.weights import quantized_weights, write_weights
from xtts_export_callback.xtts.assets import LICENSE_FILE
from xtts_export_callback.xtts.companions import DVAE, SPEAKERS, write_companion
from xtts_export_callback.xtts.loadable import check_loadable
from xtts_export_callback.xtts.state_dict import DROPPED

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from xtts_export_callback.checkpoint.writer import Progress
    from xtts_export_callback.tensors.tensor import Tensor
    from xtts_export_callback.xtts.assets import Assets


@dataclass(frozen=True)
class WrittenFolder:
    """An inference folder that was written or existed already.

    Attributes:
        path: The folder.
        nbytes: Bytes of all its files.
        written: False when an identical export existed already and nothing was done.
        provenance: The content of its ``export.json``.
        notes: What was left out, and why, in a line each.
    """

    path: Path
    nbytes: int
    written: bool
    provenance: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def weights(self) -> list[Path]:
        """The files that hold the weights; a ZIP itself."""
        if self.path.is_file():
            return [self.path]
        return [self.path / name for name, file in self.provenance["files"].items() if "fingerprint" in file]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "path": str(self.path),
            "bytes": self.nbytes,
            "written": self.written,
            "notes": list(self.notes),
            "provenance": self.provenance,
        }


def write_inference_folder(  # noqa: PLR0913 - one place knows everything that goes into a folder
    path: Path,
    tensors: dict[str, Tensor],
    *,
    origin: str,
    assets: Assets,
    header: dict[str, Any],
    provenance: dict[str, Any],
    format: str = "pth",  # noqa: A002 - what users call it
    layout: Layout = PLAIN,
    clip: Clip | None = None,
    extra: Mapping[str, Any] | None = None,
    force: bool = False,
    mode: int = 0o666,
    progress: Progress | None = None,
) -> WrittenFolder:
    """Write a folder that ``Xtts.load_checkpoint`` and ``TTS(model_path=...)`` load, or what another program takes.

    Args:
        path: The folder to create, or the ZIP; at a URL it is first written to a temporary folder.
        tensors: The inference model, as it is stored: see `export.precision.store`.
        origin: Its source file, for errors.
        assets: The files beside it.
        header: ``step``, ``epoch`` and ``model_loss`` from `training_state`.
        provenance: The result of `provenance_of`.
        format: ``"pth"`` or ``"safetensors"``; layouts of other programs have their own.
        layout: What it is for.
        clip: The voice to put beside it.
        extra: Contents of further ``.pth`` files by name; skipped where an asset has the name.
        force: Replace an inference folder of ours, and nothing else. The old folder stays until the new one is whole.
        mode: Permissions of the files, narrowed by the umask. They come from the source, so that the export of a
            private file is private too. Users who may read the files may enter the folder.
        progress: Called with the number of bytes of weights written since the last call.

    Returns:
        The folder.

    Raises:
        ConfigError: For a format or a type that the program does not read, or when a file that it needs cannot be
            found.
        CheckpointError: When ``Xtts.load_checkpoint`` would not load the tensors with the config.
        CheckpointError, OutputExistsError, VerificationError, OSError: As `write_pth`; nothing is left behind.
    """
    name = path.stem if layout.is_archive else path.name
    described = {**provenance, **packing_of(layout, clip)}
    document = {"config": assets.config, **header, "export": described}
    # An export waits for the disk: a hash of all bytes takes a twentieth of its time, and an eighth of that of a mean.
    is_hashed = provenance["kind"] == "export"
    weights, texts = _contents(path, tensors, assets, format, layout)
    weights_by_name = {name: tensor for name, tensor in tensors.items() if not is_scale(name, tensors)}
    check_loadable(weights_by_name, assets.config, origin)
    check_replaceable(path, force=force)
    with _whole_output(path, layout, force=force, mode=mode) as temporary:
        notes = [*assets.notes, *_leftovers(provenance)]
        notes += _write_companions(temporary, assets, extra or {}, layout, mode)
        if clip is not None:
            texts[layout.clip.format(name=name)] = clip.content
        for file, content in texts.items():
            (temporary / file).parent.mkdir(mode=_folder_mode(mode), exist_ok=True)
            _write(temporary / file, content, mode)
        # Latents need the weights.
        later = {*weights, SPEAKERS} if clip is not None and layout.lists_voices else set(weights)
        _check_complete(temporary, layout, name, notes, later)
        files = {
            file: write_weights(temporary / file, part, document, hashed=is_hashed, mode=mode, progress=progress)
            for file, part in weights.items()
        }
        if clip is not None:
            notes += [*clip.notes, *write_latents(temporary, name, layout, mode=mode)]
        _check_complete(temporary, layout, name, notes)
        complete = {**described, "files": files | _describe_others(temporary, files)}
        _write(temporary / PROVENANCE_FILE, json.dumps(complete, indent=2).encode(), mode)
    nbytes = sum(file["bytes"] for file in complete["files"].values()) if is_url(path) else folder_bytes(path)
    return WrittenFolder(path, nbytes, written=True, provenance=complete, notes=tuple(notes))


def packing_of(layout: Layout, clip: Clip | None) -> dict[str, Any]:
    """Return what provenance says of a layout and a voice; nothing for a plain folder without one."""
    voice = {"voice": {"sha256": clip.sha256, "seconds": round(clip.seconds, 3)}} if clip is not None else {}
    return {**({"layout": layout.name} if layout.name else {}), **voice}


def _contents(
    path: Path,
    tensors: dict[str, Tensor],
    assets: Assets,
    format: str,  # noqa: A002 - what users call it
    layout: Layout,
) -> tuple[dict[str, dict[str, Tensor]], dict[str, bytes]]:
    """Return the weights by file, and the contents of the text files."""
    if format not in FORMATS:
        msg = f"format {format!r}: expected one of {', '.join(FORMATS)}"
        raise ConfigError(msg)
    if layout.is_archive and path.suffix.lower() != ".zip":
        msg = f"{path}: {layout.program} takes a ZIP; name an output that ends in .zip"
        raise ConfigError(msg)
    if layout.name and format != "pth":
        msg = f"format {format!r}: {layout.program} reads its own ({layout.files[0]}, ...); leave --format out"
        raise ConfigError(msg)
    quantized = quantized_weights(tensors)
    if layout.name and quantized:
        msg = (
            f"{path}: {quantized[0]} is int8, which only load_xtts reads and {layout.program} does not; use float16 "
            "(--dtype, --precision)"
        )
        raise ConfigError(msg)
    license_ = {LICENSE_FILE: assets.license} if assets.license else {}
    if not layout.is_plain:
        files, texts = auralis.convert(tensors, assets)
        return files, {**texts, **license_}
    texts = {**license_, "config.json": json.dumps(assets.config, indent=4).encode(), "vocab.json": assets.vocab}
    if layout.voice_entry:
        texts[layout.voice_entry] = _voice_entry(layout, path.name)
    return {FORMATS[format]: tensors}, texts


def _voice_entry(layout: Layout, name: str) -> bytes:
    """Return the entry for openedai-speech's list of voices; every JSON string is a YAML string."""
    entry = {"model": name, "speaker": f"voices/{name}/{layout.clip}", "model_path": f"voices/{name}"}
    lines = [f"    {key}: {json.dumps(value)}" for key, value in entry.items()]
    return "\n".join(["tts-1-hd:", f"  {json.dumps(name)}:", *lines, ""]).encode()


def _write_companions(folder: Path, assets: Assets, extra: Mapping[str, Any], layout: Layout, mode: int) -> list[str]:
    """Write what goes beside the weights: from the model itself (the DVAE), from files found near it, or again from it.

    Returns:
        What was left out, and why, in a line each.
    """
    notes: list[str] = []
    if DVAE in extra:
        write_pth(folder / DVAE, extra[DVAE], mode=mode)
    for name in layout.companions:
        if not (folder / name).exists():
            notes += write_companion(folder / name, assets.companions.get(name, []), mode=mode)
    for name, content in extra.items():
        if not (folder / name).exists():
            write_pth(folder / name, content, mode=mode)
    return notes


def _check_complete(
    folder: Path, layout: Layout, name: str, notes: list[str], later: Collection[str] = frozenset()
) -> None:
    """Refuse a folder that its program would not take."""
    present = {entry.relative_to(folder).as_posix() for entry in folder.rglob("*")}
    missing = layout.missing(present | set(later), name) if layout.name else []
    if missing:
        reasons = "".join(f" ({note})" for note in notes if note.startswith((missing[0], "latents")))
        msg = f"{missing[0]}: {layout.program} needs it, found none{reasons}; {remedy(layout, missing[0])}"
        raise ConfigError(msg)


@contextmanager
def _whole_output(path: Path, layout: Layout, *, force: bool, mode: int) -> Iterator[Path]:
    """Give a folder to fill, which becomes the output or the content of a ZIP when the block ends without an error."""
    if isinstance(path, RemotePath):
        with (
            uploaded(path, last=PROVENANCE_FILE) as local,
            _whole_output(local, layout, force=False, mode=mode) as temporary,
        ):
            yield temporary
        return

    def check(there: Path) -> None:
        check_replaceable(there, force=force, known_as=path)

    if not layout.is_archive:
        with whole_directory(path, force=force, check=check, mode=_folder_mode(mode)) as temporary:
            yield temporary
        return
    with temporary_directory(path, mode=0o700) as temporary:
        yield temporary
        with ExitStack() as stack:
            entries = sorted(temporary.iterdir())
            files = {entry.name: stack.enter_context(RandomFile(entry)) for entry in entries}
            check(path)
            write_zip(path, files, force=force, mode=mode)


def _folder_mode(mode: int) -> int:
    """Users who may read the files of a folder may enter it."""
    return 0o700 | mode | (mode & 0o444) >> 2


def _leftovers(provenance: dict[str, Any]) -> list[str]:
    """Return a line on dropped tensors that are not in every checkpoint of a training."""
    parts = provenance["dropped"].items()
    found = [f"{name} ({part['tensors']} tensors)" for name, part in parts if name not in DROPPED]
    return [f"dropped leftovers of a training: {', '.join(found)}"] if found else []


def _describe_others(folder: Path, weights: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return sizes and content hashes of the files beside the weights."""
    names = {entry.relative_to(folder).as_posix(): entry for entry in sorted(folder.rglob("*")) if entry.is_file()}
    return {
        name: {"bytes": entry.stat().st_size, "sha256": sha256_of(entry)}
        for name, entry in names.items()
        if name not in weights
    }


def _write(path: Path, content: bytes, mode: int) -> None:
    with RandomFile(path, create=True, mode=mode) as out:
        out.write_at(content, 0)
        out.sync()
    if path.read_bytes() != content:
        msg = f"{path}: the bytes read back differ from those written; check the disk"
        raise VerificationError(msg)
