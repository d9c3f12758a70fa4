"""What the texts of all targets share: the lines of one function, notes, numbers of one tensor."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stepspec.generator.ir import Assign, Name, Reduction
from stepspec.generator.printer import ScalarPrinter
from stepspec.generator.stages import ScalarKernel
from stepspec.generator.text import assignment, call, indented, table

# names printed without an import
BUILTINS = frozenset(("abs",))


@dataclass(frozen=True)
class KernelText:
    """One function of a kernels module, from its decorator on."""

    name: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Printed:
    """What a target makes of one kernel.

    Attributes:
        texts: its functions.
        names: those that a launch runs, in order.
        imports: module -> what the functions need of it.
    """

    texts: tuple[KernelText, ...]
    names: tuple[str, ...]
    imports: Mapping[str, frozenset[str]]

    @property
    def entry(self) -> str:
        """Return what stands for the kernel in the table of a stage."""
        return self.names[0] if len(self.names) == 1 else f"({', '.join(self.names)})"


class Notes:
    """Comments above statements: the author's line, once."""

    def __init__(self) -> None:
        self._noted: set[str] = set()

    def of(self, statement: Assign) -> list[str]:
        """Return the line of `statement` as a comment, if it does not stand there already."""
        if not statement.text or statement.text in self._noted:
            return []
        self._noted.add(statement.text)
        return [f"# {statement.text}"]


def print_scalars(kernel: ScalarKernel, name: str, target: str) -> Printed:
    """Return the function of numbers of one tensor, the same for all targets but for its import."""
    printer = ScalarPrinter()
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
    function = KernelText(name, (*decorator, *call(f"def {name}", kernel.scalars, ":"), *indented(body)))
    return Printed((function,), (name,), imports(printer.used, {target: ("scalars",)}))


def imports(functions: Iterable[str], others: Mapping[str, Iterable[str]]) -> dict[str, frozenset[str]]:
    """Return what a text needs, by module, if it calls these `functions` of the language."""
    found = {"stepspec.arithmetic": frozenset(functions) - BUILTINS}
    found |= {module: frozenset(needed) for module, needed in others.items()}
    return {module: needed for module, needed in found.items() if needed}


def key(name: Name) -> tuple[str, int]:
    """Return what tells the values of a kernel apart."""
    return name.name, name.version


def reduction_of(statement: Assign) -> Reduction:
    assert isinstance(statement.value, Reduction), "only reductions collect terms"
    return statement.value


def reduction_text(statement: Assign) -> str:
    """Return a reduction as an argument of a decorator."""
    reduction = reduction_of(statement)
    over, per = reduction.value.extent.word, reduction.per.word
    return f'Reduction("{reduction.function}", over="{over}", per="{per}")'


def name_tuple(names: Iterable[str]) -> str:
    """Return names as a tuple of texts."""
    quoted = [f'"{name}"' for name in names]
    return f"({', '.join(quoted)}{',' * (len(quoted) == 1)})"


def mapping(keyword: str, entries: Iterable[tuple[str, str]]) -> str:
    """Return an argument of a decorator that maps names to what is spelled so."""
    return "\n".join(table(f"{keyword}=", (f'"{name}": {value}' for name, value in entries), 4, ","))[:-1]


def listed(words: Iterable[str]) -> str:
    """Return words as a sentence lists them."""
    *others, last = words
    return " and ".join(filter(None, [", ".join(others), last]))
