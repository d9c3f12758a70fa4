"""Groups of tensors with hyperparameters of their own: who belongs to which, and an optimizer for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any
from weakref import WeakValueDictionary

from stepspec.checkpoint import Part
from stepspec.names import some
from stepspec.optimizer import Optimizer
from stepspec.registry import create
from stepspec.states import Array
from stepspec.updater import States, Updater

Options = Mapping[str, Any]

# of optimizers that were given to a Trainer, by their id: the updater keeps its optimizer alive
_adopted: WeakValueDictionary[int, Updater] = WeakValueDictionary()


@dataclass(frozen=True, eq=False, slots=True)
class Group:
    """Some tensors with one optimizer.

    Parameters
    ----------
    pattern
        Of their names; empty for the tensors that no pattern took.
    updater
        Their optimizer and states.
    weights
        Index to weight, in order; an index is a position among all tensors.
    own_rate
        Whether the group was given a learning rate or a schedule of its own.

    """

    pattern: str
    updater: Updater
    weights: Mapping[int, Array]
    own_rate: bool = False

    @property
    def optimizer(self) -> Optimizer:
        """The updater's."""
        return self.updater.optimizer

    def states_of(self, indices: Sequence[int]) -> AbstractContextManager[list[States]]:
        """Give the states of some tensors; those made for an update that did not happen are forgotten."""
        return self.updater._states_of(indices, [self.weights[index] for index in indices])

    def part(self) -> Part:
        """Return what a checkpoint holds of the group."""
        optimizer = self.optimizer
        return Part(optimizer, optimizer.param_idx2name, self.weights, self.updater.states)


def rate(groups: Sequence[Group]) -> float:
    """Return the learning rate of the first group that has tensors."""
    return next(group.optimizer.learning_rate for group in groups if group.weights)


def set_rate(groups: Sequence[Group], lr: float) -> None:
    """Set the learning rate of all groups without their own, or of none; ValueError, TypeError if refused."""
    common = [group for group in groups if not group.own_rate]
    if not any(group.weights for group in common):
        raise ValueError(
            "every tensor is in a group with its own learning_rate or lr_scheduler; "
            f"set that of trainer.updaters[{groups[-1].pattern!r}].optimizer"
        )
    before = [(group.optimizer, group.optimizer._base_rate) for group in common]
    for done, group in enumerate(common):
        try:
            group.optimizer.set_learning_rate(lr)
        except (TypeError, ValueError) as error:
            for optimizer, old in before[:done]:
                optimizer.set_learning_rate(old)
            if not group.pattern:
                raise
            where = f"group {group.pattern!r} (trainer.updaters[{group.pattern!r}].optimizer)"
            raise type(error)(f"{where}: {error}") from error


def make_groups(
    params: Mapping[str, Array],
    optimizer: str | Optimizer,
    patterns: Mapping[str, Options] | None,
    hyperparameters: Options,
) -> tuple[Group, ...]:
    """Return the groups of all tensors: first the one that no pattern took, even if it has no tensors."""
    weights = dict(enumerate(params.values()))
    names = dict(enumerate(params))
    options = {} if patterns is None else _checked(patterns)
    if isinstance(optimizer, Optimizer):
        _refuse_options(optimizer, options, hyperparameters)
        return (Group("", _adopt(optimizer, names), weights),)
    made = []
    for pattern, members in _members(names, options).items():
        own = options.get(pattern, {})
        try:
            updater = Updater(_create(optimizer, {i: names[i] for i in members}, hyperparameters, own))
        except (TypeError, ValueError) as error:
            if not pattern:
                raise
            raise type(error)(f"group {pattern!r}: {error}") from error
        own_rate = not own.keys().isdisjoint(("learning_rate", "lr_scheduler"))
        made.append(Group(pattern, updater, {i: weights[i] for i in members}, own_rate))
    return tuple(made)


def _create(name: str, names: Mapping[int, str], common: Options, own: Options) -> Optimizer:
    """Return the optimizer of some tensors; `own` options come before common ones."""
    options = {**common, **own}
    if "lr_scheduler" in own and "learning_rate" not in own:
        options["learning_rate"] = None  # the common one would override the base rate of the group's schedule
    if "param_idx2name" in options:
        raise TypeError("param_idx2name is made of the names in params; leave it out")
    multipliers = {key: options.pop(key) for key in ("lr_mult", "wd_mult") if key in own}
    optimizer = create(name, param_idx2name=names, **options)
    for key, value in multipliers.items():
        getattr(optimizer, f"set_{key}")(dict.fromkeys(names.values(), value))
    return optimizer


def _refuse_options(optimizer: Optimizer, patterns: object, hyperparameters: Options) -> None:
    """Refuse what only an optimizer that is made here can be given."""
    given = [*hyperparameters, *(["groups"] if patterns else [])]
    if given:
        kind = type(optimizer).__name__
        raise TypeError(
            f"{given[0]} is for optimizers that the Trainer makes: pass a name, "
            f"as in Trainer(params, {kind.lower()!r}, {given[0]}=...), or leave it out"
        )


def _adopt(optimizer: Optimizer, names: Mapping[int, str]) -> Updater:
    """Return the updater of an optimizer that exists, its tensors named; ValueError if it is another's."""
    if id(optimizer) in _adopted:
        raise ValueError(
            "the optimizer belongs to another Trainer, its update counts too; make one for each Trainer"
        )
    for index, name in optimizer.param_idx2name.items():
        if names.get(index) != name:
            raise ValueError(
                f"the optimizer calls tensor {index} {name!r}, but params call it {names.get(index)!r}; "
                "make an optimizer for each Trainer"
            )
    optimizer.param_idx2name = names
    _adopted[id(optimizer)] = updater = Updater(optimizer)
    return updater


def _members(names: Mapping[int, str], patterns: Mapping[str, Options]) -> dict[str, list[int]]:
    """Return pattern to the indices of its tensors; first ``""``, to those that match none."""
    members: dict[str, list[int]] = {pattern: [] for pattern in ("", *patterns)}
    for index, name in names.items():
        pattern = next((p for p in patterns if fnmatchcase(name, p)), "")
        members[pattern].append(index)
    for pattern in patterns:
        if not members[pattern]:
            taken = any(fnmatchcase(name, pattern) for name in names.values())
            why = "only tensors that earlier patterns took" if taken else "no tensor"
            raise ValueError(f"groups: {pattern!r} matches {why}; the names are {some(list(names.values()))}")
    return members


def _checked(patterns: object) -> Mapping[str, Options]:
    """Return patterns and options of the right types, or raise TypeError or ValueError."""
    example = '{"*bias": {"wd": 0.0}}'
    if not isinstance(patterns, Mapping):
        raise TypeError(f"groups must be a dict such as {example}, not {patterns!r}")
    for pattern, options in patterns.items():
        if not isinstance(pattern, str) or not isinstance(options, Mapping):
            raise TypeError(f"groups must be a dict such as {example}, without {pattern!r}: {options!r}")
        if not pattern:
            raise ValueError("groups: the empty pattern matches no name; use '*' for all tensors")
    return patterns
