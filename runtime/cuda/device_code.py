"""Plain functions as CUDA device functions: copied with all that they call, and always inlined.

Note [Device forms]
Generated functions and what they call (`clip`, `exp`) are the CPU's own source: Python functions, some of
them behind a decorator of `stepspec.compilation`. The device form of a function is a copy of it in which the
globals and cells that are functions are device forms themselves. Without a GPU numba-cuda compiles calls of
device functions only if it inlines them, which is what is wanted anyway. It inlines before it knows types, so
that a function which is called very often would be compiled as often: intrinsics use `call`, which compiles
it once and leaves the rest to LLVM.
"""

from __future__ import annotations

import dis
import inspect
import math
import types
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from llvmlite import ir
from numba import config, cuda
from numba.cuda import extending
from numba.cuda import types as cuda_types
from numba.cuda.core.targetconfig import ConfigStack

from stepspec import transcendental

Function = Callable[..., Any]
F = TypeVar("F", bound=Function)


def intrinsic(function: Function) -> Function:
    """Make a function that writes LLVM itself callable from device code."""
    made: Function = extending.intrinsic(function)
    return made


@intrinsic
def _bits(typing: Any, x: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64))

    return cuda_types.int64(cuda_types.float64), generate


@intrinsic
def _number(typing: Any, n: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType())

    return cuda_types.float64(cuda_types.int64), generate


def _select(condition: bool, a: Any, b: Any) -> Any:
    return a if condition else b


def _root(x: Any) -> Any:
    return math.sqrt(x)


def device_form(function: Function) -> Any:
    """Return a function as numba-cuda compiles it into its callers, see Note [Device forms].

    Parameters
    ----------
    function
        A plain function, or one decorated for the CPU. Its globals and cells may be such functions, what
        numba-cuda knows itself, modules and constants.

    Raises
    ------
    TypeError
        If it calls what has no device form.

    """
    plain = getattr(function, "py_func", function)
    if plain not in _forms:
        copy = _copied(plain)
        _forms[plain] = cuda.jit(device=True, inline="always")(copy)
        _convert_names(copy, plain)
    return _forms[plain]


def kernel_form(entry: Function) -> Function:
    """Return a copy of a kernel's entry that calls device forms."""
    copy = _copied(entry)
    _convert_names(copy, entry)
    return copy


def call(
    context: Any,
    builder: Any,
    function: Function,
    result: Any,
    kinds: Sequence[Any],
    arguments: Sequence[Any],
) -> Any:
    """Return (in LLVM) what a function returns for arguments of these types, all of it inlined."""
    signature, flags = result(*kinds), ConfigStack().top().copy()
    key = function, signature, flags.compute_capability
    if key not in _called:
        flags.forceinline = True
        _called[key] = context.compile_subroutine(
            builder, kernel_form(function), signature, flags=flags, caching=False
        )
    made = _called[key]
    context.active_code_library.add_linking_library(made.library)
    return context.call_internal(builder, made.fndesc, signature, arguments)


# functions compiled by `call`, by themselves: Numba's own cache takes those of equal bytecode for equal
_called: dict[tuple[Function, Any, Any], Any] = {}

# what has its device form already; a function is added before what it calls is converted
_forms: dict[Function, Any] = {
    transcendental.bits: _bits,
    transcendental.number: _number,
    transcendental.select: cuda.jit(device=True, inline="always")(_select),
    transcendental.root: cuda.jit(device=True, inline="always")(_root),
}

# what numba-cuda compiles as it stands
_KNOWN = (
    bool,
    int,
    float,
    str,
    tuple,
    type,
    type(None),
    np.generic,
    np.dtype,
    types.ModuleType,
    types.BuiltinFunctionType,
    cuda_types.Type,
    type(_bits),
)


def _copied(function: Function) -> types.FunctionType:
    """Return a copy of a function with globals and cells of its own."""
    cells = tuple(types.CellType(cell.cell_contents) for cell in function.__closure__ or ())
    copy = types.FunctionType(
        function.__code__, dict(function.__globals__), function.__name__, function.__defaults__, cells or None
    )
    copy.__module__, copy.__qualname__ = function.__module__, function.__qualname__
    return copy


def _convert_names(copy: types.FunctionType, original: Function) -> None:
    """Replace what the bytecode loads as globals and from cells by device forms."""
    for name in _loaded(copy.__code__):
        if name in copy.__globals__:
            copy.__globals__[name] = _converted(copy.__globals__[name], name, original)
    for name, cell in zip(copy.__code__.co_freevars, copy.__closure__ or (), strict=True):
        cell.cell_contents = _converted(cell.cell_contents, name, original)


def _loaded(code: types.CodeType) -> set[str]:
    """Return the names of globals; those of attributes stand among a function's names, too."""
    return {str(step.argval) for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}


def _converted(value: Any, name: str, user: Function) -> Any:
    if isinstance(value, types.ModuleType) and value.__name__.startswith("stepspec"):
        raise TypeError(f"{user.__module__}.{user.__qualname__}: import by name what it takes of {name}")
    if isinstance(value, _KNOWN) or getattr(value, "targetoptions", {}).get("device"):
        return value
    if isinstance(getattr(value, "py_func", value), types.FunctionType):
        return device_form(value)
    raise TypeError(f"{user.__module__}.{user.__qualname__}: {name} is {value!r}, which has no device form")


def part(result: Any) -> Callable[[F], F]:
    """Compile a function by itself, once for its arguments' types, where device forms call it.

    Inlining by numba-cuda takes long, as it grows with what is inlined and how often; LLVM inlines this.

    Parameters
    ----------
    result
        numba-cuda's type of what it returns.

    """

    def decorate(function: F) -> F:
        if config.ENABLE_CUDASIM:  # it runs Python
            return function

        def implementation(typing: Any, *arguments: Any) -> Any:
            kinds = [cuda_types.unliteral(kind) for kind in arguments]

            def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
                values = [
                    context.cast(builder, value, source, kind)
                    for value, source, kind in zip(given, signature.args, kinds, strict=True)
                ]
                return call(context, builder, function, result, kinds, values)

            return result(*kinds), generate

        # Numba takes star arguments for a tuple, and asks for a signature
        taken = inspect.signature(function).parameters.values()
        own = inspect.Parameter("typing", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        implementation.__signature__ = inspect.Signature([own, *taken])  # type: ignore[attr-defined]  # as documented
        _forms[function] = intrinsic(implementation)
        return function

    return decorate
