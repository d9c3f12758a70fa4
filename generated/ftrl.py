# Generated from specs/ftrl.yaml by stepspec. Do not edit: run "make generate".
"""Ftrl: Follow the regularized leader, with sparse weights."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from stepspec.hyperparameters import Hyperparameter
from stepspec.optimizer import Optimizer
from stepspec.reference import clip, sign, sqrt, square, where
from stepspec.sparse import RowSparse
from stepspec.states import Array, Layout, State


class Ftrl(Optimizer):
    """Follow the regularized leader, with sparse weights.

    Updates each weight by::

        g = clip(rescale_grad * grad, clip_gradient)
        old_n = n
        n += square(g)
        z += g - (sqrt(n) - sqrt(old_n)) / lr * weight
        shrunk = sign(z) * lamda1 - z if abs(z) > lamda1 else 0
        weight = shrunk / ((beta + sqrt(n)) / lr + wd)

    where ``lr`` is the learning rate of this tensor, schedule and multiplier applied; ``wd`` is the weight
    decay of this tensor, multiplier applied; ``rescale_grad`` is the factor of every gradient;
    ``clip_gradient`` is the bound of every gradient element, infinite if off.

    While a tensor's learning rate is 0, its weight and states stay as they are.

    Rows that a row-sparse gradient lacks count as zeros.

    Parameters
    ----------
    learning_rate : float in [0, inf) or None, default 0.1
        The learning rate; None takes the scheduler's. A number overrides the scheduler's base.
    lamda1 : float in [0, inf), default 0.01
        Strength of the L1 regularization.
    beta : float in [0, inf), default 1
        Dampens the first steps: the rate is lr / (beta + sqrt(n)).
    **kwargs
        Arguments of every optimizer: see `stepspec.Optimizer`.

    State
    -----
    z : shape of the weight, starts at 0
        Sum of the gradients, less what moved the weight already.
    n : shape of the weight, starts at 0
        Sum over all steps of the squared gradients.

    References
    ----------
    https://doi.org/10.1145/2487575.2488200
    """

    rule = (
        "g = clip(rescale_grad * grad, clip_gradient)\n"
        "old_n = n\n"
        "n = n + square(g)\n"
        "z = z + (g - (sqrt(n) - sqrt(old_n)) / lr * weight)\n"
        "shrunk = sign(z) * lamda1 - z if abs(z) > lamda1 else 0\n"
        "weight = shrunk / ((beta + sqrt(n)) / lr + wd)"
    )
    lamda1 = Hyperparameter("[0, inf)")
    beta = Hyperparameter("[0, inf)")
    frozen_at_zero_rate = True
    host: ClassVar[Mapping[str, Callable[[Any, Any], float]]] = {
        "zero": lambda self, p: 0,
    }

    def __init__(
        self, learning_rate: float | None = 0.1, lamda1: float = 0.01, beta: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.lamda1 = lamda1
        self.beta = beta

    def _layout(self, flags: Mapping[str, bool], ndim: int) -> Layout:
        return {"z": State("element", 0.0), "n": State("element", 0.0)}

    def create_state(self, index: int, weight: Array) -> dict[str, Array]:
        """Return the states of one tensor before its first update, by name; {} if it keeps none.

        `weight` is a float16, bfloat16, float32 or float64 array; the states have its dtype.

        z : shape of the weight, starts at 0
            Sum of the gradients, less what moved the weight already.
        n : shape of the weight, starts at 0
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
        lamda1, beta = self.lamda1, self.beta
        for p in self._tensors(indices, weights, grads, states):
            dtype, weight, grad, lr, wd = p.dtype, p.weight, p.grad, p.lr, p.wd
            z = p.state["z"]
            n = p.state["n"]
            g = clip(rescale_grad * grad, clip_gradient)
            old_n = n
            n = n + square(g)
            z = z + (g - (sqrt(n) - sqrt(old_n)) / lr * weight)
            shrunk = where(abs(z) > lamda1, sign(z) * lamda1 - z, dtype(0))
            weight = shrunk / ((beta + sqrt(n)) / lr + wd)
            p.store(weight=weight, z=z, n=n)

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
            kernels = call.kernels("ftrl")
            call.launch(kernels.UPDATE)  # weight, n, z
