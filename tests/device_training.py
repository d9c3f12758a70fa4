"""Short training runs on an emulated device, to be compared with the runs of training.py."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from emulated_driver import DeviceArray, EmulatedDriver
from training import Array, States, random_tensors

import stepspec
from stepspec.places import to_host

Gradient = Array | stepspec.RowSparse


def placed(driver: EmulatedDriver, array: Any, device: int = 0, stream: int | None = None) -> Any:
    """Return a copy of an array, or of the values of a row-sparse one, on a device."""
    if isinstance(array, stepspec.RowSparse):
        values: Any = DeviceArray(driver, array.values, device, stream=stream)
        return stepspec.RowSparse(values, array.rows, array.shape)
    return DeviceArray(driver, array, device, stream=stream)


def train_on_device(
    driver: EmulatedDriver,
    optimizer: stepspec.Optimizer,
    weights: Sequence[Array],
    steps: int = 3,
    grads: Sequence[Sequence[Gradient]] | None = None,
    device: int = 0,
) -> tuple[list[Array], States]:
    """Do what `training.train` does with copies of `weights` on a device."""
    indices, placed_weights = (
        list(range(len(weights))),
        [placed(driver, weight, device) for weight in weights],
    )
    made = [optimizer.create_state_multi_precision(i, weight) for i, weight in enumerate(weights)]
    states = [{name: placed(driver, array, device) for name, array in state.items()} for state in made]
    for number in range(steps):
        shapes = [w.shape for w in weights]
        given = grads[number] if grads else random_tensors(shapes, weights[0].dtype, seed=number + 1)
        optimizer.fused_step(indices, placed_weights, [placed(driver, g, device) for g in given], states)
    found = [{name: np.array(to_host(array)) for name, array in state.items()} for state in states]
    return [np.array(to_host(weight)) for weight in placed_weights], found
