"""What the benchmark's exploring sections choose and conclude; none of it depends on how fast anything is."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memory
import neighbours
import scaling
import stepspec
import thread_scaling
from cases import OPTIMIZERS, Case, Model
from environment import Environment
from sections import Options, Target
from timing import Timing

MIB = 2**20


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = stepspec.get_num_threads()
    yield
    stepspec.set_num_threads(before)


def options(threads: int = 2, caches: tuple[str, ...] = ()) -> Options:
    environment = Environment("", "", 2, threads, 0.0, caches, 1.0, "", "", {})
    return Options(1, (), ("SGD",), ("float32",), Path(), environment)


def timing(median: float) -> Timing:
    return Timing(median, median, median, 1)


def met(target: Target) -> tuple[float | None, bool | None]:
    return target.reached, target.met


def test_the_largest_size_fits_the_memory() -> None:
    assert scaling.sizes(0) == []
    assert scaling.sizes(2 * 2**30) == [2**k for k in range(20, 28)]
    assert scaling.sizes(2**40)[-1] == scaling.LARGEST


def test_caches_are_read_and_told_from_memory() -> None:
    cache = scaling.last_cache(("L1 48K", "L2 2048K", "L3 266240K"))
    assert cache == 260 * MIB
    assert scaling.last_cache(()) == 0
    places = [scaling.place(size * MIB, cache) for size in (260, 261, 519, 520)]
    assert places == ["cache", "partly cache", "partly cache", "memory"]


def test_the_spread_is_that_of_the_arrays_beyond_the_caches() -> None:
    section = scaling.Scaling()
    assert [met(target) for target in section.targets()] == [(None, None)] * 2
    section.cache = 24 * MIB
    milliseconds = {1: 0.1, 2: 0.2, 4: 2.0, 8: 4.4}
    section.elements = [scaling.Elements(size * MIB, timing(ms)) for size, ms in milliseconds.items()]
    section.tensors = [scaling.Tensors(100_000, 80.0, timing(40.0))]
    elements, tensors = section.targets()
    assert elements.reached == pytest.approx(1.1)
    assert elements.met
    assert tensors.reached == pytest.approx(0.4)
    assert tensors.met is False
    (_, table) = section.tables()
    assert table.rows[0][:3] == ("100,000", "80.00", "0.80")


def test_sizes_share_arrays_and_step_only_their_part() -> None:
    arrays = [np.full(64, value, np.float32) for value in (0.5, 0.25, 0.125)]
    part = scaling.Prefix(16, *arrays)
    part.prepare()
    part.step()
    weight, mom, grad = arrays
    assert (weight[16:] == 0.5).all()
    assert (mom[16:] == 0.25).all()
    assert (weight[:16] < 0.5).all()
    assert (mom[:16] != 0.25).all()
    assert (grad == 0.125).all()


def test_a_contender_sets_its_own_number_of_threads() -> None:
    model = Model.random({"w": (10,)})
    one, three = (thread_scaling.OnThreads(Case("SGD", OPTIMIZERS["SGD"], model, n)) for n in (1, 3))
    three.prepare()
    assert stepspec.get_num_threads() == 3
    one.prepare()
    assert stepspec.get_num_threads() == 1


def test_threads_are_set_back() -> None:
    section = thread_scaling.ThreadScaling()
    part = next(iter(section.parts(options(threads=2))))
    part.action()
    assert stepspec.get_num_threads() == 2
    assert [gain.parameters for gain in section.gains] == [60]


def test_one_thread_gains_nothing() -> None:
    section = thread_scaling.ThreadScaling()
    assert list(section.parts(options(threads=1))) == []
    assert {(target.reached, target.note) for target in section.targets()} == {(None, "one thread only")}


def test_the_worst_of_the_tiny_models_counts() -> None:
    section = thread_scaling.ThreadScaling()
    list(section.parts(options(threads=2)))
    medians = {"6 tensors of 10": (1.0, 1.0), "6 tensors of 100": (1.0, 2.0), "MLP": (3.4, 2.0)}
    section.gains = [
        thread_scaling.Gain(name, 1, timing(one), timing(every)) for name, (one, every) in medians.items()
    ]
    mlp, tiny = section.targets()
    assert mlp.reached == pytest.approx(1.7)
    assert mlp.met
    assert (*met(tiny), tiny.note) == (0.5, False, "6 tensors of 100")


def test_a_neighbour_runs_during_the_block_only() -> None:
    with neighbours.busy(0) as cores:
        pass
    assert cores == [0.0]
    with neighbours.busy(2) as cores:
        assert cores == []
    assert len(cores) == 1
    assert cores[0] >= 0


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Return the processes that are started from now on."""
    processes = []
    popen = subprocess.Popen

    def recorded(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        processes.append(popen(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr(subprocess, "Popen", recorded)
    return processes


def test_a_neighbour_ends_with_an_error_in_the_block(started: list[subprocess.Popen[bytes]]) -> None:
    def stopped() -> None:
        with neighbours.busy(1):
            assert started[0].poll() is None
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert started[0].returncode == -9


def test_a_neighbour_that_is_gone_is_an_error(
    started: list[subprocess.Popen[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "busy.py"
    script.write_text("print('busy')")
    monkeypatch.setattr(neighbours, "BUSY", script)
    with pytest.raises(RuntimeError, match=r"busy.py ended with code 0"), neighbours.busy(1):
        started[0].wait()


def test_a_neighbour_does_not_outlive_who_started_it() -> None:
    with subprocess.Popen(
        [sys.executable, str(neighbours.BUSY), "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"busy\n"
    assert process.returncode == 0  # leaving the block closed its input


def test_the_worst_neighbour_counts() -> None:
    section = neighbours.Neighbours()
    assert [met(target) for target in section.targets()] == [(None, None)]
    medians = [("fused_step", 0, 1.0), ("fused_step", 1, 2.0), ("fused_step", 2, 2.5), ("torch", 0, 1.0)]
    medians.append(("torch", 2, 100.0))
    section.results = [
        neighbours.Disturbed("MLP", name, threads, median, median, 1, 1.0)
        for name, threads, median in medians
    ]
    (target,) = section.targets()
    assert (*met(target), target.note) == (2.5, True, "MLP, 2 busy")
    (table,) = section.tables()
    assert [row[-1] for row in table.rows] == ["1.00x", "2.00x", "2.50x", "1.00x", "100.00x"]


def test_memory_of_an_action_is_seen() -> None:
    def action() -> None:
        np.ones(64 * MIB, np.uint8)  # too much to be taken from memory that was freed before

    assert memory.traced(action) >= 64 * MIB
    grown = memory.resident(action)
    assert grown is None or grown >= 60


def test_the_greatest_extra_memory_counts() -> None:
    section = memory.Memory()
    assert [met(target) for target in section.targets()] == [(None, None)]
    section.extras = [memory.Extra("SGD", 200.0, 1.0, None), memory.Extra("LARS", 200.0, 1.0, 3.0)]
    (target,) = section.targets()
    assert (*met(target), target.note) == (1.5, False, "LARS")
