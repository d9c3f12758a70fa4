"""The pool of threads that runs work items: safe under concurrent use and in forked children.

Note [Pool]
Numba's threading layers kill a forked child that computes (omp) or abort on concurrent use (workqueue).
Here a worker is a daemon thread inside one compiled call that never returns and never needs the GIL: it
sleeps on a lock of Python's own, taken and released through CPython's C interface. Waking a sleeper takes
longer than a small model's step, so a worker watches the gate for a while before it sleeps again. A region
is one compiled call too, so that Ctrl-C is seen before it or after it, never between two chunks.

The caller writes the job, opens the gate, wakes as many workers as there are batches to share, and pulls
batches off a counter with them; workers behind END are not invited. When no batch is left it closes the gate
and waits for the workers that are inside. One that wakes up late finds the gate closed and sleeps again, so
that nobody waits for it. Who finds the pool busy runs alone.

The pool is an array of int64, one cache line per field, that is never freed: a worker may look at it
while the interpreter exits. GATE counts the workers inside in steps of INSIDE, above the bits OPEN and
WAITING.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import int64, types

from stepspec.compilation import compile_function, inlined, intrinsic, log
from stepspec.pointers import at

LINE = 8  # int64 in a cache line
BUSY, GATE, NEXT, DONE, ITEMS, BATCHES, COUNT, END, JOB, WORKERS = range(0, 10 * LINE, LINE)
OPEN, WAITING, INSIDE = 1, 2, 4
SPINS = 200  # a few microseconds: less than the kernel takes to wake a thread up
WATCH = 60000  # 0.4 to 0.5 ms where it was measured: longer than a small model's step between two regions
MAX_THREADS = 1024


def _atomic(operation: str) -> Any:
    """Return `change(address, value) -> old`: one atomic operation on an int64."""

    @intrinsic
    def change(typing: Any, address: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            place = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
            return builder.atomic_rmw(operation, place, arguments[1], "seq_cst")

        return types.int64(types.int64, types.int64), generate

    return change


@intrinsic
def _load(typing: Any, address: Any) -> Any:
    """Read an int64 that other threads change."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.load_atomic(place, "seq_cst", 8)

    return types.int64(types.int64), generate


_add, _and, _or, _exchange = _atomic("add"), _atomic("and"), _atomic("or"), _atomic("xchg")


@intrinsic
def _acquire(typing: Any, function: Any, lock: Any) -> Any:
    """Take a lock of Python's, waiting for it without regard to signals."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [ir.IntType(64), ir.IntType(32)])
        call = builder.inttoptr(arguments[0], kind.as_pointer())
        builder.call(call, [arguments[1], ir.Constant(ir.IntType(32), 1)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def _release(typing: Any, function: Any, lock: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)])
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [arguments[1]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def _call_entry(typing: Any, entry: Any, tables: Any, tensor: Any, start: Any, count: Any) -> Any:
    """Call an entry by its address, see Note [Entries]."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 4)
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


@inlined
def _run_batch(items: int, batches: int, batch: int) -> None:
    item, limits = at(items, int64), at(batches, int64)
    for k in range(5 * limits[batch], 5 * limits[batch + 1], 5):
        _call_entry(item[k], item[k + 1], item[k + 2], item[k + 3], item[k + 4])


@inlined
def _share(pool: int) -> None:
    """Run batches of the open job until none is left."""
    job = at(pool, int64)
    batch = _add(pool + 8 * NEXT, 1)
    while batch < job[COUNT]:
        _run_batch(job[ITEMS], job[BATCHES], batch)
        batch = _add(pool + 8 * NEXT, 1)


@inlined
def _invited(pool: int, worker: int, last: int) -> bool:
    """Tell whether the gate is open, for this worker, with a job that it has not seen."""
    is_open: bool = _load(pool + 8 * GATE) & OPEN != 0
    return is_open and worker < _load(pool + 8 * END) and _load(pool + 8 * JOB) != last


@inlined
def _watch(pool: int, worker: int, last: int) -> bool:
    """Wait for an invitation without sleeping, for a while; tell whether one came."""
    for _ in range(WATCH):
        if _invited(pool, worker, last):
            return True
        _or(pool + 8 * worker + 8, 0)  # an atomic operation on a line of its own passes the time
    return False


def _serve(pool: int, worker: int, acquire: int, release: int) -> None:
    """Be a worker: for ever sleep, wake up, and share jobs as long as they come in quick succession."""
    state, gate, last = at(pool, int64), pool + 8 * GATE, -1
    while True:
        _exchange(pool + 8 * worker + 8, 0)  # asleep: whoever opens the gate from here on wakes it
        if not _invited(pool, worker, last):
            _acquire(acquire, state[worker])
        _exchange(pool + 8 * worker + 8, 1)
        while _watch(pool, worker, last):
            if _add(gate, INSIDE) & OPEN:
                last = _load(pool + 8 * JOB)
                _share(pool)
            if _add(gate, -INSIDE) == INSIDE | WAITING and _and(gate, ~WAITING) & WAITING:
                _release(release, state[DONE])


