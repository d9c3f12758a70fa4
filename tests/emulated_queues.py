"""The streams of emulated devices: queues of work, done when something waits for it.

Note [Queues]
What is put on a stream is only queued, and done when something waits for it: `copy_out`, `synchronize`, the
freeing of memory, an event that was asked before. So page-locked memory that is reused too early, or a
forgotten event, gives wrong results here. A stream's work is done in order; streams wait for each other by
events only (0 and 1 are one stream, 2 is one for each thread): nothing is ordered that CUDA does not order
for non-blocking streams.
"""

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ptx_machine import MachineError, Memory

PER_THREAD = 2


@dataclass(eq=False)
class Work:
    """Something queued, and what of other streams comes before it."""

    key: tuple[int, int]
    act: Callable[[], object]
    after: "tuple[Work, ...]" = ()
    done: bool = False


class Queues:
    """What the streams of some devices still have to do.

    Attributes
    ----------
    memories
        Each device's memory.
    waits
        How often something waited for work that was not yet done.

    """

    def __init__(self, memories: Sequence[Memory]) -> None:
        self.memories = memories
        self.waits = 0
        # the first error of a device: as on a GPU, nothing is done there any more, and every wait raises it
        self._lost: dict[int, MachineError] = {}
        self._queues: dict[tuple[int, int], deque[Work]] = defaultdict(deque)
        self._busy, self._freed = 0, list[tuple[int, int]]()

    def synchronize(self, device: int, stream: int) -> None:
        """Do all that a stream has to do."""
        queue = self._queues[device, _own(stream)]
        if queue:
            self.waits += 1
            self.do(queue[-1])
        self._refuse_lost(device)

    def finish(self, device: int | None = None) -> None:
        """Do all that is queued, on one device or on all."""
        for key, queue in list(self._queues.items()):
            if queue and device in (None, key[0]):
                self.do(queue[-1])
        for lost in self._lost if device is None else (device,):
            self._refuse_lost(lost)

    def _refuse_lost(self, device: int) -> None:
        if device in self._lost:
            raise self._lost[device]

    def pending(self, device: int | None = None) -> int:
        """Return how much is queued."""
        return sum(len(queue) for key, queue in self._queues.items() if device in (None, key[0]))

    def put(self, device: int, stream: int, act: Callable[[], object], after: tuple[Work, ...] = ()) -> Work:
        """Put some work on a stream."""
        if not 0 <= device < len(self.memories):
            raise MachineError(f"there is no device {device}")
        work = Work((device, _own(stream)), act, after)
        self._queues[work.key].append(work)
        return work

    def mark(self, device: int, stream: int) -> Work:
        """Return the end of what a stream has to do."""
        return self.put(device, stream, lambda: None)

    def do(self, work: Work) -> None:
        """Do some work, and before it all that comes before it; memory that is freed meanwhile after it."""
        self._busy += 1
        try:
            self._do(work)
        finally:
            self._busy -= 1
        while self._freed and not self._busy:
            self.free(*self._freed.pop())

    def _do(self, work: Work) -> None:
        wanted = [work]
        while wanted:
            if wanted[-1].done:
                wanted.pop()
                continue
            queue = self._queues[wanted[-1].key]
            before = next((other for other in queue[0].after if not other.done), None)
            if before is not None:
                wanted.append(before)
            else:
                first = queue.popleft()
                first.done = True
                self._act(first)

    def _act(self, work: Work) -> None:
        try:
            work.act()
        except MachineError as error:
            self._lost[work.key[0]] = error
            for key, queue in self._queues.items():
                if key[0] == work.key[0]:
                    for other in queue:
                        other.done = True
                    queue.clear()
            raise

    def free(self, device: int, address: int) -> None:
        """Free memory: as in CUDA, after all of the device's work."""
        if self._busy:  # the collector came while a kernel was running
            self._freed.append((device, address))
            return
        if self.pending(device):
            self.waits += 1
            # whoever waits next gets the error: what a finalizer raises is lost
            with suppress(MachineError):
                self.finish(device)
        self.memories[device].free(address)


def _own(stream: int) -> int:
    """Return one number for each stream: 0 and 1 are the same one, and by 2 each thread names its own."""
    return -threading.get_ident() if stream == PER_THREAD else stream or 1
