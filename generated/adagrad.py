# Generated from specs/adagrad.yaml by stepspec. Do not edit: run "make generate".
"""AdaGrad: A learning rate per element, from the sum of its squared gradients."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stepspec.hyperparameters import Hyperparameter
from stepspec.optimizer import Optimizer
from stepspec.rates import Rate
from stepspec.reference import clip, sqrt, square
from stepspec.sparse import RowSparse
from stepspec.states import Array, Layout, State


class AdaGrad(Optimizer):
    """A learning rate per element, from the sum of its squared gradients.

    Updates each weight by::

        g = clip(rescale_grad * grad, clip_gradient) + wd * weight
        history += square(g)
        weight -= lr * g / (sqrt(history) + epsilon)

    where ``lr`` is the learning rate of this tensor, schedule and multiplier applied; ``wd`` is the weight
    decay of this tensor, multiplier applied; ``rescale_grad`` is the factor of every gradient;
    ``clip_gradient`` is the bound of every gradient element, infinite if off.

    Rows that a row-sparse gradient lacks are skipped where ``wd == 0 and epsilon > 0``, as a gradient of
    zeros would leave them as they are; otherwise they count as zeros.

    Parameters
    ----------
    learning_rate : float in [0, inf) or None, default 0.01
        The learning rate; None takes the scheduler's. A number overrides the scheduler's base.
    epsilon : float in [0, inf), default 1e-06
        Keeps the division away from 0.
    **kwargs
        Arguments of every optimizer: see `stepspec.Optimizer`.

    State
    -----
    history : shape of the weight, starts at 0
        Sum over all steps of the squared gradients.

    References
    ----------
    https://www.jmlr.org/papers/volume12/duchi11a/duchi11a.pdf
    """

    rule = (
        "g = clip(rescale_grad * grad, clip_gradient) + wd * weight\n"
        "history = history + square(g)\n"
        "weight = weight - lr * g / (sqrt(history) + epsilon)"
    )
    epsilon = Hyperparameter("[0, inf)")

    def __init__(self, learning_rate: float | None = 0.01, epsilon: float = 1e-06, **kwargs: Any) -> None:
        super().__init__(learning_rate, **kwargs)
        self.epsilon = epsilon

    def _layout(self, flags: Mapping[str, bool], ndim: int) -> Layout:
        return {"history": State("element", 0.0)}

    def _lazy_is_exact(self, p: Rate, flags: Mapping[str, bool], ndim: int, dtype: Any) -> bool:
        return bool(p.wd == 0 and dtype(self.epsilon) > 0)

    def create_state(self, index: int, weight: Array) -> dict[str, Array]:
        """Return the states of one tensor before its first update, by name; {} if it keeps none.

        `weight` is a float16, bfloat16, float32 or float64 array; the states have its dtype.

        history : shape of the weight, starts at 0
            Sum over all steps of the squared gradients.
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
        epsilon = self.epsilon
        for p in self._tensors(indices, weights, grads, states):
            weight, grad, lr, wd = p.weight, p.grad, p.lr, p.wd
            history = p.state["history"]
            g = clip(rescale_grad * grad, clip_gradient) + wd * weight
            history = history + square(g)
            weight = weight - lr * g / (sqrt(history) + epsilon)
            p.store(weight=weight, history=history)

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
            kernels = call.kernels("adagrad")
            call.launch(kernels.UPDATE)  # weight, history
