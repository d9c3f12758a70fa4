"""What a step costs beside other processes that want the same cores."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from agreement import STEPS, take_steps
from cases import OPTIMIZERS, Case, Model
from contest import agreeing
from ours import Stepspec
from peers import PEERS
from sections import Options, Part, Table, Target
from shapes import SETS, Shapes
from timing import PAUSE, Contender, seconds

BUSY = Path(__file__).with_name("busy.py")
RIVALS = {label: PEERS[label] for label in ("torch fused", "MXNet")}
TURNS, SPAN = 3, 0.5  # how often each has its turn, for how many seconds without a pause
LEAST = 5  # steps in a turn
AIM = 3.0
NOTE = """Steps follow each other without a pause. "Their cores" is how many the busy process really got."""
# as of a transformer of width 768: 19 million parameters
LAYERS: Shapes = {f"layer{i}_weight": (768, 3072) for i in range(8)}


@dataclass(frozen=True)
class Disturbed:
    """Milliseconds of one contender's step beside a process with so many busy threads (0: alone).

    `taken` is how many cores that process really got, on average.
    """

    model: str
    contender: str
    threads: int
    median: float
    p95: float
    count: int
    taken: float


class Neighbours:
    """Times of a step alone, beside one busy thread, and beside a job with one for each core."""

    name = "neighbours"

    def __init__(self) -> None:
        self.results: list[Disturbed] = []
        self.missing: dict[str, str] = {}

    def parts(self, options: Options) -> Iterator[Part]:
        for name, shapes in {"MLP": SETS["MLP"](), "8 layers": LAYERS}.items():
            yield Part(f"neighbours, {name}", partial(self._measure, options, name, shapes))

    def _measure(self, options: Options, name: str, shapes: Shapes) -> None:
        case = Case("SGD", OPTIMIZERS["SGD"], Model.random(shapes), options.environment.threads)
        situations = sorted({0, 1, options.environment.cores})
        cores: dict[int, list[float]] = {threads: [] for threads in situations}
        samples: dict[tuple[str, int], list[float]] = {}
        with ExitStack() as stack:
            ours = stack.enter_context(closing(Stepspec(case, "fused_step")))
            take_steps(ours, STEPS)
            peers, missing = agreeing(case, ours.weights(), RIVALS, STEPS, stack)
            self.missing |= missing
            for _ in range(TURNS):
                for threads in situations:
                    with busy(threads) as taken:
                        for contender in (ours, *peers):
                            samples.setdefault((contender.label, threads), []).extend(one_turn(contender))
                    cores[threads] += taken
        for (label, threads), values in samples.items():
            median, p95 = (float(x) * 1e3 for x in np.percentile(values, (50, 95)))
            mean = float(np.mean(cores[threads]))
            self.results.append(Disturbed(name, label, threads, median, p95, len(values), mean))

    def tables(self) -> Iterator[Table]:
        if not self.results:
            return
        header = ("model", "contender", "busy threads", "their cores", "median, ms", "p95, ms", "over alone")
        rows = [
            (
                r.model,
                r.contender,
                str(r.threads) if r.threads else "none",
                f"{r.taken:.1f}",
                f"{r.median:.3f}",
                f"{r.p95:.3f}",
                f"{r.median / self._alone(r).median:.2f}x",
            )
            for r in self.results
        ]
        note = " ".join([NOTE, *(f"{label}: {why}." for label, why in self.missing.items())])
        yield Table("Neighbours: SGD, momentum 0.9, beside a busy process", header, rows, note)

    def _alone(self, result: Disturbed) -> Disturbed:
        key = (result.model, result.contender, 0)
        return next(r for r in self.results if (r.model, r.contender, r.threads) == key)

    def targets(self) -> Iterator[Target]:
        ratios = {
            f"{r.model}, {r.threads} busy": r.median / self._alone(r).median
            for r in self.results
            if r.contender == "fused_step" and r.threads
        }
        worst = max(ratios, key=ratios.__getitem__, default=None)
        reached = ratios[worst] if worst else None
        what = "a step beside other busy processes, over a step alone"
        yield Target(what, AIM, reached, at_least=False, note=worst or "not asked for")

    def data(self) -> object:
        return [asdict(result) for result in self.results]


@contextmanager
def busy(threads: int) -> Iterator[list[float]]:
    """Keep so many threads of another process busy; the list then holds how many cores they got.

    The process ends with the block, and with this process however that ends.
    """
    cores: list[float] = []
    if threads == 0:
        yield cores
        cores.append(0.0)
        return
    command = [sys.executable, str(BUSY), str(threads)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # a session of its own: Ctrl-C is for the benchmark, which then ends it
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            start = time.perf_counter()
            yield cores
            if process.poll() is not None:
                raise RuntimeError(f"{BUSY.name} ended with code {process.returncode} before its time")
            elapsed = time.perf_counter() - start
        finally:
            process.kill()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cores.append((after.ru_utime - before.ru_utime) / elapsed)


def one_turn(contender: Contender) -> list[float]:
    """Take steps for a while, one right after the other: a process that rests often is let in first."""
    time.sleep(PAUSE)
    values: list[float] = []
    end = time.perf_counter() + SPAN
    while time.perf_counter() < end or len(values) < LEAST:
        values.append(seconds(contender))
    return values
