"""What of a checkpoint's record fits an optimizer, what does not, and the writes that load what does."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from itertools import zip_longest

from stepspec.formats import is_rounded
from stepspec.hyperparameters import Hyperparameter
from stepspec.optimizer import Optimizer
from stepspec.places import beside, shadow, to_host, writing
from stepspec.records import Part, Record, describe_schedule, hyperparameters
from stepspec.states import Array

Values = Mapping[str, float | bool | str | None]


class Match:
    """The comparison of a record with a part; it changes nothing.

    Attributes
    ----------
    differences
        What does not fit, one sentence each.
    writes
        Functions that load what fits; none of them can fail.

    """

    def __init__(self, part: Part, record: Record, states: Mapping[str, dict[str, Array]]) -> None:
        self._part, self._record, self._states = part, record, states
        self._optimizer = part.optimizer
        self.differences = [*_rules(self._optimizer, record), *_schedules(self._optimizer, record)]
        self.writes: list[Callable[[], object]] = []
        self._counts: dict[int, int | None] = {}
        self._changed = self._match_hyperparameters()
        self._match_multipliers()
        self._match_tensors()
        self.writes.append(partial(self._optimizer.__dict__.update, self._new_settings()))

    # ------------------------------------------------------------------ the optimizer

    def _match_hyperparameters(self) -> Optimizer:
        """Return a copy of the optimizer with the hyperparameters of the file."""
        at, saved = dict(hyperparameters(self._optimizer)), self._record["hyperparameters"]
        self.differences += _one_sided("hyperparameter", saved, at)
        values = {at[name]: value for name, value in saved.items() if name in at}
        if self._would_stop_steps(saved.get("wd", 0.0)):
            here = f"{type(self._optimizer).__name__} has no weight decay"
            self.differences.append(f"wd is {values.pop('wd')} in the checkpoint, and {here}")
        changed, complaints = _with_accepted(self._optimizer, values)
        self.differences += complaints
        # setters of numbers and of what concerns single tensors would do this
        changed._new_version(tensors=True)
        changed._begin = self._record["begin_num_update"]
        return changed

    def _would_stop_steps(self, wd: float) -> bool:
        """Tell whether another rule's weight decay would make this one refuse every step."""
        return wd != 0 and not self._optimizer.uses_wd and self._record["rule"] != self._optimizer.rule

    def _new_settings(self) -> dict[str, object]:
        names = [attribute for _, attribute in hyperparameters(self._optimizer)]
        names += ["_begin", "_created", "_versions", "_warned"]
        changed = vars(self._changed)
        return {name: changed[name] for name in names if name in changed}

    def _match_multipliers(self) -> None:
        """Take over the factors of the file; those for indices belong to the tensors of these names now."""
        everyone = self._part.labels({*self._part.tensors, *self._part.names})
        for kind in ("lr_mult", "wd_mult"):
            factors: dict[int | str, float] = dict(self._record[kind]["by_name"])
            for label, factor in self._record[kind]["by_index"].items():
                index = _index(label, everyone)
                if index is None:
                    self.differences.append(f"{kind} is given for tensor {label!r}, which is not here")
                else:
                    factors[index] = factor
            self.writes.append(partial(setattr, self._optimizer._per_tensor, kind, factors))

    # ------------------------------------------------------------------ the tensors

    def _match_tensors(self) -> None:
        part, saved = self._part, self._record["tensors"]
        places = part.labels(part.tensors)
        if part.open:
            named = part.labels({*part.tensors, *part.names})
            places |= {label: index for label in saved if (index := _index(label, named)) is not None}
        self.differences += _one_sided("tensor", saved, places)
        for label in (label for label in saved if label in places):
            self._match_tensor(label, places[label])
        self.writes.append(self._optimizer._counts.loading(self._counts))

    def _match_tensor(self, label: str, index: int) -> None:
        """Compare one tensor; its states and its count are loaded together or not at all."""
        states, saved = self._part.states, self._record["tensors"][label]
        found = self._states[label]
        problems = list(self._weight_differences(index, saved))
        if saved["states"] is not None:
            problems += self._state_differences(index, found)
        problems = problems or list(self._master_differences(index, found))
        if problems:
            self.differences += [f"tensor {label!r}: {problem}" for problem in problems]
            return
        if saved["states"] is None:
            self.writes.append(partial(states.pop, index, None))
        elif index in states:
            own = states[index]
            self.writes += [writing(own[name], found[name]) for name in found]
        else:
            self.writes.append(partial(operator.setitem, states, index, self._placed(index, found)))
        self._counts[index] = saved["count"]

    def _placed(self, index: int, found: dict[str, Array]) -> dict[str, Array]:
        """Return states of the file where their weight lies."""
        return beside(self._part.weights[index], found) if index in self._part.weights else found

    def _weight_differences(self, index: int, saved: Record) -> Iterator[str]:
        weight = self._part.weights.get(index)
        if weight is None or saved["shape"] is None:
            return
        if list(weight.shape) != saved["shape"]:
            yield f"its shape is {tuple(saved['shape'])} in the checkpoint, {tuple(weight.shape)} here"
        dtype = shadow(weight).dtype
        if dtype.name != saved["dtype"]:
            yield f"its dtype is {saved['dtype']} in the checkpoint, {dtype} here"

    def _master_differences(self, index: int, found: Mapping[str, Array]) -> Iterator[str]:
        """Compare a weight with the master that the next update would write over it."""
        weight, master = self._part.weights.get(index), found.get("master")
        if weight is not None and master is not None and not is_rounded(to_host(weight), master):
            yield "its weight is not its master in the checkpoint, rounded: first bring that moment's weights"

    def _state_differences(self, index: int, found: Mapping[str, Array]) -> Iterator[str]:
        """Compare states of the file with those that are here, or that would be created."""
        expected = self._part.states.get(index)
        if expected is None:
            if index not in self._part.weights:
                return
            expected = self._changed.create_state_multi_precision(index, self._part.weights[index])
        for name in sorted(found.keys() ^ expected.keys()):
            yield f"state {name!r} is {'only' if name in found else 'not'} in the checkpoint"
        for name in (name for name in found if name in expected):
            old, new = shadow(expected[name]), found[name]
            if (old.shape, old.dtype) != (new.shape, new.dtype):
                here = f"{old.shape} of {old.dtype} here"
                yield f"state {name!r} has shape {new.shape} of {new.dtype} in the checkpoint, {here}"
            if not old.flags.writeable:
                yield f"state {name!r} is read-only here"


