"""Arrays on a device: their shadows, where the arrays of a call lie, and whether others are like them.

See Note [Shadows].
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepspec.checks import check_index
from stepspec.cuda.libraries import Library, library, library_of
from stepspec.one_place import mixed, operands
from stepspec.places import ARRAY_TYPES, on_device
from stepspec.sparse import RowSparse
from stepspec.states import Array

Int64s = NDArray[np.int64]


class _Window:
    """What NumPy makes a shadow of; it keeps the array alive."""

    def __init__(self, array: Any, interface: dict[str, Any]) -> None:
        self.array, self.__array_interface__ = array, interface


@dataclass(frozen=True, slots=True)
class Shadowed:
    """The arrays of a call as their shadows.

    What is no dict or no array is as it was given: the checks of the call refuse it.
    """

    weights: tuple[Any, ...]
    grads: tuple[Any, ...]
    states: tuple[Any, ...]


def shadow(array: Any, what: str = "the array") -> Array:
    """Return the shadow of an array on a device; TypeError, naming `what`, if kernels cannot use it."""
    with _naming(what):
        address, shape, strides, dtype, writeable = library(array).facts(array)
        if 0 in shape:  # NumPy makes no array at address 0
            return np.empty(shape, dtype)
        interface = {
            "shape": shape,
            "typestr": dtype.str if dtype.kind != "V" else f"|V{dtype.itemsize}",
            "data": (address, not writeable),
            "strides": strides,
            "version": 3,
        }
        seen = np.asarray(_Window(array, interface)).view(dtype)
        if not seen.flags.aligned:
            raise TypeError(
                "has elements at addresses that are no multiples of their size; make a copy of it"
            )
        return seen


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Begin messages about an array with what it is called."""
    try:
        yield
    except TypeError as error:
        raise TypeError(f"{what} {error}") from None
    except KeyError as error:
        raise TypeError(f"{what} has no {error} in __cuda_array_interface__") from None
    except ValueError as error:
        raise TypeError(f"{what} has a __cuda_array_interface__ that cannot be used: {error}") from None


def gradient_shadow(grad: Any, what: str) -> Any:
    """Return the shadow of a gradient, of a row-sparse one that of its values."""
    if isinstance(grad, RowSparse):
        return grad.over(shadow(grad.values, f"the values of {what}")) if on_device(grad.values) else grad
    return shadow(grad, what) if on_device(grad) else grad


def device_number(array: Any, what: str = "the array") -> int | None:
    """Return the number of the device where an array is, None of one without elements of some libraries."""
    with _naming(what):
        return library(array).device(array)


def shadows(
    label: Callable[[int], str],
    indices: Sequence[Any],
    weights: Sequence[Any],
    grads: Sequence[Any],
    states: Sequence[Any],
) -> Shadowed:
    """Return the shadows of a call's arrays, the first weight's on a device.

    Raises
    ------
    TypeError
        If kernels cannot use an array; the message names it.
    ValueError
        If another array is not on the same device; the message names both.

    """
    indices = [check_index(index) for index in indices]
    first, device = f"the weight of {label(indices[0])}", None
    for what, array in operands(label, indices, weights, grads, states):
        if not on_device(array):
            if _is_on_host(array):
                raise ValueError(mixed(f"{what} is on the host", f"{first} on a GPU"))
            continue
        number = device_number(array, what)
        if device is None and number is not None:
            first, device = what, number
        elif number not in (None, device):
            raise ValueError(mixed(f"{what} is on device {number}", f"{first} on device {device}"))
    names = [label(index) for index in indices]
    return Shadowed(
        tuple(
            [_shadow(weight, f"the weight of {name}") for name, weight in zip(names, weights, strict=True)]
        ),
        tuple(
            [
                gradient_shadow(grad, f"the gradient of {name}")
                for name, grad in zip(names, grads, strict=True)
            ]
        ),
        tuple([_shadows_of(state, name) for name, state in zip(names, states, strict=True)]),
    )


def _is_on_host(array: Any) -> bool:
    """Tell whether an object is an array, but on no device."""
    return type(array) in ARRAY_TYPES or getattr(array, "is_cuda", None) is False


def _shadow(array: Any, what: str) -> Any:
    return shadow(array, what) if on_device(array) else array


def _shadows_of(state: Any, name: str) -> Any:
    if not isinstance(state, dict):
        return state
    return {key: _shadow(array, f"state {key!r} of {name}") for key, array in state.items()}


class Quick:
    """What some arrays on one device are, to tell in a short time whether others are the same.

    Parameters
    ----------
    arrays
        Of any libraries.
    keep
        Whether the very arrays are expected again. Kept alive, they are then known by identity, address,
        size and strides; nothing else of an object changes while these are the same.

    """

    def __init__(self, arrays: Sequence[Any], *, keep: bool = False) -> None:
        self._count = len(arrays)
        positions: dict[Library, list[int]] = {}
        for i, array in enumerate(arrays):
            positions.setdefault(library(array), []).append(i)
        self._parts = [*positions.items()]
        self._kinds = [part.kinds(_chosen(arrays, chosen)) for part, chosen in self._parts]
        self._kept = tuple(arrays) if keep else ()
        self._sizes = [part.sizes(_chosen(arrays, chosen)) for part, chosen in self._parts] if keep else []

    def addresses(self, arrays: Sequence[Any]) -> Int64s | None:
        """Return where arrays begin; None if one has another type, shape, dtype, strides or device."""
        if len(arrays) != self._count:
            return None
        same = self._kept and all(map(operator.is_, arrays, self._kept))
        found = np.empty(self._count, np.int64)
        for k, (part, positions) in enumerate(self._parts):
            chosen = _chosen(arrays, positions)
            if not (same and part.sizes(chosen) == self._sizes[k]) and not self._are_alike(chosen, k):
                return None
            found[positions if len(self._parts) > 1 else ...] = part.addresses(chosen)
        return found

    def _are_alike(self, arrays: Sequence[Any], k: int) -> bool:
        part, _ = self._parts[k]
        types: set[Any] = set(map(type, arrays))
        if any(library_of(kind) is not part for kind in types):
            return False
        try:
            return part.kinds(arrays) == self._kinds[k]
        except (AttributeError, KeyError, TypeError):  # no array on a device, or its checks will say what
            return False

    def streams(self, arrays: Sequence[Any]) -> tuple[int, ...]:
        """Return the streams, each once, on which work with arrays like the known ones is under way.

        Handles of CUDA's; 0 is the legacy default stream.
        """
        named = [part.streams(_chosen(arrays, positions)) for part, positions in self._parts]
        return tuple(sorted(set[int]().union(*named)))


def _chosen(arrays: Sequence[Any], positions: Sequence[int]) -> Sequence[Any]:
    """Return the arrays at ascending positions."""
    return arrays if len(positions) == len(arrays) else [arrays[i] for i in positions]
