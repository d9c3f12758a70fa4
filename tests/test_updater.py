"""The Updater: an optimizer that keeps the states of its tensors."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from training import bits, random_tensors

import stepspec
from stepspec.updater import Updater

SHAPES = [(4, 3), (4,), (300, 70), (2, 1, 3)]
PATHS = pytest.mark.parametrize("fused", [False, True], ids=["step", "fused"])


@PATHS
def test_an_updater_keeps_states(optimizer_class: type[stepspec.Optimizer], fused: bool) -> None:
    weights, grads = random_tensors(SHAPES, np.float32), random_tensors(SHAPES, np.float32, seed=1)
    alone, together = [w.copy() for w in weights], [w.copy() for w in weights]
    optimizer = optimizer_class(use_fused_step=fused)
    states = [optimizer.create_state(i, w) for i, w in enumerate(weights)]
    one, all_ = Updater(optimizer_class(use_fused_step=fused)), Updater(optimizer_class(use_fused_step=fused))
    for _ in range(3):
        optimizer.update(range(4), weights, grads, states)
        all_(range(4), grads, together)
        for i, grad in enumerate(grads):
            one(i, grad, alone[i])
    assert [*map(bits, weights)] == [*map(bits, together)] == [*map(bits, alone)]
    assert list(all_.states) == list(one.states) == [0, 1, 2, 3]
    for i, state in enumerate(states):
        assert state.keys() == all_.states[i].keys()
        assert all(bits(state[name]) == bits(all_.states[i][name]) for name in state)


def test_an_updater_makes_masters() -> None:
    updater = Updater(stepspec.SGD(multi_precision=True))
    weight = np.ones(3, ml_dtypes.bfloat16)
    updater(7, np.ones(3, np.float32), weight)
    master = updater.states[7]["master"]
    assert master.tolist() == [np.float32(1) - np.float32(0.1)] * 3
    assert bits(master.astype(weight.dtype).astype(np.float32)) == bits(weight.astype(np.float32))


def test_an_updater_forgets_the_states_of_a_refused_call() -> None:
    updater = Updater(stepspec.SGD(momentum=0.9))
    updater(0, np.ones(3), np.ones(3))
    calls: list[tuple[Any, Any, Any, str]] = [
        ([0, 1], [np.ones(3), np.ones(4)], [np.ones(3), np.ones(5)], "tensor 1 has shape"),
        (1, np.ones(4), np.ones(5), "the gradient of tensor 1 has shape"),
        (1, None, np.ones(5), "the gradient of tensor 1 is None"),
        (1, np.ones(5), [1.0], "the weight of tensor 1 must be a numpy.ndarray"),
        (
            [1, 2],
            [np.ones(3)],
            [np.ones(3), np.ones(3)],
            "one length: there are 2 indices, 1 gradients, 2 weights",
        ),
        ([1], np.ones(4), np.ones(4), "grad must be a list, as index is one, not ndarray"),
        ("1", np.ones(4), np.ones(4), "an index must be an int, not '1'"),
        (np.ones(1), np.ones(4), np.ones(4), "an index must be an int"),
        (1.0, np.ones(4), np.ones(4), "an index must be an int, not 1.0"),
        (True, np.ones(3), np.ones(3), "an index must be an int, not True"),
        (-1, np.ones(3), np.ones(3), "an index must not be negative"),
    ]
    for index, grad, weight, message in calls:
        with pytest.raises((TypeError, ValueError), match=message):
            updater(index, grad, weight)
        assert list(updater.states) == [0]
    with pytest.raises(TypeError, match="weight must be a list, as index is one, not int"):
        updater([0], [np.ones(3)], 3)  # type: ignore[arg-type]
    updater(np.int64(1), np.ones(4), np.ones(4))  # type: ignore[arg-type]
    assert updater.states[1]["mom"].shape == (4,)
    assert list(map(type, updater.states)) == [int, int]


def test_a_refused_first_call_leaves_no_trace() -> None:
    optimizer = stepspec.SGD(momentum=0.9)
    updater = Updater(optimizer)
    half = np.ones(3, np.float16)
    with pytest.warns(UserWarning, match="no master"), pytest.raises(ValueError, match="has shape"):
        updater(0, np.ones(4, np.float16), half)
    optimizer.momentum = 0
    with pytest.warns(UserWarning, match="no master"):
        updater(0, half, half.copy())
    assert updater.states == {0: {}}
    with pytest.raises(ValueError, match="has shape"):
        updater([0, 1], [half, np.ones(4)], [half.copy(), np.ones(3)])
    # the states of tensor 0 are still there
    with pytest.raises(ValueError, match="'mom' would appear"):
        optimizer.momentum = 0.9


def test_an_updater_goes_on_from_its_states() -> None:
    weights, grads = random_tensors(SHAPES, np.float32), random_tensors(SHAPES, np.float32, seed=1)
    straight = [w.copy() for w in weights]
    updater = Updater(stepspec.NAG(learning_rate=0.3, momentum=0.9))
    for _ in range(4):
        updater(range(4), grads, straight)
    first, second = Updater(stepspec.NAG(learning_rate=0.3, momentum=0.9)), Updater(stepspec.NAG())
    for _ in range(2):
        first(range(4), grads, weights)
    second.set_states(first.get_states(dump_optimizer=False))
    assert bits(second.states[2]["mom"]) == bits(first.states[2]["mom"])
    for _ in range(2):
        second(range(4), grads, weights)
    assert [*map(bits, weights)] == [*map(bits, straight)]
    with pytest.raises(ValueError, match="SGD"):
        Updater(stepspec.SGD()).set_states(first.get_states())


@pytest.mark.parametrize("states", [None, "PK", {}])
def test_states_are_bytes(states: Any) -> None:
    with pytest.raises(TypeError, match="takes the bytes that get_states returned, not"):
        Updater(stepspec.SGD()).set_states(states)


def test_states_may_be_in_a_buffer() -> None:
    first, second = Updater(stepspec.SGD(momentum=0.9)), Updater(stepspec.SGD())
    first(3, np.ones(2), np.ones(2))
    second.set_states(memoryview(bytearray(first.get_states())))  # type: ignore[arg-type]
    assert bits(second.states[3]["mom"]) == bits(first.states[3]["mom"])


def test_an_updater_takes_an_optimizer() -> None:
    with pytest.raises(TypeError, match=r"an Updater takes an optimizer, .*not 'sgd'"):
        Updater("sgd")  # type: ignore[arg-type]
