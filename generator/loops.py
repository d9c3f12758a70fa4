"""One kernel -> the text of its function: a loop over elements, or none; for rows see `rows.py`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

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
    """The text of a loop over the elements of a chunk."""

    decorator = "elements"
    subscripts: ClassVar[Mapping[Extent, str]] = {Extent.ELEMENT: "[i]"}

    def __init__(self, kernel: ArrayKernel) -> None:
        self.kernel = kernel
        self.printer = KernelPrinter({n: self.subscripts[e] for n, e in kernel.arrays})
        self.noted: set[str] = set()

    @property
    def used(self) -> set[str]:
        return self.printer.used

    def text(self, name: str) -> KernelText:
        body = self._body()
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
        arguments = [f'"{n}"' for n, _ in self.kernel.arrays]
        arguments += [f'{s.target.name}="{reduction_of(s).function}"' for s in self.kernel.reductions]
        return call("@elements", arguments, "")

    def _body(self) -> list[str]:
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
            value = reduction_of(s).value
            if value.extent is Extent.ELEMENT:
                lines += self._note(s)
                target = f"{s.target.name}{self.subscripts[Extent.ELEMENT]}"
                lines += assignment(target, printer.text(value), indent)
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


def reduction_of(statement: Assign) -> Reduction:
    assert isinstance(statement.value, Reduction), "only reductions collect terms"
    return statement.value
