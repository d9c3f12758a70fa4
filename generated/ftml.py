# Generated from specs/ftml.yaml by stepspec. Do not edit: run "make generate".
"""FTML: Follow the moving leader."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from stepspec.hyperparameters import Hyperparameter
from stepspec.optimizer import Optimizer
from stepspec.reference import clip, sqrt, square
from stepspec.sparse import RowSparse
from stepspec.states import Array, Layout, State


class FTML(Optimizer):
    """Follow the moving leader.

    Updates each weight by::

        g = clip(rescale_grad * grad, clip_gradient) + wd * weight
        v = beta2 * v + (1 - beta2) * square(g)
        old_d = d
        d = (1 - beta1 ** t) / lr * (sqrt(v / (1 - beta2 ** t)) + epsilon)
        z = beta1 * z + (1 - beta1) * g - (d - beta1 * old_d) * weight
        weight = -z / d

    where ``lr`` is the learning rate of this tensor, schedule and multiplier applied; ``wd`` is the weight
    decay of this tensor, multiplier applied; ``t`` is the update count of this tensor, from 1;
    ``rescale_grad`` is the factor of every gradient; ``clip_gradient`` is the bound of every gradient
    element, infinite if off.

    While a tensor's learning rate is 0, its weight and states stay as they are.

    Rows that a row-sparse gradient lacks count as zeros.

    Parameters
    ----------
    learning_rate : float in [0, inf) or None, default 0.0025
        The learning rate; None takes the scheduler's. A number overrides the scheduler's base.
    beta1 : float in [0, 1), default 0.6
        Decay of the leader, generally close to 0.5.
    beta2 : float in [0, 1), default 0.999
        Decay of the squared gradients, generally close to 1.
    epsilon : float in [0, inf), default 1e-08
        Keeps the division away from 0.
    **kwargs
        Arguments of every optimizer: see `stepspec.Optimizer`.

    State
    -----
    d : shape of the weight, starts at 0
        Curvature of the moving leader at the last step.
    v : shape of the weight, starts at 0
        Running mean of the squared gradients.
    z : shape of the weight, starts at 0
        Running mean of the shifted gradients.

    References
    ----------
    https://proceedings.mlr.press/v70/zheng17a/zheng17a.pdf
    """

    rule = (
        "g = clip(rescale_grad * grad, clip_gradient) + wd * weight\n"
        "v = beta2 * v + (1 - beta2) * square(g)\n"
        "old_d = d\n"
        "d = (1 - beta1 ** t) / lr * (sqrt(v / (1 - beta2 ** t)) + epsilon)\n"
        "z = beta1 * z + (1 - beta1) * g - (d - beta1 * old_d) * weight\n"
        "weight = -z / d"
    )
    beta1 = Hyperparameter("[0, 1)")
    beta2 = Hyperparameter("[0, 1)")
    epsilon = Hyperparameter("[0, inf)")
    frozen_at_zero_rate = True
    host: ClassVar[Mapping[str, Callable[[Any, Any], float]]] = {
        "one_minus_beta1": lambda self, p: 1 - self.beta1,
        "one_minus_beta1_pow_t_over_lr": lambda self, p: (1 - self.beta1**p.t) / p.lr,
        "one_minus_beta2": lambda self, p: 1 - self.beta2,
        "one_minus_beta2_pow_t": lambda self, p: 1 - self.beta2**p.t,
    }

    def __init__(
        self,
        learning_rate: float | None = 0.0025,
        beta1: float = 0.6,
        beta2: float = 0.999,
        epsilon: float = 1e-08,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.beta1 = beta1
        self.beta2 = beta2
        self.epsilon = epsilon

    def _layout(self, flags: Mapping[str, bool], ndim: int) -> Layout:
        return {"d": State("element", 0.0), "v": State("element", 0.0), "z": State("element", 0.0)}

    def create_state(self, index: int, weight: Array) -> dict[str, Array]:
        """Return the states of one tensor before its first update, by name; {} if it keeps none.

        `weight` is a float16, bfloat16, float32 or float64 array; the states have its dtype.

        d : shape of the weight, starts at 0
            Curvature of the moving leader at the last step.
        v : shape of the weight, starts at 0
            Running mean of the squared gradients.
        z : shape of the weight, starts at 0
            Running mean of the shifted gradients.
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
            d = p.state["d"]
            v = p.state["v"]
            z = p.state["z"]
            g = clip(rescale_grad * grad, clip_gradient) + wd * weight
            v = beta2 * v + (1 - beta2) * square(g)
            old_d = d
            d = (1 - beta1**t) / lr * (sqrt(v / (1 - beta2**t)) + epsilon)
            z = beta1 * z + (1 - beta1) * g - (d - beta1 * old_d) * weight
            weight = -z / d
            p.store(weight=weight, d=d, v=v, z=z)

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
            kernels = call.kernels("ftml")
            call.launch(kernels.UPDATE)  # weight, d, v, z
