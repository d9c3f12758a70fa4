"""The typed form of a rule: frozen nodes, each knowing over which axes it varies and when it is known.

Two numbers say all that later passes ask of a value. Its *extent* is the set of axes it varies over, joined
by union. Its *stage* says when it is known: 0 if the host knows it before anything runs, else at least 1, and
one more behind every reduction that needs a whole tensor or column.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from enum import Enum, Flag
from functools import cached_property
from typing import TypeAlias

from stepspec.generator.errors import NOWHERE, Span


class Extent(Flag):
    """The axes a value varies over: tensors of a call, rows, and the other axes of one tensor."""

    MODEL = 0
    TENSOR = 1
    ROW = TENSOR | 2
    COLUMN = TENSOR | 4
    ELEMENT = ROW | COLUMN

    @property
    def is_scalar(self) -> bool:
        """Whether there is one number per tensor at most."""
        return self in Extent.TENSOR

    @property
    def word(self) -> str:
        """Return the extent's name in the spec language."""
        return str(self.name).lower()


class Kind(Enum):
    """What a name stands for."""

    HYPERPARAMETER = "hyperparameter"
    HOST = "host"
    ARRAY = "array"
    STATE = "state"
    NOISE = "noise"
    LOCAL = "local"
    STATIC = "static"


@dataclass(frozen=True)
class _Node:
    span: Span = field(default=NOWHERE, compare=False, kw_only=True)

    @cached_property
    def children(self) -> "tuple[Expr, ...]":
        values = [getattr(self, f.name) for f in fields(self)]
        flat = [v for value in values for v in (value if isinstance(value, tuple) else (value,))]
        return tuple(v for v in flat if isinstance(v, _Node))  # type: ignore[misc]  # the union is closed

    @cached_property
    def extent(self) -> Extent:
        extent = Extent.MODEL
        for child in self.children:
            extent |= child.extent
        return extent

    @cached_property
    def stage(self) -> int:
        return max((child.stage for child in self.children), default=0)


@dataclass(frozen=True)
class Constant(_Node):
    """A number written in the rule."""

    value: float


@dataclass(frozen=True)
class Truth(_Node):
    """A condition whose outcome is known."""

    value: bool


@dataclass(frozen=True)
class Name(_Node):
    """A use of a name; `version` 0 is the stored value, later ones are assigned by the rule."""

    name: str
    kind: Kind
    varies: Extent
    known: int
    version: int = 0

    @cached_property
    def children(self) -> "tuple[Expr, ...]":
        return ()

    @cached_property
    def extent(self) -> Extent:
        return self.varies

    @cached_property
    def stage(self) -> int:
        return self.known


@dataclass(frozen=True)
class Negative(_Node):
    """Minus a value."""

    value: "Expr"


@dataclass(frozen=True)
class Binary(_Node):
    """`+ - * /` of two values."""

    operator: str
    left: "Expr"
    right: "Expr"


@dataclass(frozen=True)
class Power(_Node):
    """A value raised to another."""

    base: "Expr"
    exponent: "Expr"


@dataclass(frozen=True)
class Compare(_Node):
    """A condition on two values."""

    operator: str
    left: "Expr"
    right: "Expr"


@dataclass(frozen=True)
class Logic(_Node):
    """`and` or `or` of two conditions."""

    operator: str
    left: "Expr"
    right: "Expr"


@dataclass(frozen=True)
class Not(_Node):
    """The opposite of a condition."""

    value: "Expr"


@dataclass(frozen=True)
class Select(_Node):
    """`then if condition else otherwise`."""

    condition: "Expr"
    then: "Expr"
    otherwise: "Expr"


@dataclass(frozen=True)
class Call(_Node):
    """An elementwise function of the language."""

    function: str
    arguments: "tuple[Expr, ...]"


@dataclass(frozen=True)
class Noise(_Node):
    """`normal()`: a standard normal number per element and step; each in a rule has its `stream`, from 1."""

    stream: int

    @cached_property
    def extent(self) -> Extent:
        return Extent.ELEMENT

    @cached_property
    def stage(self) -> int:
        return 1


@dataclass(frozen=True)
class Spread(_Node):
    """A value repeated over more axes: what assigning a number to an array state means."""

    value: "Expr"
    over: Extent

    @cached_property
    def extent(self) -> Extent:
        return self.over

    @cached_property
    def stage(self) -> int:
        return max(1, self.value.stage)


@dataclass(frozen=True)
class Reduction(_Node):
    """`norm`, `sum`, `mean` or `max` over the axes that `per` lacks."""

    function: str
    per: Extent
    value: "Expr"

    @cached_property
    def extent(self) -> Extent:
        return self.per

    @cached_property
    def stage(self) -> int:
        ends_stage = self.per is not Extent.ROW
        return max(1, self.value.stage) + ends_stage


Expr: TypeAlias = (
    Constant
    | Truth
    | Name
    | Negative
    | Binary
    | Power
    | Compare
    | Logic
    | Not
    | Select
    | Call
    | Noise
    | Spread
    | Reduction
)


@dataclass(frozen=True)
class Assign:
    """`target = value`; `text` is the author's line."""

    target: Name
    value: Expr
    text: str
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class If:
    """A static choice between two lists of statements."""

    condition: Expr
    then: "tuple[Statement, ...]"
    otherwise: "tuple[Statement, ...]"


Statement: TypeAlias = Assign | If
# straight-line code: what is left when every static choice is made
Statements: TypeAlias = tuple[Assign, ...]


def kernel_name(name: Name) -> str:
    """Return how a kernel calls a value: the new value of a state or of the weight is `new_mom`."""
    return f"new_{name.name}" if name.version and name.kind in (Kind.STATE, Kind.ARRAY) else name.name


def is_condition(expr: Expr) -> bool:
    """Tell whether `expr` is true or false instead of a number."""
    match expr:
        case Compare() | Logic() | Not() | Truth():
            return True
        case Name(kind=Kind.STATIC, name=name):
            return name != "ndim"
        case _:
            return False


def walk(expr: Expr) -> Iterator[Expr]:
    """Yield `expr` and everything inside it, outermost first."""
    yield expr
    for child in expr.children:
        yield from walk(child)


def rebuild(expr: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """Return `expr` with `change` applied to its direct children."""
    changed: dict[str, object] = {}
    for f in fields(expr):
        value = getattr(expr, f.name)
        if isinstance(value, tuple):
            changed[f.name] = tuple(change(v) for v in value)
        elif isinstance(value, _Node):
            changed[f.name] = change(value)  # type: ignore[arg-type]  # every node is in the union
    return replace(expr, **changed) if changed else expr  # type: ignore[arg-type]  # names come from fields()


def names(expr: Expr) -> tuple[Name, ...]:
    """Return the names used in `expr`, in reading order, repeats included."""
    return tuple(node for node in walk(expr) if isinstance(node, Name))
