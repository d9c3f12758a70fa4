"""Time the first fused step of a fresh process, `import stepspec` included.

bench.py runs this file once for every process that it measures: `python benchmarks/first_call.py SGD`.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

CACHED_RUNS = 3


@dataclass(frozen=True)
class FirstCall:
    """Seconds to the end of the first fused step: with an empty cache, and with a filled one (median)."""

    optimizer: str
    cold: float
    cached: float


def measure(name: str) -> FirstCall:
    """Run this file in fresh processes which share a cache that starts empty."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"STEPSPEC_CACHE_DIR": cache, "NUMBA_CACHE_DIR": cache}
        command = [sys.executable, str(Path(__file__)), name]
        times = [
            float(json.loads(subprocess.check_output(command, env=environment, text=True)))
            for _ in range(1 + CACHED_RUNS)
        ]
    return FirstCall(name, times[0], sorted(times[1:])[CACHED_RUNS // 2])


def first_call(name: str) -> float:
    start = time.perf_counter()
    import numpy as np

    import stepspec

    momentum = {"momentum": 0.9} if name in ("SGD", "NAG", "LARS") else {}
    optimizer = stepspec.create(name, **momentum)
    weights = [np.ones((64, 64), np.float32), np.ones(64, np.float32)]
    states = [optimizer.create_state(i, weight) for i, weight in enumerate(weights)]
    optimizer.fused_step([0, 1], weights, [np.ones_like(weight) for weight in weights], states)
    return time.perf_counter() - start


if __name__ == "__main__":
    print(json.dumps(first_call(sys.argv[1])))
