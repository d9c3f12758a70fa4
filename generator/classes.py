"""A rule and its variants -> the parts of the generated optimizer class, as finished lines."""

from collections.abc import Iterable
from dataclasses import dataclass

from stepspec.generator.analysis import Variant
from stepspec.generator.attributes import attributes
from stepspec.generator.docs import docstring, sentence, state_doc
from stepspec.generator.errors import Problem, SpecError
from stepspec.generator.ir import Expr, Extent, Kind, Name, Spread, names
from stepspec.generator.lazy import NEVER, lazy_is_exact
from stepspec.generator.parse import Rule
from stepspec.generator.passes import Choice, outputs, static_atoms
from stepspec.generator.printer import ATOM, HostPrinter, ReferencePrinter, needs_math
from stepspec.generator.spec import State
from stepspec.generator.text import WIDTH, assignment, call, choice, formula, indented


@dataclass(frozen=True)
class ClassText:
    """The parts of one generated class."""

    name: str
    summary: str
    docstring: tuple[str, ...]
    attributes: tuple[str, ...]
    init: tuple[str, ...]
    layout: tuple[str, ...]
    variant: tuple[str, ...]
    lazy: tuple[str, ...]
    state_doc: tuple[str, ...]
    step: tuple[str, ...]
    fused_store: str
    reference: tuple[str, ...]
    hyperparameter_kinds: tuple[str, ...]
    state_types: tuple[str, ...]
    math: bool


def print_class(rule: Rule, variants: tuple[Variant, ...]) -> ClassText:
    """Return the parts of the class of `rule`."""
    host = _host(rule, variants)
    exact = lazy_is_exact(rule, variants)
    reference, step = _step(rule, variants)
    layout, variant = _layout(rule), _variant(rule)
    types = {"Layout", "State"} if layout else set()
    types |= {"TensorFlag"} if rule.spec.flags else set()
    types |= {"Variant"} if variant else set()
    kinds = {"Flag" if h.is_switch else "Hyperparameter" for h in rule.spec.own_arguments}
    return ClassText(
        name=rule.spec.name,
        summary=sentence(rule.spec.summary),
        docstring=tuple(docstring(rule, exact)),
        attributes=tuple(attributes(rule, host)),
        init=tuple(_init(rule)),
        layout=layout,
        variant=variant,
        lazy=tuple(_lazy(exact)),
        state_doc=tuple(state_doc(rule)),
        step=tuple(step),
        fused_store=_fused_store(variants),
        reference=reference,
        hyperparameter_kinds=tuple(sorted(kinds)),
        state_types=tuple(sorted(types)),
        math=any(needs_math(e) for e in host.values()) or any("math." in line for line in step),
    )


def _init(rule: Rule) -> list[str]:
    spec = rule.spec
    arguments = ["self", f"learning_rate: float | None = {_default(spec.learning_rate)}"]
    for h in spec.own_arguments:
        optional = not h.is_switch and h.default in (float("inf"), float("-inf"))
        kind = "bool" if h.is_switch else "float | None" if optional else "float"
        arguments.append(f"{h.name}: {kind} = {'None' if optional else _default(h.default)}")
    lines = call("def __init__", [*arguments, "**kwargs: Any"], " -> None:", indent=4)
    lines.append("    super().__init__(learning_rate, **kwargs)")
    return lines + [f"    self.{h.name} = {h.name}" for h in spec.own_arguments]


def _default(value: float | bool) -> str:
    return str(value) if isinstance(value, bool) else repr(float(value))


def _layout(rule: Rule) -> tuple[str, ...]:
    states = rule.spec.states
    if not states:
        return ()
    if all(s.when is None for s in states):
        entries = [f'"{s.name}": {_state(s)}' for s in states]
        line = f"return {{{', '.join(entries)}}}"
        return (line,) if 8 + len(line) <= WIDTH else ("return {", *(f"    {e}," for e in entries), "}")
    lines = ["layout: Layout = {}"]
    for s in states:
        line = f'layout["{s.name}"] = {_state(s)}'
        if s.name in rule.presence:
            lines += [
                f"if {_StaticPrinter('self.', 'flags', 'ndim').text(rule.presence[s.name])}:",
                f"    {line}",
            ]
        else:
            lines.append(line)
    return (*lines, "return layout")


def _state(state: State) -> str:
    init = '"weight"' if isinstance(state.init, str) else repr(state.init)
    sign = ", mxnet_sign=-1" if state.mxnet_negated else ""
    return f'State("{state.per.word}", {init}{sign})'


def _variant(rule: Rule) -> tuple[str, ...]:
    atoms = static_atoms(rule)
    if not atoms:
        return ()
    printer = _StaticPrinter("self.", "flags", "ndim")
    texts = ", ".join(printer.text(atom) for atom in atoms)
    return (f"return ({texts}{',' * (len(atoms) == 1)})",)


class _StaticPrinter(HostPrinter):
    """Prints static conditions: hyperparameters behind `prefix`, tensor flags as items of `flags`."""

    def __init__(self, prefix: str, flags: str, ndim: str) -> None:
        super().__init__()
        self.prefix, self.flags, self.ndim = prefix, flags, ndim

    def name(self, name: Name) -> str:
        if name.kind is Kind.HOST:
            return f"p.{name.name}"
        if name.name == "ndim":
            return self.ndim
        is_flag = name.kind is Kind.STATIC and name.varies is Extent.TENSOR
        return f'{self.flags}["{name.name}"]' if is_flag else f"{self.prefix}{name.name}"


