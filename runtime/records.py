"""What a checkpoint says of one optimizer and its tensors, as data that JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stepspec.formats import SUPPORTED, is_supported
from stepspec.hyperparameters import Choice, Flag, Hyperparameter
from stepspec.lr_scheduler import LRScheduler
from stepspec.optimizer import Optimizer
from stepspec.places import ARRAY_TYPES, shadow
from stepspec.states import Array

Record = dict[str, Any]

# how a step is run does not change what comes out
_LEFT_OUT = frozenset({"use_fused_step"})
# bytes of a name: with two names escaped to three times of that, entries of a zip are below 64 KiB
LONGEST_NAME = 10_000


@dataclass(frozen=True, eq=False)
class Part:
    """An optimizer and the tensors that it updates: what one record of a checkpoint is about.

    Parameters
    ----------
    optimizer
        Its hyperparameters, multipliers, schedule and update counts are saved, and set by loading.
    names
        Index to name. A checkpoint knows a tensor by its name, or without one by its index.
    weights
        Index to weight, of which only shape and dtype are saved.
    states
        Index to what `create_state` gave. Loading writes into the arrays that are here, adds the states of
        tensors that have none, and removes those of tensors that had none when the checkpoint was made.
    open
        Whether there may be tensors that have not been seen yet, as in an updater: any that has a name in
        `names`, or no name at all. Else those with weights, states or counts are all there are.

    """

    optimizer: Optimizer
    names: Mapping[int, str]
    weights: Mapping[int, Array]
    states: dict[int, dict[str, Array]]
    open: bool = False

    @property
    def tensors(self) -> list[int]:
        """The indices of the tensors that are known to exist, in order."""
        return sorted({*self.weights, *self.states, *self.optimizer._counts})

    def labels(self, indices: Iterable[int]) -> dict[str, int]:
        """Return name to index; unnamed tensors are called by their index."""
        found: dict[str, int] = {}
        for index in indices:
            other = found.setdefault(self._label(index), index)
            if other != index:
                raise ValueError(
                    f"tensors {other} and {index} are both called {self._label(index)!r}; "
                    "a checkpoint needs different names: change param_idx2name"
                )
        return found

    def _label(self, index: int) -> str:
        return self.names.get(index, str(index))


def describe(part: Part) -> Record:
    """Return the record of a part; ValueError if two tensors have the same name."""
    optimizer = part.optimizer
    rates = optimizer._per_tensor
    return {
        "optimizer": type(optimizer).__name__,
        "rule": optimizer.rule,
        "hyperparameters": {name: _value(optimizer, at) for name, at in hyperparameters(optimizer)},
        "begin_num_update": optimizer.begin_num_update,
        "lr_scheduler": describe_schedule(optimizer.lr_scheduler),
        "lr_mult": _multipliers(part, rates.lr_mult),
        "wd_mult": _multipliers(part, rates.wd_mult),
        "tensors": {label: _tensor(part, label, index) for label, index in part.labels(part.tensors).items()},
    }


def check_name(what: str, name: str) -> None:
    """Raise ValueError if a name does not fit into a file."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} {name!r} has no name in UTF-8: {error.reason}; rename it") from None
    if size > LONGEST_NAME:
        raise ValueError(
            f"{what} {name[:40] + '...'!r} has a name of {size} bytes: shorten it to {LONGEST_NAME} at most"
        )


def hyperparameters(optimizer: Optimizer) -> list[tuple[str, str]]:
    """Return the names of what a checkpoint holds, and the attributes where an optimizer keeps it."""
    found = {"seed": "_seed"}
    for base in type(optimizer).__mro__:
        for attribute, kind in vars(base).items():
            if isinstance(kind, Hyperparameter):
                found[kind.called or attribute] = attribute
            elif isinstance(kind, Flag | Choice) and attribute not in _LEFT_OUT:
                found[attribute] = attribute
    return sorted(found.items())


def describe_schedule(schedule: Any) -> Any:
    """Return class and attributes of an `LRScheduler`, the name of any other callable, None for None.

    TypeError if an attribute is nothing that JSON can hold.
    """
    kind = type(schedule)
    if isinstance(schedule, LRScheduler):
        held = {name: _plain(f"{kind.__name__}.{name}", value) for name, value in vars(schedule).items()}
        return {"class": kind.__name__, "arguments": held}
    if schedule is None:
        return None
    # without the module, which is __main__ in one program and not in another
    return {"callable": getattr(schedule, "__qualname__", kind.__qualname__)}


def _plain(what: str, value: Any) -> Any:
    """Return an attribute of a schedule as JSON gives it back; TypeError if it cannot."""
    if isinstance(value, np.number | np.bool_):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(what, item) for item in value]
    if callable(value):
        return describe_schedule(value)
    raise TypeError(
        f"a checkpoint cannot hold {what} of the lr_scheduler, {value!r} ({type(value).__name__}); "
        "keep numbers, strings, lists of these, or other schedules in it"
    )


def _value(optimizer: Optimizer, attribute: str) -> float | bool | str | None:
    """Return a hyperparameter as JSON can hold it, which knows no infinity: None or the word."""
    value: float | bool | str = optimizer.__dict__[attribute]
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None if getattr(type(optimizer), attribute).default == value else str(value)


def _multipliers(part: Part, factors: Mapping[int | str, float]) -> Record:
    """Return factors given for an index, under the tensor's name, and those given for a name."""
    by_index = part.labels(key for key in factors if isinstance(key, int))
    by_name = {key: factor for key, factor in factors.items() if isinstance(key, str)}
    for name in (*by_index, *by_name):
        check_name("tensor", name)
    return {"by_index": {label: factors[index] for label, index in by_index.items()}, "by_name": by_name}


def _tensor(part: Part, label: str, index: int) -> Record:
    check_name("tensor", label)
    weight = part.weights.get(index)
    state = part.states.get(index)
    for name, array in (state or {}).items():
        _check_array(f"state {name!r} of tensor {label!r}", array)
    return {
        "shape": None if weight is None else list(weight.shape),
        "dtype": None if weight is None else shadow(weight).dtype.name,
        "count": part.optimizer._counts.get(index),
        # none yet is not the same as none at all
        "states": None if state is None else list(state),
    }


def _check_array(what: str, value: Any) -> None:
    value = shadow(value, what)
    if type(value) not in ARRAY_TYPES or not is_supported(value.dtype):
        kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(f"{what} must be a NumPy array of {', '.join(SUPPORTED)}, not {kind}")
