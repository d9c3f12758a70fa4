"""What one benchmark run measured, and on what."""

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from first_call import FirstCall
from memory import Peak
from timing import Timing


@dataclass(frozen=True)
class Environment:
    """Where the figures come from; `load` is the system's load average when the run began.

    A busy machine slows the contenders unequally: whoever waits for all its threads loses most.
    """

    processor: str
    cores: int
    threads: int
    load: float
    system: str
    python: str
    packages: dict[str, str]


@dataclass(frozen=True)
class SetResult:
    """SGD with momentum on one set of shapes.

    `torch` is None where torch is not installed, `stream_bandwidth` for sets that may stay in a cache.
    """

    name: str
    tensors: int
    parameters: int
    bytes_per_element: float
    step: Timing
    fused: Timing
    torch: Timing | None
    stream_bandwidth: float | None

    @property
    def bandwidth(self) -> float:
        """Bytes moved per second by the fused step, in GB/s."""
        return self.parameters * self.bytes_per_element / self.fused.median / 1e6


@dataclass(frozen=True)
class OptimizerResult:
    """One optimizer on the largest set."""

    name: str
    settings: dict[str, float]
    bytes_per_element: float
    step: Timing
    fused: Timing
    bandwidth: float


@dataclass(frozen=True)
class Report:
    """Everything one run measured."""

    environment: Environment
    sets: list[SetResult]
    largest: str
    optimizers: list[OptimizerResult]
    peaks: list[Peak]
    first_calls: list[FirstCall]


def environment(threads: int) -> Environment:
    packages = {}
    for name in ("stepspec", "numpy", "numba", "llvmlite", "torch"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "missing"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0]
    return Environment(
        processor(), cores, threads, load, platform.platform(), platform.python_version(), packages
    )


def processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
