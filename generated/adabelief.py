# Generated from specs/adabelief.yaml by stepspec. Do not edit: run "make generate".
"""AdaBelief: Adam that divides by how much gradients differ from their mean."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from stepspec.hyperparameters import Flag, Hyperparameter
from stepspec.optimizer import Optimizer
from stepspec.reference import clip, sqrt, square
from stepspec.sparse import RowSparse
from stepspec.states import Array, Layout, State, Variant


class AdaBelief(Optimizer):
    """Adam that divides by how much gradients differ from their mean.

    Updates each weight by::

        # The decay is clipped with the gradient, as MXNet's code does; its documentation adds it afterwards.
        g = clip(rescale_grad * grad + wd * weight, clip_gradient)
        mean = beta1 * mean + (1 - beta1) * g
        var = beta2 * var + (1 - beta2) * square(g - mean) + epsilon
        rate = lr * sqrt(1 - beta2 ** t) / (1 - beta1 ** t) if correct_bias else lr
        weight -= rate * mean / (sqrt(var) + epsilon)

    where ``lr`` is the learning rate of this tensor, schedule and multiplier applied; ``wd`` is the weight
    decay of this tensor, multiplier applied; ``t`` is the update count of this tensor, from 1;
    ``rescale_grad`` is the factor of every gradient; ``clip_gradient`` is the bound of every gradient
    element, infinite if off.

    Rows that a row-sparse gradient lacks count as zeros.

    Parameters
    ----------
    learning_rate : float in [0, inf) or None, default 0.001
        The learning rate; None takes the scheduler's. A number overrides the scheduler's base.
    beta1 : float in [0, 1), default 0.9
        Decay of the mean gradient.
    beta2 : float in [0, 1), default 0.999
        Decay of the mean squared difference.
    epsilon : float in [0, inf), default 1e-06
        Keeps the division away from 0.
    correct_bias : bool, default True
        Correct the means for having started at 0.
    **kwargs
        Arguments of every optimizer: see `stepspec.Optimizer`.

    State
    -----
    mean : shape of the weight, starts at 0
        Running mean of the gradients.
    var : shape of the weight, starts at 0
        Running mean of their squared differences from that mean.

    References
    ----------
    https://arxiv.org/abs/2010.07468
    """

    rule = (
        "g = clip(rescale_grad * grad + wd * weight, clip_gradient)\n"
        "mean = beta1 * mean + (1 - beta1) * g\n"
        "var = beta2 * var + (1 - beta2) * square(g - mean) + epsilon\n"
        "rate = lr * sqrt(1 - beta2 ** t) / (1 - beta1 ** t) if correct_bias else lr\n"
        "weight = weight - rate * mean / (sqrt(var) + epsilon)"
    )
    beta1 = Hyperparameter("[0, 1)")
    beta2 = Hyperparameter("[0, 1)")
    epsilon = Hyperparameter("[0, inf)")
    correct_bias = Flag()
    host: ClassVar[Mapping[str, Callable[[Any, Any], float]]] = {
        "one_minus_beta1": lambda self, p: 1 - self.beta1,
        "one_minus_beta2": lambda self, p: 1 - self.beta2,
        "rate": lambda self, p: p.lr,
        "rate_2": lambda self, p: p.lr * math.sqrt(1 - self.beta2**p.t) / (1 - self.beta1**p.t),
    }

    def __init__(
        self,
        learning_rate: float | None = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-06,
        correct_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.beta1 = beta1
        self.beta2 = beta2
        self.epsilon = epsilon
        self.correct_bias = correct_bias

    def _layout(self, flags: Mapping[str, bool], ndim: int) -> Layout:
        return {"mean": State("element", 0.0), "var": State("element", 0.0)}

    def _variant(self, flags: Mapping[str, bool], ndim: int) -> Variant:
        return (self.correct_bias,)

    def create_state(self, index: int, weight: Array) -> dict[str, Array]:
        """Return the states of one tensor before its first update, by name; {} if it keeps none.

        `weight` is a float16, bfloat16, float32 or float64 array; the states have its dtype.

        mean : shape of the weight, starts at 0
            Running mean of the gradients.
        var : shape of the weight, starts at 0
            Running mean of their squared differences from that mean.
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
        beta1, beta2, epsilon, correct_bias = self.beta1, self.beta2, self.epsilon, self.correct_bias
        for p in self._tensors(indices, weights, grads, states):
            weight, grad, lr, wd, t = p.weight, p.grad, p.lr, p.wd, p.t
            if correct_bias:
                mean = p.state["mean"]
                var = p.state["var"]
                g = clip(rescale_grad * grad + wd * weight, clip_gradient)
                mean = beta1 * mean + (1 - beta1) * g
                var = beta2 * var + (1 - beta2) * square(g - mean) + epsilon
                rate = lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)
                weight = weight - rate * mean / (sqrt(var) + epsilon)
                p.store(weight=weight, mean=mean, var=var)
            else:
                mean = p.state["mean"]
                var = p.state["var"]
                g = clip(rescale_grad * grad + wd * weight, clip_gradient)
                mean = beta1 * mean + (1 - beta1) * g
                var = beta2 * var + (1 - beta2) * square(g - mean) + epsilon
                rate = lr
                weight = weight - rate * mean / (sqrt(var) + epsilon)
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
            kernels = call.kernels("adabelief")
            call.launch(kernels.UPDATE)  # weight, mean, var
