"""A kernel -> a loop over the elements of a chunk, for CPUs; for rows see `rows.py`."""

from collections.abc import Iterable, Mapping
from typing import ClassVar

from stepspec.generator.ir import Assign, Extent, Name, names
from stepspec.generator.kernel_text import KernelText, Notes, key, listed, reduction_of
from stepspec.generator.printer import KernelPrinter
from stepspec.generator.stages import ArrayKernel
from stepspec.generator.text import assignment, call, indented


class ArrayLines:
    """The text of a loop over the elements of a chunk."""

    # what the text needs of `stepspec.cpu` and `stepspec.walks`
    decorators: tuple[str, ...] = ("elements",)
    walks: tuple[str, ...] = ()
    subscripts: ClassVar[Mapping[Extent, str]] = {Extent.ELEMENT: "[i]"}

    def __init__(self, kernel: ArrayKernel) -> None:
        self.kernel = kernel
        self.printer = KernelPrinter({n: self.subscripts[e] for n, e in kernel.arrays})
        self.notes = Notes()

    def text(self, name: str) -> KernelText:
        body = self._body()
        parameters = [n for n, _ in self.kernel.arrays] + [s.target.name for s in self.kernel.reductions]
        definition = call(f"def {name}", [*parameters, *self.kernel.scalars], ":")
        return KernelText(name, (*self._decorator(), *definition, *indented([self._docstring(), *body])))

    def _docstring(self) -> str:
        if self.kernel.reductions:
            return f'"""Collect the terms of {", ".join(s.target.name for s in self.kernel.reductions)}."""'
        written = [name for name, _ in self.kernel.arrays if name in dict(self.kernel.writes)]
        return f'"""Write {listed(written)}."""'

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
        writes = {key(n): name for name, n in kernel.writes if n.extent in (Extent.ELEMENT, Extent.COLUMN)}
        places = {value: f"{name}{printer.subscripts[name]}" for value, name in writes.items()}
        for s in statements:
            lines += self.notes.of(s)
            place = places.get(key(s.target))
            target = printer.name(s.target) if place is None or self._is_read(s.target) else place
            if place not in (None, target):
                awaited.append(f"{place} = {target}")
            lines += assignment(target, printer.text(s.value), indent)
        for s in kernel.reductions:
            value = reduction_of(s).value
            if value.extent is Extent.ELEMENT:
                lines += self.notes.of(s)
                target = f"{s.target.name}{self.subscripts[Extent.ELEMENT]}"
                lines += assignment(target, printer.text(value), indent)
        return lines + awaited

    def _is_read(self, target: Name) -> bool:
        values = [s.value for s in (*self.kernel.statements, *self.kernel.reductions)]
        return any(key(n) == key(target) for value in values for n in names(value))
