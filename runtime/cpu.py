"""CPU kernels: the decorators of generated functions, and how to launch what they make.

A kernel is a serial function over the arrays of one chunk. `elements`, `rows` and `scalars` turn it into a
`Kernel`, whose entries (see Note [Entries]) are compiled per formats on first use; `run` does `Work`.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from stepspec.canonical import BLOCK, ROW_BLOCK
from stepspec.compilation import compile_entry, compiling, source_stamp, without_aliases
from stepspec.entries import elements_entry, rows_entry, scalars_entry
from stepspec.formats import Formats
from stepspec.layout import TAIL, Layout, Parameter, check
from stepspec.reductions import SIGNATURE, Reduction
from stepspec.threads import prepared, rouse
from stepspec.work import Work

__all__ = [
    "Kernel",
    "Parameter",
    "Reduction",
    "Work",
    "elements",
    "prepared",
    "rouse",
    "rows",
    "run",
    "scalars",
]

CHUNK = 4 * BLOCK

Function = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Kernel:
    """A function over chunks of tensors, compiled on first use.

    Parameters
    ----------
    function : callable
        What the decorator was put on.
    form : str
        "elements" (flat arrays), "rows" (whole rows) or "scalars" (one call per tensor).
    parameters : tuple of Parameter
        In the order of the function.
    returns : tuple of str
        What a scalars kernel returns, by name.

    """

    function: Function
    form: str
    parameters: tuple[Parameter, ...]
    returns: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return the function's module and name."""
        return f"{self.function.__module__}.{self.function.__name__}"

    @functools.cached_property
    def slots(self) -> tuple[Parameter, ...]:
        """Return what the entries of a table belong to, in order."""
        if self.form == "scalars":
            return self.parameters + tuple(Parameter(name, "result") for name in self.returns)
        return self.parameters + TAIL

    @functools.cached_property
    def reductions(self) -> tuple[Parameter, ...]:
        """Return the buffers."""
        return tuple(parameter for parameter in self.parameters if parameter.reduction)

    def address(self, formats: Formats, results: frozenset[str] = frozenset()) -> int:
        """Return the address of an entry, compiling or loading it on first use.

        Parameters
        ----------
        formats
            How the arrays are stored: "weight" and "grad" as it says, every other one as the states.
        results
            Arrays that hold reduction results: they have the compute dtype.

        Raises
        ------
        TypeError
            If there are no kernels for these formats.

        """
        found = self._addresses.get((formats, results))
        if found is None:
            with compiling:  # two threads may ask for one kernel
                found = self._addresses[formats, results] = self._address(formats, results)
        return found

    def chunks(self, rows: int, columns: int) -> tuple[int, int]:
        """Return how many units to give a work item, and how many a tensor of this shape has.

        Units are elements, rows, or the whole tensor, by form. A kernel that reduces allows cuts only at
        multiples of the first number: these keep canonical blocks whole.
        """
        if self.form == "scalars":
            return 1, 1
        if self.form == "elements":
            return CHUNK, rows * columns
        if {parameter.role for parameter in self.parameters}.isdisjoint(("element", "row", "noise")):
            return 1, 1  # nothing in it belongs to a row: once for the tensor, even if it has no rows
        aligned = [_alignment(p.reduction, columns) for p in self.parameters if p.reduction]
        unit = math.lcm(*aligned)
        return -(-max(1, CHUNK // max(1, columns)) // unit) * unit, rows

    @functools.cached_property
    def _addresses(self) -> dict[tuple[Formats, frozenset[str]], int]:
        return {}

    def _address(self, formats: Formats, results: frozenset[str]) -> int:
        check(formats)
        if self.form == "scalars":
            formats = Formats.plain("float64")
        layout = Layout.used(self.parameters, formats, results, flat=self.form != "rows")
        if layout not in self._compiled:
            self._compiled[layout] = self._compile(layout)
        return self._compiled[layout]

    @functools.cached_property
    def _compiled(self) -> dict[Layout, int]:
        return {}

    def _compile(self, layout: Layout) -> int:
        stamp, name = source_stamp(self.function), f"{self.name}-{layout.label}"
        qualified = f"{self.function.__qualname__}-{layout.label}-{stamp or id(self)}"
        function = without_aliases(self.function, qualified)
        if self.form == "scalars":
            entry = scalars_entry(function, layout, len(self.returns))
        else:
            entry = (elements_entry if layout.flat else rows_entry)(function, layout)
        return compile_entry(entry, SIGNATURE, name, stamp)


def _alignment(reduction: Reduction, columns: int) -> int:
    """Return the number of rows that chunks must be multiples of."""
    if reduction.per == "column":
        return ROW_BLOCK
    if reduction.over == "row":
        return BLOCK
    return BLOCK // math.gcd(BLOCK, columns) if reduction.over == "element" else 1


def elements(*arrays: str, **reductions: str) -> Callable[[Function], Kernel]:
    """Make a kernel of a function over flat arrays of one chunk.

    Parameters
    ----------
    *arrays : str
        The function's first parameters: 1-D arrays from element 0 of the chunk on, read and written in
        float32 or float64 however they are stored. `weight` and `grad` are what their names say, `normal`,
        `normal_2`, ... are drawn, all others states or results of reductions.
    **reductions : str
        Its next parameters: buffers of the chunk's length, to be filled with what is then reduced over the
        tensor as "norm", "sum", "mean" or "max", in the canonical order; a kernel with buffers writes no
        weight. All others are scalars.

    Raises
    ------
    TypeError
        If the function's parameters do not begin with these names.

    """
    buffers = {name: Reduction(kind) for name, kind in reductions.items()}
    return lambda function: _kernel(function, "elements", [(name, "element") for name in arrays], buffers)


def rows(
    element: Iterable[str] = (), row: Iterable[str] = (), column: Iterable[str] = (), **reductions: Reduction
) -> Callable[[Function], Kernel]:
    """Make a kernel of a function over whole rows of one chunk.

    Parameters
    ----------
    element, row, column : tuples of str
        The function's first parameters, in this order: arrays of shape (rows, columns), (rows,) and
        (columns,), as for `elements`.
    **reductions : Reduction
        Its next parameters: buffers shaped like what the reduction is over; a kernel with buffers writes no
        weight. All others are scalars.

    Raises
    ------
    TypeError
        If the function's parameters do not begin with these names.

    """
    groups = (("element", element), ("row", row), ("column", column))
    arrays = [(name, role) for role, names in groups for name in names]
    return lambda function: _kernel(function, "rows", arrays, reductions)


def scalars(*returns: str) -> Callable[[Function], Kernel]:
    """Make a kernel of a function that is called once per tensor: float64 numbers in, `returns` out."""
    if not returns:
        raise TypeError("a scalars kernel returns at least one number")
    return lambda function: _kernel(function, "scalars", [], {}, returns)


def _kernel(
    function: Function,
    form: str,
    arrays: list[tuple[str, str]],
    reductions: dict[str, Reduction],
    returns: tuple[str, ...] = (),
) -> Kernel:
    names = list(inspect.signature(function).parameters)
    expected = [*(name for name, _ in arrays), *reductions]
    if names[: len(expected)] != expected or len(set(expected)) != len(expected):
        raise TypeError(
            f"{function.__qualname__}: the first parameters must be {', '.join(expected)}; "
            f"they are {', '.join(names[: len(expected)])}"
        )
    parameters = [Parameter.array(name, role) for name, role in arrays]
    parameters += [Parameter(name, "buffer", reduction) for name, reduction in reductions.items()]
    parameters += [Parameter(name, "scalar") for name in names[len(expected) :]]
    return Kernel(function, form, tuple(parameters), returns)


def run(work: Work, threads: int | None = None) -> None:
    """Do work on at most so many threads; by default on `get_num_threads()`.

    Raises
    ------
    MemoryError
        If a kernel found no memory for its scratch, see Note [Out of memory].

    """
    prepared(work, threads)()
    work.raise_if_failed()
