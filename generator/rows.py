"""A kernel -> a loop over the rows of a chunk, for CPUs: walks along each, row reductions between."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from stepspec.generator.ir import Extent, Kind, Reduction, Statements, names
from stepspec.generator.kernel_text import key, name_tuple, reduction_of, reduction_text
from stepspec.generator.loops import ArrayLines
from stepspec.generator.rounds import Rounds
from stepspec.generator.stages import ArrayKernel
from stepspec.generator.text import assignment, call, indented


@dataclass(frozen=True)
class _Walk:
    """One walk along a row: what it computes, and the row reductions it collects; the last walk writes.

    `fresh` are the matrices that no walk before has met.
    """

    statements: Statements
    collected: Statements
    fresh: tuple[str, ...]


class RowLines(ArrayLines):
    """The text of a loop over the rows of a chunk and their elements."""

    subscripts: ClassVar[Mapping[Extent, str]] = {
        Extent.ELEMENT: "[r, i]",
        Extent.ROW: "[r]",
        Extent.COLUMN: "[i]",
    }

    def __init__(self, kernel: ArrayKernel) -> None:
        super().__init__(kernel)
        self.produced = {key(s.target) for s in kernel.statements}
        self.rounds = Rounds(kernel.statements)
        self.matrices = [n for n, e in kernel.arrays if e is Extent.ELEMENT]
        reductions = [s for s in kernel.statements if isinstance(s.value, Reduction)]
        self.terms = {s.target: f"terms_{n}" if n > 1 else "terms" for n, s in enumerate(reductions, 1)}
        self.along = self._walks()
        self.decorators = ("rows", "Reduction") if kernel.reductions else ("rows",)
        self.walks = ("STRIP", "prefetch", "row_scratch", "strip") if self.terms else ()

    def _decorator(self) -> list[str]:
        arguments = []
        for keyword, extent in (("element", Extent.ELEMENT), ("row", Extent.ROW), ("column", Extent.COLUMN)):
            found = [n for n, e in self.kernel.arrays if e is extent]
            arguments += [f"{keyword}={name_tuple(found)}"] * bool(found)
        arguments += [f"{s.target.name}={reduction_text(s)}" for s in self.kernel.reductions]
        return call("@rows", arguments, "")

    def _walks(self) -> list[_Walk]:
        """Return the walks along a row, in order: one for each round of row reductions, and the last one."""
        walks: list[_Walk] = []
        met: set[str] = set()
        for number in range(1, self.rounds.last + 1):
            collected = self.rounds.collected(number)
            if collected:
                statements = self.rounds.elementwise(n for s in collected for n in names(s.value))
                walks.append(_Walk(statements, collected, self._fresh((*statements, *collected), (), met)))
        written = [(name, n) for name, n in self.kernel.writes if n.extent is Extent.ELEMENT]
        filled = tuple(s for s in self.kernel.reductions if reduction_of(s).value.extent is Extent.ELEMENT)
        if written or filled:
            roots = [*(n for _, n in written), *(n for s in filled for n in names(s.value))]
            statements, stored = self.rounds.elementwise(roots), [name for name, _ in written]
            walks.append(_Walk(statements, (), self._fresh((*statements, *filled), stored, met)))
        return walks

    def _fresh(self, statements: Statements, stored: Iterable[str], met: set[str]) -> tuple[str, ...]:
        """Return the matrices that are met for the first time, and note them in `met`."""
        used = (n for s in statements for n in names(s.value))
        read = {n.name for n in used if key(n) not in self.produced and n.kind is not Kind.NOISE}
        found = tuple(name for name in self.matrices if name in read.union(stored) - met)
        met.update(found)
        return found

    def _body(self) -> list[str]:
        kernel, printer = self.kernel, self.printer
        lines = [f"{word} = row_scratch({self.matrices[0]})" for word in self.terms.values()]
        inside: list[str] = []
        for number in range(self.rounds.last + 1):
            for s in self.rounds.row_values(number):
                inside += [*self.notes.of(s), *assignment(printer.name(s.target), printer.text(s.value), 8)]
            collected = self.rounds.collected(number + 1)
            for walk in self.along:
                if collected and walk.collected == collected:
                    inside += self._collect(walk)
        for walk in self.along:
            if not walk.collected:
                inside += self._walk(walk, self._element_body(walk.statements, 16 if self.terms else 12))
        inside += self._rows_written()
        if inside:
            vectors = [n for n, e in kernel.arrays if e is Extent.ROW]
            count = f"{self.matrices[0]}.shape[0]" if self.matrices else f"{vectors[0]}.size"
            lines += [f"for r in range({count}):", *indented(inside)]
        return lines + self._along_columns()

    def _collect(self, walk: _Walk) -> list[str]:
        """Return the walk that collects the terms of row reductions, and their results."""
        body = []
        for s in walk.statements:
            body += [
                *self.notes.of(s),
                *assignment(self.printer.name(s.target), self.printer.text(s.value), 16),
            ]
        for s in walk.collected:
            body += self.notes.of(s)
            body += assignment(f"{self.terms[s.target]}[i]", self.printer.text(reduction_of(s).value), 16)
        lines = self._walk(walk, body)
        for s in walk.collected:
            function = self.printer.use(f"row_{reduction_of(s).function}")
            lines.append(f"{self.printer.name(s.target)} = {function}({self.terms[s.target]})")
        return lines

    def _walk(self, walk: _Walk, body: list[str]) -> list[str]:
        """Return the loop along a row: if there are more, in strips that ask for what comes next."""
        columns = f"{self.matrices[0]}.shape[1]"
        if not self.terms:
            return [f"for i in range({columns}):", *indented(body)]
        following = self.along.index(walk) + 1
        if following < len(self.along):
            asked = [f"prefetch({name}, r, column)" for name in self.along[following].fresh]
        else:
            asked = [f"prefetch({name}, r + 1, column)" for name in self.along[0].fresh]
        loop = [f"for i in strip({self.matrices[0]}, column):", *indented(body)]
        return [f"for column in range(0, {columns}, STRIP):", *indented([*asked, *loop])]

    def _rows_written(self) -> list[str]:
        """Return what is stored once per row."""
        lines = []
        for name, value in self.kernel.writes:
            if value.extent is Extent.ROW:
                lines.append(f"{name}[r] = {self.printer.name(value)}")
        for s in self.kernel.reductions:
            term = reduction_of(s).value
            if term.extent is Extent.ROW:
                lines += [*self.notes.of(s), f"{s.target.name}[r] = {self.printer.text(term)}"]
        return lines

    def _along_columns(self) -> list[str]:
        """Return the loop over what varies by column alone: done once per tensor."""
        columns = [n for n, e in self.kernel.arrays if e is Extent.COLUMN]
        lines: list[str] = []
        if any(value.extent is Extent.COLUMN for _, value in self.kernel.writes):
            lines = self._element_body(self.kernel.statements, 8)
        for s in self.kernel.reductions:
            value = reduction_of(s).value
            if value.extent is Extent.COLUMN:
                for inner in self.rounds.elementwise(names(value)):
                    lines += assignment(self.printer.name(inner.target), self.printer.text(inner.value), 8)
                lines += [*self.notes.of(s), f"{s.target.name}[i] = {self.printer.text(value)}"]
        count = f"{columns[0]}.size" if columns else f"{self.kernel.arrays[0][0]}.shape[1]"
        return [f"for i in range({count}):", *indented(lines)] if lines else []
