"""The pool of threads: numbers of threads, concurrent use, forks, signals, the end of the interpreter."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

import stepspec
from stepspec import cpu, threads
from stepspec.cpu import elements
from stepspec.formats import Formats
from stepspec.work import take_part

SIZE, CHUNK = 100_000, 1000


@elements("values")
def increase(values, step):
    for i in range(values.size):
        values[i] = values[i] + step


class Job:
    """Adds 1 to every value, in batches of one chunk."""

    def __init__(self) -> None:
        self.values = np.zeros(SIZE, np.float32)
        self.rows = [np.array([self.values.ctypes.data]), np.ones(1)]
        self.table = np.array([row.ctypes.data for row in self.rows])
        entry, table = increase.address(Formats.plain("float32")), self.table.ctypes.data
        self.items = np.array([(entry, table, 0, start, CHUNK) for start in range(0, SIZE, CHUNK)])
        self.work = self.cut(*range(len(self.items) + 1))

    def cut(self, *bounds: int) -> cpu.Work:
        return cpu.Work(self.items, np.array(bounds))

    def run(self, count: int | None = None) -> None:
        cpu.run(self.work, count)


@pytest.fixture(autouse=True)
def _number_of_threads() -> Iterator[None]:
    before = stepspec.get_num_threads()
    yield
    stepspec.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 200])
def test_every_batch_runs_once(count: int) -> None:
    job = Job()
    for _ in range(50):
        job.run(count)
    assert np.all(job.values == 50)


def test_batches_of_several_items() -> None:
    job = Job()
    cpu.run(job.cut(0, 1, 1, 40, 100), 3)
    assert np.all(job.values == 1)


def test_a_single_batch_wakes_nobody() -> None:
    job = Job()
    job.run(2)
    pool = threads._pools[0]
    started = pool.threads
    cpu.run(job.cut(0, len(job.items)), 64)
    assert pool.threads == started
    assert np.all(job.values == 2)


def test_a_few_batches_start_no_more_workers_than_can_help() -> None:
    threads._after_fork()
    job = Job()
    cpu.run(job.cut(0, 50, 100), 64)
    assert threads._pools[0].threads == 2


def test_a_sleeper_is_woken_for_much_work_only() -> None:
    job, few, woken = Job(), threads.ROUSING - 1, []
    job.run(2)
    state, worker = threads._pools[0].state, threads.WORKERS + threads.LINE
    wake = ctypes.CFUNCTYPE(None, ctypes.c_int64)(state[threads.RELEASE])

    def note(lock: int) -> None:
        woken.append(lock)
        wake(lock)

    release = ctypes.CFUNCTYPE(None, ctypes.c_int64)(note)

    def run_beside_a_sleeper(work: cpu.Work) -> None:
        woken.clear()
        while state[worker + 1]:
            time.sleep(0.001)
        cpu.run(work, 2)

    state[threads.RELEASE] = ctypes.cast(release, ctypes.c_void_p).value or 0
    try:
        run_beside_a_sleeper(job.cut(*range(few), len(job.items)))
        assert state[worker] not in woken
        run_beside_a_sleeper(job.cut(*range(few + 1), len(job.items)))
        assert state[worker] in woken
    finally:
        while state[worker + 1]:
            time.sleep(0.001)
        state[threads.RELEASE] = ctypes.cast(wake, ctypes.c_void_p).value or 0
    assert np.all(job.values == 3)


def test_threads_are_roused_before_work_that_comes_again() -> None:
    job = Job()
    job.run(2)
    state, awake = threads._pools[0].state, threads.WORKERS + threads.LINE + 1

    def sleep() -> None:
        while state[awake]:
            time.sleep(0.001)

    stepspec.set_num_threads(2)
    for work, expected in ((job.work, 1), (job.cut(0, 50, 100), 0)):
        sleep()
        cpu.rouse(work)
        assert state[awake] == expected
    cpu.rouse(job.work)
    sleep()  # nothing came
    job.run(2)
    assert np.all(job.values == 2)


def test_number_of_threads() -> None:
    stepspec.set_num_threads(3)
    assert stepspec.get_num_threads() == 3
    job = Job()
    job.run()
    assert np.all(job.values == 1)
    for bad in (0, -1, 1025):
        with pytest.raises(ValueError, match=r"1 \.\. 1024"):
            stepspec.set_num_threads(bad)
    for wrong in (True, 2.0, "2", None):
        with pytest.raises(TypeError, match="is an int"):
            stepspec.set_num_threads(wrong)  # type: ignore[arg-type]  # wrong on purpose
    assert stepspec.get_num_threads() == 3


def test_concurrent_use() -> None:
    jobs = [Job() for _ in range(4)]

    def steps(job: Job) -> None:
        for _ in range(300):
            job.run(2)

    users = [threading.Thread(target=steps, args=(job,)) for job in jobs]
    for user in users:
        user.start()
    for user in users:
        user.join(60)
    for job in jobs:
        assert np.all(job.values == 300)


def test_waiting_workers_cost_nothing() -> None:
    job = Job()
    job.run(4)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork_after_use() -> None:
    job = Job()
    job.run(2)
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            signal.alarm(30)  # a child that hangs is a failure
            for _ in range(20):
                job.run(2)
            os._exit(0 if np.all(job.values == 21) else 1)
        children.append(child)
    for _ in range(20):
        job.run(2)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert np.all(job.values == 21)


def run_script(text: str) -> subprocess.CompletedProcess[str]:
    preamble = "import sys; sys.path.insert(0, sys.argv[1])\nfrom test_threads import *\n"
    command = [sys.executable, "-c", preamble + textwrap.dedent(text), os.path.dirname(__file__)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_interpreter_ends_with_waiting_workers() -> None:
    done = run_script("job = Job(); job.run(8); print(int(job.values.sum()))")
    assert (done.returncode, done.stdout, done.stderr) == (0, "100000\n", "")


def test_the_interpreter_ends_while_another_thread_steps() -> None:
    done = run_script(
        """
        job = Job()
        def forever():
            while True:
                job.run(4)
        threading.Thread(target=forever, daemon=True).start()
        time.sleep(0.2)
        print("end")
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
def test_an_interrupt_never_leaves_a_region_half_done() -> None:
    done = run_script(
        """
        job, interrupts, stepping = Job(), 0, False
        job.run(2)  # Numba itself does not survive an interrupt while it compiles
        def interrupt(*_):
            global stepping
            if stepping:
                stepping = False
                raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0007)
        while interrupts < 200:
            try:
                stepping = True
                job.run(2)
                stepping = False
            except KeyboardInterrupt:
                interrupts += 1
            assert job.values.min() == job.values.max()
        signal.setitimer(signal.ITIMER_REAL, 0)
        before = job.values[0]
        job.run(2)
        assert np.all(job.values == before + 1)
        print("whole")
        """
    )
    assert (done.returncode, done.stdout) == (0, "whole\n"), done.stderr


def test_a_caller_that_is_woken_up_early_waits_on() -> None:
    # a worker that was held up while it left may take another caller's WAITING back
    job, pool = Job(), threads._Pool()
    job.work.divide(2)
    arguments = pool.address, 2, job.work.address, False, take_part()
    region = threading.Thread(target=threads._compiled_region(), args=arguments, daemon=True)
    release = ctypes.pythonapi.PyThread_release_lock
    release.argtypes, release.restype = [ctypes.c_void_p], None

    pool.state[threads.GATE] = threads.INSIDE  # a worker that stays inside
    region.start()
    for _ in range(2):
        while region.is_alive() and not pool.state[threads.GATE] & threads.WAITING:
            time.sleep(0.001)
        assert region.is_alive()
        pool.state[threads.GATE] = threads.INSIDE
        release(pool.state[threads.DONE])

    while not pool.state[threads.GATE] & threads.WAITING:
        time.sleep(0.001)
    pool.state[threads.GATE] = 0
    release(pool.state[threads.DONE])
    region.join()
    assert (job.values == 1).all()
