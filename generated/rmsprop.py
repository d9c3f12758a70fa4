# Generated from specs/rmsprop.yaml by stepspec. Do not edit: run "make generate".
"""RMSProp: Divides gradients by their root mean square; centered, by their standard deviation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from stepspec.hyperparameters import Flag, Hyperparameter
from stepspec.optimizer import Optimizer
from stepspec.reference import clip, sqrt, square
from stepspec.sparse import RowSparse
from stepspec.states import Array, Layout, State, Variant


class RMSProp(Optimizer):
    """Divides gradients by their root mean square; centered, by their standard deviation.

    Updates each weight by::

        g = clip(rescale_grad * grad, clip_gradient) + wd * weight
        var = rho * var + (1 - rho) * square(g)
        if centered:
          mean = rho * mean + (1 - rho) * g
          mom = momentum * mom - lr * g / sqrt(var - square(mean) + epsilon)
          moved = weight + mom
        else:
          moved = weight - lr * g / (sqrt(var) + epsilon)
        weight = clip(moved, clip_weights)

    where ``lr`` is the learning rate of this tensor, schedule and multiplier applied; ``wd`` is the weight
    decay of this tensor, multiplier applied; ``rescale_grad`` is the factor of every gradient;
    ``clip_gradient`` is the bound of every gradient element, infinite if off.

    Rows that a row-sparse gradient lacks count as zeros.

    Parameters
    ----------
    learning_rate : float in [0, inf) or None, default 0.001
        The learning rate; None takes the scheduler's. A number overrides the scheduler's base.
    rho : float in [0, 1), default 0.9
        Decay of the means.
    momentum : float in [0, 1), default 0.9
        Fraction of the velocity kept each step, if centered.
    epsilon : float in [0, inf), default 1e-08
        Keeps the division away from 0.
    centered : bool, default False
        Subtract the squared mean gradient and add momentum.
    clip_weights : float in (0, inf], default None (off)
        Largest absolute weight.
    **kwargs
        Arguments of every optimizer: see `stepspec.Optimizer`.

    State
    -----
    mean : shape of the weight, starts at 0, stored when centered
        Running mean of the gradients.
    var : shape of the weight, starts at 0
        Running mean of the squared gradients.
    mom : shape of the weight, starts at 0, stored when centered and momentum > 0
        Velocity.

    References
    ----------
    https://arxiv.org/abs/1308.0850
    """

    rule = (
        "g = clip(rescale_grad * grad, clip_gradient) + wd * weight\n"
        "var = rho * var + (1 - rho) * square(g)\n"
        "if centered:\n"
        "    mean = rho * mean + (1 - rho) * g\n"
        "    mom = momentum * mom - lr * g / sqrt(var - square(mean) + epsilon)\n"
        "    moved = weight + mom\n"
        "else:\n"
        "    moved = weight - lr * g / (sqrt(var) + epsilon)\n"
        "weight = clip(moved, clip_weights)"
    )
    rho = Hyperparameter("[0, 1)")
    momentum = Hyperparameter("[0, 1)")
    epsilon = Hyperparameter("[0, inf)")
    centered = Flag()
    clip_weights = Hyperparameter("(0, inf]")
    host: ClassVar[Mapping[str, Callable[[Any, Any], float]]] = {
        "one_minus_rho": lambda self, p: 1 - self.rho,
    }

    def __init__(
        self,
        learning_rate: float | None = 0.001,
        rho: float = 0.9,
        momentum: float = 0.9,
        epsilon: float = 1e-08,
        centered: bool = False,
        clip_weights: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.rho = rho
        self.momentum = momentum
        self.epsilon = epsilon
        self.centered = centered
        self.clip_weights = clip_weights

    def _layout(self, flags: Mapping[str, bool], ndim: int) -> Layout:
        layout: Layout = {}
        if self.centered:
            layout["mean"] = State("element", 0.0)
        layout["var"] = State("element", 0.0)
        if self.centered and self.momentum > 0:
            layout["mom"] = State("element", 0.0)
        return layout

    def _variant(self, flags: Mapping[str, bool], ndim: int) -> Variant:
        return (self.centered, self.momentum > 0)

    def create_state(self, index: int, weight: Array) -> dict[str, Array]:
        """Return the states of one tensor before its first update, by name; {} if it keeps none.

        `weight` is a float16, bfloat16, float32 or float64 array; the states have its dtype.

        mean : shape of the weight, starts at 0, stored when centered
            Running mean of the gradients.
        var : shape of the weight, starts at 0
            Running mean of the squared gradients.
        mom : shape of the weight, starts at 0, stored when centered and momentum > 0
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
        rho, momentum, epsilon = self.rho, self.momentum, self.epsilon
        centered, clip_weights = self.centered, self.clip_weights
        for p in self._tensors(indices, weights, grads, states):
            weight, grad, lr, wd = p.weight, p.grad, p.lr, p.wd
            if centered and momentum > 0:
                mean = p.state["mean"]
                var = p.state["var"]
                mom = p.state["mom"]
                g = clip(rescale_grad * grad, clip_gradient) + wd * weight
                var = rho * var + (1 - rho) * square(g)
                mean = rho * mean + (1 - rho) * g
                mom = momentum * mom - lr * g / sqrt(var - square(mean) + epsilon)
                moved = weight + mom
                weight = clip(moved, clip_weights)
                p.store(weight=weight, mean=mean, var=var, mom=mom)
            elif centered:
                mean = p.state["mean"]
                var = p.state["var"]
                g = clip(rescale_grad * grad, clip_gradient) + wd * weight
                var = rho * var + (1 - rho) * square(g)
                mean = rho * mean + (1 - rho) * g
                mom = -(lr * g / sqrt(var - square(mean) + epsilon))
                moved = weight + mom
                weight = clip(moved, clip_weights)
                p.store(weight=weight, mean=mean, var=var)
            else:
                var = p.state["var"]
                g = clip(rescale_grad * grad, clip_gradient) + wd * weight
                var = rho * var + (1 - rho) * square(g)
                moved = weight - lr * g / (sqrt(var) + epsilon)
                weight = clip(moved, clip_weights)
                p.store(weight=weight, var=var)

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
            kernels = call.kernels("rmsprop")
            call.launch(kernels.UPDATE)  # weight, var, mean, mom
