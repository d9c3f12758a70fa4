"""Rules that torch.optim does not have, in torch's foreach functions: what a careful user would write."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from cases import Array, Case, Reason
from timing import Contender
from torch_peer import HAS_TORCH, array, tensor

if HAS_TORCH:
    import torch

Tensors = list[Any]


def contender(case: Case, device: str) -> Contender | Reason:
    """Return a rule of this module as a contender, or why there is none."""
    if not HAS_TORCH:
        return Reason("not installed")
    if case.optimizer not in RULES:
        return Reason("no such rule")
    if case.model.is_sparse or case.model.dtype != "float32":
        return Reason("dense float32 only")
    return Foreach(case, RULES[case.optimizer], device)


class Foreach:
    """One of the rules on its own copy of a model."""

    label = "torch foreach"

    def __init__(self, case: Case, rule: Callable[..., None], device: str) -> None:
        self.rule, self.settings = rule, case.settings
        self.stored = [tensor(weight.copy()).to(device) for weight in case.model.weights]
        self.turns = itertools.cycle([[tensor(g).to(device) for g in grads] for grads in case.model.grads])
        # as the names say that stepspec goes by
        self.exempt = [name.endswith(("gamma", "beta", "bias")) for name in case.model.shapes]
        self.states: dict[str, Tensors] = {}
        self.grads: Tensors = []
        self.count = 0

    def prepare(self) -> None:
        self.grads = [grad.detach() for grad in next(self.turns)]

    def step(self) -> None:
        self.count += 1
        with torch.no_grad():
            self.rule(self, self.stored, self.grads, self.settings)

    def state(self, name: str) -> Tensors:
        if name not in self.states:
            self.states[name] = [torch.zeros_like(weight) for weight in self.stored]
        return self.states[name]

    def weights(self) -> list[Array]:
        return [array(weight) for weight in self.stored]

    def close(self) -> None:
        """Nothing outlives this object."""


def ftml(own: Foreach, weights: Tensors, grads: Tensors, settings: Mapping[str, Any]) -> None:
    beta1, beta2, epsilon = settings["beta1"], settings["beta2"], settings["epsilon"]
    d, v, z = own.state("d"), own.state("v"), own.state("z")
    torch._foreach_mul_(v, beta2)
    torch._foreach_addcmul_(v, grads, grads, 1 - beta2)
    new = torch._foreach_div(v, 1 - beta2**own.count)
    torch._foreach_sqrt_(new)
    torch._foreach_add_(new, epsilon)
    torch._foreach_mul_(new, (1 - beta1**own.count) / settings["learning_rate"])
    torch._foreach_mul_(d, -beta1)
    torch._foreach_add_(d, new)
    torch._foreach_mul_(z, beta1)
    torch._foreach_add_(z, grads, alpha=1 - beta1)
    torch._foreach_addcmul_(z, d, weights, -1)
    torch._foreach_copy_(d, new)
    torch._foreach_copy_(weights, z)
    torch._foreach_div_(weights, new)
    torch._foreach_neg_(weights)


def lars(own: Foreach, weights: Tensors, grads: Tensors, settings: Mapping[str, Any]) -> None:
    momenta, rate = own.state("mom"), settings["learning_rate"]
    norms = torch.stack([*torch._foreach_norm(weights)]), torch.stack([*torch._foreach_norm(grads)])
    trust = settings["eta"] * norms[0] / (norms[1] + settings["epsilon"])
    plain = torch.tensor(own.exempt, device=trust.device) | (norms[0] == 0) | (norms[1] == 0)
    rates = [*(torch.where(plain, 1.0, trust) * rate).unbind()]
    torch._foreach_mul_(momenta, settings["momentum"])
    torch._foreach_add_(momenta, torch._foreach_mul(grads, rates))
    torch._foreach_sub_(weights, momenta)


def group_adagrad(own: Foreach, weights: Tensors, grads: Tensors, settings: Mapping[str, Any]) -> None:
    if "history" not in own.states:
        own.states["history"] = [weight.new_zeros(len(weight), 1) for weight in weights]
    history = own.states["history"]
    # no foreach function reduces rows
    means = [square.flatten(1).mean(1, keepdim=True) for square in rows([*torch._foreach_mul(grads, grads)])]
    torch._foreach_add_(history, means)
    scales = torch._foreach_sqrt(history)
    torch._foreach_add_(scales, settings["epsilon"])
    steps = torch._foreach_div([grad.flatten(1) for grad in rows(grads)], scales)
    flat = [weight.flatten(1) for weight in rows(weights)]
    torch._foreach_add_(flat, steps, alpha=-settings["learning_rate"])


def rows(tensors: Tensors) -> Tensors:
    """Return views that have a second axis to reduce."""
    return [tensor[:, None] if tensor.ndim == 1 else tensor for tensor in tensors]


RULES: dict[str, Callable[..., None]] = {"FTML": ftml, "LARS": lars, "GroupAdaGrad": group_adagrad}
