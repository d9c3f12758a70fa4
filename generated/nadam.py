# Generated from specs/nadam.yaml by stepspec. Do not edit: run "make generate".
"""Nadam: Adam with Nesterov's momentum."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from stepspec.hyperparameters import Hyperparameter
from stepspec.optimizer import Optimizer
from stepspec.reference import clip, sqrt, square
from stepspec.sparse import RowSparse
from stepspec.states import Array, Layout, State


class Nadam(Optimizer):
    """Adam with Nesterov's momentum.

    Updates each weight by::

        g = clip(rescale_grad * grad, clip_gradient) + wd * weight
        mean = beta1 * mean + (1 - beta1) * g
        var = beta2 * var + (1 - beta2) * square(g)
        momentum = beta1 * (1 - 0.5 * 0.96 ** (t * schedule_decay))
        next_momentum = beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * schedule_decay))
        m_schedule *= momentum
        g_share = (1 - momentum) / (1 - m_schedule)
        mean_share = next_momentum / (1 - m_schedule * next_momentum)
        weight -= lr * (mean_share * mean + g_share * g) / (sqrt(var / (1 - beta2 ** t)) + epsilon)

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
        Decay of the mean gradient at the end of the schedule.
    beta2 : float in [0, 1), default 0.999
        Decay of the mean squared gradient.
    epsilon : float in [0, inf), default 1e-08
        Keeps the division away from 0.
    schedule_decay : float in [0, inf), default 0.004
        How fast the momentum rises to beta1.
    **kwargs
        Arguments of every optimizer: see `stepspec.Optimizer`.

    State
    -----
    mean : shape of the weight, starts at 0
        Running mean of the gradients.
    var : shape of the weight, starts at 0
        Running mean of the squared gradients.
    m_schedule : one float64, shape (1,), starts at 1
        Product of the momenta of all steps.

    References
    ----------
    https://cs229.stanford.edu/proj2015/054_report.pdf
    """

    rule = (
        "g = clip(rescale_grad * grad, clip_gradient) + wd * weight\n"
        "mean = beta1 * mean + (1 - beta1) * g\n"
        "var = beta2 * var + (1 - beta2) * square(g)\n"
        "momentum = beta1 * (1 - 0.5 * 0.96 ** (t * schedule_decay))\n"
        "next_momentum = beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * schedule_decay))\n"
        "m_schedule = m_schedule * momentum\n"
        "g_share = (1 - momentum) / (1 - m_schedule)\n"
        "mean_share = next_momentum / (1 - m_schedule * next_momentum)\n"
        "weight = weight - lr * (mean_share * mean + g_share * g) / (sqrt(var / (1 - beta2 ** t)) + epsilon)"
    )
    beta1 = Hyperparameter("[0, 1)")
    beta2 = Hyperparameter("[0, 1)")
    epsilon = Hyperparameter("[0, inf)")
    schedule_decay = Hyperparameter("[0, inf)")
    host: ClassVar[Mapping[str, Callable[[Any, Any], float]]] = {
        "momentum": lambda self, p: self.beta1 * (1 - 0.5 * 0.96 ** (p.t * self.schedule_decay)),
        "next_momentum": lambda self, p: self.beta1 * (1 - 0.5 * 0.96 ** ((p.t + 1) * self.schedule_decay)),
        "one_minus_beta1": lambda self, p: 1 - self.beta1,
        "one_minus_beta2": lambda self, p: 1 - self.beta2,
        "one_minus_beta2_pow_t": lambda self, p: 1 - self.beta2**p.t,
        "one_minus_momentum": lambda self, p: (
            1 - self.beta1 * (1 - 0.5 * 0.96 ** (p.t * self.schedule_decay))
        ),
    }

    def __init__(
        self,
        learning_rate: float | None = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-08,
        schedule_decay: float = 0.004,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.beta1 = beta1
        self.beta2 = beta2
        self.epsilon = epsilon
        self.schedule_decay = schedule_decay

    def _layout(self, flags: Mapping[str, bool], ndim: int) -> Layout:
        return {
            "mean": State("element", 0.0),
            "var": State("element", 0.0),
            "m_schedule": State("tensor", 1.0),
        }

    def create_state(self, index: int, weight: Array) -> dict[str, Array]:
        """Return the states of one tensor before its first update, by name; {} if it keeps none.

        `weight` is a float16, bfloat16, float32 or float64 array; the states have its dtype.

        mean : shape of the weight, starts at 0
            Running mean of the gradients.
        var : shape of the weight, starts at 0
            Running mean of the squared gradients.
        m_schedule : one float64, shape (1,), starts at 1
            Product of the momenta of all steps.
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
        beta1, beta2, epsilon, schedule_decay = self.beta1, self.beta2, self.epsilon, self.schedule_decay
        for p in self._tensors(indices, weights, grads, states):
            dtype, weight, grad, lr, wd, t = p.dtype, p.weight, p.grad, p.lr, p.wd, p.t
            mean = p.state["mean"]
            var = p.state["var"]
            m_schedule = p.state["m_schedule"]
            g = clip(rescale_grad * grad, clip_gradient) + wd * weight
            mean = beta1 * mean + (1 - beta1) * g
            var = beta2 * var + (1 - beta2) * square(g)
            momentum = beta1 * (1 - 0.5 * 0.96 ** (t * schedule_decay))
            next_momentum = beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * schedule_decay))
            m_schedule = m_schedule * momentum
            g_share = (1 - momentum) / (1 - m_schedule)
            mean_share = next_momentum / (1 - m_schedule * next_momentum)
            weight = (
                weight
                - lr
                * (dtype(mean_share) * mean + dtype(g_share) * g)
                / (sqrt(var / (1 - beta2**t)) + epsilon)
            )
            p.store(weight=weight, mean=mean, var=var, m_schedule=m_schedule)

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
            kernels = call.kernels("nadam")
            call.launch(kernels.COMBINE)  # new_m_schedule, g_share, mean_share
            call.launch(kernels.UPDATE)  # weight, mean, var
            call.store(m_schedule="new_m_schedule")
