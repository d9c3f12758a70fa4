"""Interleaved timing: contenders take turns, so that what disturbs the machine disturbs them alike."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

BURST = 0.02  # seconds a contender may go on before the next one has its turn
LONGEST_BURST = 40  # steps
SLOW = 0.25  # a step of more seconds is timed in every SLOW_ROUNDS-th round only
SLOW_ROUNDS = 8
PAUSE = 0.005  # seconds between turns: lets the spinning threads of other pools fall asleep


class PeerError(Exception):
    """A contender cannot go on, and the message says why: its process died, its compiler failed.

    `label` is the contender's, once it failed while being timed.
    """

    label = ""


class Contender(Protocol):
    """Something that can do one step, over and over. Any of its methods may raise a PeerError."""

    label: str

    def prepare(self) -> None:
        """Lay out what the next step works on; not timed."""

    def step(self) -> float | None:
        """Take a step, and return its seconds if it was timed elsewhere, in another process."""

    def weights(self) -> list[npt.NDArray[Any]]:
        """Return copies or views of the weights as they are now: the masters, where there are some."""

    def close(self) -> None:
        """End what would outlive it, such as a process; it is not used again, but may be closed again."""


# Takes some steps of a contender and returns the seconds of each.
Clock: TypeAlias = Callable[[Contender, int], list[float]]


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a step: median and quartiles of `count` steps."""

    median: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        digits = 3 if self.median < 10 else 1
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}-{self.high:.{digits}f})"


def seconds(contender: Contender) -> float:
    try:
        contender.prepare()
        start = time.perf_counter()
        elsewhere = contender.step()
        here = time.perf_counter() - start
    except PeerError as error:
        error.label = contender.label
        raise
    return here if elsewhere is None else elsewhere


def host_clock(contender: Contender, steps: int) -> list[float]:
    return [seconds(contender) for _ in range(steps)]


def interleave(
    contenders: Iterable[Contender], rounds: int, warm_ups: int = 2, clock: Clock = host_clock
) -> dict[str, Timing]:
    """Time contenders in turns, every round starting with another one, after some warm-ups of each.

    The first step may compile: the shortest of the warm-ups tells how long a turn may be.
    """
    order = list(contenders)
    guess = {c.label: min(clock(c, warm_ups)) for c in order}
    samples: dict[str, list[float]] = {c.label: [] for c in order}
    for turn in range(rounds):
        for contender in order:
            expected = guess[contender.label]
            if expected > SLOW and turn % SLOW_ROUNDS:
                continue
            time.sleep(PAUSE)
            steps = max(1, min(LONGEST_BURST, int(BURST / expected)))
            samples[contender.label] += clock(contender, steps)
        order.append(order.pop(0))
    return {label: summary(values) for label, values in samples.items()}


def summary(values: list[float]) -> Timing:
    low, median, high = (float(x) * 1e3 for x in np.percentile(values, (25, 50, 75)))
    return Timing(median, low, high, len(values))
