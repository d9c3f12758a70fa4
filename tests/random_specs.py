"""Random specs: well-formed texts, with every part of the language, and what there is to set."""

import ast
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from random_formulas import FormulaWriter

from stepspec.generator.ir import Extent


class Number(NamedTuple):
    """A hyperparameter: its declaration, and values to try; some vanish when rounded to float32."""

    declared: str
    values: tuple[float | None, ...]


class Static(NamedTuple):
    """A static condition: how a rule writes it, and what declares its name, if that is the author's."""

    text: str
    declared: str = ""


NUMBERS: Mapping[str, Number] = {
    "beta": Number('{default: 0.9, range: "[0, 1)"}', (0.9, 0.0, 0.5, 0.999999999, 1e-46)),
    "epsilon": Number('{default: 1e-8, range: "[0, inf)"}', (1e-8, 0.0, 1e-46, 1.0)),
    "rho": Number('{default: 1, range: "(0, 1]", doc: "Share, of x."}', (1.0, 0.25, 1e-46, 1e-20)),
    "scale": Number("{default: -1.5}", (-1.5, 0.0, 3.0, 1e-40)),
    "half": Number('{default: 1, range: "[0.5, 2]"}', (1.0, 0.5, 2.0)),
    "limit": Number('{default: .inf, range: "(0, inf)"}', (None, 0.5, 3.0, 1e-20)),
    "off": Number('{default: -.inf, range: "[-2, 0.5]"}', (None, -2.0, 0.0, 0.5)),
    "momentum": Number('{default: 0.0, range: "[0, 1)"}', (0.0, 0.9, 1e-46)),
    "low": Number("{default: -.inf}", (None, -2.0, 0.0)),
    "high": Number("{default: .inf}", (None, 0.5, 0.0)),
}
REQUIREMENT = "low <= high"
STATICS = (
    Static("ndim > 1"),
    Static("centered", "centered: {default: false}"),
    Static("adapt", "adapt: {default: true, unless_name_ends: [bias, gamma]}"),
    Static("kept", "kept: {default: true}"),
    Static("decay", "decay: {default: false}"),
    Static("ndim == 2"),
)
SWITCHES = ("centered", "kept")
FLAGS = ("adapt", "decay")
STATES = {
    "h": Extent.ELEMENT,
    "v": Extent.ELEMENT,
    "q": Extent.ROW,
    "d": Extent.COLUMN,
    "k": Extent.TENSOR,
    "mom": Extent.ELEMENT,
}
# some are what the generated code would have liked to call its own
LOCALS = ("g", "x", "y", "z", "g_2", "x_terms", "new_h_1", "norm_x", "rate", "k_1", "sum_1")
# a name that stays the state's own while it is stored
MOMENTUM = "momentum > 0"
# what the locals of a spec are drawn from
ELEMENTS = (Extent.ELEMENT,)
EXTENTS = (*[Extent.ELEMENT] * 6, *[Extent.TENSOR] * 3, Extent.ROW, Extent.COLUMN)


@dataclass(frozen=True)
class RandomSpec:
    """A spec, and what there is to set.

    Attributes
    ----------
    text
        The spec.
    numbers
        The names of its own hyperparameters that are numbers; NUMBERS holds values.
    switches, flags
        The names of its switches and tensor flags.

    """

    text: str
    numbers: tuple[str, ...]
    switches: tuple[str, ...]
    flags: tuple[str, ...]


class _State(NamedTuple):
    per: Extent
    init: str
    when: str