def _lazy(exact: Expr) -> list[str]:
    """Return the body of `_lazy_is_exact`; nothing if that is never true."""
    if exact == NEVER:
        return []
    text = _ExactPrinter("self.", "flags", "ndim").text(exact)
    # NumPy compares to a bool of its own
    return formula("return ", f"bool({text})" if "dtype(" in text else text, "", 8)


class _ExactPrinter(_StaticPrinter):
    """Prints the condition of exactness: what is spread over elements is rounded to their dtype."""

    def spread(self, expr: Spread) -> tuple[str, int]:
        return f"dtype({self.text(expr.value)})", ATOM


def _step(rule: Rule, variants: tuple[Variant, ...]) -> tuple[tuple[str, ...], list[str]]:
    printer = ReferencePrinter()
    single = len(variants) == 1
    depth = 12 if single else 16
    branches = [(v.choice, _branch(rule, v, printer, depth)) for v in reversed(variants)]
    body = choice(_distinct(branches))
    read = {n.name for v in variants for s in v.statements for n in names(s.value)}
    static = {n.name for atom in static_atoms(rule) for n in names(atom)}
    local: list[str] = [n for n in ("weight", "grad", "lr", "wd", "t") if n in read or n == "weight"]
    if any("dtype(" in line for line in body):
        local.insert(0, "dtype")
    own = [h.name for h in rule.spec.own_hyperparameters if h.name in read | static]
    common: list[str] = [n for n in ("rescale_grad", "clip_gradient") if n in read]
    lines = [*_unpack(common, "self", 8), *_unpack(own, "self", 8)]
    lines.append("for p in self._tensors(indices, weights, grads, states):")
    lines += indented([*_unpack(local, "p", 12), *body])
    return tuple(sorted(printer.used - {"abs"})), lines


def _unpack(words: list[str], owner: str, indent: int) -> list[str]:
    """Return lines that give attributes of `owner` names of their own, halved where they are too wide."""
    if not words:
        return []
    line = f"{', '.join(words)} = {', '.join(f'{owner}.{w}' for w in words)}"
    if indent + len(line) <= WIDTH or len(words) == 1:
        return [line]
    half = (len(words) + 1) // 2
    return [*_unpack(words[:half], owner, indent), *_unpack(words[half:], owner, indent)]


def _distinct(branches: Iterable[tuple[Choice, list[str]]]) -> list[tuple[str, list[str]]]:
    """Return the branches with conditions, from all true to all false; what the next would do needs none."""
    kept: list[tuple[Choice, list[str]]] = []
    for chosen, lines in reversed([*branches]):
        held = {atom for atom, holds in chosen.items() if holds}
        reached = (later for other, later in kept if held >= {atom for atom, holds in other.items() if holds})
        if next(reached, None) != lines:
            kept.insert(0, (chosen, lines))
    return [(_branch_condition(chosen), lines) for chosen, lines in kept]


def _branch_condition(chosen: Choice) -> str:
    """Return the condition of a branch; branches are tried from all true to all false."""
    printer = _StaticPrinter("", "p.flags", "p.weight.ndim")
    return " and ".join(printer.text(atom) for atom, holds in chosen.items() if holds)


def _branch(rule: Rule, variant: Variant, printer: ReferencePrinter, depth: int) -> list[str]:
    stored = outputs(variant.statements)
    read = {
        n.name for s in variant.statements for n in names(s.value) if n.kind is Kind.STATE and n.version == 0
    }
    spread = {s.target.name for s in variant.statements if isinstance(s.value, Spread)}
    states = [s.name for s in rule.spec.states if s.name in read | (spread & set(stored))]
    lines = [f'{name} = p.state["{name}"]' for name in states]
    for s in variant.statements:
        if isinstance(s.value, Spread):
            lines += assignment(s.target.name, printer.spread_like(s.value, s.target.name), depth)
        elif s.target.kind is Kind.STATE:
            lines += assignment(s.target.name, printer.float64(s.value), depth)
        else:
            lines += assignment(s.target.name, printer.text(s.value), depth)
    order = ["weight", *(s.name for s in rule.spec.states)]
    values = ", ".join(f"{name}={name}" for name in order if name in stored)
    return [*lines, f"p.store({values})"]


def _fused_store(variants: Iterable[Variant]) -> str:
    pairs = {state: row for v in variants for state, row in v.program.tensor_states.items()}
    return ", ".join(f'{state}="{row}"' for state, row in pairs.items())


def _host(rule: Rule, variants: tuple[Variant, ...]) -> dict[str, Expr]:
    """Return the scalars that the host computes for the kernels of any variant."""
    host: dict[str, Expr] = {}
    for variant in variants:
        for name, value in variant.program.host.items():
            if host.setdefault(name, value) != value:
                span = value.span if value.span.line else rule.spec.span
                problem = Problem(span, f"'{name}' means two things in two variants", "give them two names")
                raise SpecError(rule.spec.source, [problem])
    return dict(sorted(host.items()))
