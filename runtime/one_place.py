"""The arrays of a call lie in one place: all on the host, or all on one device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from stepspec.places import ARRAY_TYPES, on_device
from stepspec.sparse import RowSparse
from stepspec.sparse_checks import type_name


def operands(
    label: Callable[[int], str], indices: Sequence[int], weights: Any, grads: Any, states: Any
) -> Iterator[tuple[str, Any]]:
    """Yield the arrays of a call, and whatever stands in their place, with what messages call them."""
    for index, weight, grad, state in zip(indices, weights, grads, states, strict=True):
        name = label(index)
        yield f"the weight of {name}", weight
        yield f"the gradient of {name}", grad.values if isinstance(grad, RowSparse) else grad
        if isinstance(state, dict):
            yield from ((f"state {key!r} of {name}", array) for key, array in state.items())


def check_on_host(
    label: Callable[[int], str], indices: Sequence[int], weights: Any, grads: Any, states: Any
) -> None:
    """Refuse arrays on a device: in a call of kernels there, their shadows are checked instead.

    Raises
    ------
    TypeError
        If the first weight is on a device: NumPy cannot read it.
    ValueError
        If another array is; the message names both.

    """
    given = operands(label, indices, weights, grads, states)
    what, array = next((pair for pair in given if on_device(pair[1])), ("", None))
    if what and on_device(weights[0]):
        raise TypeError(
            f"{what} is on a GPU, a {type_name(array)}, and `step` computes with NumPy: use fused_step "
            "(use_fused_step=True), or pass copies on the host"
        )
    # what is no array at all has a message of its own
    if what and type(weights[0]) in ARRAY_TYPES:
        raise ValueError(mixed(f"{what} is on a GPU", f"the weight of {label(indices[0])} on the host"))


def refuse_on_device(what: str, grad: Any) -> None:
    """Raise ValueError if a gradient is on a device; its weight is not."""
    if on_device(grad.values if isinstance(grad, RowSparse) else grad):
        raise ValueError(mixed(f"{what} is on a GPU", "its weight on the host"))


def mixed(one: str, other: str) -> str:
    """Return the message about arrays in two places."""
    return f"{one}, and {other}: the arrays of a call lie in one place; copy one of them"
