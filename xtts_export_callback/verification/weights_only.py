"""Check that ``torch.load(weights_only=True)`` accepts a file, by the names in its pickle and without torch."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xtts_export_callback.verification.faults import Fault, Findings, Subject, fault_for_each

if TYPE_CHECKING:
    from pathlib import Path


_SPARSE = "BFloat16 Byte Char Double Float Half Int Long Short"
_DENSE = f"{_SPARSE} Bool"
_COMPLEX = "ComplexDouble ComplexFloat"
_QUANTIZED = "QInt32 QInt8 QUInt2x4 QUInt4x2 QUInt8"
_DTYPES = (
    "bfloat16 bits16 bits1x8 bits2x4 bits4x2 bits8 bool complex128 complex32 complex64 float16 float32 "
    "float4_e2m1fn_x2 float64 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu int1 int16 int2 "
    "int3 int32 int4 int5 int6 int64 int7 int8 qint32 qint8 quint2x4 quint4x2 quint8 uint1 uint16 uint2 uint3 uint32 "
    "uint4 uint5 uint6 uint64 uint7 uint8"
)
_REBUILD = (
    "device_tensor_from_cpu_tensor device_tensor_from_numpy meta_tensor_no_storage nested_tensor parameter "
    "parameter_with_state qtensor sparse_tensor tensor tensor_v2 tensor_v3 wrapper_subclass"
)
_SCHEMES = (
    "per_channel_affine per_channel_affine_float_qparams per_channel_symmetric per_tensor_affine per_tensor_symmetric"
)

NAMES = frozenset(
    [
        *("_codecs.encode", "builtins.bytearray", "builtins.complex", "builtins.set"),
        *("collections.Counter", "collections.OrderedDict", "torch.Size", "torch.Tensor", "torch.device"),
        *("torch._tensor._rebuild_from_type_v2", "torch.nn.parameter.Parameter", "torch.serialization._get_layout"),
        *("torch.storage.TypedStorage", "torch.storage.UntypedStorage"),
        *(f"torch.{kind}Storage" for kind in f"{_DENSE} {_COMPLEX} {_QUANTIZED}".split()),
        *(f"torch.cuda.{kind}Storage" for kind in f"{_DENSE} {_COMPLEX}".split()),
        *(f"torch.{device}{kind}Tensor" for device in ("", "cuda.") for kind in _DENSE.split()),
        *(f"torch.{device}sparse.{kind}Tensor" for device in ("", "cuda.") for kind in _SPARSE.split()),
        *(f"torch.{name}" for name in f"{_DTYPES} {_SCHEMES}".split()),
        *(f"torch._utils._rebuild_{name}" for name in _REBUILD.split()),
    ]
)
"""``torch._weights_only_unpickler._get_allowed_globals`` of torch 2.8."""

ALLOWED = re.compile("|".join(map(re.escape, sorted(NAMES))))

# The names that ``Xtts.load_checkpoint`` also allows: the config objects in the official release.
_COQUI = re.compile(
    r"TTS\.tts\.(models\.xtts|configs\.xtts_config)\.(XttsAudioConfig|XttsArgs|XttsConfig)|"
    r"TTS\.config\.shared_configs\.BaseDatasetConfig"
)


def name_faults(subject: Subject) -> Findings:
    """Find the names in a file's pickle that torch refuses."""
    foreign = sorted(name for name in subject.checkpoint.names if not ALLOWED.fullmatch(name))
    if foreign and all(_COQUI.fullmatch(name) for name in foreign):
        yield "holds its config as a Coqui object: only Xtts.load_checkpoint loads it with weights_only=True"
        return
    refused = [name for name in foreign if not _COQUI.fullmatch(name)]
    message = "{} is refused by torch.load(weights_only=True); export the model to get a file without it"
    yield from fault_for_each("weights_only", [message.format(name) for name in refused], "objects are refused")


def load_faults(path: Path, *, mmap: bool) -> list[Fault]:
    """Load the file with ``torch.load(weights_only=True)`` and return its error."""
    import torch

    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        return [Fault("weights_only", f"torch.load(weights_only=True) fails: {reason}")]
    return []
