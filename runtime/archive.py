"""Named arrays and data of JSON in one file: no pickle, nothing half written, nothing damaged accepted.

Note [Archive format]

The suffix ``.safetensors`` gives a file that the package safetensors reads; any other name an uncompressed
``.npz``, which `numpy.load` reads (bfloat16 as uint16). Both end in a seal: a fixed text and the SHA-256
digest of all bytes before it, as the zip's comment or the last tensor. So a file that is cut off, or differs
in any bit from what was written, is refused. The same content gives the same bytes: dates are left out.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from stepspec.atomic import AnyPath, replacing
from stepspec.states import Array

# BytesIO or a file that `open` gave: unlike those of typing, both have `readinto`
_File = io.BytesIO | io.BufferedReader | io.BufferedRandom
_Writer = Callable[[Any, Mapping[str, Array], str], None]

FORMAT = "stepspec checkpoint"
VERSION = 1

_SEAL = b"stepspec checkpoint; sha256 of all before: "
_DIGEST_SIZE = 32
SEAL_SIZE = len(_SEAL) + 2 * _DIGEST_SIZE
# the entry of the data beside the arrays, and in safetensors the last tensor; arrays have other names
_TEXT, _SEAL_TENSOR = "checkpoint.json", "seal"
_SPELLED = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"}
# bytes hashed or written at once: they stay in cache
_BLOCK = 1 << 20


def save(path: AnyPath, arrays: Mapping[str, Array], content: Any) -> None:
    """Write a file in place of what is there, in one go: whoever opens it finds the old or the new one.

    Parameters
    ----------
    path
        ``*.safetensors``, or any other name for the format of ``.npz``. A symbolic link is followed.
    arrays
        float16, bfloat16, float32 or float64 by names that hold a slash.
    content
        What JSON can hold; no infinities or NaN.

    Raises
    ------
    OSError
        If it cannot be written, or is no regular file; the old file, if any, is then as it was.

    """
    write = _write_safetensors if os.fsdecode(path).endswith(".safetensors") else _write_npz
    with replacing(path) as file:
        _write(file, write, arrays, content)


def dumps(arrays: Mapping[str, Array], content: Any) -> bytes:
    """Return the bytes that `save` would write to an ``.npz``."""
    file = io.BytesIO()
    _write(file, _write_npz, arrays, content)
    return file.getvalue()


def load(path: AnyPath) -> tuple[dict[str, Array], Any]:
    """Return the arrays and the content of a file of either format, whatever its name.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is damaged, no file of `save`, or one of a later version.
    ImportError
        If it holds bfloat16 arrays and ml_dtypes is not installed.

    """
    with open(path, "rb") as file:
        return _read(file, f"checkpoint {os.fsdecode(path)!r}")


def loads(data: bytes) -> tuple[dict[str, Array], Any]:
    """Return the arrays and the content of the bytes of a file; raises as `load` does."""
    return _read(io.BytesIO(data), f"the checkpoint in these {len(data)} bytes")


# ---------------------------------------------------------------------- both formats


def _write(file: _File, write: _Writer, arrays: Mapping[str, Array], content: Any) -> None:
    dtypes = {name: array.dtype.name for name, array in arrays.items()}
    whole = {"format": FORMAT, "version": VERSION, "dtypes": dtypes, "content": content}
    write(file, arrays, json.dumps(whole, allow_nan=False, ensure_ascii=False))
    start = file.seek(-SEAL_SIZE, os.SEEK_END)
    digest = _digest(file, start)
    file.seek(start)
    file.write(_SEAL + digest)


def _read(file: _File, source: str) -> tuple[dict[str, Array], Any]:
    _check_seal(file, source)
    file.seek(0)
    read = _read_npz if file.read(2) == b"PK" else _read_safetensors
    file.seek(0)
    return read(file, source)


def _check_seal(file: _File, source: str) -> None:
    start = file.seek(0, os.SEEK_END) - SEAL_SIZE
    file.seek(max(start, 0))
    seal = file.read()
    if not seal.startswith(_SEAL):
        raise ValueError(f"{source} is cut off, or none that stepspec wrote; take another copy of it")
    if seal != _SEAL + _digest(file, start):
        raise ValueError(f"{source} is damaged: it is not what was written; take another copy of it")


def _digest(file: _File, size: int) -> bytes:
    """Return the digest of the first bytes of a file, in hexadecimal digits."""
    file.seek(0)
    digest = hashlib.sha256()
    block = memoryview(bytearray(_BLOCK))
    while size > 0 and (count := file.readinto(block[: min(size, _BLOCK)])):
        digest.update(block[:count])
        size -= count
    return digest.hexdigest().encode()


def _content(text: bytes | str, source: str) -> tuple[dict[str, np.dtype[Any]], Any]:
    """Return the arrays' dtypes and the content, or raise ValueError for another version."""
    whole = json.loads(text)
    if (whole["format"], whole["version"]) != (FORMAT, VERSION):
        raise ValueError(
            f"{source} has version {whole['version']} of the format, and this stepspec reads {VERSION}; "
            "install a newer stepspec"
        )
    return {name: _dtype(spelled, source) for name, spelled in whole["dtypes"].items()}, whole["content"]


