"""Statements on numbers -> the text of a pure function, which takes numbers and returns numbers."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from stepspec.generator.free_names import FreeNames
from stepspec.generator.ir import Assign, Expr, Name, Select, Statements, kernel_name, names
from stepspec.generator.kernel_text import Notes, key, listed, mapping, name_tuple, reduction_of
from stepspec.generator.printer import KernelPrinter
from stepspec.generator.stages import ArrayKernel
from stepspec.generator.text import WIDTH, assignment, call, indented

INDENT = 4


@dataclass(frozen=True)
class Result:
    """A number that a function returns.

    Attributes:
        value: a formula of the function's statements and parameters.
        name: what it is called where it needs a line of its own.
        origin: the statement whose line explains the formula, if it is none of the function's.
    """

    value: Expr
    name: str
    origin: Assign | None = None


@dataclass(frozen=True)
class Outcome:
    """What a function returns for the kernel: new values of arrays, or terms of reductions."""

    writes: tuple[tuple[str, Name], ...]
    reductions: Statements

    def __bool__(self) -> bool:
        return bool(self.writes or self.reductions)

    @property
    def docstring(self) -> str:
        """Return what the function says of itself."""
        if self.reductions:
            return returning("the terms of ", (s.target.name for s in self.reductions))
        return returning("", (name for name, _ in self.writes))

    def results(self, free: FreeNames) -> list[Result]:
        """Return the formulas; terms get names that are `free`."""
        values = [Result(value, kernel_name(value)) for _, value in self.writes]
        return values + [term(s, free) for s in self.reductions]

    def arguments(self, spelled: Callable[[Assign], str]) -> list[str]:
        """Return what a decorator is told, each reduction `spelled` as its form wants it."""
        if self.reductions:
            return [mapping("reduces", ((s.target.name, spelled(s)) for s in self.reductions))]
        return [f"writes={name_tuple(name for name, _ in self.writes)}"]


def returning(what: str, names: Iterable[str]) -> str:
    """Return a docstring of one line: the names of what a function returns, or how many there are."""
    names = list(names)
    line = f"Return {what}{listed(names)}."
    return line if INDENT + len(line) + 6 <= WIDTH else f"Return {what}{len(names)} numbers."


def term(reduction: Assign, free: FreeNames) -> Result:
    """Return the result that is a term of a reduction."""
    return Result(reduction_of(reduction).value, free.fresh(f"{reduction.target.name}_term"), reduction)


def names_of(kernel: ArrayKernel) -> FreeNames:
    """Return what is free beside the names that a kernel's statements use."""
    statements = (*kernel.statements, *kernel.reductions)
    return FreeNames(kernel_name(n) for s in statements for n in (s.target, *names(s.value)))


def written_by(kernel: ArrayKernel) -> tuple[tuple[str, Name], ...]:
    """Return the arrays that a kernel writes and their new values, in the order of its arrays."""
    values = dict(kernel.writes)
    return tuple((array, values[array]) for array, _ in kernel.arrays if array in values)


class FunctionPrinter:
    """Prints the functions of one kernel.

    Args:
        order: every name that a function may take, in the order in which it takes them.
    """

    def __init__(self, order: Iterable[str]) -> None:
        self.order = tuple(order)
        self.used: set[str] = set()
        self.taken: set[str] = set()

    def function(
        self, name: str, docstring: str, statements: Statements, results: Sequence[Result]
    ) -> tuple[str, ...]:
        """Return the function that computes `statements` and returns `results`, without a decorator."""
        parameters = self._parameters(statements, results)
        printer, notes = KernelPrinter({}), Notes()
        shown, returned = _last_value_returned(statements, results)
        body = [f'"""{docstring}"""']
        for s in shown:
            body += [*notes.of(s), *assignment(printer.name(s.target), printer.text(s.value), INDENT)]
        body += _return(printer, notes, returned)
        self.used |= printer.used
        self.taken.update(parameters)
        return (*call(f"def {name}", parameters, ":"), *indented(body))

    def _parameters(self, statements: Statements, results: Sequence[Result]) -> tuple[str, ...]:
        inside = {key(s.target) for s in statements}
        values = [*(s.value for s in statements), *(r.value for r in results)]
        outer = {kernel_name(n) for value in values for n in names(value) if key(n) not in inside}
        return tuple(name for name in self.order if name in outer)


def _last_value_returned(
    statements: Statements, results: Sequence[Result]
) -> tuple[Statements, Sequence[Result]]:
    """Return both with the last statement's formula in its result's place, if it is needed nowhere else."""
    if not statements:
        return statements, results
    *others, last = statements
    values = [*(s.value for s in others), *(r.value for r in results)]
    used = [n for value in values for n in names(value) if key(n) == key(last.target)]
    places = [i for i, r in enumerate(results) if r.value in used]
    if len(used) != 1 or len(places) != 1:
        return statements, results
    (place,) = places
    formula = Result(last.value, results[place].name, last)
    return tuple(others), (*results[:place], formula, *results[place + 1 :])


def _return(printer: KernelPrinter, notes: Notes, results: Sequence[Result]) -> list[str]:
    """Return the last lines; a formula too long for its line has one of its own before."""
    lines, texts = [], []
    for r in results:
        lines += notes.of(r.origin) if r.origin else []
        text = printer.text(r.value)
        shown = f"({text})" if len(results) > 1 and isinstance(r.value, Select) else text
        if INDENT + len(f"return {shown},") > WIDTH:
            lines += assignment(r.name, text, INDENT)
            shown = r.name
        texts.append(shown)
    line = f"return {', '.join(texts)}"
    return [*lines, *([line] if INDENT + len(line) <= WIDTH else call("return ", texts, "", INDENT))]
