"""Waves and latches: whatever waits for whatever, nobody starts early, and all is done once."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass, field

import numpy as np
import pytest
from numba import int64

from stepspec import cpu
from stepspec.batches import NONE, Latch, Segment, Wave, ordered
from stepspec.compilation import compile_entry
from stepspec.memory import report
from stepspec.pointers import at
from stepspec.reductions import SIGNATURE
from stepspec.synchronization import add
from stepspec.work import Work

# spins of the item that makes all others wait: long enough for them to fall asleep
LONG = 2_000_000


@functools.cache
def logging() -> int:
    """Return the entry that notes when item `start` begins and ends; it takes `count` spins."""

    def note(tables: int, tensor: int, start: int, count: int) -> None:
        clock, log = at(tables, int64)[0], at(at(tables, int64)[1], int64)
        log[3 * start] = add(clock, 1)
        for _ in range(count):
            add(tables + 16, 1)
        log[3 * start + 1] = add(clock, 1)
        add(at(tables, int64)[1] + 8 * (3 * start + 2), 1)

    return compile_entry(note, SIGNATURE, "test_work.note", None)


@functools.cache
def failing() -> int:
    """Return the entry that finds no memory."""

    def fail(tables: int, tensor: int, start: int, count: int) -> None:
        report()

    return compile_entry(fail, SIGNATURE, "test_work.fail", None)


@dataclass
class Graph:
    """Work whose items log when they are done; a batch is one item."""

    seed: int
    lengths: list[int] = field(default_factory=list)
    waves: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    latches: list[tuple[int, int, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Draw chains of waves, some of which end at one latch, which two last waves wait for."""
        draw = random.Random(self.seed)
        chains = [draw.randint(1, 3) for _ in range(draw.randint(1, 6))]
        joining = [draw.random() < 0.6 for _ in chains]
        sizes = []
        for depth, joins in zip(chains, joining, strict=True):
            opened = NONE
            for stage in range(depth):
                counts = NONE
                if stage + 1 < depth or joins:
                    counts = len(self.latches) + 1
                    sizes.append((draw.randint(0, 2), 0 if stage + 1 == depth else NONE))
                    self.latches.append((draw.randint(1, 9), 0, 0, 0))
                number = self.latches[-1][0] if counts != NONE else draw.randint(1, 9)
                self.add_wave(draw, number, opened, counts)
                opened = counts
        for _ in range(2 if any(joining) else 0):
            self.add_wave(draw, draw.randint(1, 9), 0, NONE)
        self.batches = len(self.lengths)
        sizes.insert(0, (1, NONE))
        self.latches.insert(0, (sum(joining), 0, 0, 0))
        for k, (size, following) in enumerate(sizes):
            first = len(self.lengths)
            self.lengths += [draw.randint(0, 200) for _ in range(size)]
            self.latches[k] = (self.latches[k][0], first, first + size, following)
        if self.batches > 1:
            self.lengths[draw.randrange(self.batches)] = LONG

    def add_wave(self, draw: random.Random, number: int, waits: int, counts: int) -> None:
        first = len(self.lengths)
        self.lengths += [draw.randint(0, 1000) for _ in range(number)]
        self.waves.append((first, first + number, waits, counts, draw.randint(0, 1)))

    def run(self, threads: int) -> np.ndarray:
        """Return when each item began and ended, and how often it was done."""
        log, clock = np.zeros((len(self.lengths), 3), np.int64), np.zeros(1, np.int64)
        table = np.array([clock.ctypes.data, log.ctypes.data, 0], np.int64)
        items = [(logging(), table.ctypes.data, 0, k, length) for k, length in enumerate(self.lengths)]
        work = Work(
            np.array(items, np.int64),
            np.arange(self.batches + 1),
            np.array(self.waves, np.int64),
            np.array(self.latches, np.int64),
        )
        cpu.run(work, threads)
        return log

    def before(self, latch: int) -> list[int]:
        """Return the items that are done before a latch opens."""
        _, first, end, _ = self.latches[latch]
        return [*self.counted(latch), *range(first, end)]

    def counted(self, latch: int) -> list[int]:
        """Return the items that are done before a latch's own items."""
        batches = [k for first, end, _, counts, _ in self.waves if counts == latch for k in range(first, end)]
        others = [k for k, (*_, following) in enumerate(self.latches) if following == latch]
        return [*batches, *(item for other in others for item in self.before(other))]

    def check(self, log: np.ndarray) -> None:
        begin, end, times = log.T
        assert (times == 1).all() or (self.latches[0][0] == 0 and times.sum() == len(times) - 1)
        for first, last, waits, _, _ in self.waves:
            if waits != NONE:
                assert begin[first:last].min() > end[self.before(waits)].max()
        for latch, (number, first, last, _) in enumerate(self.latches):
            if number and first < last:
                assert begin[first] > end[self.counted(latch)].max()
                assert (begin[first + 1 : last] > end[first : last - 1]).all()


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_nobody_starts_early(threads: int) -> None:
    for seed in range(40):
        graph = Graph(seed)
        graph.check(graph.run(threads))


