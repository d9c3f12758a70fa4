"""Numba behind typed decorators, and what it makes: addresses of C functions, kept in a disk cache.

Note [Parts]
Numba makes machine code of every function it compiles, after running all of LLVM's optimisations on it and on
what it calls: what is called gets optimised again in each caller. Here an `inner` function is a part, which
is only linked into its callers. All is optimised once, in the entry that Python gets the address of, and
only that becomes machine code, linked as Note [Machine code] says.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import sys
import time
import types
import weakref
from collections.abc import Callable
from typing import Any, TypeVar, cast

import llvmlite
import numba
import numba.extending
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler, Flags, compile_extra
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import CPUDispatcher, cpu_target
from numba.core.runtime import rtsys
from numba.core.sigutils import normalize_signature

from stepspec import kernel_cache
from stepspec.kernel_cache import log as log
from stepspec.machine_code import MachineCode
from stepspec.sources import source_stamp as source_stamp

F = TypeVar("F", bound=Callable[..., Any])

# IEEE as written: NumPy's division, no checks that raise, never fastmath; the GIL is free while kernels run
OPTIONS: dict[str, Any] = {
    "error_model": "numpy",
    "boundscheck": False,
    "nogil": True,
    "no_cfunc_wrapper": True,
}
VERSIONS = (sys.version, numba.__version__, llvmlite.__version__, sorted(OPTIONS.items()))

# Numba's own lock, held by whoever compiles; a fork waits for it, as a child could never take it
compiling: Any = global_compiler_lock
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=compiling.acquire, after_in_parent=compiling.release, after_in_child=compiling.release
    )


@functools.cache
def _function_passes() -> Any:
    """Return LLVM's pass manager for single functions, with its builder."""
    return cpu_target.target_context.codegen()._function_pass_manager()


class _Unlinked(JITCodeLibrary):  # type: ignore[misc]  # Numba is untyped
    """LLVM's code of a function, without Numba making machine code of it."""

    def _optimize_functions(self, ll_module: Any) -> None:
        """Do as Numba does, but with one pass manager for all functions: LLVM frees none of them."""
        if numba.version_info.short < (0, 62):
            super()._optimize_functions(ll_module)
            return
        ll_module.data_layout = self._codegen._data_layout
        manager, builder = _function_passes()
        for function in ll_module.functions:
            manager.run(function, builder)

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


class _Part(_Unlinked):
    """Code that is optimised in what it becomes part of."""

    def _optimize_final_module(self) -> None:
        pass


class _PartCompiler(Compiler):  # type: ignore[misc]  # Numba is untyped
    """Numba's compiler for parts, see Note [Parts]."""

    def __init__(self, typing: Any, target: Any, library: None, *others: Any) -> None:
        _, _, flags, _ = others
        flags.no_compile = True
        super().__init__(typing, target, _Part(target.codegen(), "part"), *others)


class _WithoutAliases(_PartCompiler):
    """The same for functions whose array arguments never overlap: LLVM vectorizes without checks."""

    def __init__(self, typing: Any, target: Any, library: None, *others: Any) -> None:
        _, _, flags, _ = others
        flags.noalias = True
        super().__init__(typing, target, library, *others)


class _Key:
    """What Numba finds compiled code by; it keeps it, but not the function."""


class _Inner(CPUDispatcher):  # type: ignore[misc]  # Numba is untyped
    """A function without an entry for Python."""

    def __init__(self, function: Callable[..., Any], compiler: Any = _PartCompiler, **options: Any) -> None:
        options = OPTIONS | {"nopython": True, "no_cpython_wrapper": True} | options
        super().__init__(function, locals={}, targetoptions=options, pipeline_class=compiler)

    def add_overload(self, result: Any) -> None:
        """Remember what was compiled by a key of its own, for want of machine code; forget it with `self`."""
        key = _Key()
        weakref.finalize(self, self.targetctx.remove_user_function, key).atexit = False
        self.targetctx.insert_user_function(key, result.fndesc, [result.library])
        self.overloads[tuple(result.signature.args)] = result._replace(entry_point=key)

    def __call__(self, *arguments: Any) -> Any:
        raise TypeError(f"{self.py_func.__qualname__} can be called from compiled code only")


class _Compiled(_Inner):
    """An inner function that is compiled once more when Python calls it."""

    @functools.cached_property
    def for_python(self) -> Callable[..., Any]:
        """Return Numba's function for Python, with machine code of its own."""
        made: Callable[..., Any] = numba.njit(**OPTIONS)(self.py_func)
        return made

    def __call__(self, *arguments: Any) -> Any:
        return self.for_python(*arguments)


