# Generated from specs/signum.yaml by stepspec. Do not edit: run "make generate".
"""Signum: Steps of one size, in the direction of the sign of the velocity or gradient."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from stepspec.hyperparameters import Hyperparameter
from stepspec.optimizer import Optimizer
from stepspec.reference import clip, sign
from stepspec.sparse import RowSparse
from stepspec.states import Array, Layout, State, Variant


class Signum(Optimizer):
    """Steps of one size, in the direction of the sign of the velocity or gradient.

    Updates each weight by::

        if momentum > 0:
          g = clip(rescale_grad * grad, clip_gradient) + wd * weight
          mom = momentum * mom + (1 - momentum) * g
          weight = (1 - lr * wd_lh) * weight - lr * sign(mom)
        else:
          # The size of the gradient does not matter, and wd decays the weight itself.
          weight = (1 - lr * (wd + wd_lh)) * weight - lr * sign(grad)

    where ``lr`` is the learning rate of this tensor, schedule and multiplier applied; ``wd`` is the weight
    decay of this tensor, multiplier applied; ``rescale_grad`` is the factor of every gradient;
    ``clip_gradient`` is the bound of every gradient element, infinite if off.

    Rows that a row-sparse gradient lacks count as zeros.

    Parameters
    ----------
    learning_rate : float in [0, inf) or None, default 0.01
        The learning rate; None takes the scheduler's. A number overrides the scheduler's base.
    momentum : float in [0, 1), default 0.9
        Fraction of the velocity kept each step.
    wd_lh : float in [0, inf), default 0
        Decay of the weight itself.
    **kwargs
        Arguments of every optimizer: see `stepspec.Optimizer`.

    State
    -----
    mom : shape of the weight, starts at 0, stored when momentum > 0
        Velocity.

    References
    ----------
    https://arxiv.org/abs/1802.04434
    """

    rule = (
        "if momentum > 0:\n"
        "    g = clip(rescale_grad * grad, clip_gradient) + wd * weight\n"
        "    mom = momentum * mom + (1 - momentum) * g\n"
        "    weight = (1 - lr * wd_lh) * weight - lr * sign(mom)\n"
        "else:\n"
        "    weight = (1 - lr * (wd + wd_lh)) * weight - lr * sign(grad)"
    )
    momentum = Hyperparameter("[0, 1)")
    wd_lh = Hyperparameter("[0, inf)")
    host: ClassVar[Mapping[str, Callable[[Any, Any], float]]] = {
        "one_minus_lr_times_wd_lh": lambda self, p: 1 - p.lr * self.wd_lh,
        "one_minus_lr_times_wd_plus_wd_lh": lambda self, p: 1 - p.lr * (p.wd + self.wd_lh),
        "one_minus_momentum": lambda self, p: 1 - self.momentum,
    }

    def __init__(
        self, learning_rate: float | None = 0.01, momentum: float = 0.9, wd_lh: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.momentum = momentum
        self.wd_lh = wd_lh

    def _layout(self, flags: Mapping[str, bool], ndim: int) -> Layout:
        layout: Layout = {}
        if self.momentum > 0:
            layout["mom"] = State("element", 0.0, mxnet_sign=-1)
        return layout

    def _variant(self, flags: Mapping[str, bool], ndim: int) -> Variant:
        return (self.momentum > 0,)

    def create_state(self, index: int, weight: Array) -> dict[str, Array]:
        """Return the states of one tensor before its first update, by name; {} if it keeps none.

        `weight` is a float16, bfloat16, float32 or float64 array; the states have its dtype.

        mom : shape of the weight, starts at 0, stored when momentum > 0
            Velocity.
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
        momentum, wd_lh = self.momentum, self.wd_lh
        for p in self._tensors(indices, weights, grads, states):
            weight, grad, lr, wd = p.weight, p.grad, p.lr, p.wd
            if momentum > 0:
                mom = p.state["mom"]
                g = clip(rescale_grad * grad, clip_gradient) + wd * weight
                mom = momentum * mom + (1 - momentum) * g
                weight = (1 - lr * wd_lh) * weight - lr * sign(mom)
                p.store(weight=weight, mom=mom)
            else:
                weight = (1 - lr * (wd + wd_lh)) * weight - lr * sign(grad)
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
            kernels = call.kernels("signum")
            call.launch(kernels.UPDATE)  # weight, mom
