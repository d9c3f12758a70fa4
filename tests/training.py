"""Short training runs on random tensors, and the comparison of their results bit for bit."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import stepspec

Array = NDArray[Any]
States = list[dict[str, Array]]

SHAPES: tuple[tuple[int, ...], ...] = (
    (),
    (1,),
    (7,),
    (0, 3),
    (5, 0),
    (3, 5),
    (300, 1),
    (1, 300),
    (8, 16, 3, 3),
    (257, 33),
    (70_001,),
    (130, 520),
)


def random_tensors(
    shapes: Iterable[tuple[int, ...]], dtype: Any, seed: int = 0, scale: float = 1.0
) -> list[Array]:
    """Return an array of each shape, normally distributed."""
    random = np.random.default_rng(seed)
    return [np.array(random.standard_normal(shape) * scale, dtype) for shape in shapes]


def train(
    optimizer: stepspec.Optimizer,
    weights: Sequence[Array],
    steps: int = 3,
    fused: bool = True,
    grads: Sequence[Sequence[Array | stepspec.RowSparse]] | None = None,
) -> tuple[list[Array], States]:
    """Step copies of `weights` with random gradients, the same each time; return new weights and states."""
    weights = [weight.copy() for weight in weights]
    indices = list(range(len(weights)))
    states = [optimizer.create_state_multi_precision(i, w) for i, w in zip(indices, weights, strict=True)]
    for number in range(steps):
        shapes = [w.shape for w in weights]
        given: Sequence[Array | stepspec.RowSparse] = (
            grads[number] if grads else random_tensors(shapes, weights[0].dtype, seed=number + 1)
        )
        (optimizer.fused_step if fused else optimizer.step)(indices, weights, given, states)
    return weights, states


def bits(array: Array) -> bytes:
    """Return the bits of an array as a reader compares them: all NaNs are one, -0.0 is not 0.0."""
    return np.where(np.isnan(array), np.array(np.nan, array.dtype), array).tobytes()


def assert_same_bits(one: tuple[list[Array], States], two: tuple[list[Array], States]) -> None:
    """Fail unless both runs ended in the same weights and states."""
    for number, (a, b) in enumerate(zip(one[0], two[0], strict=True)):
        assert a.dtype == b.dtype
        assert bits(a) == bits(b), f"weight {number} of shape {a.shape}: {_difference(a, b)}"
    for number, (s, t) in enumerate(zip(one[1], two[1], strict=True)):
        assert s.keys() == t.keys()
        for name in s:
            assert bits(s[name]) == bits(t[name]), f"{name} of {number}: {_difference(s[name], t[name])}"


def _difference(a: Array, b: Array) -> str:
    with np.errstate(all="ignore"):
        return f"{np.sum(a != b)} of {a.size} differ, by at most {np.nanmax(np.abs(a - b))}"


def moved(one: Sequence[Array], two: Sequence[Array]) -> bool:
    """Tell whether every non-empty tensor changed."""
    return all(a.size == 0 or not np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def named(options: Mapping[str, Any]) -> str:
    """Return keyword arguments as a test id."""
    return ",".join(f"{key}={value}" for key, value in options.items()) or "defaults"
