"""How many threads a step uses."""

from __future__ import annotations

import os

MAX_THREADS = 1024

_chosen: list[int] = []  # none or one


def get_num_threads() -> int:
    """Return how many threads `fused_step` uses: one per processor that Numba and the system allow."""
    if not _chosen:
        from numba import config

        try:
            processors = len(os.sched_getaffinity(0))
        except AttributeError:  # not on this system
            processors = os.cpu_count() or 1
        _chosen.append(max(1, min(config.NUMBA_NUM_THREADS, processors, MAX_THREADS)))
    return _chosen[0]


def set_num_threads(n: int) -> None:
    """Set how many threads `fused_step` uses, in this process; results never depend on it.

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