def _rules(optimizer: Optimizer, record: Record) -> Iterator[str]:
    name = type(optimizer).__name__
    if record["optimizer"] != name:
        yield f"the checkpoint was written by {record['optimizer']}, and this optimizer is {name}"
    saved, own = record["rule"].splitlines(), optimizer.rule.splitlines()
    if saved != own:
        # one place is enough to find out what happened
        old, new = next((a, b) for a, b in zip_longest(saved, own, fillvalue="") if a != b)
        yield f"the update rule differs: it has the line {old!r} in the checkpoint and {new!r} here"


def _schedules(optimizer: Optimizer, record: Record) -> Iterator[str]:
    saved, own = record["lr_scheduler"], describe_schedule(optimizer.lr_scheduler)
    if saved != own:
        yield f"lr_scheduler is {_spelled(saved)} in the checkpoint, {_spelled(own)} here"


def _spelled(schedule: Record | None) -> str:
    if schedule is None or "callable" in schedule:
        return "None" if schedule is None else schedule["callable"]
    arguments = ", ".join(f"{name}={value!r}" for name, value in schedule["arguments"].items())
    return f"{schedule['class']}({arguments})"


def _one_sided(what: str, saved: Collection[str], own: Collection[str]) -> Iterator[str]:
    yield from (f"{what} {name!r} is only in the checkpoint" for name in saved if name not in own)
    yield from (f"{what} {name!r} is not in the checkpoint" for name in own if name not in saved)


def _index(label: str, known: Mapping[str, int]) -> int | None:
    """Return the index of a tensor: known by its label, or without a name and called by its index."""
    if label in known:
        return known[label]
    index = int(label) if label.isascii() and label.isdecimal() else None
    return None if index in known.values() else index


def _with_accepted(optimizer: Optimizer, values: Values) -> tuple[Optimizer, list[str]]:
    """Return a copy with all values; or, if together they are refused, with those that are accepted alone."""
    try:
        return _changed(optimizer, values), []
    except (TypeError, ValueError):
        optimizer, complaints = copy.copy(optimizer), []
        for attribute, value in values.items():
            try:
                optimizer = _changed(optimizer, {attribute: value})
            except (TypeError, ValueError) as error:
                complaints.append(str(error))
        return optimizer, complaints


def _changed(optimizer: Optimizer, values: Values) -> Optimizer:
    """Return a copy with other hyperparameters; raise what their setters raise."""
    changed = copy.copy(optimizer)
    changed._is_complete = False  # requirements hold for all of them together
    for attribute, saved in values.items():
        kind = getattr(type(optimizer), attribute, None)  # none: the seed
        infinite = isinstance(saved, str) and isinstance(kind, Hyperparameter)
        setattr(changed, attribute, float(str(saved)) if infinite else saved)
        if kind is not None:
            changed._check_layouts(attribute)
    changed._complete()
    return changed
