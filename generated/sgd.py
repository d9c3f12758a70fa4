# Generated from specs/sgd.yaml by stepspec. Do not edit: run "make generate".
"""SGD: Stochastic gradient descent with momentum and weight decay."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stepspec.hyperparameters import Flag, Hyperparameter
from stepspec.optimizer import Optimizer
from stepspec.rates import Rate
from stepspec.reference import clip
from stepspec.sparse import RowSparse
from stepspec.states import Array, Layout, State, Variant


class SGD(Optimizer):
    """Stochastic gradient descent with momentum and weight decay.

    Updates each weight by::

        g = clip(rescale_grad * grad, clip_gradient) + wd * weight
        mom = momentum * mom + lr * g
        weight -= mom

    where ``lr`` is the learning rate of this tensor, schedule and multiplier applied; ``wd`` is the weight
    decay of this tensor, multiplier applied; ``rescale_grad`` is the factor of every gradient;
    ``clip_gradient`` is the bound of every gradient element, infinite if off.

    Rows that a row-sparse gradient lacks are skipped if `lazy_update` is set, and where
    ``not momentum > 0 and wd == 0``, as a gradient of zeros would leave them as they are; otherwise they
    count as zeros.

    Parameters
    ----------
    learning_rate : float in [0, inf) or None, default 0.1
        The learning rate; None takes the scheduler's. A number overrides the scheduler's base.
    momentum : float in [0, 1), default 0
        Fraction of the velocity kept each step.
    lazy_update : bool, default False
        Update only the rows that a row-sparse gradient holds.
    **kwargs
        Arguments of every optimizer: see `stepspec.Optimizer`.

    State
    -----
    mom : shape of the weight, starts at 0, stored when momentum > 0
        Velocity.

    References
    ----------
    https://doi.org/10.1016/0041-5553(64)90137-5
    """

    rule = (
        "g = clip(rescale_grad * grad, clip_gradient) + wd * weight\n"
        "mom = momentum * mom + lr * g\n"
        "weight = weight - mom"
    )
    momentum = Hyperparameter("[0, 1)")
    lazy_update = Flag()

    def __init__(
        self,
        learning_rate: float | None = 0.1,
        momentum: float = 0.0,
        lazy_update: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.momentum = momentum
        self.lazy_update = lazy_update

    def _layout(self, flags: Mapping[str, bool], ndim: int) -> Layout:
        layout: Layout = {}
        if self.momentum > 0:
            layout["mom"] = State("element", 0.0, mxnet_sign=-1)
        return layout

    def _variant(self, flags: Mapping[str, bool], ndim: int) -> Variant:
        return (self.momentum > 0,)

    def _lazy_is_exact(self, p: Rate, flags: Mapping[str, bool], ndim: int, dtype: Any) -> bool:
        return not self.momentum > 0 and p.wd == 0

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
        momentum = self.momentum
        for p in self._tensors(indices, weights, grads, states):
            weight, grad, lr, wd = p.weight, p.grad, p.lr, p.wd
            if momentum > 0:
                mom = p.state["mom"]
                g = clip(rescale_grad * grad, clip_gradient) + wd * weight
                mom = momentum * mom + lr * g
                weight = weight - mom
                p.store(weight=weight, mom=mom)
            else:
                g = clip(rescale_grad * grad, clip_gradient) + wd * weight
                mom = lr * g
                weight = weight - mom
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
            kernels = call.kernels("sgd")
            call.launch(kernels.UPDATE)  # weight, mom
