# Generated from specs/lamb.yaml by stepspec. Do not edit: run "make generate".
"""LAMB: Adam with decoupled weight decay and a trust ratio for every tensor."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from stepspec.hyperparameters import Flag, Hyperparameter
from stepspec.optimizer import Optimizer
from stepspec.reference import clip, clip_between, norm, sqrt, square
from stepspec.sparse import RowSparse
from stepspec.states import Array, Layout, State, Variant


class LAMB(Optimizer):
    """Adam with decoupled weight decay and a trust ratio for every tensor.

    Updates each weight by::

        g = clip(rescale_grad * grad, clip_gradient)
        mean = beta1 * mean + (1 - beta1) * g
        var = beta2 * var + (1 - beta2) * square(g)
        mean_hat = mean / (1 - beta1 ** t) if bias_correction else mean
        var_hat = var / (1 - beta2 ** t) if bias_correction else var
        direction = mean_hat / (sqrt(var_hat) + epsilon) + wd * weight
        w_norm = clip(norm(weight), lower_bound, upper_bound)
        d_norm = norm(direction)
        trust = w_norm / d_norm if w_norm > 0 and d_norm > 0 else 1
        weight -= lr * trust * direction

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
        Decay of the mean squared gradient.
    epsilon : float in [0, inf), default 1e-06
        Keeps the division away from 0.
    lower_bound : float in [0, inf), default None (off)
        Smallest norm that a weight counts with.
    upper_bound : float in [0, inf], default None (off)
        Largest norm that a weight counts with.
    bias_correction : bool, default True
        Correct the means for having started at 0.
    **kwargs
        Arguments of every optimizer: see `stepspec.Optimizer`.

    State
    -----
    mean : shape of the weight, starts at 0
        Running mean of the gradients.
    var : shape of the weight, starts at 0
        Running mean of the squared gradients.

    References
    ----------
    https://arxiv.org/abs/1904.00962
    """

    rule = (
        "g = clip(rescale_grad * grad, clip_gradient)\n"
        "mean = beta1 * mean + (1 - beta1) * g\n"
        "var = beta2 * var + (1 - beta2) * square(g)\n"
        "mean_hat = mean / (1 - beta1 ** t) if bias_correction else mean\n"
        "var_hat = var / (1 - beta2 ** t) if bias_correction else var\n"
        "direction = mean_hat / (sqrt(var_hat) + epsilon) + wd * weight\n"
        "w_norm = clip(norm(weight), lower_bound, upper_bound)\n"
        "d_norm = norm(direction)\n"
        "trust = w_norm / d_norm if w_norm > 0 and d_norm > 0 else 1\n"
        "weight = weight - lr * trust * direction"
    )
    beta1 = Hyperparameter("[0, 1)")
    beta2 = Hyperparameter("[0, 1)")
    epsilon = Hyperparameter("[0, inf)")
    lower_bound = Hyperparameter("[0, inf)", off=float("-inf"))
    upper_bound = Hyperparameter("[0, inf]")
    bias_correction = Flag()
    requirements: ClassVar[Mapping[str, Callable[[Any], bool]]] = {
        "lower_bound <= upper_bound": lambda self: self.lower_bound <= self.upper_bound,
    }
    host: ClassVar[Mapping[str, Callable[[Any, Any], float]]] = {
        "one_minus_beta1": lambda self, p: 1 - self.beta1,
        "one_minus_beta1_pow_t": lambda self, p: 1 - self.beta1**p.t,
        "one_minus_beta2": lambda self, p: 1 - self.beta2,
        "one_minus_beta2_pow_t": lambda self, p: 1 - self.beta2**p.t,
    }

    def __init__(
        self,
        learning_rate: float | None = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-06,
        lower_bound: float | None = None,
        upper_bound: float | None = None,
        bias_correction: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.beta1 = beta1
        self.beta2 = beta2
        self.epsilon = epsilon
        self.lower_bound = lower_bound
        self.upper_bound = upper_bound
        self.bias_correction = bias_correction

    def _layout(self, flags: Mapping[str, bool], ndim: int) -> Layout:
        return {"mean": State("element", 0.0), "var": State("element", 0.0)}

    def _variant(self, flags: Mapping[str, bool], ndim: int) -> Variant:
        return (self.bias_correction,)

    def create_state(self, index: int, weight: Array) -> dict[str, Array]:
        """Return the states of one tensor before its first update, by name; {} if it keeps none.

        `weight` is a float16, bfloat16, float32 or float64 array; the states have its dtype.

        mean : shape of the weight, starts at 0
            Running mean of the gradients.
        var : shape of the weight, starts at 0
            Running mean of the squared gradients.
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
        lower_bound, upper_bound, bias_correction = self.lower_bound, self.upper_bound, self.bias_correction
        for p in self._tensors(indices, weights, grads, states):
            dtype, weight, grad, lr, wd, t = p.dtype, p.weight, p.grad, p.lr, p.wd, p.t
            if bias_correction:
                mean = p.state["mean"]
                var = p.state["var"]
                g = clip(rescale_grad * grad, clip_gradient)
                mean = beta1 * mean + (1 - beta1) * g
                var = beta2 * var + (1 - beta2) * square(g)
                mean_hat = mean / (1 - beta1**t)
                var_hat = var / (1 - beta2**t)
                direction = mean_hat / (sqrt(var_hat) + epsilon) + wd * weight
                w_norm = clip_between(norm(weight), lower_bound, upper_bound)
                d_norm = norm(direction)
                trust = w_norm / d_norm if w_norm > 0 and d_norm > 0 else np.float64(1)
                weight = weight - dtype(lr * trust) * direction
                p.store(weight=weight, mean=mean, var=var)
            else:
                mean = p.state["mean"]
                var = p.state["var"]
                g = clip(rescale_grad * grad, clip_gradient)
                mean = beta1 * mean + (1 - beta1) * g
                var = beta2 * var + (1 - beta2) * square(g)
                mean_hat = mean
                var_hat = var
                direction = mean_hat / (sqrt(var_hat) + epsilon) + wd * weight
                w_norm = clip_between(norm(weight), lower_bound, upper_bound)
                d_norm = norm(direction)
                trust = w_norm / d_norm if w_norm > 0 and d_norm > 0 else np.float64(1)
                weight = weight - dtype(lr * trust) * direction
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
            kernels = call.kernels("lamb")
            call.launch(kernels.REDUCE)  # norm_weight, d_norm
            call.launch(kernels.COMBINE)  # lr_times_trust
            call.launch(kernels.UPDATE)  # weight, mean, var
