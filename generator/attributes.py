"""A rule -> the attributes of the generated class: its text, descriptors, flags, formulas of the host."""

from collections.abc import Iterable, Iterator

from stepspec.generator import analysis
from stepspec.generator.ir import Assign, Call, Expr, Extent, Power, Reduction, Statement
from stepspec.generator.parse import Rule
from stepspec.generator.printer import ATOM, POWER, SIGN, HostPrinter, Printer
from stepspec.generator.spec import Hyperparameter, number_text
from stepspec.generator.text import WIDTH, formula, indented, quoted


def attributes(rule: Rule, host: dict[str, Expr]) -> list[str]:
    """Return the class attributes as lines; `host` holds the scalars that the host computes."""
    lines = [*_rule(rule), *(_descriptor(h) for h in rule.spec.own_arguments)]
    if rule.spec.flags:
        flags = {f.name: ("", _flag(f.default, f.unless_name_ends)) for f in rule.spec.flags}
        lines += _dictionary("flags", "Mapping[str, TensorFlag]", flags)
    if not analysis.uses(rule, "wd"):
        lines.append("uses_wd = False")
    if analysis.draws_noise(rule):
        lines.append("draws_noise = True")
    if analysis.divides_by_rate(rule):
        lines.append("frozen_at_zero_rate = True")
    if analysis.takes_max(rule):
        lines.append("refuses_empty = True")
    if rule.requirements:
        conditions = {t: ("lambda self: ", HostPrinter().text(c)) for t, c in rule.requirements.items()}
        lines += _dictionary("requirements", "Mapping[str, Callable[[Any], bool]]", conditions)
    if host:
        values = {name: ("lambda self, p: ", HostPrinter().text(e)) for name, e in host.items()}
        lines += _dictionary("host", "Mapping[str, Callable[[Any, Any], float]]", values)
    return lines


def canonical_lines(statements: Iterable[Statement]) -> list[str]:
    """Return the statements as text that depends on nothing but what they mean: one spelling, one spacing."""
    printer, lines = _RulePrinter(), []
    for statement in statements:
        if isinstance(statement, Assign):
            lines.append(f"{statement.target.name} = {printer.text(statement.value)}")
            continue
        lines += [f"if {printer.text(statement.condition)}:", *indented(canonical_lines(statement.then))]
        if statement.otherwise:
            lines += ["else:", *indented(canonical_lines(statement.otherwise))]
    return lines


class _RulePrinter(Printer):
    """Prints formulas in the spec language itself."""

    def call(self, expr: Call) -> str:
        return f"{expr.function}({', '.join(self.text(a) for a in expr.arguments)})"

    def power(self, expr: Power) -> tuple[str, int]:
        return f"{self.operand(expr.base, ATOM)} ** {self.operand(expr.exponent, SIGN)}", POWER

    def reduction(self, expr: Reduction) -> str:
        per = "" if expr.per is Extent.TENSOR else f", per={expr.per.word}"
        return f"{expr.function}({self.text(expr.value)}{per})"


def _rule(rule: Rule) -> list[str]:
    """Return the rule's text as one string, in pieces no wider than a line."""
    *lines, last = canonical_lines(rule.statements)
    whole = "\\n".join([*lines, last])
    if len(whole) <= WIDTH - 13:
        return [f'rule = "{whole}"']
    pieces = [*(piece for line in lines for piece in _pieces(line, "\\n")), *_pieces(last, "")]
    return ["rule = (", *(f'    "{piece}"' for piece in pieces), ")"]


def _pieces(line: str, ending: str) -> Iterator[str]:
    """Break a line that is too wide for a string in brackets, before an `if` or else between two words."""
    widest = WIDTH - 10 - len(ending)
    while len(line) > widest:
        end = line.rfind(" if ", 0, widest) + 1 or line.rfind(" ", 0, widest) + 1 or widest
        yield line[:end]
        line = line[end:]
    yield line + ending


def _descriptor(h: Hyperparameter) -> str:
    if h.is_switch:
        return f"{h.name} = Flag()"
    off = "" if h.off is None else f', off=float("{number_text(h.off)}")'
    return f'{h.name} = Hyperparameter("{h.range}"{off})'


def _flag(default: bool, endings: tuple[str, ...]) -> str:
    names_end = f", unless_name_ends=({', '.join(quoted(e) for e in endings)}{',' * (len(endings) == 1)})"
    return f"TensorFlag(default={default}{names_end if endings else ''})"


def _dictionary(name: str, annotation: str, entries: dict[str, tuple[str, str]]) -> list[str]:
    """Return a class attribute: key -> head and value; a long value is broken in brackets behind its head."""
    lines = [f"{name}: ClassVar[{annotation}] = {{"]
    for key, (head, value) in entries.items():
        lines += indented(formula(f"{quoted(key)}: {head}", value, ",", 8))
    return [*lines, "}"]
