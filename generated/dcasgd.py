# Generated from specs/dcasgd.yaml by stepspec. Do not edit: run "make generate".
"""DCASGD: Asynchronous SGD that compensates for the age of its gradients."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stepspec.hyperparameters import Hyperparameter
from stepspec.optimizer import Optimizer
from stepspec.reference import clip, square
from stepspec.sparse import RowSparse
from stepspec.states import Array, Layout, State, Variant


class DCASGD(Optimizer):
    """Asynchronous SGD that compensates for the age of its gradients.

    Updates each weight by::

        g = clip(rescale_grad * grad, clip_gradient) + wd * weight
        compensated = g + lamda * square(g) * (weight - previous_weight)
        mom = momentum * mom + lr * compensated
        previous_weight = weight
        weight -= mom

    where ``lr`` is the learning rate of this tensor, schedule and multiplier applied; ``wd`` is the weight
    decay of this tensor, multiplier applied; ``rescale_grad`` is the factor of every gradient;
    ``clip_gradient`` is the bound of every gradient element, infinite if off.

    Rows that a row-sparse gradient lacks count as zeros.

    Parameters
    ----------
    learning_rate : float in [0, inf) or None, default 0.1
        The learning rate; None takes the scheduler's. A number overrides the scheduler's base.
    momentum : float in [0, 1), default 0
        Fraction of the velocity kept each step.
    lamda : float in [0, inf), default 0.04
        Strength of the compensation.
    **kwargs
        Arguments of every optimizer: see `stepspec.Optimizer`.

    State
    -----
    mom : shape of the weight, starts at 0, stored when momentum > 0
        Velocity.
    previous_weight : shape of the weight, starts at a copy of the weight
        The weight before the last step.

    References
    ----------
    https://arxiv.org/abs/1609.08326
    """

    rule = (
        "g = clip(rescale_grad * grad, clip_gradient) + wd * weight\n"
        "compensated = g + lamda * square(g) * (weight - previous_weight)\n"
        "mom = momentum * mom + lr * compensated\n"
        "previous_weight = weight\n"
        "weight = weight - mom"
    )
    momentum = Hyperparameter("[0, 1)")
    lamda = Hyperparameter("[0, inf)")

    def __init__(
        self, learning_rate: float | None = 0.1, momentum: float = 0.0, lamda: float = 0.04, **kwargs: Any
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.momentum = momentum
        self.lamda = lamda

    def _layout(self, flags: Mapping[str, bool], ndim: int) -> Layout:
        layout: Layout = {}
        if self.momentum > 0:
            layout["mom"] = State("element", 0.0, mxnet_sign=-1)
        layout["previous_weight"] = State("element", "weight")
        return layout

    def _variant(self, flags: Mapping[str, bool], ndim: int) -> Variant:
        return (self.momentum > 0,)

    def create_state(self, index: int, weight: Array) -> dict[str, Array]:
        """Return the states of one tensor before its first update, by name; {} if it keeps none.

        `weight` is a float16, bfloat16, float32 or float64 array; the states have its dtype.

        mom : shape of the weight, starts at 0, stored when momentum > 0
            Velocity.
        previous_weight : shape of the weight, starts at a copy of the weight
            The weight before the last step.
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
        momentum, lamda = self.momentum, self.lamda
        for p in self._tensors(indices, weights, grads, states):
            weight, grad, lr, wd = p.weight, p.grad, p.lr, p.wd
            if momentum > 0:
                mom = p.state["mom"]
                previous_weight = p.state["previous_weight"]
                g = clip(rescale_grad * grad, clip_gradient) + wd * weight
                compensated = g + lamda * square(g) * (weight - previous_weight)
                mom = momentum * mom + lr * compensated
                previous_weight = weight
                weight = weight - mom
                p.store(weight=weight, mom=mom, previous_weight=previous_weight)
            else:
                previous_weight = p.state["previous_weight"]
                g = clip(rescale_grad * grad, clip_gradient) + wd * weight
                compensated = g + lamda * square(g) * (weight - previous_weight)
                mom = lr * compensated
                previous_weight = weight
                weight = weight - mom
                p.store(weight=weight, previous_weight=previous_weight)

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
            kernels = call.kernels("dcasgd")
            call.launch(kernels.UPDATE)  # weight, previous_weight, mom
