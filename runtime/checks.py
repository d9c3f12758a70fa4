"""The checks of one update call. All of them come before its first write; each names tensor and remedy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import numpy as np

from stepspec.formats import Formats, formats_of, is_half, is_supported, spelled
from stepspec.one_place import check_on_host, refuse_on_device
from stepspec.overlaps import check_overlaps
from stepspec.places import ARRAY_TYPES as ARRAY_TYPES
from stepspec.places import shadow
from stepspec.sparse import RowSparse
from stepspec.sparse_checks import type_name
from stepspec.states import Array, Layout, Variant

_SINGLE = np.dtype(np.float32)


class Rules(Protocol):
    """What the checks ask of an optimizer."""

    @property
    def refuses_empty(self) -> bool: ...
    @property
    def multi_precision(self) -> bool: ...
    @property
    def rounding(self) -> str: ...

    def _label(self, index: int) -> str: ...
    def _flags(self, index: int) -> dict[str, bool]: ...
    def _layout(self, flags: dict[str, bool], ndim: int) -> Layout: ...
    def _variant(self, flags: dict[str, bool], ndim: int) -> Variant: ...


class Kinds:
    """What a rule says of tensors with the same flags and dimensions, asked once per call."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._known: dict[tuple[tuple[tuple[str, bool], ...], int], tuple[Layout, Variant]] = {}

    def of(self, flags: dict[str, bool], ndim: int) -> tuple[Layout, Variant]:
        """Return the layout of a tensor's states, and its variant."""
        kind = tuple(flags.items()), ndim
        if kind not in self._known:
            # a dict for each kind: plans tell kinds by it
            self._known[kind] = dict(self._rules._layout(flags, ndim)), self._rules._variant(flags, ndim)
        return self._known[kind]


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One tensor of a call, checked. Arrays are the caller's own; `state` holds them in layout order."""

    index: int
    label: str
    weight: Array
    grad: Array | RowSparse
    state: dict[str, Array]
    master: Array | None
    layout: Layout
    flags: dict[str, bool]
    variant: Variant
    stochastic: bool

    @property
    def target(self) -> Array:
        """The array that the rule reads and writes as the weight: the master, if there is one."""
        return self.weight if self.master is None else self.master

    @property
    def written(self) -> dict[str, Array]:
        """Every array that an update writes, by what its state calls it; the weight is ``"weight"``."""
        master = {} if self.master is None else {"master": self.master}
        return {"weight": self.weight, **self.state, **master}

    @property
    def values(self) -> Array:
        """The gradient's numbers: of a row-sparse one those of its rows."""
        return self.grad.values if isinstance(self.grad, RowSparse) else self.grad

    @property
    def formats(self) -> Formats:
        """How the tensor's arrays are stored."""
        copy = "" if self.master is None else spelled(self.weight.dtype)
        is_sparse = isinstance(self.grad, RowSparse)
        return formats_of(self.target.dtype, self.values.dtype, copy, self.stochastic, is_sparse)


def check_call(rules: Rules, indices: Any, weights: Any, grads: Any, states: Any) -> list[Entry]:
    """Return the tensors of a call, or raise TypeError or ValueError with nothing changed."""
    check_lists(indices, weights, grads, states)
    numbers = [check_index(index) for index in indices]
    if len(set(numbers)) < len(numbers):
        index, times = next(pair for pair in Counter(numbers).items() if pair[1] > 1)
        raise ValueError(f"{rules._label(index)} is given {times} times in one call; once is allowed")
    check_on_host(rules._label, numbers, weights, grads, states)
    kinds = Kinds(rules)
    tensors = zip(numbers, weights, grads, states, strict=True)
    entries = [_check_tensor(rules, kinds, *tensor) for tensor in tensors]
    written = [array for entry in entries for array in entry.written.values()]
    check_overlaps(written, [entry.values for entry in entries], lambda k: _operands(entries)[k])
    return entries


def _operands(entries: Sequence[Entry]) -> list[str]:
    """Return what messages call the arrays of a call: written ones, then gradients."""
    written = [f"{_what(name)} of {entry.label}" for entry in entries for name in entry.written]
    return written + [f"the gradient of {entry.label}" for entry in entries]


def _what(name: str) -> str:
    return "the weight" if name == "weight" else f"state {name!r}"


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
    """Return a weight, or the shadow of one on a device; TypeError unless an array of a supported dtype."""
    what = f"the weight of {label}"
    array = _check_array(what, shadow(weight, what))
    _check_dtype(what, array)
    return array


