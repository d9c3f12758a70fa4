# Generated from specs/adadelta.yaml by stepspec. Do not edit: run "make generate".
"""AdaDelta: Steps in the units of the weight, from running means of squared gradients and squared steps."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from stepspec.hyperparameters import Hyperparameter
from stepspec.optimizer import Optimizer
from stepspec.reference import clip, sqrt, square
from stepspec.sparse import RowSparse
from stepspec.states import Array, Layout, State


class AdaDelta(Optimizer):
    """Steps in the units of the weight, from running means of squared gradients and squared steps.

    Updates each weight by::

        g = clip(rescale_grad * grad, clip_gradient) + wd * weight
        acc_g = rho * acc_g + (1 - rho) * square(g)
        delta = sqrt(acc_delta + epsilon) / sqrt(acc_g + epsilon) * g
        acc_delta = rho * acc_delta + (1 - rho) * square(delta)
        weight -= lr * delta

    where ``lr`` is the learning rate of this tensor, schedule and multiplier applied; ``wd`` is the weight
    decay of this tensor, multiplier applied; ``rescale_grad`` is the factor of every gradient;
    ``clip_gradient`` is the bound of every gradient element, infinite if off.

    Rows that a row-sparse gradient lacks count as zeros.

    Parameters
    ----------
    learning_rate : float in [0, inf) or None, default 1
        The learning rate; None takes the scheduler's. A number overrides the scheduler's base.
    rho : float in [0, 1), default 0.9
        Decay of both means.
    epsilon : float in [0, inf), default 1e-06
        Starts the steps and keeps the division away from 0.
    **kwargs
        Arguments of every optimizer: see `stepspec.Optimizer`.

    State
    -----
    acc_g : shape of the weight, starts at 0
        Running mean of the squared gradients.
    acc_delta : shape of the weight, starts at 0
        Running mean of the squared steps.

    References
    ----------
    https://arxiv.org/abs/1212.5701
    """

    rule = (
        "g = clip(rescale_grad * grad, clip_gradient) + wd * weight\n"
        "acc_g = rho * acc_g + (1 - rho) * square(g)\n"
        "delta = sqrt(acc_delta + epsilon) / sqrt(acc_g + epsilon) * g\n"
        "acc_delta = rho * acc_delta + (1 - rho) * square(delta)\n"
        "weight = weight - lr * delta"
    )
    rho = Hyperparameter("[0, 1)")
    epsilon = Hyperparameter("[0, inf)")
    host: ClassVar[Mapping[str, Callable[[Any, Any], float]]] = {
        "one_minus_rho": lambda self, p: 1 - self.rho,
    }

    def __init__(
        self, learning_rate: float | None = 1.0, rho: float = 0.9, epsilon: float = 1e-06, **kwargs: Any
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.rho = rho
        self.epsilon = epsilon

    def _layout(self, flags: Mapping[str, bool], ndim: int) -> Layout:
        return {"acc_g": State("element", 0.0), "acc_delta": State("element", 0.0)}

    def create_state(self, index: int, weight: Array) -> dict[str, Array]:
        """Return the states of one tensor before its first update, by name; {} if it keeps none.

        `weight` is a float16, bfloat16, float32 or float64 array; the states have its dtype.

        acc_g : shape of the weight, starts at 0
            Running mean of the squared gradients.
        acc_delta : shape of the weight, starts at 0
            Running mean of the squared steps.
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
        rho, epsilon = self.rho, self.epsilon
        for p in self._tensors(indices, weights, grads, states):
            weight, grad, lr, wd = p.weight, p.grad, p.lr, p.wd
            acc_g = p.state["acc_g"]
            acc_delta = p.state["acc_delta"]
            g = clip(rescale_grad * grad, clip_gradient) + wd * weight
            acc_g = rho * acc_g + (1 - rho) * square(g)
            delta = sqrt(acc_delta + epsilon) / sqrt(acc_g + epsilon) * g
            acc_delta = rho * acc_delta + (1 - rho) * square(delta)
            weight = weight - lr * delta
            p.store(weight=weight, acc_g=acc_g, acc_delta=acc_delta)

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
            kernels = call.kernels("adadelta")
            call.launch(kernels.UPDATE)  # weight, acc_delta, acc_g
