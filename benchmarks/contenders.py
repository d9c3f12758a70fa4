"""The optimizers that are timed: stepspec's two paths and torch's SGD."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

import stepspec
from shapes import Shapes
from stepspec.overview import Overview

try:
    import torch
except ImportError:
    HAS_TORCH = False  # the report then says that the peer's column is missing
else:
    HAS_TORCH = True

Array: TypeAlias = npt.NDArray[Any]
Gradient: TypeAlias = Array | stepspec.RowSparse

MOMENTUM = 0.9
RATE = 0.01


@dataclass(frozen=True)
class Model:
    """Weights to start from, by name their shapes, and the gradients of the steps that then repeat."""

    shapes: Shapes
    weights: list[Array]
    grads: list[list[Gradient]]

    @classmethod
    def random(cls, shapes: Shapes, dtype: npt.DTypeLike = np.float32, slope: float = 0.01) -> Model:
        """Draw weights and two sets of gradients; `slope` is the scale of the latter."""
        source = np.random.default_rng(0)

        def some(scale: float) -> list[Array]:
            return [draw(source, shape, scale).astype(dtype, copy=False) for shape in shapes.values()]

        return cls(shapes, some(0.1), [[*some(slope)] for _ in range(2)])

    @property
    def size(self) -> int:
        return sum(weight.size for weight in self.weights)


def draw(random: np.random.Generator, shape: tuple[int, ...], scale: float) -> npt.NDArray[np.float32]:
    values = random.standard_normal(shape, np.float32)
    values *= np.float32(scale)
    return values


class Stepspec:
    """One optimizer of stepspec on its own copy of a model, through `step` or `fused_step`."""

    def __init__(self, name: str, path: str, model: Model, label: str = "", **settings: Any) -> None:
        self.label = label or f"{name} {path}"
        names = dict(enumerate(model.shapes))
        self.optimizer = stepspec.create(name, param_idx2name=names, **settings)
        self.weights = [weight.copy() for weight in model.weights]
        create = self.optimizer.create_state_multi_precision
        self.states = [create(i, weight) for i, weight in enumerate(self.weights)]
        self.indices = list(names)
        self.update: Callable[..., None] = getattr(self.optimizer, path)
        self.turns = itertools.cycle(model.grads)
        self.grads: list[Gradient] = []

    def prepare(self) -> None:
        # Autograd hands over new arrays at every step: new objects, at other addresses than before.
        self.grads = [renewed(grad) for grad in next(self.turns)]

    def step(self) -> None:
        self.update(self.indices, self.weights, self.grads, self.states)

    def plan(self) -> Overview:
        """Return what a fused step with the latest gradients does."""
        return self.optimizer.plan(self.indices, self.weights, self.grads, self.states)


def renewed(grad: Gradient) -> Gradient:
    """Return another object that stands for the same gradient."""
    if isinstance(grad, stepspec.RowSparse):
        return stepspec.RowSparse(grad.values.view(), grad.rows, grad.shape)
    return grad.view()


class TorchSGD:
    """`torch.optim.SGD` on its own copy of a model, `fused` where torch can."""

    def __init__(self, model: Model, threads: int, label: str = "torch", momentum: float = MOMENTUM) -> None:
        self.label = label
        torch.set_num_threads(threads)
        self.weights = [weight.copy() for weight in model.weights]
        self.parameters = [torch.nn.Parameter(tensor(weight)) for weight in self.weights]
        sparse = any(isinstance(grad, stepspec.RowSparse) for grads in model.grads for grad in grads)
        self.fused = not sparse and all(fused_works(parameter.dtype) for parameter in self.parameters)
        self.optimizer = torch.optim.SGD(self.parameters, lr=RATE, momentum=momentum, fused=self.fused)
        self.turns = itertools.cycle([[tensor(grad) for grad in grads] for grads in model.grads])

    def prepare(self) -> None:
        for parameter, grad in zip(self.parameters, next(self.turns), strict=True):
            parameter.grad = grad

    def step(self) -> None:
        self.optimizer.step()


@functools.cache
def fused_works(dtype: Any) -> bool:
    """Try torch's fused SGD: up to 2.13 it leaves most weights in half precision as they are.

    See https://github.com/pytorch/pytorch/issues/191763.
    """
    weight = torch.nn.Parameter(torch.ones(1024, dtype=dtype))
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.5, fused=True)
    weight.grad = torch.ones_like(weight)
    for _ in range(2):
        optimizer.step()
    return bool((weight == -1.5).all())


def tensor(array: Gradient) -> Any:
    """Return a tensor over the memory of an array or of a row-sparse gradient's values."""
    if isinstance(array, stepspec.RowSparse):
        rows = torch.from_numpy(array.rows.copy())[None]
        return torch.sparse_coo_tensor(
            rows, tensor(array.values), array.shape, is_coalesced=True, check_invariants=False
        )
    if array.dtype.name == "bfloat16":  # a dtype that torch does not take from NumPy
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)
