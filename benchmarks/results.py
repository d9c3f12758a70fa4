"""What one benchmark run measured, and on what."""

import os
import platform
from dataclasses import dataclass, field
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
    bytes: int
    step: Timing
    fused: Timing
    torch: Timing | None
    stream_bandwidth: float | None


@dataclass(frozen=True)
class OptimizerResult:
    """One optimizer on the largest set."""

    name: str
    settings: dict[str, float]
    parameters: int
    bytes: int
    step: Timing
    fused: Timing


@dataclass(frozen=True)
class StorageResult:
    """The fused step of one optimizer on the largest set, its numbers stored in one way.

    `torch` is None where it offers no such thing, `stream_bandwidth` for a set that may stay in a cache.
    `torch_fused`: whether torch took its fused path.
    """

    name: str
    parameters: int
    bytes: int
    fused: Timing
    torch: Timing | None
    torch_fused: bool
    stream_bandwidth: float | None


@dataclass(frozen=True)
class SparseResult:
    """The fused step of one optimizer on one table, with dense and with row-sparse gradients.

    `skips`: whether rows that a gradient does not hold are left alone; they count as zeros otherwise.
    """

    name: str
    skips: bool
    bytes: int
    dense: Timing
    sparse: Timing
    torch: Timing | None


@dataclass
class Report:
    """Everything one run measured; what was not asked for is empty."""

    environment: Environment
    largest: str
    rows: int
    sets: list[SetResult] = field(default_factory=list)
    optimizers: list[OptimizerResult] = field(default_factory=list)
    storages: list[StorageResult] = field(default_factory=list)
    sparse: list[SparseResult] = field(default_factory=list)
    peaks: list[Peak] = field(default_factory=list)
    first_calls: list[FirstCall] = field(default_factory=list)


def gigabytes(moved: float, timing: Timing) -> float:
    """Return the bandwidth, in GB/s, of a step that moves so many bytes."""
    return moved / timing.median / 1e6


def environment(threads: int) -> Environment:
    packages = {}
    for name in ("stepspec", "numpy", "ml_dtypes", "numba", "llvmlite", "torch"):
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
