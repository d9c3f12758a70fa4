"""Rules in plain Python floats, where recorded runs leave them free: without gradient, with NaN, with noise.

Each takes the weights of one tensor and its gradients, one per step, and returns the last weights. They are
the formulas of the papers, as MXNet's documentation reads them, for a learning rate of RATE. They are silent
about NaN: it goes where sums and products take it, and a length that is NaN scales nothing.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any, TypeAlias

import numpy as np

import stepspec

Numbers: TypeAlias = Sequence[float]
# of weights, gradients and wd
Rule: TypeAlias = Callable[[Numbers, Sequence[Numbers], float], Numbers]

RATE, B1, B2, MOMENTUM, ETA, EPSILON = 0.5, 0.75, 0.9, 0.75, 0.5, 0.1
NOTHING, NOT_A_NUMBER = (0.0, 0.0, 0.0), (1.0, math.nan, -2.0)
WEIGHT, GRAD = (3.0, -4.0, 1.5), (0.5, -1.0, 2.0)

# weights, the gradients of some steps, and wd
SCENARIOS = tuple(
    itertools.product(
        (WEIGHT, NOTHING, NOT_A_NUMBER),
        ((NOTHING,), (GRAD, NOTHING), (NOT_A_NUMBER,), (GRAD, GRAD)),
        (0.0, 0.25),
    )
)


def lamb(weight: Numbers, grads: Sequence[Numbers], wd: float) -> Numbers:
    """Return what You et al. (2019), algorithm 2, make of weights."""
    mean: Numbers = NOTHING
    var: Numbers = NOTHING
    for t, grad in enumerate(grads, 1):
        mean, var = moments(mean, var, grad)
        direction = [
            m / (1 - B1**t) / (math.sqrt(v / (1 - B2**t)) + EPSILON) + wd * w
            for m, v, w in zip(mean, var, weight, strict=True)
        ]
        trust = ratio(weight, direction)
        weight = [w - RATE * trust * d for w, d in zip(weight, direction, strict=True)]
    return weight


def lans(weight: Numbers, grads: Sequence[Numbers], wd: float) -> Numbers:
    """Return what Zheng et al. (2020), algorithm 2, make of weights."""
    mean: Numbers = NOTHING
    var: Numbers = NOTHING
    for t, grad in enumerate(grads, 1):
        size = length(grad)
        unit = [g / size for g in grad] if size > 0 else grad
        mean, var = moments(mean, var, unit)
        scale = [math.sqrt(v / (1 - B2**t)) + EPSILON for v in var]
        slow = [m / (1 - B1**t) / s + wd * w for m, s, w in zip(mean, scale, weight, strict=True)]
        fast = [g / s + wd * w for g, s, w in zip(unit, scale, weight, strict=True)]
        a, b = B1 * ratio(weight, slow), (1 - B1) * ratio(weight, fast)
        weight = [w - RATE * (a * m + b * d) for w, m, d in zip(weight, slow, fast, strict=True)]
    return weight


def lars(weight: Numbers, grads: Sequence[Numbers], wd: float) -> Numbers:
    """Return what You et al. (2017), section 4, make of weights, without momentum."""
    for grad in grads:
        size, slope = length(weight), length(grad)
        trust = ETA * size / (slope + wd * size + EPSILON) if size > 0 and slope > 0 else 1.0
        weight = [w - RATE * trust * (g + wd * w) for w, g in zip(weight, grad, strict=True)]
    return weight


def signum(weight: Numbers, grads: Sequence[Numbers], wd: float) -> Numbers:
    """Return what Bernstein et al. (2018), algorithm 2, make of weights; wd adds to the gradient."""
    mom: Numbers = NOTHING
    for grad in grads:
        decayed = [g + wd * w for g, w in zip(grad, weight, strict=True)]
        mom = [MOMENTUM * m + (1 - MOMENTUM) * g for m, g in zip(mom, decayed, strict=True)]
        weight = [w - RATE * sign(m) for w, m in zip(weight, mom, strict=True)]
    return weight


def sign_sgd(weight: Numbers, grads: Sequence[Numbers], wd: float) -> Numbers:
    """Return what Bernstein et al. (2018), algorithm 1, make of weights; wd shrinks the weight itself."""
    for grad in grads:
        weight = [(1 - RATE * wd) * w - RATE * sign(g) for w, g in zip(weight, grad, strict=True)]
    return weight


# ---- what they share


def moments(mean: Numbers, var: Numbers, grad: Numbers) -> tuple[Numbers, Numbers]:
    return (
        [B1 * m + (1 - B1) * g for m, g in zip(mean, grad, strict=True)],
        [B2 * v + (1 - B2) * g * g for v, g in zip(var, grad, strict=True)],
    )


def length(values: Numbers) -> float:
    return math.sqrt(sum(value * value for value in values))


def ratio(weight: Numbers, direction: Numbers) -> float:
    """Return a trust ratio: 1 where either has no length, or none that is a number."""
    above, below = length(weight), length(direction)
    return above / below if above > 0 and below > 0 else 1.0


def sign(value: float) -> float:
    return value if math.isnan(value) or value == 0 else math.copysign(1.0, value)


# ---- put beside `step`

ADAPTIVE = {"beta1": B1, "beta2": B2, "epsilon": EPSILON}
RULES: Mapping[str, Mapping[Rule, Mapping[str, Any]]] = {
    "LAMB": {lamb: ADAPTIVE},
    "LANS": {lans: ADAPTIVE},
    "LARS": {lars: {"eta": ETA, "epsilon": EPSILON}},
    "Signum": {signum: {"momentum": MOMENTUM}, sign_sgd: {"momentum": 0.0}},
}
WRITTEN = (*RULES, "SGLD")


def mistakes(kind: type[stepspec.Optimizer]) -> Iterator[str]:
    """Yield in which scenarios `step` differs from the rule written here, if there is one."""
    for rule, options in RULES.get(kind.__name__, {}).items():
        for weight, grads, wd in SCENARIOS:
            found = stepped(kind(learning_rate=RATE, wd=wd, **options), weight, grads)
            expected = rule(weight, grads, wd)
            if not np.allclose(found, expected, rtol=1e-12, atol=0, equal_nan=True):
                yield f"{rule.__name__}, wd {wd}: {weight} and {grads} give {found}, not {expected}"
    if kind.__name__ == "SGLD":
        yield from noise_mistakes(kind)


def noise_mistakes(kind: type[stepspec.Optimizer]) -> Iterator[str]:
    """Yield where mean and deviation of many steps are not those of Welling and Teh (2011), equation 4.

    There the gradient of the loss counts half, and the noise has the learning rate for its variance.
    """
    count, weight, grad, wd = 10_000, 3.0, 0.5, 0.25
    for rate in (0.25, 4.0):
        found = stepped(kind(learning_rate=rate, wd=wd), [weight] * count, [[grad] * count])
        mean, deviation = weight - rate / 2 * (grad + wd * weight), math.sqrt(rate)
        # four standard errors
        if abs(fmean(found) - mean) > 4 * deviation / math.sqrt(count):
            yield f"rate {rate}: mean {fmean(found)}, not {mean}"
        if abs(pstdev(found) - deviation) > 4 * deviation / math.sqrt(2 * count):
            yield f"rate {rate}: deviation {pstdev(found)}, not {deviation}"


def stepped(optimizer: stepspec.Optimizer, weight: Numbers, grads: Sequence[Numbers]) -> list[float]:
    """Return the weights after one `step` for each gradient."""
    array = np.array(weight)
    state = optimizer.create_state(0, array)
    for grad in grads:
        optimizer.step([0], [array], [np.array(grad)], [state])
    return [float(value) for value in array]
