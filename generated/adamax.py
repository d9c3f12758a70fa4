# Generated from specs/adamax.yaml by stepspec. Do not edit: run "make generate".
"""Adamax: Adam with the largest instead of the mean squared gradient."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from stepspec.hyperparameters import Hyperparameter
from stepspec.optimizer import Optimizer
from stepspec.reference import clip, maximum
from stepspec.sparse import RowSparse
from stepspec.states import Array, Layout, State


class Adamax(Optimizer):
    """Adam with the largest instead of the mean squared gradient.

    Updates each weight by::

        g = clip(rescale_grad * grad, clip_gradient) + wd * weight
        mean = beta1 * mean + (1 - beta1) * g
        var = maximum(beta2 * var, abs(g))
        weight -= lr / (1 - beta1 ** t) * mean / (var + epsilon)

    where ``lr`` is the learning rate of this tensor, schedule and multiplier applied; ``wd`` is the weight
    decay of this tensor, multiplier applied; ``t`` is the update count of this tensor, from 1;
    ``rescale_grad`` is the factor of every gradient; ``clip_gradient`` is the bound of every gradient
    element, infinite if off.

    Rows that a row-sparse gradient lacks count as zeros.

    Parameters
    ----------
    learning_rate : float in [0, inf) or None, default 0.002
        The learning rate; None takes the scheduler's. A number overrides the scheduler's base.
    beta1 : float in [0, 1), default 0.9
        Decay of the mean gradient.
    beta2 : float in [0, 1), default 0.999
        Decay of the largest gradient.
    epsilon : float in [0, inf), default 1e-08
        Keeps the division away from 0.
    **kwargs
        Arguments of every optimizer: see `stepspec.Optimizer`.

    State
    -----
    mean : shape of the weight, starts at 0
        Running mean of the gradients.
    var : shape of the weight, starts at 0
        Largest absolute gradient, decaying.

    References
    ----------
    https://arxiv.org/abs/1412.6980
    """

    rule = (
        "g = clip(rescale_grad * grad, clip_gradient) + wd * weight\n"
        "mean = beta1 * mean + (1 - beta1) * g\n"
        "var = maximum(beta2 * var, abs(g))\n"
        "weight = weight - lr / (1 - beta1 ** t) * mean / (var + epsilon)"
    )
    beta1 = Hyperparameter("[0, 1)")
    beta2 = Hyperparameter("[0, 1)")
    epsilon = Hyperparameter("[0, inf)")
    host: ClassVar[Mapping[str, Callable[[Any, Any], float]]] = {
        "lr_over_one_minus_beta1_pow_t": lambda self, p: p.lr / (1 - self.beta1**p.t),
        "one_minus_beta1": lambda self, p: 1 - self.beta1,
    }

    def __init__(
        self,
        learning_rate: float | None = 0.002,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-08,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.beta1 = beta1
        self.beta2 = beta2
        self.epsilon = epsilon

    def _layout(self, flags: Mapping[str, bool], ndim: int) -> Layout:
        return {"mean": State("element", 0.0), "var": State("element", 0.0)}

    def create_state(self, index: int, weight: Array) -> dict[str, Array]:
        """Return the states of one tensor before its first update, by name; {} if it keeps none.

        `weight` is a float16, bfloat16, float32 or float64 array; the states have its dtype.

        mean : shape of the weight, starts at 0
            Running mean of the gradients.
        var : shape of the weight, starts at 0
            Largest absolute gradient, decaying.
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
        beta1, beta2, epsilon = self.beta1, self.beta2, self.epsilon
        for p in self._tensors(indices, weights, grads, states):
            weight, grad, lr, wd, t = p.weight, p.grad, p.lr, p.wd, p.t
            mean = p.state["mean"]
            var = p.state["var"]
            g = clip(rescale_grad * grad, clip_gradient) + wd * weight
            mean = beta1 * mean + (1 - beta1) * g
            var = maximum(beta2 * var, abs(g))
            weight = weight - lr / (1 - beta1**t) * mean / (var + epsilon)
            p.store(weight=weight, mean=mean, var=var)

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
            kernels = call.kernels("adamax")
            call.launch(kernels.UPDATE)  # weight, mean, var
