"""What a step gains from all threads over one, and that small ones lose nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial

import stepspec
from cases import OPTIMIZERS, Case, Model
from ours import Stepspec
from sections import Options, Part, Table, Target
from shapes import SETS, Shapes
from timing import Timing, interleave

TINY = (10, 100, 1000, 10_000)
FASTER, NO_SLOWER = 1.6, 0.95  # 5% are noise


@dataclass(frozen=True)
class Gain:
    """The same fused step on one thread and on all."""

    model: str
    parameters: int
    one: Timing
    all: Timing

    @property
    def ratio(self) -> float:
        return self.one.median / self.all.median


class OnThreads(Stepspec):
    """A fused step on the case's number of threads, whatever the others use."""

    def __init__(self, case: Case) -> None:
        super().__init__(case, "fused_step", f"{case.threads} threads")
        self.threads = case.threads

    def prepare(self) -> None:
        stepspec.set_num_threads(self.threads)
        super().prepare()


class ThreadScaling:
    """Times of SGD with momentum on one thread and on all, from tiny models to ResNet-50."""

    name = "threads"

    def __init__(self) -> None:
        self.gains: list[Gain] = []
        self.threads = 0

    def parts(self, options: Options) -> Iterator[Part]:
        self.threads = options.environment.threads
        if self.threads == 1:
            return
        models: dict[str, Shapes] = {tiny(size): {f"w{i}_weight": (size,) for i in range(6)} for size in TINY}
        models |= {name: SETS[name]() for name in options.sets if name in ("1000 small", "MLP", "ResNet-50")}
        for name, shapes in models.items():
            yield Part(f"threads, {name}", partial(self._measure, name, shapes, options.rounds))

    def _measure(self, name: str, shapes: Shapes, rounds: int) -> None:
        model = Model.random(shapes)
        cases = [Case("SGD", OPTIMIZERS["SGD"], model, threads) for threads in (1, self.threads)]
        one, every = (OnThreads(case) for case in cases)
        try:
            times = interleave([one, every], rounds)
        finally:
            stepspec.set_num_threads(self.threads)
        self.gains.append(Gain(name, model.size, times[one.label], times[every.label]))

    def tables(self) -> Iterator[Table]:
        if self.gains:
            header = ("model", "parameters", "1 thread, ms", f"{self.threads} threads, ms", "gain")
            rows = [
                (g.model, f"{g.parameters:,}", str(g.one), str(g.all), f"{g.ratio:.2f}") for g in self.gains
            ]
            yield Table("Threads: SGD, momentum 0.9", header, rows)

    def targets(self) -> Iterator[Target]:
        why = "one thread only" if self.threads == 1 else "not asked for"
        mlp = [g.ratio for g in self.gains if g.model == "MLP"]
        what = f"one thread's time over that of {self.threads}, "
        yield Target(what + "MLP", FASTER, mlp[0] if mlp else None, note="" if mlp else why)
        small = {g.model: g.ratio for g in self.gains if g.model in map(tiny, TINY)}
        worst = min(small, key=small.__getitem__, default=None)
        yield Target(what + "tiny models", NO_SLOWER, small[worst] if worst else None, note=worst or why)

    def data(self) -> object:
        return [asdict(gain) for gain in self.gains]


def tiny(size: int) -> str:
    return f"6 tensors of {size:,}"
