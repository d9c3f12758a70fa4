"""What is launched: a pass over tensors, how its entry is made, and what it depends on."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stepspec.cuda.kernels import Kernel
from stepspec.layout import Layout, Parameter
from stepspec.sources import source_stamp

if TYPE_CHECKING:
    from stepspec.cuda.compilation import Code

# the counts of rows, which passes over arrays find behind TAIL
ROWS = Parameter("rows", "rows")


@dataclass(frozen=True, eq=False)
class Pass:
    """One launch over tensors that share a kernel and formats.

    Parameters
    ----------
    name
        Module, function, storage and what is done, for the cache, the log and profilers.
    slots
        What the rows of its table hold: roles as in `Kernel.slots`; "rows": counts of rows; "values": the
        address of a number in the compute dtype for each row.
    parts
        Numbers of rows and columns of a tensor -> how many work items it has.
    make
        Makes the entry, `entry(table, items, count)`; called only when it is compiled.
    stamp
        A hash over the sources of the entry, None if they do not tell all.

    """

    name: str
    slots: tuple[Parameter, ...]
    parts: Callable[[int, int], int]
    make: Callable[[], Callable[..., None]]
    stamp: str | None
    _codes: dict[tuple[int, int], Code] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(
        cls,
        name: str,
        slots: tuple[Parameter, ...],
        parts: Callable[[int, int], int],
        recipe: Callable[..., Callable[..., None]],
        *arguments: object,
    ) -> Pass:
        """Return the pass whose entry is `recipe(*arguments)`.

        The recipe is a function of a module; its arguments are kernels, layouts, or told by their `repr`.
        """
        return cls(name, slots, parts, functools.partial(recipe, *arguments), _stamp(recipe, arguments))

    def code(self, capability: tuple[int, int]) -> Code:
        """Return the entry compiled for a compute capability, or from the cache."""
        found = self._codes.get(capability)
        if found is None:
            from stepspec.cuda.compilation import compile_entry

            found = self._codes[capability] = compile_entry(self.make, self.name, self.stamp, capability)
        return found


def pass_name(kernel: Kernel, layout: Layout, what: str = "") -> str:
    """Return the name of a kernel's pass that does `what`."""
    words = (kernel.name, layout.label, what)
    return "-".join(word for word in words if word)


def _stamp(recipe: Callable[..., object], arguments: tuple[object, ...]) -> str | None:
    kernels = [argument for argument in arguments if isinstance(argument, Kernel)]
    functions = [recipe, *(function for kernel in kernels for function in kernel.functions)]
    sources = [source_stamp(function) for function in functions]
    if None in sources or any(function.__closure__ for function in functions):  # cells are in no file
        return None
    described = [_described(argument) for argument in arguments]
    return hashlib.sha256(repr((recipe.__qualname__, sources, described)).encode()).hexdigest()


def _described(value: Any) -> object:
    """Return what is equal for equal values, in any process."""
    match value:
        case Kernel():
            before = [
                (type(step).__name__, step.gives, getattr(step, "reduces", None)) for step in value.before
            ]
            tables = [value.row_writes, value.reduces, value.row_reduces]
            return value.form, value.arrays, value.writes, before, tables, value.returns
        case Layout():
            return value.parameters, value.formats, sorted(value.results), value.flat
        case tuple() | list():
            return [_described(element) for element in value]
        case frozenset():
            return sorted(value)
    return value
