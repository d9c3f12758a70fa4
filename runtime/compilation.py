"""Numba behind typed decorators, and a disk cache that notices every changed source.

Note [Cache key]
Numba's own cache looks only at the file of the compiled function. Here the key is a hash over the
function's code, its module's source, the sources of the modules which that one imports (stepspec's, and
those beside it; and so on), the signature, the processor, the options, and the versions of Python, Numba
and llvmlite. The key is part of the file's name, so that two versions never share a file; a file begins
with a hash of its content, and is renamed into place. What stays behind from older versions is small,
and may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import pickle
import re
import sys
import time
import types
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite
import numba
import numba.extending
from numba.core.caching import NullCache
from numba.core.ccallback import CFunc
from numba.core.compiler import Compiler, CompileResult
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import CPUDispatcher
from numba.core.serialize import dumps
from numba.core.sigutils import normalize_signature

F = TypeVar("F", bound=Callable[..., Any])

# IEEE as written: NumPy's division, no checks that raise, never fastmath; the GIL is free while kernels run
OPTIONS: dict[str, Any] = {
    "error_model": "numpy",
    "boundscheck": False,
    "nogil": True,
    "no_cfunc_wrapper": True,
}
VERSIONS = (sys.version, numba.__version__, llvmlite.__version__, sorted(OPTIONS.items()))

log = logging.getLogger("stepspec")

# Numba's own lock, held by whoever compiles; a fork waits for it, as a child could never take it
compiling: Any = global_compiler_lock
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=compiling.acquire, after_in_parent=compiling.release, after_in_child=compiling.release
    )


class _WithoutAliases(Compiler):  # type: ignore[misc]  # Numba is untyped
    """Numba's compiler for functions whose array arguments never overlap: LLVM vectorizes without checks."""

    def __init__(self, *arguments: Any) -> None:
        _, _, _, _, _, flags, _ = arguments
        flags.noalias = True
        super().__init__(*arguments)


class _Inner(CPUDispatcher):  # type: ignore[misc]  # Numba is untyped
    """A function without an entry for Python, which takes half of the time to compile."""

    def __init__(self, function: Callable[..., Any], compiler: Any = Compiler, **options: Any) -> None:
        options = OPTIONS | {"nopython": True, "no_cpython_wrapper": True} | options
        super().__init__(function, locals={}, targetoptions=options, pipeline_class=compiler)

    def __call__(self, *arguments: Any) -> Any:
        raise TypeError(f"{self.py_func.__qualname__} can be called from compiled code only")


def compiled(function: F) -> F:
    """Compile a function that Python and kernels call; it becomes part of each kernel that uses it."""
    made: F = numba.njit(**OPTIONS)(_distinct(function))
    return made


def inner(function: F) -> F:
    """Compile a function that only compiled code calls."""
    return cast(F, _Inner(_distinct(function)))


def inlined(function: F) -> F:
    """Compile a small `inner` function that LLVM must inline, so that loops around it vectorize."""
    return cast(F, _Inner(_distinct(function), forceinline=True))


def without_aliases(function: F, name: str) -> F:
    """Compile an `inner` function of arrays that never overlap; it is known to the linker by `name`."""
    copy = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, None, function.__closure__
    )
    copy.__module__, copy.__qualname__ = function.__module__, name
    return cast(F, _Inner(copy, _WithoutAliases))


def intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function that writes LLVM itself callable from compiled code."""
    made: Callable[..., Any] = numba.extending.intrinsic(_distinct(function))
    return made


def compile_entry(entry: Callable[..., None], signature: Any, name: str, stamp: str | None) -> int:
    """Return the address of a C function, from the cache if `stamp` (see `source_stamp`) is known there."""
    entry.__qualname__ = name
    callback: Any = CFunc(entry, normalize_signature(signature), locals={}, options=OPTIONS)
    callback._cache = NullCache() if stamp is None else SourceCache(name, stamp)
    started = time.perf_counter()
    callback.compile()
    _report(name, bool(callback.cache_hits), started)
    _alive.append(callback)  # its code is freed with it
    address: int = callback.address
    return address


def compile_function(function: F, signature: Any) -> F:
    """Compile a function for one signature, from the cache if its sources are known there."""
    name = f"{function.__module__}.{function.__qualname__}"
    dispatcher: Any = numba.njit(**OPTIONS)(_distinct(function))
    stamp = source_stamp(function)
    if stamp is not None:
        dispatcher._cache = SourceCache(name, stamp)
    started = time.perf_counter()
    dispatcher.compile(signature)
    dispatcher.disable_compile()
    _report(name, bool(dispatcher._cache_hits), started)
    made: F = dispatcher
    return made


_alive: list[CFunc] = []


def _report(name: str, cached: bool, started: float) -> None:
    if cached:
        log.debug("loaded %s from the cache in %.3f s", name, time.perf_counter() - started)
    else:
        log.info("compiled %s in %.3f s", name, time.perf_counter() - started)


def _distinct(function: F) -> F:
    """Name a closure after what it closes over: equal names in cached files must be equal functions."""
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    if cells:
        known = [
            getattr(getattr(cell, "py_func", cell), "__qualname__", None) or repr(cell) for cell in cells
        ]
        function.__qualname__ += hashlib.sha256(repr(known).encode()).hexdigest()[:12]
    return function


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


def cache_folder() -> Path:
    """Return where compiled kernels are kept: $STEPSPEC_CACHE_DIR, else the user's cache folder."""
    chosen = os.environ.get("STEPSPEC_CACHE_DIR")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or _home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = _home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or _home() / ".cache"
    return Path(base) / "stepspec"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:  # no $HOME, and no entry for the user
        raise FileNotFoundError(f"{error}; set STEPSPEC_CACHE_DIR") from error


@dataclass(frozen=True)
class SourceCache:
    """Numba's cache interface over one file per function, named after Note [Cache key]."""

    name: str
    stamp: str

    def load_overload(self, signature: Any, target: Any) -> Any:
        """Return the compile result stored for a signature, None if there is none that is whole."""
        target.refresh()
        try:
            path = self._path(signature, target.codegen())
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.info("cannot read the kernel cache: %s", error)
            return None
        digest, payload = content[:32], content[32:]
        if hashlib.sha256(payload).digest() != digest:
            log.info("damaged cache file %s: compiling again", path)
            return None
        return CompileResult._rebuild(target, *pickle.loads(payload))

    def save_overload(self, signature: Any, result: Any) -> None:
        """Store a compile result; where that is impossible, say so and go on."""
        if result.library.has_dynamic_globals:
            log.info("%s depends on addresses of this process: not cached", self.name)
            return
        payload = dumps(result._reduce())
        temporary = None
        try:
            path = self._path(signature, result.codegen)
            temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:16]}.tmp")
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(hashlib.sha256(payload).digest() + payload)
            temporary.replace(path)
        except OSError as error:
            log.info("cannot write the kernel cache, going on without: %s", error)
            with contextlib.suppress(OSError):  # it may never have been there
                if temporary is not None:
                    temporary.unlink()

    def _path(self, signature: Any, codegen: Any) -> Path:
        key = repr((self.stamp, str(signature), codegen.magic_tuple(), VERSIONS))
        return cache_folder() / f"{self.name}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.kernel"
