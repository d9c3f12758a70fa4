"""torch's optimizers as contenders: fused, foreach, and foreach under `torch.compile`."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from cases import DTYPES, Array, Case, Gradient, Reason
from stepspec import RowSparse
from timing import Contender, PeerError

try:
    import torch
except ImportError:
    HAS_TORCH = False  # the report then says so
else:
    HAS_TORCH = True

WAYS = ("fused", "foreach", "compiled")
# More tensors take torch.compile minutes, but for these in float32.
MANY = 500
QUICKLY_COMPILED = ("SGD", "NAG")


Settings: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Algorithm:
    """A class of torch.optim, and what it is given to be stepspec's rule."""

    name: str
    arguments: Callable[[Settings], dict[str, Any]]


def sgd(settings: Settings) -> dict[str, Any]:
    return {"lr": settings["learning_rate"], "momentum": settings.get("momentum", 0.0)}


def nag(settings: Settings) -> dict[str, Any]:
    # a constant rate makes torch's momentum, scaled by the rate when it is used, the same as stepspec's
    return {**sgd(settings), "nesterov": True}


def adam(settings: Settings) -> dict[str, Any]:
    return {
        "lr": settings["learning_rate"],
        "betas": (settings["beta1"], settings["beta2"]),
        "eps": settings["epsilon"],
        "weight_decay": settings.get("wd", 0.0),
    }


def adagrad(settings: Settings) -> dict[str, Any]:
    return {"lr": settings["learning_rate"], "eps": settings["epsilon"]}


ALGORITHMS = {
    "SGD": Algorithm("SGD", sgd),
    "NAG": Algorithm("SGD", nag),
    "Adam": Algorithm("Adam", adam),
    "AdamW": Algorithm("AdamW", adam),
    "AdaGrad": Algorithm("Adagrad", adagrad),
}


def contender(case: Case, way: str, device: str = "cpu") -> Contender | Reason:
    """Return torch's optimizer in one of its WAYS on a device, or why it has no such thing."""
    if not HAS_TORCH:
        return Reason("not installed")
    if case.optimizer not in ALGORITHMS:
        return Reason("no such optimizer")
    algorithm = ALGORITHMS[case.optimizer]
    if case.settings.get("rounding"):
        return Reason("no stochastic rounding")
    if case.model.is_sparse and way != "foreach":
        return Reason("no row-sparse gradients")
    if case.model.is_sparse and (case.optimizer != "SGD" or case.settings.get("momentum")):
        return Reason("row-sparse gradients of SGD without momentum only")
    if case.model.is_sparse and case.has_masters:
        return Reason("row-sparse gradients without masters only")
    is_quick = case.model.dtype == "float32" and case.optimizer in QUICKLY_COMPILED
    if way == "compiled" and len(case.model.shapes) > MANY and not is_quick:
        return Reason("many tensors are compiled for SGD and NAG in float32 only: minutes each time")
    return Torch(case, algorithm, way, device)


class Torch:
    """An optimizer of torch on its own copy of a model.

    With masters it does what training loops do: gradients are copied to float32, the optimizer steps the
    masters, and these are copied to the half precision weights. Each of the copies is one foreach call.
    """

    def __init__(self, case: Case, algorithm: Algorithm, way: str, device: str = "cpu") -> None:
        self.label = f"torch {way}"
        self.is_compiled = way == "compiled"
        torch.set_num_threads(case.threads)
        self.stored = [tensor(weight.copy()).to(device) for weight in case.model.weights]
        self.is_wide = case.has_masters
        self.parameters = [torch.nn.Parameter(t.float() if self.is_wide else t) for t in self.stored]
        arguments = algorithm.arguments(case.settings)
        chosen: dict[str, Any] = {"fused": True} if way == "fused" else {"foreach": True}
        make = getattr(torch.optim, algorithm.name)
        self.optimizer = make(self.parameters, **arguments, **chosen)
        self.turns = itertools.cycle([[tensor(g).to(device) for g in grads] for grads in case.model.grads])
        self.grads: list[Any] = []
        # torch adds Nesterov's momentum to the gradients in place: it gets copies of what others share
        spoils = arguments.get("nesterov") and way != "fused" and not self.is_wide
        self.copies = [torch.empty_like(parameter) for parameter in self.parameters] if spoils else []
        self.wide = [torch.zeros_like(parameter) for parameter in self.parameters] if self.is_wide else []
        for parameter, grad in zip(self.parameters, self.wide, strict=False):
            parameter.grad = grad
        self.run: Callable[[list[Any]], None] = self.update
        begin = case.settings.get("begin_num_update", 0)
        if begin or self.is_compiled:  # a first step, which creates states, would be compiled on its own
            self.create_states(begin)
        if self.is_compiled:
            # it warns that it leaves out a profiler's marks
            logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
            self.run = torch.compile(self.update)

    def create_states(self, begin: int) -> None:
        """Take a step that moves nothing, then clear the states: so many updates count as done."""
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        (group,) = self.optimizer.param_groups
        rate, group["lr"] = group["lr"], 0.0
        self.optimizer.step()
        group["lr"] = rate
        for state in self.optimizer.state.values():
            for name, value in state.items():
                if torch.is_tensor(value):
                    value.fill_(begin if name == "step" else 0)
        for parameter, grad in itertools.zip_longest(self.parameters, self.wide):
            parameter.grad = grad

    def prepare(self) -> None:
        self.grads = [grad.detach() for grad in next(self.turns)]
        if self.copies:
            torch._foreach_copy_(self.copies, self.grads)
            self.grads = [copy.detach() for copy in self.copies]
        if not self.is_wide:
            for parameter, grad in zip(self.parameters, self.grads, strict=True):
                parameter.grad = grad

    def step(self) -> None:
        try:
            self.run(self.grads)
        except RuntimeError as error:
            if not self.is_compiled:
                raise
            raise PeerError(f"torch.compile: {str(error).splitlines()[0]}") from error

    def update(self, grads: list[Any]) -> None:
        if self.is_wide:
            torch._foreach_copy_(self.wide, grads)
        self.optimizer.step()
        if self.is_wide:
            with torch.no_grad():
                torch._foreach_copy_(self.stored, [*self.parameters])

    def weights(self) -> list[Array]:
        return [array(parameter.detach()) for parameter in self.parameters]

    def close(self) -> None:
        if self.is_compiled:
            torch._dynamo.reset()  # what was compiled stays alive otherwise, and its tensors with it


def tensor(values: Gradient) -> Any:
    """Return a tensor over the memory of an array or of a row-sparse gradient's values."""
    if isinstance(values, RowSparse):
        rows = torch.from_numpy(values.rows.copy())[None]
        return torch.sparse_coo_tensor(
            rows, tensor(values.values), values.shape, is_coalesced=True, check_invariants=False
        )
    if values.dtype.name == "bfloat16":  # a dtype that torch does not take from NumPy
        return torch.from_numpy(values.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(values)


def array(values: Any) -> Array:
    """Return an array over the memory of a dense tensor, or over a copy if it is on a GPU."""
    values = values.cpu()
    if values.dtype is torch.bfloat16:
        return np.asarray(values.view(torch.uint16).numpy().view(DTYPES["bfloat16"]))
    return np.asarray(values.numpy())
