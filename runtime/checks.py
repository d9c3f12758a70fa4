"""The checks of one update call. All of them come before its first write; each names tensor and remedy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from stepspec.overlaps import Operand, check_overlaps
from stepspec.states import Array, Layout, Variant

ARRAY_TYPES = (np.ndarray, np.memmap)
DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


class Rules(Protocol):
    """What the checks ask of an optimizer."""

    @property
    def refuses_empty(self) -> bool: ...

    def _label(self, index: int) -> str: ...
    def _flags(self, index: int) -> dict[str, bool]: ...
    def _layout(self, flags: dict[str, bool], ndim: int) -> Layout: ...
    def _variant(self, flags: dict[str, bool], ndim: int) -> Variant: ...


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One tensor of a call, checked. Arrays are the caller's own; `state` holds them in layout order."""

    index: int
    label: str
    weight: Array
    grad: Array
    state: dict[str, Array]
    layout: Layout
    flags: dict[str, bool]
    variant: Variant


def check_call(rules: Rules, indices: Any, weights: Any, grads: Any, states: Any) -> list[Entry]:
    """Return the tensors of a call, or raise TypeError or ValueError with nothing changed."""
    check_lists(indices, weights, grads, states)
    numbers = [check_index(index) for index in indices]
    for index, times in Counter(numbers).items():
        if times > 1:
            raise ValueError(f"{rules._label(index)} is given {times} times in one call; once is allowed")
    entries = [_check_tensor(rules, *tensor) for tensor in zip(numbers, weights, grads, states, strict=True)]
    written = [Operand(f"the weight of {entry.label}", entry.weight) for entry in entries]
    for entry in entries:
        written += [Operand(f"state {name!r} of {entry.label}", array) for name, array in entry.state.items()]
    check_overlaps(written, [Operand(f"the gradient of {entry.label}", entry.grad) for entry in entries])
    return entries


def check_lists(indices: Any, weights: Any, grads: Any, states: Any) -> None:
    """Check that the four arguments are lists (or tuples) of one length."""
    named = {"indices": indices, "weights": weights, "grads": grads, "states": states}
    for name, value in named.items():
        if not isinstance(value, (list, tuple, range)):
            raise TypeError(
                f"{name} must be a list, one item per tensor, not {type(value).__name__}: "
                "update([index], [weight], [grad], [state])"
            )
    if len({len(value) for value in named.values()}) > 1:
        lengths = ", ".join(f"{len(value)} {name}" for name, value in named.items())
        raise ValueError(f"the four lists must be of one length: there are {lengths}")


def check_index(index: Any) -> int:
    """Return a tensor's index as a Python int; TypeError unless an int, ValueError if negative."""
    if isinstance(index, (bool, np.bool_)) or not isinstance(index, (int, np.integer)):
        raise TypeError(f"an index must be an int, not {index!r} ({type(index).__name__})")
    if index < 0:
        raise ValueError(f"an index must not be negative: {index}")
    return int(index)


def check_weight(label: str, weight: Any) -> Array:
    """Return `weight` if it is a NumPy array of a supported dtype, else raise TypeError."""
    array = _check_array(f"the weight of {label}", weight)
    if array.dtype not in DTYPES:
        raise TypeError(
            f"the weight of {label} has dtype {_spelled(array.dtype)}; "
            "supported are float32 and float64: convert it with .astype(np.float32)"
        )
    return array


def _check_tensor(rules: Rules, index: int, weight: Any, grad: Any, state: Any) -> Entry:
    label = rules._label(index)
    weight = check_weight(label, weight)
    if not weight.flags.writeable:
        raise ValueError(f"the weight of {label} is read-only; pass a writable array, such as a copy")
    if rules.refuses_empty and weight.size == 0:
        raise ValueError(f"the weight of {label} is empty: the rule takes a maximum, and it has none")
    grad = _check_array(f"the gradient of {label}", grad)
    _check_kind(f"the gradient of {label}", grad, weight.dtype, weight.shape)
    flags = rules._flags(index)
    ndim = max(weight.ndim, 1)
    layout = rules._layout(flags, ndim)
    state = _check_state(label, weight, state, layout, index)
    return Entry(index, label, weight, grad, state, layout, flags, rules._variant(flags, ndim))


def _check_state(label: str, weight: Array, state: Any, layout: Layout, index: int) -> dict[str, Array]:
    remedy = f"create it with create_state({index}, weight)"
    if not isinstance(state, dict):
        raise TypeError(f"the state of {label} must be a dict, not {type(state).__name__}; {remedy}")
    missing = [name for name in layout if name not in state]
    extra = [name for name in state if name not in layout]
    if missing:
        raise ValueError(f"the state of {label} lacks {_names(missing)}; {remedy}")
    if extra:
        known = f"only {_names(list(layout))}" if layout else "none"
        raise ValueError(f"the state of {label} holds {_names(extra)}, where {known} is expected; {remedy}")
    arrays = {}
    for name, spec in layout.items():
        what = f"state {name!r} of {label}"
        array = _check_array(what, state[name])
        _check_kind(what, array, spec.dtype(weight), spec.shape(weight))
        if not array.flags.writeable:
            raise ValueError(f"{what} is read-only; pass a writable array, such as a copy")
        arrays[name] = array
    return arrays


def _check_array(what: str, value: Any) -> Array:
    if type(value) in ARRAY_TYPES:
        array: Array = value
        return array
    if value is None:
        raise TypeError(f"{what} is None, where a NumPy array is expected")
    if isinstance(value, np.ma.MaskedArray):
        remedy = "fill it in with .filled()"
    elif type(value).__module__.partition(".")[0] == "torch":
        remedy = "pass its memory with .detach().numpy()"
    else:
        remedy = "convert it with np.asarray"
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    raise TypeError(f"{what} must be a numpy.ndarray, not {kind}; {remedy}")


def _check_kind(what: str, array: Array, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    if array.dtype != dtype:
        raise TypeError(
            f"{what} has dtype {_spelled(array.dtype)}, expected {dtype}; convert it with .astype(np.{dtype})"
        )
    if array.shape != shape:
        raise ValueError(f"{what} has shape {array.shape}, expected {shape}")


def _spelled(dtype: np.dtype[Any]) -> str:
    return str(dtype) if dtype.isnative else f"{dtype.newbyteorder('=')} in foreign byte order ({dtype.str})"


def _names(names: Sequence[object]) -> str:
    return ", ".join(repr(name) for name in names)
