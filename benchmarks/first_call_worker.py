"""Print the seconds of a first fused step, imports included: first_call_worker.py SGD '{"momentum": 0.9}'."""

import json
import sys
import time


def first_call(optimizer: str, settings: dict[str, float]) -> float:
    start = time.perf_counter()
    import numpy as np

    import stepspec

    created = stepspec.create(optimizer, **settings)
    weights = [np.ones((64, 64), np.float32), np.ones(64, np.float32)]
    states = [created.create_state(i, weight) for i, weight in enumerate(weights)]
    created.fused_step([0, 1], weights, [np.ones_like(weight) for weight in weights], states)
    return time.perf_counter() - start


if __name__ == "__main__":
    print(first_call(sys.argv[1], json.loads(sys.argv[2])))
