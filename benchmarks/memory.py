"""Memory that a fused step takes beyond its arrays, making the plan included."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from cases import OPTIMIZERS, Case, Model, model_of
from ours import Stepspec
from sections import Options, Part, Table, Target
from shapes import Shapes
from timing import seconds

MIB = 2**20
SET = "GPT-2 small"
SMALL: Shapes = {"small_weight": (64, 64), "small_bias": (64,)}
AIM = 1.0  # percent


@dataclass(frozen=True)
class Extra:
    """MiB at the worst moment of a first step: allocated by Python and NumPy, and resident (None: not known).

    `model` is the weights' size.
    """

    optimizer: str
    model: float
    allocated: float
    resident: float | None

    @property
    def percent(self) -> float:
        return 100 * max(self.allocated, self.resident or 0.0) / self.model


class Memory:
    """What the first step of a new optimizer takes, which plans; kernels are loaded before."""

    name = "memory"

    def __init__(self) -> None:
        self.extras: list[Extra] = []

    def parts(self, options: Options) -> Iterator[Part]:
        for optimizer in options.optimizers:
            yield Part(f"memory, {optimizer}", partial(self._measure, optimizer, options.environment.threads))

    def _measure(self, optimizer: str, threads: int) -> None:
        settings = OPTIMIZERS[optimizer]
        seconds(Stepspec(Case(optimizer, settings, Model.random(SMALL), threads), "fused_step"))
        case = Case(optimizer, settings, model_of(SET, "float32"), threads)
        size = sum(weight.nbytes for weight in case.model.weights) / MIB
        allocated = traced(planless(case).step) / MIB
        self.extras.append(Extra(optimizer, size, allocated, resident(planless(case).step)))

    def tables(self) -> Iterator[Table]:
        if self.extras:
            header = ("optimizer", "weights, MiB", "allocated, MiB", "resident, MiB", "of the weights")
            rows = [
                (
                    e.optimizer,
                    f"{e.model:.0f}",
                    f"{e.allocated:.2f}",
                    "not known" if e.resident is None else f"{e.resident:.2f}",
                    f"{e.percent:.2f}%",
                )
                for e in self.extras
            ]
            yield Table(f"Memory beyond the arrays, first fused step of {SET}", header, rows)

    def targets(self) -> Iterator[Target]:
        worst = max(self.extras, key=lambda extra: extra.percent, default=None)
        what = "extra memory of a fused step, percent of the weights"
        if worst:
            yield Target(what, AIM, worst.percent, at_least=False, note=worst.optimizer)
        else:
            yield Target(what, AIM, None, at_least=False, note="not asked for")

    def data(self) -> object:
        return [asdict(extra) for extra in self.extras]


def planless(case: Case) -> Stepspec:
    """Return a contender before its first step, with all of its arrays in memory."""
    contender = Stepspec(case, "fused_step")
    for state in contender.states:
        for array in state.values():
            array[...] = array  # zeros of NumPy's take no memory before they are written
    contender.prepare()
    gc.collect()
    return contender


def traced(action: Callable[[], None]) -> int:
    """Return the bytes that Python and NumPy hold at most meanwhile."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def resident(action: Callable[[], None]) -> float | None:
    """Return the MiB by which the process's resident memory grows at most, if the system tells."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to what is resident now
    except OSError:
        action()
        return None
    before = status("VmRSS")
    action()
    return max(0.0, status("VmHWM") - before)


def status(key: str) -> float:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[key].split()[0]) / 1024
