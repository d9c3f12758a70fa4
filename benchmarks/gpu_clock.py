"""Times on a GPU: events of CUDA around each step, and beside them what the host spends on it."""

from __future__ import annotations

import time
from typing import Any

from timing import Contender, Timing, summary


class EventClock:
    """A clock for `timing.interleave`: seconds between events on the legacy default stream.

    Nothing waits within a turn: the host queues steps ahead, so that a step of a large model costs what the
    GPU takes for it, and one of a small model what the host takes to queue it, if that is longer.
    """

    def __init__(self) -> None:
        from cuda.bindings import driver

        self.driver: Any = driver
        self.call(driver.cuInit(0))
        # the primary context, which the libraries use too
        self.call(driver.cuCtxSetCurrent(self.call(driver.cuDevicePrimaryCtxRetain(0))))
        self.host: dict[str, list[float]] = {}

    def __call__(self, contender: Contender, steps: int) -> list[float]:
        pairs = [(self.event(), self.event()) for _ in range(steps)]
        host = self.host.setdefault(contender.label, [])
        for first, last in pairs:
            contender.prepare()
            self.call(self.driver.cuEventRecord(first, 0))
            start = time.perf_counter()
            contender.step()
            host.append(time.perf_counter() - start)
            self.call(self.driver.cuEventRecord(last, 0))
        self.synchronize()
        seconds = [self.call(self.driver.cuEventElapsedTime(*pair)) / 1e3 for pair in pairs]
        for event in (event for pair in pairs for event in pair):
            self.call(self.driver.cuEventDestroy(event))
        return seconds

    def of_host(self, label: str) -> Timing:
        """Return what the host spent on the steps of a contender, the first of them left out."""
        return summary(self.host[label][1:])

    def event(self) -> Any:
        return self.call(self.driver.cuEventCreate(0))

    def synchronize(self) -> None:
        self.call(self.driver.cuCtxSynchronize())

    def free(self) -> int:
        """Return the bytes of the GPU's memory that nobody has."""
        return int(self.call(self.driver.cuMemGetInfo())[0])

    def call(self, result: tuple[Any, ...]) -> Any:
        """Return what a function of the driver returned beside its status; another than success is raised."""
        status, *found = result
        if int(status):
            raise RuntimeError(f"the driver says {status.name}")
        return found[0] if len(found) == 1 else tuple(found)
