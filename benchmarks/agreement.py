"""Whether contenders that should do the same do."""

from collections.abc import Sequence

import numpy as np

from contenders import Array, Model, Stepspec, TorchSGD
from timing import Contender

STEPS = 3
# relative distance between neighbouring numbers; np.finfo does not know bfloat16
SPACING = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


class DisagreementError(Exception):
    """Contenders that should do the same did not."""


def same_update(
    model: Model, alike: Sequence[Stepspec], peer: TorchSGD | None = None, steps: int = STEPS
) -> None:
    """Take some steps with each contender: stepspec's must give the same bits, and torch's be close."""
    contenders: list[Contender] = [*alike, peer] if peer else [*alike]
    for contender in contenders:
        for _ in range(steps):
            contender.prepare()
            contender.step()
    first = alike[0]
    for i, (name, start) in enumerate(zip(model.shapes, model.weights, strict=True)):
        if first.weights[i].tobytes() == start.tobytes():
            raise DisagreementError(f"{name}: {first.label} did not move the weight")
        for other in alike[1:]:
            if other.weights[i].tobytes() != first.weights[i].tobytes():
                raise DisagreementError(f"{name}: {other.label} and {first.label} differ")
        if peer:
            _close(f"{name}: {peer.label} and {first.label}", start, first.weights[i], peer.weights[i])


def _close(what: str, start: Array, one: Array, other: Array) -> None:
    """Compare displacements: both round weight and momentum at every step, after different formulas."""
    spacing = SPACING[start.dtype.name]
    start, one, other = (array.astype(np.float32) for array in (start, one, other))
    moved = np.abs(one - start).max()
    room = max(1e-5, STEPS * spacing) * moved + STEPS * spacing * np.abs(start).max()
    distance = np.abs(one - other).max()
    if not distance <= room:
        raise DisagreementError(f"{what} differ by {distance:.2e} > {room:.2e}")
