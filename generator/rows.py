"""One kernel -> the text of its function, a loop over rows: walks along each, row reductions between."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from stepspec.generator.ir import Assign, Extent, Name, Reduction, Statements, names
from stepspec.generator.loops import ArrayLines, reduction_of
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

    decorator = "rows"
    subscripts: ClassVar[Mapping[Extent, str]] = {
        Extent.ELEMENT: "[r, i]",
        Extent.ROW: "[r]",
        Extent.COLUMN: "[i]",
    }

    def __init__(self, kernel: ArrayKernel) -> None:
        super().__init__(kernel)
        self.produced = {(s.target.name, s.target.version): s for s in kernel.statements}
        self.rounds = self._rounds()
        self.matrices = [n for n, e in kernel.arrays if e is Extent.ELEMENT]
        reductions = [s for s in kernel.statements if isinstance(s.value, Reduction)]
        self.terms = {s.target: f"terms_{n}" if n > 1 else "terms" for n, s in enumerate(reductions, 1)}
        self.along = self._walks()

    @property
    def imported(self) -> frozenset[str]:
        """Return what the text needs of `stepspec.walks`."""
        return frozenset(("STRIP", "prefetch", "row_scratch", "strip") if self.terms else ())

    def _decorator(self) -> list[str]:
        arguments = []
        for keyword, extent in (("element", Extent.ELEMENT), ("row", Extent.ROW), ("column", Extent.COLUMN)):
            found = [f'"{n}"' for n, e in self.kernel.arrays if e is extent]
            if found:
                arguments.append(f"{keyword}=({', '.join(found)}{',' * (len(found) == 1)})")
        for s in self.kernel.reductions:
            reduction = reduction_of(s)
            over, per = reduction.value.extent.word, reduction.per.word
            arguments.append(f'{s.target.name}=Reduction("{reduction.function}", over="{over}", per="{per}")')
        return call("@rows", arguments, "")

    def _rounds(self) -> dict[tuple[str, int], int]:
        """Return for each value how many row reductions must be finished before it is known."""
        rounds: dict[tuple[str, int], int] = {}
        for s in self.kernel.statements:
            behind = max((rounds.get((n.name, n.version), 0) for n in names(s.value)), default=0)
            rounds[s.target.name, s.target.version] = behind + isinstance(s.value, Reduction)
        return rounds

    def _round(self, statement: Assign) -> int:
        return self.rounds[statement.target.name, statement.target.version]

    def _walks(self) -> list[_Walk]:
        """Return the walks along a row, in order: one for each round of row reductions, and the last one."""
        walks: list[_Walk] = []
        met: set[str] = set()
        for number in range(1, max(self.rounds.values(), default=0) + 1):
            collected = tuple(
                s for s in self.kernel.statements if s.target in self.terms and self._round(s) == number
            )
            if collected:
                statements = self._elementwise(n for s in collected for n in names(s.value))
                walks.append(_Walk(statements, collected, self._fresh((*statements, *collected), (), met)))
        written = [(name, n) for name, n in self.kernel.writes if n.extent is Extent.ELEMENT]
        filled = tuple(s for s in self.kernel.reductions if reduction_of(s).value.extent is Extent.ELEMENT)
        if written or filled:
            roots = [*(n for _, n in written), *(n for s in filled for n in names(s.value))]
            statements, stored = self._elementwise(roots), [name for name, _ in written]
            walks.append(_Walk(statements, (), self._fresh((*statements, *filled), stored, met)))
        return walks

    def _fresh(self, statements: Statements, stored: Iterable[str], met: set[str]) -> tuple[str, ...]:
        """Return the matrices that are met for the first time, and note them in `met`."""
        used = (n for s in statements for n in names(s.value))
        read = {n.name for n in used if (n.name, n.version) not in self.produced}
        found = tuple(name for name in self.matrices if name in read.union(stored) - met)
        met.update(found)
        return found

    def _body(self) -> list[str]:
        kernel, printer = self.kernel, self.printer
        lines = [f"{word} = row_scratch({self.matrices[0]})" for word in self.terms.values()]
        inside: list[str] = []
        for number in range(max(self.rounds.values(), default=0) + 1):
            for s in kernel.statements:
                if s.target.extent is Extent.ROW and self._round(s) == number and s.target not in self.terms:
                    inside += [*self._note(s), *assignment(printer.name(s.target), printer.text(s.value), 8)]
            for walk in self.along:
                if walk.collected and self._round(walk.collected[0]) == number + 1:
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
            body += [*self._note(s), *assignment(self.printer.name(s.target), self.printer.text(s.value), 16)]
        for s in walk.collected:
            body += self._note(s)
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
                lines += [*self._note(s), f"{s.target.name}[r] = {self.printer.text(term)}"]
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
                for inner in self._elementwise(names(value)):
                    lines += assignment(self.printer.name(inner.target), self.printer.text(inner.value), 8)
                lines += [*self._note(s), f"{s.target.name}[i] = {self.printer.text(value)}"]
        count = f"{columns[0]}.size" if columns else f"{self.kernel.arrays[0][0]}.shape[1]"
        return [f"for i in range({count}):", *indented(lines)] if lines else []

    def _elementwise(self, roots: Iterable[Name]) -> Statements:
        """Return the statements along columns that `roots` need, in order."""
        needed: set[tuple[str, int]] = set()
        queue = list(roots)
        while queue:
            name = queue.pop()
            s = self.produced.get((name.name, name.version))
            if s is not None and Extent.COLUMN in s.target.extent and (name.name, name.version) not in needed:
                needed.add((name.name, name.version))
                queue.extend(names(s.value))
        return tuple(s for s in self.kernel.statements if (s.target.name, s.target.version) in needed)
