"""One kernel -> the text of its function: a loop over elements, over rows, or none."""

from collections.abc import Iterable
from dataclasses import dataclass

from stepspec.generator.ir import Assign, Extent, Name, Reduction, names
from stepspec.generator.printer import KernelPrinter, ScalarPrinter
from stepspec.generator.stages import ArrayKernel, ScalarKernel
from stepspec.generator.text import assignment, call, indented


@dataclass(frozen=True)
class KernelText:
    """One kernel function: its decorator, its definition and its body."""

    name: str
    decorator: tuple[str, ...]
    definition: tuple[str, ...]
    body: tuple[str, ...]


class ScalarLines:
    """The text of arithmetic on numbers of one tensor."""

    decorator = "scalars"
    has_reductions = False

    def __init__(self, kernel: ScalarKernel) -> None:
        self.kernel = kernel
        self.printer = ScalarPrinter()

    @property
    def used(self) -> set[str]:
        return self.printer.used

    def text(self, name: str) -> KernelText:
        kernel, printer = self.kernel, self.printer
        returns = [printer.name(n) for n in kernel.returns]
        body = [f'"""Compute {", ".join(returns)} from numbers of one tensor, in float64."""']
        last = kernel.statements[-1]
        single = len(returns) == 1 and last.target == kernel.returns[0]
        for statement in kernel.statements:
            if statement.text:
                body.append(f"# {statement.text}")
            text = printer.text(statement.value)
            if single and statement is last:
                body += (
                    [f"return {text}"]
                    if len(text) < 90
                    else [*assignment(returns[0], text, 4), f"return {returns[0]}"]
                )
            else:
                body += assignment(printer.name(statement.target), text, 4)
        if not single:
            body.append(f"return {', '.join(returns)}")
        decorator = call("@scalars", [f'"{r}"' for r in returns], "")
        definition = call(f"def {name}", kernel.scalars, ":")
        return KernelText(name, tuple(decorator), tuple(definition), tuple(indented(body)))