class SpecWriter(FormulaWriter):
    """Writes one spec."""

    def __init__(self, chance: random.Random, extents: tuple[Extent, ...] = EXTENTS) -> None:
        super().__init__(chance)
        self.lines: list[str] = []
        self.extents = extents
        count = (0, 0, 0, 1, 1, 2, 3)[chance.randrange(7)]
        self.statics = [STATICS[k] for k in sorted({chance.randrange(len(STATICS)) for _ in range(count)})]
        self.conditions = [static.text for static in self.statics]
        self.numbers += [name for name in NUMBERS if self.likely(0.4)]
        possible = {name: per for name, per in STATES.items() if per in self.extents}
        self.states = {name: self._state(name, per) for name, per in possible.items() if self.likely(0.35)}
        for name, state in self.states.items():
            self.values[state.per].append(name)
        if "mom" in self.states and len(self.conditions) < 3:
            self.states["mom"] = _State(Extent.ELEMENT, "0", MOMENTUM)
            self.conditions.append(MOMENTUM)
        if self.likely(0.3):
            self.conditions += [self._joined() for _ in self.conditions[1:]]
        self.locals = list(LOCALS)

    def _state(self, name: str, per: Extent) -> _State:
        inits = ("0", "0", "0.5", "-1", "1e-46", "weight" if per is Extent.ELEMENT else "2")
        when = self._joined() if self.conditions and self.likely(0.3) else ""
        return _State(per, self.one(inits), when)

    def _joined(self) -> str:
        """Return a static condition of one or two."""
        a, b = self.one(self.conditions), self.one(self.conditions)
        return self.one((a, f"not {a}", f"{a} and {b}", f"{a} or not {b}"))

    # ---- the rule

    def rule(self) -> str:
        """Return the statements."""
        decay = self.one(("", " + wd * weight"))
        self.lines.append(f"g = {self.one(('clip(rescale_grad * grad, clip_gradient)', 'grad'))}{decay}")
        self._define("g", Extent.ELEMENT)
        for _ in range((1, 0, 1, 2, 4)[self.chance.randrange(5)]):
            if self.conditions and self.likely(0.4):
                self._branches("")
            else:
                self.lines.append(self._statement(self._target()))
        self._finish()
        return "\n".join(self.lines)

    def _target(self) -> tuple[str, Extent]:
        """Return a name to assign, and its extent."""
        if self.states and self.likely(0.55):
            name = self.one(tuple(self.states))
            return name, self.states[name].per
        if self.likely(0.15):
            return "weight", Extent.ELEMENT
        return self.one(self.locals), self.extents[self.chance.randrange(len(self.extents))]

    def _statement(self, target: tuple[str, Extent]) -> str:
        name, extent = target
        if name == "weight" or name in self.states:
            return f"{name} {self._change(name, extent)}"
        if name in self.values[extent] and self.likely(0.5):
            return f"{name} {self.one(('+=', '*=', '-='))} {self.exact(extent)}"
        if extent is Extent.TENSOR and not self.likely(0.7):
            line = f"{name} = {self.number()}"
            self._forget(name)
            self.numbers.append(name)
            return line
        line = f"{name} = {self.exact(extent)}"
        self._define(name, extent)
        return line

    def _change(self, name: str, extent: Extent) -> str:
        """Return what assigns a state or the weight."""
        value = self.within(extent, 2)
        match self.chance.randrange(8):
            case 0 | 1:
                return f"-= lr * {value}" if name == "weight" else f"+= {value}"
            case 2 | 3:
                return f"= beta * {name} + (1 - beta) * {value}" if "beta" in self.numbers else f"= {value}"
            case 4:
                return f"= maximum({name}, {value})"
            case 5:
                return f"*= {value}"
            case 6:
                return f"= 0.9 * {name} + tanh({self.exact(extent)})"
            case _:
                return f"= {value}"

    def _define(self, name: str, extent: Extent) -> None:
        self._forget(name)
        self.values[extent].append(name)

    def _forget(self, name: str) -> None:
        for names in (self.numbers, *self.values.values()):
            if name in names:
                names.remove(name)

    def _branches(self, indent: str) -> None:
        """Assign the same names in both branches of a static choice."""
        targets = dict(self._target() for _ in range(1 + self.likely(0.3)))
        before = list(self.numbers), {extent: list(names) for extent, names in self.values.items()}
        for line in (f"if {self.one(self.conditions)}:", "else:"):
            self.lines.append(indent + line)
            self.numbers, self.values = list(before[0]), {e: list(names) for e, names in before[1].items()}
            self.lines += [f"{indent}  {self._statement(target)}" for target in targets.items()]
        # a number per tensor: the host may know it in one branch only
        for name, extent in targets.items():
            self._define(name, extent)

    def _finish(self) -> None:
        """Assign the states that are read, and use what is not, in a last change of the weight."""
        value = self.exact(Extent.ELEMENT)
        last = f"weight -= lr * {value}" if self.likely(0.6) else f"weight = weight - {value}"
        while missing := self._missing([*self.lines, last]):
            self.lines += [f"{name} {self._change(name, self.states[name].per)}" for name in missing]
        read, assigned = _use([*self.lines, last])
        conditions = self._conditions(assigned)
        unread = [name for name in assigned if name not in read and name != "weight"]
        unread += [name for name in NUMBERS if name in conditions and name not in read]
        extras = [f"tanh({name})" for name in unread]
        extras += [f"(0.25 if {n} else 2)" for n in (*SWITCHES, *FLAGS) if n in conditions and n not in read]
        self.lines.append(" + lr * ".join([last, *extras]))

    def _missing(self, lines: Iterable[str]) -> list[str]:
        """Return the states that have yet to be assigned: they are read, or static conditions ask of them."""
        read, assigned = _use(lines)
        needed = {name for name, state in self.states.items() if name in read or state.when == MOMENTUM}
        return sorted(needed - assigned.keys())

    def _conditions(self, assigned: Iterable[str]) -> list[str]:
        """Return the words of the conditions under which states are stored."""
        return " ".join(state.when for name, state in self.states.items() if name in assigned).split()

    # ---- the rest of the spec

    def spec(self) -> RandomSpec:
        """Return the whole spec."""
        update = self.rule()
        read, assigned = _use(self.lines)
        states = [name for name in self.states if name in assigned]
        used = {*read, *self._conditions(states)}
        numbers = tuple(name for name in NUMBERS if name in used)
        statics = {s.text: s for s in STATICS if s.declared and s.text in used}
        switches, flags = (tuple(n for n in names if n in statics) for names in (SWITCHES, FLAGS))
        sections = {
            "hyperparameters": [
                "learning_rate: {default: 0.1}",
                *(f"{name}: {NUMBERS[name].declared}" for name in numbers),
                *(statics[name].declared for name in switches),
            ],
            "state": [self._declared(name) for name in states],
            "tensors": [statics[name].declared for name in flags],
        }
        lines = ["name: X", "summary: A random rule."]
        for key, declared in sections.items():
            lines += [f"{key}:", *(f"  {line}" for line in declared)] if declared else []
        if {"low", "high"} <= used:
            lines.append(f"require: [{REQUIREMENT}]")
        shared = any(self.states[name].per in (Extent.COLUMN, Extent.TENSOR) for name in states)
        if not shared and self.likely(0.3):
            lines.append("lazy_update: true")
        lines += ["update: |", *(f"  {line}" for line in update.split("\n"))]
        text = "\n".join(lines) + "\n"
        if "mean(" not in text and self.likely(0.3):
            text = re.sub(r"\bh\b", "mean", text)
        return RandomSpec(text, numbers, switches, flags)

    def _declared(self, name: str) -> str:
        state = self.states[name]
        parts = [f"per: {state.per.word}", f"init: {state.init}"]
        parts += [f"when: {state.when}"] if state.when else []
        return f"{name}: {{{', '.join(parts)}}}"


def _use(lines: Iterable[str]) -> tuple[set[str], dict[str, None]]:
    """Return which names some statements read, and which they assign, in order."""
    read: set[str] = set()
    assigned: dict[str, None] = {}
    for node in ast.walk(ast.parse("\n".join(lines))):
        match node:
            case ast.AugAssign(target=ast.Name(id=name)):
                read.add(name)
                assigned[name] = None
            case ast.Name(id=name, ctx=ast.Store()):
                assigned[name] = None
            case ast.Name(id=name):
                read.add(name)
    return read, assigned
