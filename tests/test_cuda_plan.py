"""Plans of arrays on a GPU: what they copy and launch, in which order, and what they recognise."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from device_training import placed, train_on_device
from emulated_driver import EmulatedDriver
from training import Array, assert_same_bits, random_tensors, train

import stepspec
from stepspec.cuda.driver import use

SHAPES = ((5,), (3, 4), (70, 61), (0, 2), ())


@pytest.fixture
def driver() -> Iterator[EmulatedDriver]:
    emulated = EmulatedDriver()
    with use(emulated):
        yield emulated


class Run:
    """The same steps by `step` on the host and by `fused_step` on a device, compared after each.

    Parameters
    ----------
    driver
        The emulated one.
    shapes
        Of the weights.
    layout
        Makes of an array what lies on the device.
    options
        Of both optimizers.

    """

    def __init__(self, driver: EmulatedDriver, shapes: Any = SHAPES, device: int = 0, **options: Any) -> None:
        self.driver, self.device = driver, device
        options = {"momentum": 0.9, "learning_rate": 0.1, **options}
        self.host, self.fused = stepspec.SGD(**options), stepspec.SGD(**options)
        self.weights = random_tensors(shapes, np.float32)
        self.states = [self.host.create_state(i, weight) for i, weight in enumerate(self.weights)]
        self.indices = list(range(len(shapes)))
        self.on_device = [self.put(weight) for weight in self.weights]
        self.device_states = [{name: self.put(array) for name, array in s.items()} for s in self.states]
        self.seed = 0

    def put(self, array: Any, **how: Any) -> Any:
        return placed(self.driver, array, self.device, **how)

    def gradients(self) -> list[Array]:
        self.seed += 1
        return random_tensors([weight.shape for weight in self.weights], np.float32, self.seed)

    def step(self, grads: Any = None, placed_grads: Any = None) -> None:
        """Step both, with random gradients unless there are others."""
        grads = self.gradients() if grads is None else grads
        placed_grads = [*map(self.put, grads)] if placed_grads is None else placed_grads
        self.host.step(self.indices, self.weights, grads, self.states)
        self.fused.fused_step(self.indices, self.on_device, placed_grads, self.device_states)

    def check(self) -> None:
        """Compare all arrays."""
        for host, device in zip(self.weights, self.on_device, strict=True):
            assert np.array_equal(host, device.numpy())
        for state, states in zip(self.states, self.device_states, strict=True):
            for name, array in state.items():
                assert np.array_equal(array, states[name].numpy())

    def plans(self) -> list[Any]:
        return list(self.fused._plans)


def test_only_what_changed_is_copied(driver: EmulatedDriver) -> None:
    run = Run(driver)
    grads = run.gradients()
    lying = [*map(run.put, grads)]
    copied = []
    for change in (None, None, "lr", "addresses", None):
        before = driver.copied
        if change == "lr":
            run.host.set_learning_rate(0.05)
            run.fused.set_learning_rate(0.05)
        if change == "addresses":
            keep, lying = lying, [*map(run.put, grads)]
        run.step(grads, lying)
        copied.append(driver.copied - before)
    run.check()
    row = 8 * len(SHAPES)
    assert copied[0] > 10 * row  # all tables
    assert copied[1:] == [0, row, row, 0]
    assert len(keep) == len(SHAPES)


def test_a_step_waits_for_nothing(driver: EmulatedDriver) -> None:
    run = Run(driver)
    grads = [run.gradients() for _ in range(6)]
    lying = [[*map(run.put, each)] for each in grads]
    before = driver.waits
    for number in range(6):
        # learning rates change the tables while earlier steps still have to read them
        run.host.set_learning_rate(0.1 / (number + 1))
        run.fused.set_learning_rate(0.1 / (number + 1))
        run.step(grads[number], lying[number])
    assert driver.waits == before
    run.check()
    assert len(driver.launches) == 6


def test_tensors_of_all_formats_share_a_launch_only_with_their_like(driver: EmulatedDriver) -> None:
    weights = [*random_tensors(SHAPES[:2], np.float32), *random_tensors(SHAPES[:2], np.float64)]
    grads = [[weight.copy() for weight in weights]]
    expected = train(stepspec.SGD(), weights, fused=False, grads=grads, steps=1)
    assert_same_bits(expected, train_on_device(driver, stepspec.SGD(), weights, grads=grads, steps=1))
    assert len(driver.launches) == 2


@pytest.mark.parametrize("aggregate_num", [1, 2, None])
def test_aggregation_changes_no_bit(driver: EmulatedDriver, aggregate_num: int | None) -> None:
    run = Run(driver, aggregate_num=aggregate_num)
    run.step()
    run.step()
    run.check()
    # the empty tensor has nothing to launch
    assert len(driver.launches) == 2 * {1: 4, 2: 3, None: 1}[aggregate_num]


def test_arrays_of_any_strides(driver: EmulatedDriver) -> None:
    shapes = ((40, 103), (7,), (2, 3, 4), (1, 5))
    run = Run(driver, shapes)
    run.on_device[0] = run.put(np.asfortranarray(run.weights[0]))
    run.on_device[1] = run.put(np.repeat(run.weights[1], 3)[::3])
    run.device_states[2]["mom"] = run.put(np.zeros((4, 3, 2), np.float32).T[:, ::-1])
    for _ in range(3):
        grads = run.gradients()
        gaps = np.repeat(grads[3], 2, axis=1)[:, ::2]
        lying = [run.put(np.asfortranarray(grads[0])), *map(run.put, grads[1:3]), run.put(gaps)]
        run.step(grads, lying)
    run.check()
    overview = run.fused.plan(run.indices, run.on_device, lying, run.device_states)
    assert overview.copied == ("tensor 0", "tensor 1", "tensor 2")
    assert overview.copied_gradients == ("tensor 0", "tensor 3")


def test_streams_wait_for_each_other(driver: EmulatedDriver) -> None:
    run = Run(driver)
    first, second = 11, 12
    for array in (*run.on_device, *(state["mom"] for state in run.device_states)):
        array.stream = first
    other = run.put(np.zeros((3, 4), np.float32))
    for _ in range(2):
        grads = run.gradients()
        late, lying = run.put(grads[1]), [run.put(grad, stream=first) for grad in grads]
        lying[1] = run.put(np.zeros((3, 4), np.float32), stream=second)
        # work that is under way on the gradient's stream comes before the step
        driver.copy(0, lying[1].address, late.address, grads[1].nbytes, second)
        run.step(grads, lying)
        # what that stream gets later comes after the step
        driver.copy(0, lying[1].address, other.address, grads[1].nbytes, second)
        driver.synchronize(0, second)
    run.check()


def test_a_plan_used_on_another_stream_waits_for_its_last_use(driver: EmulatedDriver) -> None:
    run = Run(driver)
    for stream in (5, 6, 5):
        for array in (*run.on_device, *(state["mom"] for state in run.device_states)):
            array.stream = stream
        run.host.set_learning_rate(0.1 * stream)
        run.fused.set_learning_rate(0.1 * stream)
        grads = run.gradients()
        run.step(grads, [run.put(grad, stream=stream) for grad in grads])
    driver.synchronize(0, 5)
    run.check()
    assert len(run.plans()) == 1
