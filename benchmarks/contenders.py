"""The optimizers that are timed: stepspec's two paths and torch's fused SGD."""

import itertools
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

import stepspec
from shapes import Shapes

try:
    import torch
except ImportError:
    HAS_TORCH = False  # the report then says that the peer's column is missing
else:
    HAS_TORCH = True

Floats: TypeAlias = npt.NDArray[np.float32]

MOMENTUM = 0.9
RATE = 0.01


class Model:
    """Weights to start from and two sets of gradients, float32, of the given shapes."""

    def __init__(self, shapes: Shapes) -> None:
        random = np.random.default_rng(0)
        self.shapes = shapes
        self.weights = [draw(random, shape, 0.1) for shape in shapes.values()]
        self.grads = [[draw(random, shape, 0.01) for shape in shapes.values()] for _ in range(2)]
        self.size = sum(weight.size for weight in self.weights)


def draw(random: np.random.Generator, shape: tuple[int, ...], scale: float) -> Floats:
    values = random.standard_normal(shape, np.float32)
    values *= np.float32(scale)
    return values


class Stepspec:
    """One optimizer of stepspec on its own copy of a model, through `step` or `fused_step`."""

    def __init__(self, name: str, path: str, model: Model, **settings: float) -> None:
        self.label = f"{name} {path}"
        names = dict(enumerate(model.shapes))
        optimizer = stepspec.create(name, param_idx2name=names, **settings)
        self.weights = [weight.copy() for weight in model.weights]
        self.states = [optimizer.create_state(i, weight) for i, weight in enumerate(self.weights)]
        self.indices = list(names)
        self.update: Callable[..., None] = getattr(optimizer, path)
        self.turns = itertools.cycle(model.grads)
        self.grads: list[Floats] = []

    def prepare(self) -> None:
        # Autograd hands over new arrays at every step: new objects, at other addresses than before.
        self.grads = [grad.view() for grad in next(self.turns)]

    def step(self) -> None:
        self.update(self.indices, self.weights, self.grads, self.states)


class TorchSGD:
    """`torch.optim.SGD(fused=True)` with momentum, on its own copy of a model."""

    def __init__(self, model: Model, threads: int) -> None:
        self.label = "torch fused"
        torch.set_num_threads(threads)
        self.weights = [weight.copy() for weight in model.weights]
        self.parameters = [torch.nn.Parameter(torch.from_numpy(weight)) for weight in self.weights]
        self.optimizer = torch.optim.SGD(self.parameters, lr=RATE, momentum=MOMENTUM, fused=True)
        self.turns = itertools.cycle([[torch.from_numpy(grad) for grad in grads] for grads in model.grads])

    def prepare(self) -> None:
        for parameter, grad in zip(self.parameters, next(self.turns), strict=True):
            parameter.grad = grad

    def step(self) -> None:
        self.optimizer.step()
