"""What the figures of a run come from: machine, system and packages."""

import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("stepspec", "numpy", "ml_dtypes", "numba", "llvmlite", "torch", "jax", "jaxlib", "optax")
# MXNet has a Python of its own; importing it there would take seconds
MXNET_VERSION = "from importlib.metadata import version; print(version('mxnet'))"
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True)
class Environment:
    """Where the figures come from; `date` and `load`, the load average, are those when the run began.

    A busy machine slows the contenders unequally: whoever waits for all its threads loses most.
    `caches` are those that the first core sees, such as "L2 2048K".
    """

    date: str
    processor: str
    cores: int
    threads: int
    load: float
    caches: tuple[str, ...]
    memory_gib: float
    system: str
    python: str
    packages: dict[str, str]


def environment(threads: int) -> Environment:
    return Environment(
        f"{datetime.now(UTC):%Y-%m-%d}",
        processor(),
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads,
        os.getloadavg()[0],
        tuple(caches()),
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30,
        platform.platform(),
        platform.python_version(),
        {name: installed(name) for name in PACKAGES} | {"mxnet": mxnet()},
    )


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def mxnet() -> str:
    """Return the version of MXNet that the interpreter of MXNET_PYTHON has."""
    python = os.environ.get("MXNET_PYTHON")
    if not python:
        return "missing"
    command = [python, "-c", MXNET_VERSION]
    try:
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True, timeout=60).strip()
    except (OSError, subprocess.SubprocessError):
        return "missing"


def processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def caches() -> list[str]:
    """Return the data caches, by level; none where the system does not tell."""
    found = []
    for folder in sorted(CACHES.glob("index*")):
        level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            found.append(f"L{level} {size}")
    return found
