"""A row kernel -> its functions: terms and numbers of a row, round by round, then of each element."""

from stepspec.generator.free_names import FreeNames
from stepspec.generator.functions import (
    FunctionPrinter,
    Outcome,
    Result,
    names_of,
    returning,
    term,
    written_by,
)
from stepspec.generator.ir import Assign, Extent, Kind, Name, Statements, kernel_name, names
from stepspec.generator.kernel_text import (
    KernelText,
    Printed,
    imports,
    key,
    mapping,
    name_tuple,
    reduction_of,
    reduction_text,
)
from stepspec.generator.rounds import Rounds
from stepspec.generator.stages import ArrayKernel
from stepspec.generator.text import call


class RowFunctions:
    """The functions of one kernel over rows.

    Args:
        kernel: what is computed.
        name: of the kernel, and of what it does per element.
        free: names for its other functions.
    """

    def __init__(self, kernel: ArrayKernel, name: str, free: FreeNames) -> None:
        self.kernel, self.name, self.free = kernel, name, free
        self.inside = names_of(kernel)
        self.texts: list[KernelText] = []
        self.decorators = {"rows"}
        self.over_rows = tuple(s for s in kernel.reductions if reduction_of(s).value.extent is Extent.ROW)
        self.outcome = Outcome(
            tuple((array, value) for array, value in written_by(kernel) if value.extent is Extent.ELEMENT),
            tuple(s for s in kernel.reductions if s not in self.over_rows),
        )
        self.row_writes = tuple(w for w in written_by(kernel) if w[1].extent is Extent.ROW)
        self.row_terms = tuple(self._number_of(s) for s in self.over_rows)
        self.statements = (*kernel.statements, *(s for s in self.row_terms if s not in kernel.statements))
        self.rounds = Rounds(self.statements)
        numbers = (kernel_name(s.target) for s in self.statements if s.target.extent is Extent.ROW)
        self.printer = FunctionPrinter((*(n for n, _ in kernel.arrays), *numbers, *kernel.scalars))

    def printed(self, module: str) -> Printed:
        """Return the text; decorators stand in `module`."""
        for number in range(self.rounds.last + 1):
            self._add_row_values(self.rounds.row_values(number))
            self._add_terms(self.rounds.collected(number + 1))
        before = [text.name for text in self.texts]
        function = self._element_function()
        arguments = self._arguments(before)
        lines = (
            (*call("@rows", arguments, ""), *function)
            if function
            else tuple(call(f"{self.name} = rows", arguments, "(None)"))
        )
        self.decorators |= {"Reduction"} if self.kernel.reductions else set()
        needed = imports(self.printer.used, {module: self.decorators})
        return Printed((*self.texts, KernelText(self.name, lines)), (self.name,), needed)

    def _number_of(self, reduction: Assign) -> Assign:
        """Return the statement whose target is the term of a reduction over rows."""
        value = reduction_of(reduction).value
        for s in self.kernel.statements:
            if isinstance(value, Name) and key(s.target) == key(value):
                return s
        name = self.inside.fresh(f"{reduction.target.name}_term")
        return Assign(Name(name, Kind.LOCAL, Extent.ROW, value.stage, 1), value, reduction.text)

    def _add_row_values(self, statements: Statements) -> None:
        """Add the function of what is computed per row after a round, if later ones need any of it."""
        later = [n for s in self.statements if s not in statements for n in names(s.value)]
        later += [n for s in self.outcome.reductions for n in names(s.value)]
        later += [n for _, n in self.row_writes] + [s.target for s in self.row_terms]
        wanted = {key(n) for n in later}
        given = [s.target for s in statements if key(s.target) in wanted]
        if given:
            called = [kernel_name(n) for n in given]
            results = [Result(n, kernel_name(n)) for n in given]
            decorator = call("@row_values", [f'"{n}"' for n in called], "")
            self._add("rows", decorator, returning("", called), statements, results)
            self.decorators.add("row_values")

    def _add_terms(self, collected: Statements) -> None:
        """Add the function of the terms that are reduced along each row in a round."""
        if collected:
            arguments = [f'{kernel_name(s.target)}="{reduction_of(s).function}"' for s in collected]
            statements = self.rounds.elementwise(n for s in collected for n in names(s.value))
            results = [term(s, self.inside) for s in collected]
            said = returning("the terms of ", (kernel_name(s.target) for s in collected))
            self._add("terms", call("@terms", arguments, ""), said, statements, results)
            self.decorators.add("terms")

    def _add(
        self, kind: str, decorator: list[str], docstring: str, statements: Statements, results: list[Result]
    ) -> None:
        name = self.free.fresh(f"{self.name}_{kind}")
        function = self.printer.function(name, docstring, statements, results)
        self.texts.append(KernelText(name, (*decorator, *function)))

    def _element_function(self) -> tuple[str, ...]:
        """Return the function of one element; nothing if the kernel has only rows to do with."""
        if not self.outcome:
            return ()
        results = self.outcome.results(self.inside)
        statements = self.rounds.elementwise(n for r in results for n in names(r.value))
        return self.printer.function(self.name, self.outcome.docstring, statements, results)

    def _arguments(self, before: list[str]) -> list[str]:
        """Return what the decorator of the kernel is told."""
        written = {array for array, _ in self.kernel.writes}
        arguments = list(before)
        for keyword, extent in (("element", Extent.ELEMENT), ("row", Extent.ROW), ("column", Extent.COLUMN)):
            arrays = [n for n, e in self.kernel.arrays if e is extent and n in self.printer.taken | written]
            arguments += [f"{keyword}={name_tuple(arrays)}"] * bool(arrays)
        arguments += self.outcome.arguments(reduction_text) if self.outcome else []
        stored = [(array, f'"{kernel_name(value)}"') for array, value in self.row_writes]
        arguments += [mapping("row_writes", stored)] * bool(stored)
        reduced = [
            (s.target.name, f'({reduction_text(s)}, "{kernel_name(number.target)}")')
            for s, number in zip(self.over_rows, self.row_terms, strict=True)
        ]
        return arguments + [mapping("row_reduces", reduced)] * bool(reduced)