def _region(pool: int, helpers: int, item: int, limits: int, count: int, acquire: int, release: int) -> None:
    """Run all batches, sharing them with up to `helpers` workers."""
    if helpers == 0 or _exchange(pool + 8 * BUSY, 1) == 1:
        for batch in range(count):
            _run_batch(item, limits, batch)
        return
    state, gate = at(pool, int64), pool + 8 * GATE
    state[ITEMS], state[BATCHES], state[COUNT] = item, limits, count
    _exchange(pool + 8 * NEXT, 0)
    _exchange(pool + 8 * END, WORKERS + LINE * helpers)
    _add(pool + 8 * JOB, 1)
    _or(gate, OPEN)
    for k in range(helpers):
        worker = WORKERS + LINE * k
        if _exchange(pool + 8 * worker + 8, 1) == 0:  # asleep
            _release(release, state[worker])
    _share(pool)
    inside = _and(gate, ~OPEN) & ~OPEN
    spins = 0
    while inside != 0 and spins < SPINS:
        inside = _or(gate, 0)
        spins += 1
    # if somebody is inside, or took WAITING back on leaving meanwhile, a release of DONE is due
    if inside != 0 and (_or(gate, WAITING) >= INSIDE or not _and(gate, ~WAITING) & WAITING):
        _acquire(acquire, state[DONE])
    _exchange(pool + 8 * BUSY, 0)


_ADDRESS = int64
_SERVE = types.void(_ADDRESS, int64, _ADDRESS, _ADDRESS)
_REGION = types.void(_ADDRESS, int64, _ADDRESS, _ADDRESS, int64, _ADDRESS, _ADDRESS)


@functools.cache
def _c_function(name: str) -> int:
    """Return the address of a function of CPython."""
    return ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0


@functools.cache
def _compiled_region() -> Any:
    return compile_function(_region, _REGION)


@functools.cache
def _compiled_serve() -> Any:
    return compile_function(_serve, _SERVE)


def _locked_lock() -> int:
    """Return the address of a new lock that is taken."""
    allocate = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyThread_allocate_lock", ctypes.pythonapi))
    take = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(
        ("PyThread_acquire_lock", ctypes.pythonapi)
    )
    lock = allocate()
    if not lock:
        raise MemoryError("no lock for a worker thread")
    take(lock, 1)
    return int(lock)


class _Pool:
    """The workers of this process, started when first needed, see Note [Pool]."""

    def __init__(self) -> None:
        allocate = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)(
            ("PyMem_RawCalloc", ctypes.pythonapi)
        )
        size = WORKERS + LINE * MAX_THREADS
        self.address = allocate(size, 8)
        if not self.address:
            raise MemoryError("no memory for the pool of threads")
        self.state = (ctypes.c_int64 * size).from_address(self.address)
        self.state[DONE] = _locked_lock()
        self.workers = 0
        self.starting = threading.Lock()

    def helpers(self, wanted: int) -> int:
        """Return how many workers there are, up to `wanted`, after starting what is missing."""
        if self.workers < wanted:
            with self.starting:
                while self.workers < wanted and self._start(WORKERS + LINE * self.workers):
                    self.workers += 1
        return min(self.workers, wanted)

    def _start(self, worker: int) -> bool:
        self.state[worker] = _locked_lock()
        arguments = (
            self.address,
            worker,
            *map(_c_function, ("PyThread_acquire_lock", "PyThread_release_lock")),
        )
        thread = threading.Thread(target=_compiled_serve(), args=arguments, name="stepspec", daemon=True)
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


def run(items: npt.NDArray[np.int64], batches: npt.NDArray[np.int64], threads: int | None = None) -> None:
    """Run work items and return when all are done.

    Parameters
    ----------
    items : int64 array of shape (n, 5), C-contiguous
        Address of an entry, address of its table, tensor, start, count: see Note [Entries]. Nothing is
        checked.
    batches : int64 array of shape (m + 1,), C-contiguous
        Items batches[b] to batches[b + 1] are run in this order by one thread; different batches at the
        same time.
    threads : int, optional
        At most so many threads, the calling one among them; `get_num_threads()` by default.

    """
    wanted = min(get_num_threads() if threads is None else threads, batches.size - 1) - 1
    address, helpers = 0, 0
    if wanted > 0:
        pool = _pool()
        address, helpers = pool.address, pool.helpers(wanted)
    acquire, release = _c_function("PyThread_acquire_lock"), _c_function("PyThread_release_lock")
    start, limits = items.ctypes.data, batches.ctypes.data
    _compiled_region()(address, helpers, start, limits, batches.size - 1, acquire, release)


_chosen: list[int] = []  # none or one


def get_num_threads() -> int:
    """Return how many threads a step uses: by default one per processor that Numba and the system allow."""
    if not _chosen:
        try:
            processors = len(os.sched_getaffinity(0))
        except AttributeError:  # not on this system
            processors = os.cpu_count() or 1
        _chosen.append(max(1, min(numba.config.NUMBA_NUM_THREADS, processors, MAX_THREADS)))
    return _chosen[0]


def set_num_threads(n: int) -> None:
    """Set how many threads a step uses; results never depend on it.

    Raises
    ------
    TypeError
        If n is no int.
    ValueError
        If n is not in 1 .. 1024.

    """
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"the number of threads is an int, not {n!r}")
    if not 1 <= n <= MAX_THREADS:
        raise ValueError(f"the number of threads must be in 1 .. {MAX_THREADS}, not {n}")
    _chosen[:] = [n]
