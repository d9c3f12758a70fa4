"""Folds of blocks in numba-cuda's simulator, whose threads are Python's; NUMBA_ENABLE_CUDASIM is 1."""

from typing import Any

import numpy as np
from numba import cuda
from numba.cuda.simulator.kernelapi import FakeCUDAModule

from stepspec import reference
from stepspec.cuda.device_code import kernel_form
from stepspec.cuda.folds import folds

THREADS = 256
KINDS = ("norm", "max", "mean")

_fold = folds(KINDS)
start, take, join, join_narrow, room = _fold.start, _fold.take, _fold.join, _fold.join_narrow, _fold.room
_exchanged = np.empty(THREADS)


def exchange(module: Any, mask: int, value: float, half: int) -> Any:
    """Do what the simulator lacks, for all threads of the block."""
    _exchanged[module.threadIdx.x] = value
    module.syncthreads()
    other = _exchanged[module.threadIdx.x ^ half]
    module.syncthreads()
    return other


def by_256(terms: Any, results: Any) -> None:
    shared = cuda.shared.array(room, np.float64)
    for turn in range(2):
        lanes = start()
        for i in range(cuda.threadIdx.x, terms.size, THREADS):
            lanes = take(lanes, (terms[i], terms[i], terms[i]))
        lanes = join(lanes, shared, turn)
        for k in range(len(lanes)):
            results[turn, cuda.threadIdx.x, k] = lanes[k]


def by_8(terms: Any, results: Any) -> None:
    lanes = start()
    for i in range(cuda.threadIdx.x % 8, terms.size, 8):
        lanes = take(lanes, (terms[i], terms[i], terms[i]))
    lanes = join_narrow(lanes)
    for k in range(len(lanes)):
        results[:, cuda.threadIdx.x, k] = lanes[k]


def main() -> None:
    FakeCUDAModule.shfl_xor_sync = exchange
    for kernel, size in ((by_256, 1000), (by_8, 100)):
        terms = np.random.default_rng(size).standard_normal(size).astype(np.float32)
        results = np.empty((2, THREADS, len(KINDS)))
        cuda.jit(kernel_form(kernel))[1, THREADS](terms, results)
        results[..., 0] = np.sqrt(results[..., 0])
        want = [reference.norm(terms), reference.largest(terms), reference.total(terms)]
        assert np.array_equal(results, np.broadcast_to(want, results.shape)), kernel.__name__


if __name__ == "__main__":
    main()
