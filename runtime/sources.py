"""Which sources a compiled function depends on.

Note [Cache key]
Numba's own cache looks only at the file of the compiled function. Here the key is a hash over the
function's code, its module's source, the sources of the modules which that one imports (stepspec's, and
those beside it; and so on), the signature, the processor, the options, and the versions of Python, Numba
and llvmlite. The key is part of the file's name, so that two versions never share a file.
Where a module is a `Text`, that takes the place of its file.
"""

from __future__ import annotations

import functools
import hashlib
import re
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Text:
    """The loader of a module that is in no file."""

    text: str

    def get_source(self, name: str) -> str:
        """Return the module's text, as Python's tools ask a loader for it."""
        return self.text


def source_stamp(function: Callable[..., Any]) -> str | None:
    """Return a hash over a function's code and all sources it depends on, None if they are not known.

    Functions in cells (closures) count by their module.
    """
    digest = hashlib.sha256(repr(_description(function.__code__)).encode())
    path, loader = Path(function.__code__.co_filename), function.__globals__.get("__loader__")
    sources: set[Path] = set()
    if isinstance(loader, Text):
        digest.update(loader.text.encode())
        _add_imported(_names_imported(loader.text), None, sources)
    elif path.is_file():
        _add_sources(path, sources)
    else:
        return None
    for source in sorted(sources):
        digest.update(_file_hash(source, *_version(source)))
    return digest.hexdigest()


def _description(code: types.CodeType) -> tuple[object, ...]:
    constants = [_description(c) if isinstance(c, types.CodeType) else c for c in code.co_consts]
    return code.co_name, code.co_code, code.co_names, code.co_varnames, constants


def _add_sources(path: Path, seen: set[Path]) -> None:
    """Add the files of a module and of the modules it imports from stepspec or from its own folder."""
    seen.add(path)
    _add_imported(_imports(path, *_version(path)), path.parent, seen)


def _add_imported(names: tuple[str, ...], folder: Path | None, seen: set[Path]) -> None:
    for imported in names:
        file = getattr(sys.modules.get(imported), "__file__", None)
        if file is None:
            continue
        source = Path(file)
        if source not in seen and (imported.startswith("stepspec.") or source.parent == folder):
            _add_sources(source, seen)


_IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+import\s+(\([^)]*\)|[^\n]*)|import\s+([\w.]+))", re.MULTILINE)


@functools.cache
def _imports(path: Path, modified: int, size: int) -> tuple[str, ...]:
    return _names_imported(path.read_text(encoding="utf-8"))


def _names_imported(text: str) -> tuple[str, ...]:
    found = []
    for package, names, module in _IMPORT.findall(text):
        found += [module or package, *(f"{package}.{name}" for name in re.findall(r"\w+", names))]
    return tuple(name for name in found if name != "stepspec")  # the package itself imports everything


def _version(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


@functools.cache
def _file_hash(path: Path, modified: int, size: int) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()
