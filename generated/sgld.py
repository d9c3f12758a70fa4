# Generated from specs/sgld.yaml by stepspec. Do not edit: run "make generate".
"""SGLD: Stochastic gradient Langevin dynamics."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from stepspec.optimizer import Optimizer
from stepspec.reference import clip
from stepspec.sparse import RowSparse
from stepspec.states import Array


class SGLD(Optimizer):
    """Stochastic gradient Langevin dynamics.

    Updates each weight by::

        g = clip(rescale_grad * grad, clip_gradient) + wd * weight
        weight -= lr / 2 * g - sqrt(lr) * normal()

    where ``lr`` is the learning rate of this tensor, schedule and multiplier applied; ``wd`` is the weight
    decay of this tensor, multiplier applied; ``rescale_grad`` is the factor of every gradient;
    ``clip_gradient`` is the bound of every gradient element, infinite if off.

    Each ``normal()`` is a standard normal number for every element, drawn anew in every step: `seed`, the
    tensor's name (or else its index), its update count and the element's position decide it, nothing else.

    Rows that a row-sparse gradient lacks count as zeros.

    Parameters
    ----------
    learning_rate : float in [0, inf) or None, default 0.1
        The learning rate; None takes the scheduler's. A number overrides the scheduler's base.
    **kwargs
        Arguments of every optimizer: see `stepspec.Optimizer`.

    References
    ----------
    https://www.stats.ox.ac.uk/~teh/research/compstats/WelTeh2011a.pdf
    """

    rule = (
        "g = clip(rescale_grad * grad, clip_gradient) + wd * weight\n"
        "weight = weight - (lr / 2 * g - sqrt(lr) * normal())"
    )
    draws_noise = True
    host: ClassVar[Mapping[str, Callable[[Any, Any], float]]] = {
        "lr_over_two": lambda self, p: p.lr / 2,
        "sqrt_lr": lambda self, p: math.sqrt(p.lr),
    }

    def __init__(self, learning_rate: float | None = 0.1, **kwargs: Any) -> None:
        super().__init__(learning_rate, **kwargs)

    def create_state(self, index: int, weight: Array) -> dict[str, Array]:
        """Return the states of one tensor before its first update, by name; {} if it keeps none.

        `weight` is a float16, bfloat16, float32 or float64 array; the states have its dtype.
        """
        return self._create_state(index, weight)

    @np.errstate(all="ignore")
    def step(
        self,
        indices: Sequence[int],
        weights: Sequence[Array],
        grads: Sequence[Array | RowSparse],
        states: Sequence[dict[str, Array]],
    ) -> None:
        """Update weights and states in place, in NumPy: the reference. See `Optimizer.update`.

        Weights are NumPy arrays of float16, bfloat16, float32 or float64; half precision is computed in
        float32.
        """
        rescale_grad, clip_gradient = self.rescale_grad, self.clip_gradient
        for p in self._tensors(indices, weights, grads, states):
            weight, grad, lr, wd = p.weight, p.grad, p.lr, p.wd
            g = clip(rescale_grad * grad, clip_gradient) + wd * weight
            weight = weight - (lr / 2 * g - math.sqrt(lr) * p.normal())
            p.store(weight=weight)

    def fused_step(
        self,
        indices: Sequence[int],
        weights: Sequence[Array],
        grads: Sequence[Array | RowSparse],
        states: Sequence[dict[str, Array]],
    ) -> None:
        """Update weights and states in place, in fused kernels, to the bits of `step`.

        Weights are arrays of float16, bfloat16, float32 or float64; half precision is computed in float32.
        All arrays of a call are the host's, or all lie on one GPU: there its kernels run.
        """
        with self._call(indices, weights, grads, states) as call:
            kernels = call.kernels("sgld")
            call.launch(kernels.UPDATE)  # weight
