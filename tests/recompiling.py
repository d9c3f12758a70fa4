"""One process that steps and changes what it steps with, for test_recompilation.py.

Called with the name of an optimizer, it prints as JSON what was compiled for each step, by what had changed.
"""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numba.core.event
import numpy as np
from training import Array, random_tensors

import stepspec
from stepspec.compilation import compiled_names
from stepspec.hyperparameters import Hyperparameter
from stepspec.lr_scheduler import FactorScheduler

# the first is large enough for several threads
SHAPES = ((300, 1000), (300,), (5, 4, 3))
OTHER_SHAPES = ((7, 300), (1,), (2, 3, 2, 2))


class Training:
    """An optimizer and its tensors, whose gradients are new arrays at each step."""

    def __init__(self, optimizer: stepspec.Optimizer, dtype: Any, shapes: Sequence[tuple[int, ...]]) -> None:
        self.optimizer, self.weights = optimizer, random_tensors(shapes, dtype)
        self.states = [optimizer.create_state(i, weight) for i, weight in enumerate(self.weights)]

    def step(self, lay_out: Callable[[Array], Array] = np.copy) -> None:
        grads = [lay_out(weight) for weight in self.weights]
        self.optimizer.update(list(range(len(grads))), self.weights, grads, self.states)


def compiled_by(step: Callable[[], None]) -> list[str]:
    """Return what is compiled for a step; fails if Numba compiled something that stepspec does not count."""
    before = len(compiled_names())
    with numba.core.event.install_recorder("numba:compile") as recorder:
        step()
    names = list(compiled_names()[before:])
    assert bool(names) == bool(recorder.buffer)
    return names


def spread(array: Array) -> Array:
    """Return a copy that is not contiguous."""
    return np.repeat(array, 2, axis=0)[::2]


def other_values(optimizer: stepspec.Optimizer) -> dict[str, float]:
    """Return other values of an optimizer's own hyperparameters, of those that are finite and not 0."""
    own = [name for name, kind in vars(type(optimizer)).items() if isinstance(kind, Hyperparameter)]
    found = {name: 0.75 * getattr(optimizer, name) for name in own}
    return {name: value for name, value in found.items() if value and np.isfinite(value)}


def changes(name: str) -> dict[str, list[str]]:
    """Step with all that can change; return what was compiled for each change."""
    kind: Any = getattr(stepspec, name)
    own: dict[str, Any] = {"momentum": 0.9} if hasattr(kind, "momentum") else {}
    training = Training(kind(learning_rate=0.1, **own), np.float32, SHAPES)
    optimizer, found = training.optimizer, {}
    stepspec.set_num_threads(2)
    found["first step"] = compiled_by(training.step)
    found["next step"] = compiled_by(training.step)
    optimizer.set_learning_rate(0.05)
    found["learning rate"] = compiled_by(training.step)
    for attribute, value in {"rescale_grad": 1 / 32, "clip_gradient": 0.5, **other_values(optimizer)}.items():
        setattr(optimizer, attribute, value)
        found[attribute] = compiled_by(training.step)
    if kind.uses_wd:
        optimizer.wd = 0.01
        found["wd"] = compiled_by(training.step)
    optimizer.set_lr_mult({0: 0.5})
    found["multiplier"] = compiled_by(training.step)
    found["gradients in other memory"] = compiled_by(lambda: training.step(spread))
    for threads in (1, 2, 3):
        stepspec.set_num_threads(threads)
        found[f"{threads} threads"] = compiled_by(training.step)
    scheduled = kind(learning_rate=None, lr_scheduler=FactorScheduler(1, 0.5, base_lr=0.1), **own)
    training = Training(scheduled, np.float32, OTHER_SHAPES)
    found["another optimizer and tensors"] = compiled_by(training.step)
    found["schedule"] = compiled_by(training.step)
    training = Training(kind(**own), np.float64, SHAPES)
    found["float64"] = compiled_by(training.step)
    found["float64 again"] = compiled_by(training.step)
    return found


if __name__ == "__main__":
    print(json.dumps(changes(sys.argv[1])))
