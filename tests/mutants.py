"""Specs that differ from one in a single place: an operator, number, name, function, statement or key."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from formula_mutants import condition_mutants, number_mutants, rule_mutants

from stepspec.generator.ir import Extent
from stepspec.generator.parse import Rule, parse
from stepspec.generator.spec import Formula, Hyperparameter, Range, Spec, State, TensorFlag

Item = TypeVar("Item")


@dataclass(frozen=True)
class Mutant:
    """A spec with one change; `change` shows what became of the place, and no two of a spec are alike."""

    change: str
    spec: Spec


def mutants(spec: Spec) -> Iterator[Mutant]:
    """Return every mutant of a spec, in the order of its file."""
    rule = parse(spec)
    yield from _of_hyperparameters(spec)
    yield from _of_states(rule)
    yield from _of_flags(spec)
    yield from _of_requirements(rule)
    offered = not spec.lazy_update
    yield Mutant(f"lazy_update: {offered}", replace(spec, lazy_update=offered))
    for change, text in rule_mutants(rule):
        yield Mutant(change, replace(spec, update=replace(spec.update, text=text + "\n")))


# ---- hyperparameters


def _of_hyperparameters(spec: Spec) -> Iterator[Mutant]:
    own = spec.hyperparameters
    for i, one in enumerate(own):
        for change, new in _hyperparameter(one):
            yield Mutant(f"{one.name}.{change}", replace(spec, hyperparameters=_put(own, i, new)))
        # the learning rate is every optimizer's first argument
        if i + 1 < len(own) and one.name != "learning_rate":
            swapped = _exchanged(own, i)
            yield Mutant(f"{own[i + 1].name} before {one.name}", replace(spec, hyperparameters=swapped))


def _hyperparameter(one: Hyperparameter) -> Iterator[tuple[str, Hyperparameter]]:
    """Return what is changed and the hyperparameter, where its default lies in its range as it must."""
    if one.is_switch:
        yield f"default: {not one.default}", replace(one, default=not one.default)
        return
    for value in _numbers(one.default):
        if value in one.range:
            yield f"default: {value}", replace(one, default=value)
    # the language fixes the range of the learning rate
    if one.name != "learning_rate":
        for interval in _ranges(one.range):
            if one.off is not None or one.default in interval:
                yield f"range: {interval}", replace(one, range=interval)


def _ranges(interval: Range) -> Iterator[Range]:
    yield replace(interval, low_closed=not interval.low_closed)
    yield replace(interval, high_closed=not interval.high_closed)
    for low in _numbers(interval.low):
        yield replace(interval, low=low)
    for high in _numbers(interval.high):
        yield replace(interval, high=high)


def _numbers(value: float) -> Iterator[float]:
    """Return other numbers than `value`; instead of an infinite one, its opposite and two finite ones."""
    return number_mutants(value) if math.isfinite(value) else iter((0.0, 1.0, -value))


# ---- the other keys


def _of_states(rule: Rule) -> Iterator[Mutant]:
    own = rule.spec.states
    for i, one in enumerate(own):
        for change, new in _state(one, rule):
            yield Mutant(f"{one.name}.{change}", replace(rule.spec, states=_put(own, i, new)))
        if i + 1 < len(own):
            swapped = _exchanged(own, i)
            yield Mutant(f"{own[i + 1].name} before {one.name}", replace(rule.spec, states=swapped))


def _state(one: State, rule: Rule) -> Iterator[tuple[str, State]]:
    for per in (Extent.ELEMENT, Extent.ROW, Extent.COLUMN, Extent.TENSOR):
        if per is not one.per:
            yield f"per: {per.word}", replace(one, per=per)
    for init in _inits(one.init):
        yield f"init: {init}", replace(one, init=init)
    yield f"mxnet: {not one.mxnet_negated}", replace(one, mxnet_negated=not one.mxnet_negated)
    if one.when is not None:
        yield "when: always", replace(one, when=None)
        for text in condition_mutants(one.when.text, rule):
            yield f"when: {text}", replace(one, when=replace(one.when, text=text))


def _inits(init: float | str) -> tuple[float | str, ...]:
    return (0.0,) if isinstance(init, str) else ("weight", *number_mutants(init))


def _of_flags(spec: Spec) -> Iterator[Mutant]:
    own = spec.flags
    for i, one in enumerate(own):
        for change, new in _flag(one):
            yield Mutant(f"{one.name}.{change}", replace(spec, flags=_put(own, i, new)))


def _flag(one: TensorFlag) -> Iterator[tuple[str, TensorFlag]]:
    yield f"default: {not one.default}", replace(one, default=not one.default)
    for ending in one.unless_name_ends:
        others = tuple(other for other in one.unless_name_ends if other != ending)
        yield f"unless_name_ends: without {ending}", replace(one, unless_name_ends=others)


def _of_requirements(rule: Rule) -> Iterator[Mutant]:
    own = rule.spec.requirements
    for i, one in enumerate(own):
        others = (*own[:i], *own[i + 1 :])
        yield Mutant(f"without require: {one.text}", replace(rule.spec, requirements=others))
        for text in condition_mutants(one.text, rule):
            changed: Formula = replace(one, text=text)
            yield Mutant(f"require: {text}", replace(rule.spec, requirements=_put(own, i, changed)))


def _exchanged(items: Sequence[Item], place: int) -> tuple[Item, ...]:
    """Return `items` with the one at `place` behind the next."""
    return (*items[:place], items[place + 1], items[place], *items[place + 2 :])


def _put(items: Sequence[Item], place: int, new: Item) -> tuple[Item, ...]:
    return (*items[:place], new, *items[place + 1 :])