class ArrayLines:
    """The text of a loop over the elements of a chunk, or over its rows and their elements."""

    def __init__(self, kernel: ArrayKernel) -> None:
        self.kernel = kernel
        by_rows = kernel.by_rows
        self.decorator = "rows" if by_rows else "elements"
        self.has_reductions = bool(kernel.reductions)
        subscripts = (
            {Extent.ELEMENT: "[r, i]", Extent.ROW: "[r]", Extent.COLUMN: "[i]"}
            if by_rows
            else {Extent.ELEMENT: "[i]"}
        )
        self.printer = KernelPrinter({n: subscripts[e] for n, e in kernel.arrays})
        self.produced = {(s.target.name, s.target.version): s for s in kernel.statements}
        self.noted: set[str] = set()
        self.rounds = self._rounds()

    @property
    def used(self) -> set[str]:
        return self.printer.used

    def text(self, name: str) -> KernelText:
        body = self._by_rows() if self.kernel.by_rows else self._flat()
        parameters = [n for n, _ in self.kernel.arrays] + [s.target.name for s in self.kernel.reductions]
        definition = call(f"def {name}", [*parameters, *self.kernel.scalars], ":")
        return KernelText(
            name, tuple(self._decorator()), tuple(definition), tuple(indented([self._docstring(), *body]))
        )

    def _docstring(self) -> str:
        if self.kernel.reductions:
            return f'"""Collect the terms of {", ".join(s.target.name for s in self.kernel.reductions)}."""'
        written = [name for name, _ in self.kernel.arrays if name in dict(self.kernel.writes)]
        listed = " and ".join(filter(None, [", ".join(written[:-1]), written[-1]]))
        return f'"""Write {listed}."""'

    def _decorator(self) -> list[str]:
        arrays, arguments = self.kernel.arrays, []
        if not self.kernel.by_rows:
            arguments = [f'"{n}"' for n, _ in arrays]
            arguments += [f'{s.target.name}="{_reduction(s).function}"' for s in self.kernel.reductions]
            return call("@elements", arguments, "")
        for keyword, extent in (("element", Extent.ELEMENT), ("row", Extent.ROW), ("column", Extent.COLUMN)):
            found = [f'"{n}"' for n, e in arrays if e is extent]
            if found:
                arguments.append(f"{keyword}=({', '.join(found)}{',' * (len(found) == 1)})")
        for s in self.kernel.reductions:
            reduction = _reduction(s)
            over, per = reduction.value.extent.word, reduction.per.word
            arguments.append(f'{s.target.name}=Reduction("{reduction.function}", over="{over}", per="{per}")')
        return call("@rows", arguments, "")

    # flat loops

    def _flat(self) -> list[str]:
        first = self.kernel.arrays[0][0]
        return [f"for i in range({first}.size):", *indented(self._element_body(self.kernel.statements, 8))]

    def _element_body(self, statements: Iterable[Assign], indent: int) -> list[str]:
        """Return the innermost lines: statements, terms of reductions, then new values that were awaited."""
        kernel, printer, lines, awaited = self.kernel, self.printer, [], []
        writes = {
            (n.name, n.version): name
            for name, n in kernel.writes
            if n.extent in (Extent.ELEMENT, Extent.COLUMN)
        }
        for s in statements:
            key = (s.target.name, s.target.version)
            lines += self._note(s)
            if key in writes and not self._is_read(s.target):
                target = f"{writes[key]}{printer.subscripts[writes[key]]}"
            else:
                target = printer.name(s.target)
                awaited += (
                    [f"{writes[key]}{printer.subscripts[writes[key]]} = {target}"] if key in writes else []
                )
            lines += assignment(target, printer.text(s.value), indent)
        for s in kernel.reductions:
            value = _reduction(s).value
            if value.extent is Extent.ELEMENT:
                lines += self._note(s)
                subscript = "[r, i]" if kernel.by_rows else "[i]"
                lines += assignment(f"{s.target.name}{subscript}", printer.text(value), indent)
        return lines + awaited

    def _is_read(self, target: Name) -> bool:
        values = [s.value for s in (*self.kernel.statements, *self.kernel.reductions)]
        return any(
            (n.name, n.version) == (target.name, target.version) for value in values for n in names(value)
        )

    def _note(self, statement: Assign) -> list[str]:
        if not statement.text or statement.text in self.noted:
            return []
        self.noted.add(statement.text)
        return [f"# {statement.text}"]

    # loops over rows

    def _rounds(self) -> dict[tuple[str, int], int]:
        """Return for each value how many row reductions must be finished before it is known."""
        rounds: dict[tuple[str, int], int] = {}
        for s in self.kernel.statements:
            behind = max((rounds.get((n.name, n.version), 0) for n in names(s.value)), default=0)
            rounds[s.target.name, s.target.version] = behind + isinstance(s.value, Reduction)
        return rounds

    def _by_rows(self) -> list[str]:
        kernel, printer = self.kernel, self.printer
        matrices = [n for n, e in kernel.arrays if e is Extent.ELEMENT]
        vectors = [n for n, e in kernel.arrays if e is Extent.ROW]
        row_reductions = [s for s in kernel.statements if isinstance(s.value, Reduction)]
        terms = {s.target: f"terms_{n}" if n > 1 else "terms" for n, s in enumerate(row_reductions, 1)}
        lines = [f"{word} = np.empty({matrices[0]}.shape[1], {matrices[0]}.dtype)" for word in terms.values()]
        inside: list[str] = []
        last = max(self.rounds.values(), default=0)
        for number in range(last + 1):
            for s in kernel.statements:
                if (
                    s.target.extent is Extent.ROW
                    and self._round(s) == number
                    and not isinstance(s.value, Reduction)
                ):
                    inside += [*self._note(s), *assignment(printer.name(s.target), printer.text(s.value), 8)]
            waiting = [s for s in row_reductions if self._round(s) == number + 1]
            if waiting:
                inside += self._collect(waiting, terms, f"{matrices[0]}.shape[1]")
        inside += self._last_walk(matrices)
        for name, value in kernel.writes:
            if value.extent is Extent.ROW:
                inside.append(f"{name}[r] = {printer.name(value)}")
        for s in kernel.reductions:
            if _reduction(s).value.extent is Extent.ROW:
                inside += [*self._note(s), f"{s.target.name}[r] = {printer.text(_reduction(s).value)}"]
        if inside:
            count = f"{matrices[0]}.shape[0]" if matrices else f"{vectors[0]}.size"
            lines += [f"for r in range({count}):", *indented(inside)]
        return lines + self._along_columns()

    def _round(self, statement: Assign) -> int:
        return self.rounds[statement.target.name, statement.target.version]

    def _collect(self, reductions: list[Assign], terms: dict[Name, str], count: str) -> list[str]:
        needed = self._elementwise(n for s in reductions for n in names(s.value))
        body = []
        for s in needed:
            body += [*self._note(s), *assignment(self.printer.name(s.target), self.printer.text(s.value), 12)]
        for s in reductions:
            body += self._note(s)
            body += assignment(f"{terms[s.target]}[i]", self.printer.text(_reduction(s).value), 12)
        lines = [f"for i in range({count}):", *indented(body)]
        for s in reductions:
            function = self.printer.use(f"row_{_reduction(s).function}")
            lines.append(f"{self.printer.name(s.target)} = {function}({terms[s.target]})")
        return lines

    def _last_walk(self, matrices: list[str]) -> list[str]:
        roots = [n for _, n in self.kernel.writes if n.extent is Extent.ELEMENT]
        collected = [s for s in self.kernel.reductions if _reduction(s).value.extent is Extent.ELEMENT]
        needed = self._elementwise([*roots, *(n for s in collected for n in names(s.value))])
        if not roots and not collected:
            return []
        return [f"for i in range({matrices[0]}.shape[1]):", *indented(self._element_body(needed, 12))]

    def _along_columns(self) -> list[str]:
        """Return the loop over what varies by column alone: done once per tensor."""
        columns = [n for n, e in self.kernel.arrays if e is Extent.COLUMN]
        lines: list[str] = []
        if any(value.extent is Extent.COLUMN for _, value in self.kernel.writes):
            lines = self._element_body(self.kernel.statements, 8)
        for s in self.kernel.reductions:
            value = _reduction(s).value
            if value.extent is Extent.COLUMN:
                for inner in self._elementwise(names(value)):
                    lines += assignment(self.printer.name(inner.target), self.printer.text(inner.value), 8)
                lines += [*self._note(s), f"{s.target.name}[i] = {self.printer.text(value)}"]
        count = f"{columns[0]}.size" if columns else f"{self.kernel.arrays[0][0]}.shape[1]"
        return [f"for i in range({count}):", *indented(lines)] if lines else []

    def _elementwise(self, roots: Iterable[Name]) -> list[Assign]:
        """Return the statements along columns that `roots` need, in order."""
        needed: set[tuple[str, int]] = set()
        queue = list(roots)
        while queue:
            name = queue.pop()
            s = self.produced.get((name.name, name.version))
            if s is not None and Extent.COLUMN in s.target.extent and (name.name, name.version) not in needed:
                needed.add((name.name, name.version))
                queue.extend(names(s.value))
        return [s for s in self.kernel.statements if (s.target.name, s.target.version) in needed]


def _reduction(statement: Assign) -> Reduction:
    assert isinstance(statement.value, Reduction), "only reductions collect terms"
    return statement.value
