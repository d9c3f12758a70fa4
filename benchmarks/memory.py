"""Memory that one step takes beyond its arrays."""

import tracemalloc
from dataclasses import dataclass
from pathlib import Path

from timing import Contender

MIB = 2**20


@dataclass(frozen=True)
class Peak:
    """MiB at the worst moment of a step: allocated by Python and NumPy, and resident (None: not known)."""

    label: str
    allocated: float
    resident: float | None


def measure(contender: Contender) -> Peak:
    """Take one step of a warm contender under tracemalloc, and one under the kernel's high-water mark."""
    contender.prepare()
    tracemalloc.start()
    contender.step()
    allocated = tracemalloc.get_traced_memory()[1] / MIB
    tracemalloc.stop()
    contender.prepare()
    before = forget_peak()
    contender.step()
    after = status("VmHWM")
    resident = None if before is None or after is None else max(0.0, after - before)
    return Peak(contender.label, allocated, resident)


def forget_peak() -> float | None:
    """Reset the process's high-water mark and return the memory resident now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return status("VmRSS")


def status(key: str) -> float | None:
    path = Path("/proc/self/status")
    if not path.exists():
        return None
    fields = dict(line.split(":", 1) for line in path.read_text().splitlines())
    return int(fields[key].split()[0]) / 1024
