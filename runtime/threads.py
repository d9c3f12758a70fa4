"""The pool of threads that do work: safe under concurrent use and in forked children.

Note [Pool]
Numba's threading layers kill a forked child that computes (omp) or abort on concurrent use (workqueue).
Here a worker is a daemon thread inside one compiled call that never returns and never needs the GIL: it
sleeps on a lock of Python's own, taken and released through CPython's C interface. Waking a sleeper takes
longer than a small model's step, so a worker watches the gate for a while before it sleeps again. A region
is one compiled call too, so that Ctrl-C is seen before it or after it, never between two batches.

The caller writes the job, opens the gate, wakes as many workers as there are shares if the job is worth it,
and takes part with them, see Note [Waves and latches]; workers beyond the shares are not invited. When no
batch is left it closes the gate and waits for the workers that are inside. One that wakes up late finds the
gate closed and sleeps again, so that nobody waits for it. Who finds the pool busy works alone. A worker that
leaves takes WAITING back in a second step, before which it may have lost its processor for so long that this
is another caller's WAITING: so a caller that is woken up looks whether anybody is still inside.

The pool is an array of int64, one cache line per field, that is never freed: a worker may look at it
while the interpreter exits. GATE counts the workers inside in steps of INSIDE, above the bits OPEN and
WAITING.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Callable
from typing import Any

from numba import boolean, int64, types

from stepspec.compilation import compile_function, inlined, log
from stepspec.num_threads import MAX_THREADS, get_num_threads
from stepspec.pointers import at
from stepspec.synchronization import (
    acquire,
    add,
    bit_and,
    bit_or,
    c_function,
    exchange,
    give_way,
    load,
    locked_lock,
    release,
)
from stepspec.work import Work, begin, call, end, take_part

LINE = 8  # int64 in a cache line
BUSY, GATE, DONE, WORK, SHARES, JOB, ACQUIRE, RELEASE, YIELD, NAP, WORKERS = range(0, 11 * LINE, LINE)
OPEN, WAITING, INSIDE = 1, 2, 4
SPINS = 1000  # looks at the gate before sleeping: longer than a batch takes
WATCH = 30000  # about 0.5 ms where it was measured: longer than a small model's step between two regions
LOOKS = 64  # between two offers to give way
ROUSING = 16  # batches worth waking a worker up, 0.1 ms of work: fewer are done before it comes


@inlined
def _invited(pool: int, worker: int, last: int) -> bool:
    """Tell whether the gate is open, for this worker, with a job that it has not seen."""
    is_open: bool = load(pool + 8 * GATE) & OPEN != 0
    return is_open and worker < load(pool + 8 * SHARES) and load(pool + 8 * JOB) != last


@inlined
def _watch(pool: int, me: int, last: int) -> bool:
    """Wait for an invitation without sleeping, for a while; tell whether one came."""
    mine = pool + 8 * (WORKERS + LINE * me) + 8
    for look in range(WATCH):
        if _invited(pool, me, last):
            return True
        bit_or(mine, 0)  # an atomic operation on a line of its own passes the time
        if look % LOOKS == 0:
            give_way(at(pool, int64)[YIELD])  # the caller may be on this processor
    return False


def _serve(pool: int, me: int, part: int) -> None:
    """Be a worker: for ever sleep, wake up, and take part in work as long as it comes in quick succession."""
    state, gate, last = at(pool, int64), pool + 8 * GATE, -1
    lock, awake = WORKERS + LINE * me, pool + 8 * (WORKERS + LINE * me) + 8
    while True:
        exchange(awake, 0)  # whoever opens the gate from here on wakes it
        if not _invited(pool, me, last):
            acquire(state[ACQUIRE], state[lock])
        exchange(awake, 1)
        while _watch(pool, me, last):
            if add(gate, INSIDE) & OPEN:
                last = load(pool + 8 * JOB)
                call(part, state[WORK], me, state[SHARES], pool + 8 * NAP)
            if add(gate, -INSIDE) == INSIDE | WAITING and bit_and(gate, ~WAITING) & WAITING:
                release(state[RELEASE], state[DONE])


@inlined
def _wake(pool: int, shares: int) -> None:
    """Wake the workers below `shares` who sleep: they watch the gate then, for a while."""
    state = at(pool, int64)
    for k in range(1, shares):
        lock = WORKERS + LINE * k
        if exchange(pool + 8 * lock + 8, 1) == 0:  # asleep
            release(state[RELEASE], state[lock])


def _rouse(pool: int, shares: int) -> None:
    _wake(pool, shares)


@inlined
def _invite(pool: int, work: int, shares: int, rouse: bool) -> None:
    """Open the gate to the workers below `shares`, and wake those who sleep if that is worth it."""
    at(pool, int64)[WORK] = work
    exchange(pool + 8 * SHARES, shares)
    add(pool + 8 * JOB, 1)
    bit_or(pool + 8 * GATE, OPEN)
    _wake(pool, shares if rouse else 1)


@inlined
def _see_off(pool: int) -> None:
    """Close the gate and wait for the workers that are inside."""
    state, gate = at(pool, int64), pool + 8 * GATE
    inside, spins = bit_and(gate, ~OPEN) & ~OPEN, 0
    while inside != 0 and spins < SPINS:
        give_way(state[YIELD])  # who is inside may wait for this processor
        inside = load(gate)
        spins += 1
    while inside != 0:  # one wake-up is no proof: see Note [Pool]
        if bit_or(gate, WAITING) < INSIDE and bit_and(gate, ~WAITING) & WAITING:
            return
        # somebody is inside, or took WAITING back on leaving meanwhile: a release of DONE is due
        acquire(state[ACQUIRE], state[DONE])
        inside = load(gate)


def _region(pool: int, shares: int, work: int, rouse: bool, part: int) -> None:
    """Do all work, sharing it with the workers below `shares` unless they are busy."""
    if shares == 1 or exchange(pool + 8 * BUSY, 1) == 1:
        begin(work, 1)
        call(part, work, 0, 1, 0)
    else:
        begin(work, shares)
        _invite(pool, work, shares, rouse)
        call(part, work, 0, shares, pool + 8 * NAP)
        _see_off(pool)
        exchange(pool + 8 * BUSY, 0)
    end(work)


@functools.cache
def _compiled_region() -> Any:
    return compile_function(_region, types.void(int64, int64, int64, boolean, int64))


@functools.cache
def _compiled_rouse() -> Any:
    return compile_function(_rouse, types.void(int64, int64))


@functools.cache
def _compiled_serve() -> Any:
    return compile_function(_serve, types.void(int64, int64, int64))


class _Pool:
    """The threads of this process, see Note [Pool]: number 0 is whoever calls, workers start when needed."""

    def __init__(self) -> None:
        allocate = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)(
            ("PyMem_RawCalloc", ctypes.pythonapi)
        )
        size = WORKERS + LINE * MAX_THREADS
        self.address = allocate(size, 8)
        if not self.address:
            raise MemoryError("no memory for the pool of threads")
        self.state = (ctypes.c_int64 * size).from_address(self.address)
        self.state[DONE] = locked_lock()
        self.state[ACQUIRE] = c_function("PyThread_acquire_lock")
        self.state[RELEASE] = c_function("PyThread_release_lock")
        self.state[YIELD] = c_function("sched_yield")
        self.state[NAP], self.state[NAP + 1] = c_function("PyThread_acquire_lock_timed"), locked_lock()
        self.threads = 1
        self.starting = threading.Lock()

    def shares(self, wanted: int) -> int:
        """Return how many threads there are, up to `wanted`, after starting what is missing."""
        if self.threads < wanted:
            with self.starting:
                while self.threads < wanted and self._start(self.threads):
                    self.threads += 1
        return min(self.threads, wanted)

    def _start(self, number: int) -> bool:
        _compiled_rouse()  # a later step may be the first that finds it asleep, and no later step compiles
        self.state[WORKERS + LINE * number] = locked_lock()
        thread = threading.Thread(
            target=_compiled_serve(), args=(self.address, number, take_part()), name="stepspec", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:  # a limit on threads, or the interpreter is about to exit
            log.info("no further worker thread: %s", error)
            return False
        return True


_pools: list[_Pool] = []  # none or one
_creating = threading.Lock()


def _pool() -> _Pool:
    with _creating:
        if not _pools:
            _pools.append(_Pool())
        return _pools[0]


def _after_fork() -> None:
    """Forget the workers of the parent: they do not exist in a child."""
    global _creating  # noqa: PLW0603  # it may have been held by another thread of the parent
    _creating = threading.Lock()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def prepared(work: Work, threads: int | None = None) -> Callable[[], None]:
    """Return what does the work: one call into compiled code, without a step of Python's in between.

    Parameters
    ----------
    work
        It must stay alive, and be done by one caller at a time.
    threads : int, optional
        At most so many threads, the calling one among them; `get_num_threads()` by default.

    """
    batches = work.batches.size - 1
    wanted = min(get_num_threads() if threads is None else threads, batches)
    address, shares = 0, 1
    if wanted > 1:
        pool = _pool()
        address, shares = pool.address, pool.shares(wanted)
    work.divide(shares)
    rouse = batches >= ROUSING
    return functools.partial(_compiled_region(), address, shares, work.address, rouse, take_part())


def rouse(work: Work) -> None:
    """Wake up, for work that was done before and is about to come again, the threads that will share it.

    They come up while the caller makes its checks; if there is no work in the end, they sleep again.
    """
    if work.batches.size > ROUSING and work.shares > 1 and _pools:
        pool = _pools[0]
        if not pool.state[WORKERS + LINE + 1]:  # the first worker sleeps, so most will
            _compiled_rouse()(pool.address, min(work.shares, pool.threads, get_num_threads()))
