"""From straight-line statements to a Program: which kernels run in which order, and what each one needs.

    program = split_into_stages(hoist(name_reductions(name_versions(name_noise(statements)))))

Only the last array kernels write weights and states; what they need of earlier stages they recompute from the
old values, so that nothing is ever half-written. Row reductions end no stage: a chunk holds whole rows.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from stepspec.generator.hoist import EMPTY, Hoisted, hoist, name_noise, name_reductions, name_versions
from stepspec.generator.ir import (
    Assign,
    Expr,
    Extent,
    Name,
    Reduction,
    Statements,
    kernel_name,
    names,
)
from stepspec.generator.passes import outputs, prune


@dataclass(frozen=True)
class ArrayKernel:
    """A loop over the elements of one chunk, row by row if it needs rows or columns.

    Attributes:
        arrays: the arrays it reads or writes, with the axes each varies over.
        scalars: the numbers it needs, per tensor.
        statements: what it computes per element, row and column, in order.
        reductions: the reductions over tensor or column whose terms it collects.
        writes: stored name -> its new value; empty but for the last kernels.
    """

    arrays: tuple[tuple[str, Extent], ...]
    scalars: tuple[str, ...]
    statements: Statements
    reductions: Statements
    writes: tuple[tuple[str, Name], ...]

    @property
    def by_rows(self) -> bool:
        """Whether rows and columns must be told apart."""
        extents = [extent for _, extent in self.arrays] + [s.target.extent for s in self.statements]
        extents += [e for s in self.reductions for e in (_walked(s), *(n.extent for n in names(s.value)))]
        partial = any(not e.is_scalar and e is not Extent.ELEMENT for e in extents)
        return partial or any(s.target.extent is Extent.COLUMN for s in self.reductions)


@dataclass(frozen=True)
class ScalarKernel:
    """Arithmetic on numbers of one tensor between two passes over its elements, in float64."""

    scalars: tuple[str, ...]
    statements: Statements
    returns: tuple[Name, ...]


Kernel: TypeAlias = ArrayKernel | ScalarKernel


@dataclass(frozen=True)
class Program:
    """The kernels of one variant by stage label, in the order in which they run.

    Attributes:
        stages: label such as `REDUCE`, `COMBINE`, `UPDATE` and kernel; the label's number is the stage.
        host: names of scalars that the host computes, and how.
        tensor_states: states with one number per tensor -> the scalar that becomes their new value.
    """

    stages: tuple[tuple[tuple[str, int], Kernel], ...]
    host: dict[str, Expr]
    tensor_states: dict[str, str]


def lower(statements: Statements, host: Mapping[str, Expr] = EMPTY, taken: Iterable[str] = ()) -> Program:
    """Return the kernels of one variant.

    Args:
        statements: what the variant computes.
        host: the scalars that the host computes for other variants, by name: a class has one of each name.
        taken: names that are no scalar's to take.
    """
    named = name_reductions(name_versions(name_noise(statements)))
    return split_into_stages(hoist(named, host, taken))


def split_into_stages(hoisted: Hoisted) -> Program:
    """Return the program: statements sorted by stage into kernels, each with what it needs of earlier ones.

    Example: LARS becomes REDUCE (two norms), COMBINE (the trust ratio) and UPDATE, which recomputes nothing.
    """
    return _Splitter(hoisted).program()


class _Splitter:
    def __init__(self, hoisted: Hoisted) -> None:
        self.host = hoisted.host
        self.statements = prune(hoisted.statements)
        self.by_name = {(s.target.name, s.target.version): s for s in self.statements}
        self.outputs = outputs(self.statements)

    def program(self) -> Program:
        last = max(s.target.stage for s in self.statements)
        stages: list[tuple[tuple[str, int], Kernel]] = []
        for stage in range(1, last + 1):
            combine = tuple(s for s in self.statements if _is_arithmetic(s) and s.target.stage == stage)
            if combine:
                stages.append((("COMBINE", stage), self._scalar_kernel(combine)))
            reductions = tuple(s for s in self.statements if _ends_stage(s) and s.target.stage == stage + 1)
            if reductions:
                stages.append((("REDUCE", stage), self._array_kernel(reductions, {})))
        arrays = {n: v for n, v in self.outputs.items() if not v.extent.is_scalar}
        columns = {n: v for n, v in arrays.items() if v.extent is Extent.COLUMN}
        others = {n: v for n, v in arrays.items() if n not in columns}
        if others:
            stages.append((("UPDATE", last), self._array_kernel((), others)))
        if columns:
            stages.append((("UPDATE_COLUMNS", last), self._array_kernel((), columns)))
        numbers = {n: f"new_{n}" for n, v in self.outputs.items() if v.extent.is_scalar}
        used = {name for _, kernel in stages for name in kernel.scalars}
        return Program(tuple(stages), {n: e for n, e in self.host.items() if n in used}, numbers)

    def _scalar_kernel(self, group: Statements) -> ScalarKernel:
        inside = {(s.target.name, s.target.version) for s in group}
        wanted = {
            (n.name, n.version)
            for s in self.statements
            if (s.target.name, s.target.version) not in inside
            for n in names(s.value)
        } | {(n.name, n.version) for n in self.outputs.values()}
        returns = tuple(s.target for s in group if (s.target.name, s.target.version) in wanted)
        scalars = [n for s in group for n in names(s.value) if (n.name, n.version) not in inside]
        return ScalarKernel(_unique(kernel_name(n) for n in scalars), group, returns)

    def _array_kernel(self, reductions: Statements, writes: dict[str, Name]) -> ArrayKernel:
        roots = [n for s in reductions for n in names(s.value)] + list(writes.values())
        needed = self._needed(roots)
        statements = tuple(s for s in self.statements if (s.target.name, s.target.version) in needed)
        read = [n for s in (*statements, *reductions) for n in names(s.value)]
        read += [n for n in writes.values() if (n.name, n.version) not in self.by_name]
        inside = {(s.target.name, s.target.version) for s in statements}
        outer = [n for n in read if (n.name, n.version) not in inside]
        arrays = {n.name: n.extent for n in outer if not n.extent.is_scalar}
        arrays |= {name: value.extent for name, value in writes.items()}
        walked = {_walked(s) for s in (*statements, *reductions)}
        if not all(any(extent in lent for lent in arrays.values()) for extent in walked):
            arrays["weight"] = Extent.ELEMENT  # tells how many rows, columns and elements there are
        scalars = _unique(kernel_name(n) for n in outer if n.extent.is_scalar)
        ordered = sorted(arrays.items(), key=_array_order)
        return ArrayKernel(tuple(ordered), scalars, statements, reductions, tuple(writes.items()))

    def _needed(self, roots: Iterable[Name]) -> set[tuple[str, int]]:
        """Return what one pass over the elements must compute to know `roots`."""
        needed: set[tuple[str, int]] = set()
        queue = list(roots)
        while queue:
            name = queue.pop()
            statement = self.by_name.get((name.name, name.version))
            if statement is None or name.extent.is_scalar or _ends_stage(statement):
                continue
            if (name.name, name.version) not in needed:
                needed.add((name.name, name.version))
                queue.extend(names(statement.value))
        return needed


def _array_order(array: tuple[str, Extent]) -> tuple[int, int, str]:
    name, extent = array
    extents = (Extent.ELEMENT, Extent.ROW, Extent.COLUMN)
    return extents.index(extent), {"weight": 0, "grad": 1}.get(name, 2), name


def _ends_stage(statement: Assign) -> bool:
    return isinstance(statement.value, Reduction) and statement.value.per is not Extent.ROW


def _walked(statement: Assign) -> Extent:
    """Return the axes that a kernel walks along to compute `statement`."""
    value = statement.value
    return value.value.extent if isinstance(value, Reduction) else value.extent


def _is_arithmetic(statement: Assign) -> bool:
    return statement.target.extent.is_scalar and not isinstance(statement.value, Reduction)


def _unique(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))
