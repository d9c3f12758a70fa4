"""Taking over the optimizer states of Apache MXNet 2."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from stepspec.arguments import check_mapping, count
from stepspec.formats import is_rounded
from stepspec.optimizer import Optimizer
from stepspec.places import ARRAY_TYPES, shadow, to_host, writing
from stepspec.states import Array, State


def import_states(
    optimizer: Optimizer,
    weights: Mapping[int, Array],
    states: Mapping[int, Any],
    counts: Mapping[int, int] | None = None,
) -> dict[int, dict[str, Array]]:
    """Return the states of MXNet's optimizer of the same name and hyperparameters as those of `optimizer`.

    In MXNet they are `updater.states`; `.asnumpy()` makes NumPy's arrays of its own. States that MXNet keeps
    with the opposite sign, such as the momentum of SGD, are turned.

    Parameters
    ----------
    optimizer
        Says which states there are; with `multi_precision`, half precision weights have masters.
    weights
        Index to weight: of these tensors the states are taken over.
    states
        Index to what MXNet keeps: None, an array, or a tuple of arrays and None in MXNet's order; for weights
        with masters ``(master, state)``. Read, and neither kept nor changed. What MXNet's optimizer keeps for
        all tensors together comes last: ``(mean, var, np.array([nadam.m_schedule]))``.
    counts
        Index to number of updates of these tensors: MXNet's `optimizer._index_update_count`. Becomes the
        optimizer's counts; of tensors that are not in it they stay as they are.

    Returns
    -------
    dict of int to dict of str to array
        What `create_state_multi_precision` gives, with MXNet's numbers; on a GPU if the weight is there.

    Raises
    ------
    TypeError
        If an argument is of another type, a state no NumPy array, or its numbers do not fit into the dtype it
        has here.
    ValueError
        If states are missing, too many, or of other shapes, a weight is not its rounded master, or a count is
        of none of these tensors.

    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"states are of an optimizer, such as stepspec.SGD(), not of {optimizer!r}")
    weights, states = _by_index("weights", weights), _by_index("states", states)
    for index in weights.keys() ^ states.keys():
        what = "a weight, but no state" if index in weights else "a state, but no weight"
        raise ValueError(f"{optimizer._label(index)} has {what}; give both of the same tensors")
    numbers = _checked({} if counts is None else counts, optimizer, weights)
    # a refused import leaves no traces
    trial = copy.copy(optimizer)
    found = {index: _import(trial, index, weight, states[index]) for index, weight in weights.items()}
    optimizer._created, optimizer._warned = trial._created, trial._warned
    optimizer._counts.update(numbers)
    return found


def _by_index(label: str, value: Mapping[int, Any]) -> dict[int, Any]:
    """Return a mapping with plain ints as keys, or raise TypeError or ValueError."""
    check_mapping(label, value)
    return {count(f"{label}: an index", index): given for index, given in value.items()}


def _checked(counts: Mapping[int, int], optimizer: Optimizer, weights: Collection[int]) -> dict[int, int]:
    """Return counts of tensors that have weights, or raise TypeError or ValueError."""
    numbers = _by_index("counts", counts)
    for index in numbers:
        if index not in weights:
            raise ValueError(f"counts: {optimizer._label(index)} has no weight here; leave its count out")
    return {index: count(f"counts[{index}]", number) for index, number in numbers.items()}


def _import(optimizer: Optimizer, index: int, weight: Array, state: Any) -> dict[str, Array]:
    label = optimizer._label(index)
    own = optimizer.create_state_multi_precision(index, weight)
    if "master" in own:
        state = _take_master(label, weight, own["master"], state)
    given = [array for array in _sequence(state) if array is not None]
    layout = optimizer._layout(optimizer._flags(index), max(len(weight.shape), 1))
    if len(given) != len(layout):
        names = f" ({', '.join(layout)})" if layout else ""
        raise ValueError(
            f"the state of {label} has {len(given)} arrays, and {type(optimizer).__name__} keeps "
            f"{len(layout)}{names}: give it the hyperparameters that MXNet's optimizer has"
        )
    for (name, kind), array in zip(layout.items(), given, strict=True):
        _take(f"state {name!r} of {label}", own[name], array, kind)
    return own


def _take_master(label: str, weight: Array, own: Array, state: Any) -> Any:
    """Take over a master and return the rest of the state."""
    if not isinstance(state, tuple | list) or len(state) != 2:
        raise ValueError(
            f"the state of {label} must be (master, state), since its weight is {shadow(weight).dtype}"
        )
    _take(f"the master of {label}", own, state[0], State("element", "weight"))
    if not is_rounded(to_host(weight), to_host(own)):
        raise ValueError(f"the weight of {label} is not its master, rounded: give both of the same moment")
    return state[1]


def _take(what: str, target: Array, array: Any, kind: State) -> None:
    """Write MXNet's numbers into an array of the right shape and dtype."""
    own = shadow(target, what)
    if type(array) not in ARRAY_TYPES:
        raise TypeError(f"{what} must be a numpy.ndarray, not {type(array).__name__}; call .asnumpy()")
    if not np.can_cast(array.dtype, own.dtype, "safe"):
        raise TypeError(f"{what} has dtype {array.dtype}, expected {own.dtype}; convert it with .astype")
    # of one number per row MXNet makes (n, 1), whatever the weight's dimensions
    if array.shape != own.shape and not (kind.per == "row" and array.shape == (own.size, 1)):
        raise ValueError(f"{what} has shape {array.shape}, expected {own.shape}")
    numbers = np.multiply(array.reshape(own.shape), kind.mxnet_sign, dtype=own.dtype)
    writing(target, numbers)()


def _sequence(state: Any) -> list[Any]:
    return [*state] if isinstance(state, tuple | list) else [state]
