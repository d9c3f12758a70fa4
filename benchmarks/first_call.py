"""The first fused step of a fresh process, imports included."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from cases import OPTIMIZERS
from sections import Options, Part, Table, Target

WORKER = Path(__file__).with_name("first_call_worker.py")
CACHED_RUNS = 3
AIMS = {"cold": 3.0, "cached": 0.6}  # seconds


@dataclass(frozen=True)
class FirstCall:
    """Seconds to the end of the first fused step: with an empty cache, and with a filled one (median)."""

    optimizer: str
    cold: float
    cached: float


class FirstCalls:
    """Seconds that the first step of a process takes, by optimizer."""

    name = "first-call"

    def __init__(self) -> None:
        self.results: list[FirstCall] = []

    def parts(self, options: Options) -> Iterator[Part]:
        for optimizer in options.optimizers:
            yield Part(f"first call of {optimizer}", partial(self._measure, optimizer))

    def _measure(self, optimizer: str) -> None:
        self.results.append(measure(optimizer))

    def tables(self) -> Iterator[Table]:
        if self.results:
            rows = [(r.optimizer, f"{r.cold:.2f}", f"{r.cached:.2f}") for r in self.results]
            title = "First fused step of a process, import included"
            yield Table(title, ("optimizer", "empty cache, s", "cached, s"), rows)

    def targets(self) -> Iterator[Target]:
        for which, aim in AIMS.items():
            found = [(float(getattr(result, which)), result.optimizer) for result in self.results]
            seconds, slowest = max(found, default=(None, "not asked for"))
            yield Target(f"First call, {which}, seconds", aim, seconds, at_least=False, note=slowest)

    def data(self) -> object:
        return [asdict(result) for result in self.results]


def measure(optimizer: str) -> FirstCall:
    """Run fresh processes which share a cache that starts empty."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"STEPSPEC_CACHE_DIR": cache, "NUMBA_CACHE_DIR": cache}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # who sets it pays 0.04 s at every import
        command = [sys.executable, str(WORKER), optimizer, json.dumps(OPTIMIZERS[optimizer])]
        cold, *cached = (
            float(subprocess.check_output(command, env=environment, text=True))
            for _ in range(1 + CACHED_RUNS)
        )
    return FirstCall(optimizer, cold, statistics.median(cached))
