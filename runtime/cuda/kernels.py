"""The decorators of generated CUDA functions: what a kernel reads, writes and reduces.

Note [Pure functions]
A generated function takes and returns numbers: those of one element, one row or one column of a tensor, and
scalars of the tensor. It neither loops nor knows threads, so that one rule serves every layout: the entries
of `stepspec.cuda` load what it takes, call it, and store or reduce what it returns. A parameter is an array
if the decorator names it, a number of the row if an earlier function of the kernel returns or reduces it,
and else a scalar.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from stepspec.layout import TAIL, Parameter
from stepspec.reductions import Reduction

__all__ = [
    "Kernel",
    "Reduction",
    "RowValues",
    "Terms",
    "columns",
    "elements",
    "row_values",
    "rows",
    "scalars",
    "terms",
]

Function = Callable[..., object]


@dataclass(frozen=True, eq=False)
class Terms:
    """A function of an element whose results are reduced along each row: name of the row's number -> kind."""

    function: Function
    reduces: Mapping[str, str]

    @property
    def gives(self) -> tuple[str, ...]:
        """Return the names of the row's numbers that it makes known."""
        return tuple(self.reduces)


@dataclass(frozen=True, eq=False)
class RowValues:
    """A function of a row's numbers that returns more of them, by name."""

    function: Function
    gives: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Kernel:
    """A pass over a tensor.

    Parameters
    ----------
    form
        "elements" (flat arrays), "rows" (element, row and column arrays), "columns" (column arrays only) or
        "scalars" (one call per tensor, in float64).
    function
        What is called per element (per column, per tensor); None if a rows kernel does nothing per element.
    arrays
        What it reads or writes in memory: role "element", "row" or "column"; or draws: "noise".
    writes
        Of these, the ones that get what `function` returns, in order.
    before
        Of a rows kernel: what is done once per row before `function`, in order.
    row_writes
        Row array -> the row's number that it gets.
    reduces
        Name of a result -> what `function` returns terms of, in order (after `writes`, never both).
    row_reduces
        Name of a result -> the reduction over rows, and the row's number that is its term.
    returns
        What a scalars kernel returns, by name.

    Raises
    ------
    TypeError
        If it writes or reduces what it does not know, or writes and reduces.

    """

    form: str
    function: Function | None
    arrays: tuple[Parameter, ...] = ()
    writes: tuple[str, ...] = ()
    before: tuple[Terms | RowValues, ...] = ()
    row_writes: Mapping[str, str] = field(default_factory=dict)
    reduces: Mapping[str, Reduction] = field(default_factory=dict)
    row_reduces: Mapping[str, tuple[Reduction, str]] = field(default_factory=dict)
    returns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        arrays = {parameter.name for parameter in self.arrays}
        numbers = {name for step in self.before for name in step.gives}
        taken = [*self.row_writes.values(), *(number for _, number in self.row_reduces.values())]
        unknown = [name for name in (*self.writes, *self.row_writes) if name not in arrays]
        unknown += [name for name in taken if name not in numbers]
        if unknown:
            raise TypeError(f"{self.name} knows no {', '.join(unknown)}: name it among its arrays or numbers")
        if (self.writes or self.row_writes) and (self.reduces or self.row_reduces):
            raise TypeError(f"{self.name}: a kernel writes arrays or reduces, not both")

    @functools.cached_property
    def name(self) -> str:
        """Return the module and the name of the last function."""
        function = self.functions[-1]
        return f"{function.__module__}.{function.__name__}"

    @functools.cached_property
    def functions(self) -> tuple[Function, ...]:
        """Return all functions, in the order in which they are called."""
        own = () if self.function is None else (self.function,)
        return (*(step.function for step in self.before), *own)

    @functools.cached_property
    def scalars(self) -> tuple[str, ...]:
        """Return the names of the tensor's numbers that its functions take."""
        known = {parameter.name for parameter in self.arrays}
        known |= {name for step in self.before for name in step.gives}
        taken = [name for function in self.functions for name in inspect.signature(function).parameters]
        return tuple(dict.fromkeys(name for name in taken if name not in known))

    @functools.cached_property
    def reductions(self) -> tuple[Parameter, ...]:
        """Return the buffers of partial results: over elements or columns, then over rows."""
        over_rows = {name: reduction for name, (reduction, _) in self.row_reduces.items()}
        return tuple(Parameter(name, "buffer", r) for name, r in {**self.reduces, **over_rows}.items())

    @functools.cached_property
    def slots(self) -> tuple[Parameter, ...]:
        """Return what the entries of its table belong to, in order: see Note [Entries]."""
        numbers = tuple(Parameter(name, "scalar") for name in self.scalars)
        if self.form == "scalars":
            return (*numbers, *(Parameter(name, "result") for name in self.returns))
        return (*self.arrays, *numbers, *self.reductions, *TAIL)


def elements(
    reads: Iterable[str] = (), writes: Iterable[str] = (), reduces: Mapping[str, str] | None = None
) -> Callable[[Function], Kernel]:
    """Make a kernel of a function of one element.

    Parameters
    ----------
    reads : tuple of str
        Parameters that are elements of arrays, in float32 or float64 however they are stored; `normal`,
        `normal_2`, ... are drawn.
    writes : tuple of str
        The arrays that get what the function returns, in order.
    reduces : dict of str to str
        Or: what it returns are terms of these results, reduced over the tensor as "norm", "sum", "mean" or
        "max", in the canonical order.

    """
    arrays = tuple(Parameter.array(name, "element") for name in dict.fromkeys((*reads, *writes)))
    reductions = {name: Reduction(kind) for name, kind in (reduces or {}).items()}
    return lambda function: Kernel("elements", function, arrays, tuple(writes), reduces=reductions)


def columns(
    reads: Iterable[str] = (), writes: Iterable[str] = (), reduces: Mapping[str, str] | None = None
) -> Callable[[Function], Kernel]:
    """Make a kernel of a function of one column's numbers: as `elements`, of column arrays."""
    arrays = tuple(Parameter(name, "column") for name in dict.fromkeys((*reads, *writes)))
    reductions = {name: Reduction(kind, over="column") for name, kind in (reduces or {}).items()}
    return lambda function: Kernel("columns", function, arrays, tuple(writes), reduces=reductions)


def terms(**reduces: str) -> Callable[[Function], Terms]:
    """Reduce what a function of one element returns along each row, into numbers of the row, by kind."""
    return lambda function: Terms(function, reduces)


def row_values(*gives: str) -> Callable[[Function], RowValues]:
    """Name what a function of a row's numbers returns."""
    return lambda function: RowValues(function, gives)


def rows(
    *before: Terms | RowValues,
    element: Iterable[str] = (),
    row: Iterable[str] = (),
    column: Iterable[str] = (),
    writes: Iterable[str] = (),
    row_writes: Mapping[str, str] | None = None,
    reduces: Mapping[str, Reduction] | None = None,
    row_reduces: Mapping[str, tuple[Reduction, str]] | None = None,
) -> Callable[[Function | None], Kernel]:
    """Make a kernel of functions of one row and of one element, see `Kernel`."""
    roles = (("element", element), ("row", row), ("column", column))
    arrays = tuple(Parameter.array(name, role) for role, names in roles for name in names)
    return lambda function: Kernel(
        "rows", function, arrays, tuple(writes), before, row_writes or {}, reduces or {}, row_reduces or {}
    )


def scalars(*returns: str) -> Callable[[Function], Kernel]:
    """Make a kernel of a function that is called once per tensor: float64 numbers in, `returns` out."""
    return lambda function: Kernel("scalars", function, returns=returns)