def test_work_is_done_again_with_other_numbers_of_threads() -> None:
    counts = np.zeros((10, 3), np.int64)
    clock = np.zeros(1, np.int64)
    table = np.array([clock.ctypes.data, counts.ctypes.data, 0], np.int64)
    items = np.array([(logging(), table.ctypes.data, 0, k, 10) for k in range(10)], np.int64)
    waves = np.array([(0, 5, NONE, 0, 0), (5, 9, 0, NONE, 1)], np.int64)
    work = Work(items, np.arange(10), waves, np.array([(5, 9, 10, NONE)], np.int64))
    for step, threads in enumerate((1, 4, 2, 8, 1), 1):
        cpu.run(work, threads)
        assert (counts[:, 2] == step).all()
        assert counts[9, 0] > counts[:5, 1].max()
        assert counts[9, 1] < counts[5:9, 0].min()


@pytest.mark.parametrize("threads", [1, 3])
def test_nothing_is_done_after_memory_ran_out(threads: int) -> None:
    """What waits for the item that failed is not done, nor what follows it in its batch; later work is."""
    log, clock = np.zeros((6, 3), np.int64), np.zeros(1, np.int64)
    table = np.array([clock.ctypes.data, log.ctypes.data, 0], np.int64)
    items = np.array([(logging(), table.ctypes.data, 0, k, 1) for k in range(6)], np.int64)
    items[1, 0] = failing()
    waves = np.array([(0, 2, NONE, 0, 0), (2, 3, 0, NONE, 0)], np.int64)
    work = Work(items, np.array([0, 1, 3, 5]), waves, np.array([(2, 5, 6, NONE)], np.int64))
    with pytest.raises(MemoryError, match="no memory for the scratch of a kernel"):
        cpu.run(work, threads)
    assert not log[1:, 2].any()
    items[1, 0] = logging()
    cpu.run(work, threads)
    assert log[1:, 2].tolist() == [1] * 5


def test_the_stages_of_a_tensor_follow_each_other() -> None:
    """What needs no other stage comes last; a latch opens after the items that follow its batches."""
    first, second, third, finish = ([(0, 0, 0, k, 1)] for k in range(4))
    tensors = [
        [Segment([first, second], finish), Segment([third, third], [])],
        [Segment([first], finish)],
    ]
    waves, latches = ordered(tensors, [second])
    assert waves == [
        Wave([first, second], NONE, 0),
        Wave([third, third], 0, NONE, backwards=True),
        Wave([first], NONE, 1),
        Wave([second]),
    ]
    assert latches == [Latch(2, finish), Latch(1, finish)]
    work = Work.of(waves, latches)
    assert work.waves.tolist() == [[0, 2, -1, 0, 0], [2, 4, 0, -1, 1], [4, 5, -1, 1, 0], [5, 6, -1, -1, 0]]
    assert work.latches.tolist() == [[2, 6, 7, -1], [1, 7, 8, -1]]
    assert work.batches.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert work.items[:, 3].tolist() == [0, 1, 2, 2, 0, 1, 3, 3]


def test_no_waves() -> None:
    work = Work.of(*ordered([], []))
    cpu.run(work, 2)
    assert work.items.shape == (0, 5)