def compiled(function: F) -> F:
    """Compile an `inner` function that Python may call, too."""
    return cast(F, _Compiled(_distinct(function)))


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


def compile_entry(entry: Callable[..., Any], signature: Any, name: str, stamp: str | None) -> int:
    """Return the address of a C function, from the cache if `stamp` (see `source_stamp`) is known there.

    Parameters
    ----------
    entry
        A function of numbers.
    signature
        Its Numba signature.
    name
        What it is called in the cache and in the log.
    stamp
        A hash over what it depends on; None if it is not to be cached.

    Raises
    ------
    RuntimeError
        If it has to be compiled while NUMBA_DISABLE_JIT is set.

    """
    entry.__qualname__ = name
    with compiling:
        started = time.perf_counter()
        key = repr((stamp, str(signature), cpu_target.target_context.codegen().magic_tuple(), VERSIONS))
        address = None if stamp is None else _cached(name, key)
        if address is not None:
            log.debug("loaded %s from the cache in %.3f s", name, time.perf_counter() - started)
            return address
        library, symbol = _compile(entry, signature)
        code = _machine_code(library, symbol)
        address = code.link()
        _names.append(name)
        log.info("compiled %s in %.3f s", name, time.perf_counter() - started)
        if library.has_dynamic_globals:
            log.info("%s depends on addresses of this process: not cached", name)
        elif stamp is not None:
            kernel_cache.write(name, key, code.to_bytes())
        return address


def compile_function(function: F, signature: Any) -> F:
    """Return a function of int64s and bools for Python to call without the GIL, compiled or cached."""
    name = f"{function.__module__}.{function.__qualname__}"
    address = compile_entry(function, signature, name, source_stamp(function))
    arguments, result = normalize_signature(signature)
    kinds: dict[Any, Any] = {
        numba.types.void: None,
        numba.types.int64: ctypes.c_int64,
        numba.types.boolean: ctypes.c_bool,
    }
    return cast(F, ctypes.CFUNCTYPE(kinds[result], *(kinds[kind] for kind in arguments))(address))


def compiled_names() -> tuple[str, ...]:
    """Return the names of what this process has compiled itself, in order."""
    return tuple(_names)


_names: list[str] = []


def _cached(name: str, key: str) -> int | None:
    """Return the address of a function that is in the cache, None if it is not."""
    content = kernel_cache.read(name, key)
    if content is None:
        return None
    code = MachineCode.from_bytes(content)
    if any(external.startswith("NRT_") for external in code.externals):
        rtsys.initialize(cpu_target.target_context)
    try:
        return code.link()
    except LookupError as error:
        log.info("%s: %s: compiling again", name, error)
        return None


def _compile(entry: Callable[..., Any], signature: Any) -> tuple[Any, str]:
    """Return Numba's library of a function, and the C function's name in it."""
    if numba.config.DISABLE_JIT:
        raise RuntimeError(
            "fused steps need compiled kernels, but NUMBA_DISABLE_JIT is set: "
            "unset it, or make the optimizer with use_fused_step=False"
        )
    arguments, result = normalize_signature(signature)
    target, flags = cpu_target.target_context, Flags()
    cpu_target.options.parse_as_flags(flags, OPTIONS)
    flags.no_compile, flags.no_cpython_wrapper, flags.no_cfunc_wrapper = True, True, False
    library = _Unlinked(target.codegen(), entry.__qualname__)
    made = compile_extra(cpu_target.typing_context, target, entry, arguments, result, flags, {}, library)
    library.finalize()
    return library, made.fndesc.llvm_cfunc_wrapper_name


def _machine_code(library: Any, symbol: str) -> MachineCode:
    """Return the machine code of one function of a library."""
    module = library._final_module
    declared = [value.name for value in (*module.functions, *module.global_variables) if value.is_declaration]
    externals = tuple(name for name in declared if not name.startswith("llvm."))
    return MachineCode(symbol, externals, library.codegen._tm.emit_object(module))


def _distinct(function: F) -> F:
    """Name a closure after what it closes over: equal names in cached files must be equal functions."""
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    if cells:
        known = [
            getattr(getattr(cell, "py_func", cell), "__qualname__", None) or repr(cell) for cell in cells
        ]
        function.__qualname__ += hashlib.sha256(repr(known).encode()).hexdigest()[:12]
    return function
