"""Which sources a compiled function depends on.

Note [Cache key]
Numba's own cache looks only at the file of the compiled function. Here the key is a hash over the
function's code, its module's source, the sources of the modules which that one imports (stepspec's, and
those beside it; and so on), the signature, the processor, the options, and the versions of Python, Numba
and llvmlite. The key is part of the file's name, so that two versions never share a file.
"""

from __future__ import annotations

import functools
import hashlib
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any


def source_stamp(function: Callable[..., Any]) -> str | None:
    """Return a hash over a function's code and all sources it depends on, None if they are not in files.

    Functions in cells (closures) count by their module.
    """
    path = Path(function.__code__.co_filename)
    if not path.is_file():
        return None
    digest = hashlib.sha256(repr(_description(function.__code__)).encode())
    for source in sorted(_sources(function.__module__, path, set())):
        digest.update(_file_hash(source, *_version(source)))
    return digest.hexdigest()


def _description(code: types.CodeType) -> tuple[object, ...]:
    constants = [_description(c) if isinstance(c, types.CodeType) else c for c in code.co_consts]
    return code.co_name, code.co_code, code.co_names, code.co_varnames, constants


def _sources(name: str, path: Path, seen: set[Path]) -> set[Path]:
    """Return the files of a module and of the modules it imports from stepspec or from its own folder."""
    seen.add(path)
    for imported in _imports(path, *_version(path)):
        file = getattr(sys.modules.get(imported), "__file__", None)
        if file is None:
            continue
        source = Path(file)
        if source not in seen and (imported.startswith("stepspec.") or source.parent == path.parent):
            _sources(imported, source, seen)
    return seen


_IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+import\s+(\([^)]*\)|[^\n]*)|import\s+([\w.]+))", re.MULTILINE)


@functools.cache
def _imports(path: Path, modified: int, size: int) -> tuple[str, ...]:
    found = []
    for package, names, module in _IMPORT.findall(path.read_text(encoding="utf-8")):
        found += [module or package, *(f"{package}.{name}" for name in re.findall(r"\w+", names))]
    return tuple(name for name in found if name != "stepspec")  # the package itself imports everything


def _version(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


@functools.cache
def _file_hash(path: Path, modified: int, size: int) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()
