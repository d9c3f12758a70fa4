# Generated from specs/lars.yaml by stepspec. Do not edit: run "make generate".
"""LARS: Layer-wise adaptive rate scaling."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from stepspec.hyperparameters import Flag, Hyperparameter
from stepspec.optimizer import Optimizer
from stepspec.rates import Rate
from stepspec.reference import clip, norm
from stepspec.sparse import RowSparse
from stepspec.states import Array, Layout, State, TensorFlag, Variant


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling.

    Updates each weight by::

        # The ratio is measured before clipping.
        w_norm = norm(weight)
        g_norm = norm(rescale_grad * grad)
        trust = eta * w_norm / (g_norm + wd * w_norm + epsilon) if adapt and w_norm > 0 and g_norm > 0 else 1
        g = clip(rescale_grad * grad, clip_gradient) + wd * weight
        mom = momentum * mom + lr * trust * g
        weight -= mom

    where ``lr`` is the learning rate of this tensor, schedule and multiplier applied; ``wd`` is the weight
    decay of this tensor, multiplier applied; ``rescale_grad`` is the factor of every gradient;
    ``clip_gradient`` is the bound of every gradient element, infinite if off.

    Rows that a row-sparse gradient lacks are skipped if `lazy_update` is set, and where
    ``not momentum > 0 and not adapt and wd == 0``, as a gradient of zeros would leave them as they are;
    otherwise they count as zeros.

    Parameters
    ----------
    learning_rate : float in [0, inf) or None, default 0.1
        The learning rate; None takes the scheduler's. A number overrides the scheduler's base.
    momentum : float in [0, 1), default 0
        Fraction of the velocity kept each step.
    eta : float in [0, inf), default 0.001
        How far to trust a layer to change its weights in one step.
    epsilon : float in [0, inf), default 1e-08
        Keeps the division away from 0.
    lazy_update : bool, default False
        Update only the rows that a row-sparse gradient holds.
    **kwargs
        Arguments of every optimizer: see `stepspec.Optimizer`.

    State
    -----
    mom : shape of the weight, starts at 0, stored when momentum > 0
        Velocity.

    Tensor flags
    ------------
    adapt : bool, True, but False for names ending in `gamma` or `beta` or `bias`
        Scale this tensor's rate by the trust ratio.

    References
    ----------
    https://arxiv.org/abs/1708.03888
    """

    rule = (
        "w_norm = norm(weight)\n"
        "g_norm = norm(rescale_grad * grad)\n"
        "trust = eta * w_norm / (g_norm + wd * w_norm + epsilon) "
        "if adapt and w_norm > 0 and g_norm > 0 else 1\n"
        "g = clip(rescale_grad * grad, clip_gradient) + wd * weight\n"
        "mom = momentum * mom + lr * trust * g\n"
        "weight = weight - mom"
    )
    momentum = Hyperparameter("[0, 1)")
    eta = Hyperparameter("[0, inf)")
    epsilon = Hyperparameter("[0, inf)")
    lazy_update = Flag()
    flags: ClassVar[Mapping[str, TensorFlag]] = {
        "adapt": TensorFlag(default=True, unless_name_ends=("gamma", "beta", "bias")),
    }

    def __init__(
        self,
        learning_rate: float | None = 0.1,
        momentum: float = 0.0,
        eta: float = 0.001,
        epsilon: float = 1e-08,
        lazy_update: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.momentum = momentum
        self.eta = eta
        self.epsilon = epsilon
        self.lazy_update = lazy_update

    def _layout(self, flags: Mapping[str, bool], ndim: int) -> Layout:
        layout: Layout = {}
        if self.momentum > 0:
            layout["mom"] = State("element", 0.0, mxnet_sign=-1)
        return layout

    def _variant(self, flags: Mapping[str, bool], ndim: int) -> Variant:
        return (self.momentum > 0, flags["adapt"])

    def _lazy_is_exact(self, p: Rate, flags: Mapping[str, bool], ndim: int, dtype: Any) -> bool:
        return not self.momentum > 0 and not flags["adapt"] and p.wd == 0

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
        momentum, eta, epsilon = self.momentum, self.eta, self.epsilon
        for p in self._tensors(indices, weights, grads, states):
            dtype, weight, grad, lr, wd = p.dtype, p.weight, p.grad, p.lr, p.wd
            if momentum > 0 and p.flags["adapt"]:
                mom = p.state["mom"]
                w_norm = norm(weight)
                g_norm = norm(rescale_grad * grad)
                trust = (
                    eta * w_norm / (g_norm + wd * w_norm + epsilon)
                    if w_norm > 0 and g_norm > 0
                    else np.float64(1)
                )
                g = clip(rescale_grad * grad, clip_gradient) + wd * weight
                mom = momentum * mom + dtype(lr * trust) * g
                weight = weight - mom
                p.store(weight=weight, mom=mom)
            elif momentum > 0:
                mom = p.state["mom"]
                g = clip(rescale_grad * grad, clip_gradient) + wd * weight
                mom = momentum * mom + lr * g
                weight = weight - mom
                p.store(weight=weight, mom=mom)
            elif p.flags["adapt"]:
                w_norm = norm(weight)
                g_norm = norm(rescale_grad * grad)
                trust = (
                    eta * w_norm / (g_norm + wd * w_norm + epsilon)
                    if w_norm > 0 and g_norm > 0
                    else np.float64(1)
                )
                g = clip(rescale_grad * grad, clip_gradient) + wd * weight
                mom = dtype(lr * trust) * g
                weight = weight - mom
                p.store(weight=weight)
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
            kernels = call.kernels("lars")
            call.launch(kernels.REDUCE)  # w_norm, g_norm
            call.launch(kernels.COMBINE)  # lr_times_trust
            call.launch(kernels.UPDATE)  # weight, mom
