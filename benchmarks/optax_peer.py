"""optax's optimizers as contenders: `jax.jit`ted, with parameters and states donated."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

import stepspec
from cases import Array, Case, Reason
from timing import Contender

# XLA reads the size of its thread pool from here, once, when its CPU client starts
os.environ.setdefault("NPROC", str(stepspec.get_num_threads()))
try:
    import jax
    import jax.numpy as jnp
    import optax
except ImportError:
    HAS_OPTAX = False  # the report then says so
else:
    HAS_OPTAX = True


def lars(case: Case) -> Any:
    """Return optax's LARS with stepspec's default for which tensors are scaled."""
    exempt = ("gamma", "beta", "bias")
    return optax.lars(
        case.settings["learning_rate"],
        weight_decay=0.0,
        trust_coefficient=case.settings["eta"],
        eps=case.settings["epsilon"],
        trust_ratio_mask=[not name.endswith(exempt) for name in case.model.shapes],
        momentum=case.settings["momentum"],
    )


def adam(case: Case) -> Any:
    rate, *others = (case.settings[name] for name in ("learning_rate", "beta1", "beta2", "epsilon"))
    return optax.adam(rate, *others)


def adamw(case: Case) -> Any:
    rate, *others = (case.settings[name] for name in ("learning_rate", "beta1", "beta2", "epsilon"))
    return optax.adamw(rate, *others, weight_decay=case.settings["wd"])


def adagrad(case: Case) -> Any:
    # its epsilon is under the root
    return optax.adagrad(case.settings["learning_rate"], 0.0, case.settings["epsilon"] ** 2)


OPTIMIZERS: dict[str, Callable[[Case], Any]] = {
    "SGD": lambda case: optax.sgd(case.settings["learning_rate"], case.settings.get("momentum")),
    "NAG": lambda case: optax.sgd(case.settings["learning_rate"], case.settings["momentum"], nesterov=True),
    "LARS": lars,
    "Adam": adam,
    "AdamW": adamw,
    "AdaGrad": adagrad,
}


def contender(case: Case) -> Contender | Reason:
    """Return optax's optimizer, or why it has no such thing."""
    if not HAS_OPTAX:
        return Reason("not installed")
    if case.optimizer not in OPTIMIZERS:
        return Reason("no such optimizer")
    if case.settings.get("rounding"):
        return Reason("no stochastic rounding")
    if case.model.is_sparse:
        return Reason("no row-sparse gradients")
    if os.environ["NPROC"] != str(case.threads):
        return Reason(f"NPROC={os.environ['NPROC']} in the environment: as many threads, not {case.threads}")
    return Optax(case)


class Optax:
    """An optimizer of optax on its own copy of a model; with masters it also returns the rounded weights."""

    def __init__(self, case: Case) -> None:
        self.label = "optax"
        optimizer = OPTIMIZERS[case.optimizer](case)
        stored = [jnp.array(weight) for weight in case.model.weights]
        self.has_masters = case.has_masters
        self.masters = [weight.astype(jnp.float32) for weight in stored] if case.has_masters else stored
        self.stored = stored if case.has_masters else []
        self.states = optimizer.init(self.masters)
        if begin := case.settings.get("begin_num_update"):
            self.states = optax.tree_utils.tree_set(self.states, count=jnp.asarray(begin, jnp.int32))
        self.turns = itertools.cycle([[jnp.array(grad) for grad in grads] for grads in case.model.grads])
        self.grads: list[Any] = []

        def step(masters: Any, stored: Any, states: Any, grads: Any) -> Any:
            grads = [grad.astype(master.dtype) for grad, master in zip(grads, masters, strict=True)]
            updates, states = optimizer.update(grads, states, masters)
            masters = optax.apply_updates(masters, updates)
            pairs = zip(masters, stored, strict=False)
            return masters, [master.astype(weight.dtype) for master, weight in pairs], states

        # kept although only their dtypes are read: the new weights are written over the old ones
        self.run = jax.jit(step, donate_argnums=(0, 1, 2), keep_unused=True)

    def prepare(self) -> None:
        self.grads = next(self.turns)

    def step(self) -> None:
        done = self.run(self.masters, self.stored, self.states, self.grads)
        wait: Any = jax.block_until_ready
        self.masters, self.stored, self.states = wait(done)

    def weights(self) -> list[Array]:
        # of copies: what NumPy has seen can no longer be donated
        return [np.asarray(jnp.copy(weight)) for weight in self.masters]

    def close(self) -> None:
        """Nothing outlives this object."""