def _check_tensor(rules: Rules, kinds: Kinds, index: int, weight: Any, grad: Any, state: Any) -> Entry:
    label = rules._label(index)
    weight = check_weight(label, weight)
    if not weight.flags.writeable:
        raise ValueError(f"the weight of {label} is read-only; pass a writable array, such as a copy")
    if rules.refuses_empty and weight.size == 0:
        raise ValueError(f"the weight of {label} is empty: the rule takes a maximum, and it has none")
    check_gradient(f"the gradient of {label}", grad, weight)
    flags = rules._flags(index)
    ndim = max(weight.ndim, 1)
    layout, variant = kinds.of(flags, ndim)
    half = is_half(weight.dtype)
    arrays = _check_state(label, weight, state, layout, half and rules.multi_precision, index)
    master = arrays.pop("master", None)
    stochastic = half and rules.rounding == "stochastic"
    return Entry(index, label, weight, grad, arrays, master, layout, flags, variant, stochastic)


def check_gradient(what: str, grad: Any, weight: Array) -> None:
    """Raise TypeError or ValueError unless a gradient is one that a weight can have."""
    refuse_on_device(what, grad)
    if isinstance(grad, RowSparse):
        grad.check(what, weight.shape)
        values = grad.values
    else:
        values = _check_array(what, grad)
        _check_shape(what, values, weight.shape)
    _check_dtype(what, values)
    if values.dtype == np.float64 != weight.dtype:
        raise TypeError(
            f"{what} has dtype float64, its weight only {weight.dtype}; "
            "convert the gradient with .astype(np.float32)"
        )


def _check_state(
    label: str, weight: Array, state: Any, layout: Layout, has_master: bool, index: int
) -> dict[str, Array]:
    """Return the states of a tensor in layout order, a master at the end."""
    remedy = f"create it with create_state{'_multi_precision' * has_master}({index}, weight)"
    if not isinstance(state, dict):
        raise TypeError(f"the state of {label} must be a dict, not {type(state).__name__}; {remedy}")
    expected = [*layout, "master"] if has_master else list(layout)
    if state.keys() != set(expected):
        _refuse_names(label, state, expected, remedy)
    target = weight
    if has_master:
        target = _check_written(label, "master", state, _SINGLE, weight.shape)
    arrays = {
        name: _check_written(label, name, state, spec.dtype(target), spec.shape(weight))
        for name, spec in layout.items()
    }
    return {**arrays, "master": target} if has_master else arrays


def _refuse_names(label: str, state: dict[Any, Any], expected: list[str], remedy: str) -> NoReturn:
    """Raise ValueError for states that are missing, or else too many."""
    missing = [name for name in expected if name not in state]
    extra = [name for name in state if name not in expected]
    if missing:
        raise ValueError(f"the state of {label} lacks {_names(missing)}; {remedy}")
    known = f"only {_names(expected)}" if expected else "none"
    raise ValueError(f"the state of {label} holds {_names(extra)}, where {known} is expected; {remedy}")


def _check_written(
    label: str, name: str, state: dict[str, Any], dtype: np.dtype[Any], shape: tuple[int, ...]
) -> Array:
    """Return a state if it is an array of this dtype and shape that can be written."""
    given = state[name]
    if type(given) in ARRAY_TYPES and given.dtype == dtype and given.shape == shape and given.flags.writeable:
        found: Array = given
        return found
    what = f"state {name!r} of {label}"
    array = _check_array(what, given)
    if array.dtype != dtype:
        raise TypeError(
            f"{what} has dtype {_spelled(array.dtype)}, expected {dtype}; "
            f"convert it with .astype({dtype.name!r})"
        )
    _check_shape(what, array, shape)
    if not array.flags.writeable:
        raise ValueError(f"{what} is read-only; pass a writable array, such as a copy")
    return array


def _check_array(what: str, value: Any) -> Array:
    if type(value) in ARRAY_TYPES:
        array: Array = value
        return array
    if value is None:
        raise TypeError(f"{what} is None, where a NumPy array is expected")
    if isinstance(value, np.ma.MaskedArray):
        remedy = "fill it in with .filled()"
    elif isinstance(value, RowSparse):
        remedy = "only gradients can be row-sparse"
    elif type(value).__module__.partition(".")[0] == "torch":
        remedy = "pass its memory with .detach().numpy()"
    elif type(value).__module__.partition(".")[0] == "scipy":
        remedy = "make a row-sparse gradient of it with stepspec.RowSparse.from_scipy"
    else:
        remedy = "convert it with np.asarray"
    raise TypeError(f"{what} must be a numpy.ndarray, not {type_name(value)}; {remedy}")


def _check_dtype(what: str, array: Array) -> None:
    if not is_supported(array.dtype):
        raise TypeError(
            f"{what} has dtype {_spelled(array.dtype)}; supported are float16, bfloat16 (of ml_dtypes), "
            "float32 and float64: convert it with .astype(np.float32)"
        )


def _check_shape(what: str, array: Array, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{what} has shape {array.shape}, expected {shape}")


def _spelled(dtype: np.dtype[Any]) -> str:
    return str(dtype) if dtype.isnative else f"{dtype.newbyteorder('=')} in foreign byte order ({dtype.str})"


def _names(names: Sequence[object]) -> str:
    return ", ".join(repr(name) for name in names)
