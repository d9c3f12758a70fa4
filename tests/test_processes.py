"""Steps in forked, spawned and concurrent company: the bits of a lonely one, and nobody hangs or dies."""

import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from training import bits, random_tensors

import stepspec
from stepspec import RowSparse

METHODS = multiprocessing.get_all_start_methods()
# big enough for several batches, which threads share, and for reductions in several blocks
SHAPES: tuple[tuple[int, ...], ...] = ((300, 257), (70_001,), (5, 3), ())
NAMES = ("SGD", "NAG", "GroupAdaGrad", "FTML", "LARS")
forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
# newer versions of Python warn of a fork beside threads, which is what is tested
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


def train(name: str, steps: int = 4, threads: int = 2) -> str:
    """Train some tensors, one of them with row-sparse gradients and masters; return a hash of all bits."""
    stepspec.set_num_threads(threads)
    optimizer = stepspec.create(name, multi_precision=True)
    weights: list[Any] = random_tensors(SHAPES, np.float32)
    weights[0] = weights[0].astype(np.float16)
    states = [optimizer.create_state_multi_precision(i, w) for i, w in enumerate(weights)]
    for step in range(steps):
        grads: list[Any] = random_tensors(SHAPES, np.float32, seed=step + 1)
        grads[0] = RowSparse(grads[0][::3], np.arange(0, 300, 3), SHAPES[0])
        optimizer.update(range(len(weights)), weights, grads, states)
    digest = hashlib.sha256()
    for weight, state in zip(weights, states, strict=True):
        for array in (weight, *state.values()):
            digest.update(bits(array))
    return digest.hexdigest()


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    return {name: train(name, threads=1) for name in NAMES}


@forks
@pytest.mark.parametrize("method", METHODS)
def test_pools_of_processes(method: str, expected: dict[str, str]) -> None:
    """`multiprocessing` with every start method, after the parent has stepped with all its threads."""
    assert train("SGD") == expected["SGD"]
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.map_async(train, NAMES).get(120)
    assert dict(zip(NAMES, found, strict=True)) == expected
    assert train("LARS") == expected["LARS"]


@forking
@forks
def test_children_of_children_step_beside_their_parents(expected: dict[str, str]) -> None:
    train("SGD")

    def child() -> bool:
        grandchild = os.fork()
        if grandchild == 0:
            _leave(lambda: train("LARS") == expected["LARS"])
        return train("FTML") == expected["FTML"] and os.waitpid(grandchild, 0)[1] == 0

    children = []
    for _ in range(2):
        children.append(os.fork())
        if children[-1] == 0:
            _leave(child)
    assert train("NAG") == expected["NAG"]
    assert [os.waitpid(number, 0)[1] for number in children] == [0, 0]


@forking
@forks
def test_fork_while_other_threads_step(expected: dict[str, str]) -> None:
    """The children are born at any moment of a step of another thread."""
    train("SGD")
    stop = threading.Event()
    found: list[str] = []

    def keep_stepping() -> None:
        while not stop.is_set():
            found.append(train("LARS"))

    user = threading.Thread(target=keep_stepping)
    user.start()
    try:
        for _ in range(10):
            child = os.fork()
            if child == 0:
                _leave(lambda: train("SGD") == expected["SGD"])
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        user.join(60)
    assert set(found) == {expected["LARS"]}


def test_threads_step_their_own_optimizers_at_once(expected: dict[str, str]) -> None:
    found: dict[str, list[str]] = {name: [] for name in NAMES}

    def steps(name: str) -> None:
        for _ in range(5):
            found[name].append(train(name))

    users = [threading.Thread(target=steps, args=(name,)) for name in NAMES]
    for user in users:
        user.start()
    for user in users:
        user.join(120)
    assert found == {name: [bits] * 5 for name, bits in expected.items()}


def test_threads_share_an_optimizer_one_at_a_time() -> None:
    """Who comes while another thread steps is told so, and may come again: no update is lost or doubled."""
    optimizer = stepspec.SGD(learning_rate=1.0)
    weight, grad = np.zeros((300, 300), np.float32), np.full((300, 300), -1.0, np.float32)
    refused = []

    def steps() -> None:
        done = 0
        while done < 200:
            try:
                optimizer.update([0], [weight], [grad], [{}])
                done += 1
            except RuntimeError as error:
                refused.append(str(error))

    users = [threading.Thread(target=steps) for _ in range(3)]
    for user in users:
        user.start()
    for user in users:
        user.join(120)
    assert (weight == 600).all()
    assert optimizer.update_count(0) == 600
    assert all("another thread" in message for message in refused)


def _leave(check: Callable[[], bool]) -> None:
    """End a child with 0 if the check holds; one that hangs is killed, and so fails."""
    signal.alarm(100)
    ok = False
    try:
        ok = check()
    finally:
        os._exit(0 if ok else 1)
