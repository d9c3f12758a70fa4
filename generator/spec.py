"""An optimizer as its author wrote it: frozen data, every formula still text with its place."""

import math
from dataclasses import dataclass

from stepspec.generator.errors import NOWHERE, Source, Span
from stepspec.generator.ir import Extent


@dataclass(frozen=True, slots=True)
class Range:
    """An interval of numbers; text as in `[0, 1)`."""

    low: float
    high: float
    low_closed: bool
    high_closed: bool

    def __contains__(self, value: float) -> bool:
        above = value >= self.low if self.low_closed else value > self.low
        below = value <= self.high if self.high_closed else value < self.high
        return above and below

    def __str__(self) -> str:
        left, right = "[" if self.low_closed else "(", "]" if self.high_closed else ")"
        return f"{left}{number_text(self.low)}, {number_text(self.high)}{right}"


ANY_NUMBER = Range(-math.inf, math.inf, False, False)
NOT_NEGATIVE = Range(0.0, math.inf, True, False)


@dataclass(frozen=True, slots=True)
class Formula:
    """Text to be read as Python: where its first line stands, and how far it is indented in the file."""

    text: str
    line: int
    indent: int

    def span(self, line: int, column: int, length: int) -> Span:
        """Return the place in the file of a stretch of this text; `line` from 1, `column` from 0."""
        return Span(self.line + line - 1, self.indent + column + 1, max(1, length))


@dataclass(frozen=True, slots=True)
class Hyperparameter:
    """A number or a switch that the user of the optimizer sets; a switch has no range."""

    name: str
    default: float | bool
    range: Range
    doc: str
    span: Span

    @property
    def is_switch(self) -> bool:
        """Whether it is True or False instead of a number."""
        return isinstance(self.default, bool)

    @property
    def off(self) -> float | None:
        """Return the infinite default of a bound whose range does not reach there, None if there is none."""
        outside = not self.is_switch and self.default not in self.range
        return float(self.default) if outside else None

    @property
    def values(self) -> Range:
        """Return the smallest interval that holds all values it may have."""
        if self.off is None:
            return self.range
        if self.off < 0:
            return Range(self.off, self.range.high, True, self.range.high_closed)
        return Range(self.range.low, self.off, self.range.low_closed, True)


# of rules for which updating only the rows that are present has a meaning; no name inside a rule
LAZY_UPDATE = Hyperparameter(
    "lazy_update", False, ANY_NUMBER, "Update only the rows that a row-sparse gradient holds.", NOWHERE
)


@dataclass(frozen=True, slots=True)
class State:
    """An array kept between steps; stored only `when` a condition holds, if one is given."""

    name: str
    per: Extent
    init: float | str
    when: Formula | None
    mxnet_negated: bool
    doc: str
    span: Span


@dataclass(frozen=True, slots=True)
class TensorFlag:
    """A switch per tensor, the opposite of its default where the name ends in one of some words."""

    name: str
    default: bool
    unless_name_ends: tuple[str, ...]
    doc: str
    span: Span


@dataclass(frozen=True, slots=True)
class Spec:
    """An optimizer as its author wrote it."""

    source: Source
    stem: str
    name: str
    summary: str
    paper: str
    hyperparameters: tuple[Hyperparameter, ...]
    states: tuple[State, ...]
    flags: tuple[TensorFlag, ...]
    requirements: tuple[Formula, ...]
    lazy_update: bool
    update: Formula
    span: Span

    @property
    def learning_rate(self) -> float:
        """Return the default learning rate."""
        return next(float(h.default) for h in self.hyperparameters if h.name == "learning_rate")

    @property
    def own_hyperparameters(self) -> tuple[Hyperparameter, ...]:
        """Return the hyperparameters without the learning rate, which every optimizer has."""
        return tuple(h for h in self.hyperparameters if h.name != "learning_rate")

    @property
    def own_arguments(self) -> tuple[Hyperparameter, ...]:
        """Return the constructor's own arguments: `lazy_update` is one if it is offered."""
        return tuple(h for h in self.arguments if h.name != "learning_rate")

    @property
    def arguments(self) -> tuple[Hyperparameter, ...]:
        """Return the constructor's arguments that the class documents, in the order of the file."""
        return (*self.hyperparameters, *([LAZY_UPDATE] if self.lazy_update else []))


def number_text(value: float) -> str:
    """Return the shortest text of a number that Python and a reader understand."""
    return (
        repr(int(value))
        if math.isfinite(value) and value == int(value) and abs(value) < 1e15
        else repr(value)
    )
