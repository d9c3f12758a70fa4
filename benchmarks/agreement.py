"""Whether contenders that should do the same do."""

from collections.abc import Sequence

import numpy as np

from cases import Array, Case
from ours import Stepspec
from timing import Contender

STEPS = 3
# relative distance between neighbouring numbers; np.finfo does not know bfloat16
SPACING = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
# What a displacement may be off beside rounding: the peers sum the squares of a norm in float32, and MXNet's
# betas are rounded to float32 before they are taken from 1.
ROOM = {"LARS": 5e-3, "Adam": 1e-4, "AdamW": 1e-4}
LEAST_ROOM = 1e-5
# Elements that are compared at a time: few temporaries, which stay in a cache.
PIECE = 2**18


class DisagreementError(Exception):
    """Stepspec's two paths did not give the same bits, or nothing."""


def take_steps(contender: Contender, steps: int) -> None:
    for _ in range(steps):
        contender.prepare()
        contender.step()


def same_bits(case: Case, alike: Sequence[Stepspec]) -> None:
    """Raise a DisagreementError unless stepspec's contenders moved every weight, to the same bits."""
    first, *others = alike
    for name, start, stored in zip(case.model.shapes, case.model.weights, first.arrays, strict=True):
        if _same(start, stored):
            raise DisagreementError(f"{case.optimizer}, {name}: {first.label} did not move the weight")
    for other in others:
        for name, one, two in zip(case.model.shapes, first.weights(), other.weights(), strict=True):
            if not _same(one, two):
                raise DisagreementError(f"{case.optimizer}, {name}: {other.label} and {first.label} differ")


def _same(one: Array, two: Array) -> bool:
    return np.array_equal(one.view(np.uint8), two.view(np.uint8))


def disagreement(case: Case, ours: Sequence[Array], theirs: Sequence[Array]) -> str:
    """Say which weight a peer moved otherwise, and by how much; empty if all agree within their precision."""
    for name, start, one, other in zip(case.model.shapes, case.model.weights, ours, theirs, strict=True):
        found = _distance(start, one, other, ROOM.get(case.optimizer, LEAST_ROOM))
        if found:
            return f"disagrees: {name} {found}"
    return ""


def _distance(start: Array, one: Array, other: Array, relative: float) -> str:
    """Compare displacements: both round weight and states at every step, after different formulas."""
    spacing = SPACING[one.dtype.name]
    moved = largest = distance = 0.0
    pieces = zip(
        *(np.split(a.reshape(-1), range(PIECE, a.size, PIECE)) for a in (start, one, other)), strict=True
    )
    for piece in pieces:
        begun, ended, peer = (array.astype(np.float32) for array in piece)
        moved = np.fmax(moved, np.abs(ended - begun).max(initial=0.0))
        largest = np.fmax(largest, np.abs(begun).max(initial=0.0))
        distance = np.maximum(distance, np.abs(ended - peer).max(initial=0.0))
    room = max(relative, STEPS * spacing) * moved + STEPS * spacing * largest
    if distance <= room:
        return ""
    return f"ends {distance / moved:.1e} of its way off, {distance / room:.1f} times what rounding may do"
