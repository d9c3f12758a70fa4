"""The names that a formula may use, and what became of them."""

import ast
from collections.abc import Iterable

from stepspec.generator import language
from stepspec.generator.errors import Problems, Span
from stepspec.generator.ir import (
    Compare,
    Expr,
    Extent,
    Kind,
    Name,
    names,
)
from stepspec.generator.spec import Spec


class Scope:
    """The names that a formula may use, and what became of them."""

    def __init__(self, spec: Spec, problems: Problems) -> None:
        self.spec = spec
        self.problems = problems
        self.static: set[Compare] = set()
        self.states = {s.name: s for s in spec.states}
        self.partial: set[str] = set()
        self.read: set[str] = set()
        self.assigned: dict[str, Span] = {}
        self.failed: set[str] = set()
        self.names: dict[str, Name] = {
            **{n: Name(n, Kind.ARRAY, Extent.ELEMENT, 1) for n in language.ARRAY_NAMES},
            **{n: Name(n, Kind.HOST, Extent.TENSOR, 0) for n in ("lr", "wd", "t")},
            **{n: Name(n, Kind.HYPERPARAMETER, Extent.MODEL, 0) for n in ("rescale_grad", "clip_gradient")},
            **{n: Name(n, Kind.STATIC, Extent.TENSOR, 0) for n in language.STATIC_NAMES},
            **{f.name: Name(f.name, Kind.STATIC, Extent.TENSOR, 0) for f in spec.flags},
            **{s.name: Name(s.name, Kind.STATE, s.per, 1) for s in spec.states},
            **{
                h.name: Name(h.name, Kind.STATIC if h.is_switch else Kind.HYPERPARAMETER, Extent.MODEL, 0)
                for h in spec.own_hyperparameters
            },
        }

    def local(self, name: str, value: Expr) -> Name:
        """Return the name that assigning `value` to `name` makes."""
        if name == "weight":
            return Name(name, Kind.ARRAY, Extent.ELEMENT, max(1, value.stage))
        if name in self.states:
            return Name(name, Kind.STATE, self.states[name].per, max(1, value.stage))
        return Name(name, Kind.LOCAL, value.extent, value.stage)

    def excuse(self, mentioned: Iterable[ast.Name]) -> None:
        """Let a mistake not cause others: what its statement mentions counts as read, or as assigned."""
        for name in mentioned:
            if isinstance(name.ctx, ast.Store):
                self.failed.add(name.id)
            self.read.add(name.id)

    def check_use(self, presence: dict[str, Expr], requirements: dict[str, Expr]) -> None:
        """Report what is declared or assigned but never used."""
        outside = {n.name for c in (*presence.values(), *requirements.values()) for n in names(c)}
        declared = [
            *((h.name, h.span, "hyperparameter") for h in self.spec.own_hyperparameters),
            *((f.name, f.span, "tensor flag") for f in self.spec.flags),
        ]
        for name, span, what in declared:
            if name not in self.read:
                where = "the rule, only in a condition" if name in outside else "the rule"
                self.problems.add(span, f"{what} '{name}' is never used in {where}")
        for state in self.spec.states:
            if state.name not in {*self.assigned, *self.failed}:
                self.problems.add(state.span, f"state '{state.name}' is never assigned")
            elif state.name not in self.read:
                self.problems.add(state.span, f"state '{state.name}' is never read")
        for name, span in self.assigned.items():
            if name != "weight" and name not in self.states and name not in self.read:
                self.problems.add(span, f"'{name}' is assigned but never used")
        if "weight" not in {*self.assigned, *self.failed}:
            span = self.spec.update.span(1, 0, 1)
            self.problems.add(span, "the rule never assigns weight", "end it with 'weight = ...'")