def _dtype(name: str, source: str) -> np.dtype[Any]:
    if name != "bfloat16":
        return np.dtype(name)
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        raise ImportError(f"{source} holds bfloat16 arrays: install the package ml_dtypes") from None
    dtype: np.dtype[Any] = np.dtype(bfloat16)
    return dtype


# ---------------------------------------------------------------------- npz


def _write_npz(file: _File, arrays: Mapping[str, Array], text: str) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        try:
            archive.writestr(zipfile.ZipInfo(_TEXT), text)
            for name, array in arrays.items():
                plain = array.view(np.uint16) if array.dtype.name == "bfloat16" else array
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, plain, allow_pickle=False)
            archive.comment = bytes(SEAL_SIZE)
        except BaseException:
            # what is thrown away needs no end, and closing an entry half written would hide this error
            archive.fp = None
            raise


def _read_npz(file: _File, source: str) -> tuple[dict[str, Array], Any]:
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        dtypes, content = _content(archive.read(_TEXT), source)
        for name, dtype in dtypes.items():
            with archive.open(f"{name}.npy") as entry:
                arrays[name] = np.lib.format.read_array(entry, allow_pickle=False).view(dtype)
    return arrays, content


# ---------------------------------------------------------------------- safetensors


def _write_safetensors(file: _File, arrays: Mapping[str, Array], text: str) -> None:
    # the widest first: then every tensor is aligned
    ordered = sorted(arrays.items(), key=lambda item: -item[1].itemsize)
    kinds = [(name, _SPELLED[array.dtype.name], list(array.shape), array.nbytes) for name, array in ordered]
    header: dict[str, Any] = {"__metadata__": {"format": "np", _TEXT: text}}
    start = 0
    for name, spelled, shape, size in [*kinds, (_SEAL_TENSOR, "U8", [SEAL_SIZE], SEAL_SIZE)]:
        header[name] = {"dtype": spelled, "shape": shape, "data_offsets": [start, start + size]}
        start += size
    line = json.dumps(header, ensure_ascii=False).encode()
    line += b" " * (-len(line) % 8)
    file.write(struct.pack("<Q", len(line)) + line)
    for _, array in ordered:
        file.write(_bytes(array))
    file.write(bytes(SEAL_SIZE))


def _read_safetensors(file: _File, source: str) -> tuple[dict[str, Array], Any]:
    (length,) = struct.unpack("<Q", file.read(8))
    header = json.loads(file.read(length))
    dtypes, content = _content(header["__metadata__"][_TEXT], source)
    arrays = {}
    for name, dtype in dtypes.items():
        file.seek(8 + length + header[name]["data_offsets"][0])
        arrays[name] = np.empty(header[name]["shape"], dtype)
        file.readinto(_bytes(arrays[name]))
    return arrays, content


def _bytes(array: Array) -> memoryview:
    """Return the bytes of an array in C order: its memory, if it lies there so."""
    return array.reshape(-1).view(np.uint8).data
