"""What MXNet recorded of a rule with noise: its drift, beside which stepspec's own draws are put."""

import math
from collections.abc import Iterator

import numpy as np
from golden_records import Array, Case, build, gradient, largest, started

from stepspec.noise import normals, tensor_key


def drift_complaints(case: Case, path: str) -> Iterator[str]:
    """Yield what is wrong with a replay in which every call starts from the recorded weights."""
    optimizer, record, tolerance = build(case, path), case.record, case.expect["tol"]
    weights, states = started(case, optimizer)
    for call, fed in enumerate(record["feed"]):
        grads = {i: gradient(case, i, call, case.arrays[f"p{i}/grad"][call]) for i in fed}
        for i in fed:
            weights[i][...] = case.arrays[f"step/p{i}/w"][call]
            for name, state in states[i].items():
                state[...] = case.arrays[f"step/p{i}/state/{name}"][call]
        for group in [fed] if case.expect["feed"] == "call" else [[i] for i in fed]:
            moved, slopes = [weights[i] for i in group], [grads[i] for i in group]
            optimizer.update_multi_precision(group, moved, slopes, [states[i] for i in group])
        for i, rate in zip(fed, case.expect["lr"][call], strict=True):
            master = "master" in states[i]
            before, after = _recorded(case, i, "state/master" if master else "w", call)
            noise = case.arrays[f"step/p{i}/noise"][call].astype(np.float64)
            own = math.sqrt(rate) * draws(record, i, optimizer.update_count(i), before.shape)
            drift = after - noise - before
            error = largest((states[i]["master"] if master else weights[i]) - (before + drift + own))
            # every step rounds sums of weight, drift and noise
            added = largest(before) + max(largest(noise), largest(own))
            allowed = tolerance["weights"] * added
            if tolerance["r"] is not None:
                allowed = min(allowed, tolerance["r"] * largest(drift) + tolerance["k"] * added)
            if not error <= allowed:
                yield f"p{i} after {call + 1} calls: off by {error:.2e}, allowed {allowed:.2e}"


def draws(record: dict[str, object], index: int, count: int, shape: tuple[int, ...]) -> Array:
    """Return the numbers that a rule's first `normal()` draws for a tensor, in float64."""
    names = record["idx2name"]
    assert isinstance(names, dict)
    key = tensor_key(0, names.get(str(index), str(index)))
    return normals(key, count, 1, np.arange(math.prod(shape)).reshape(shape), np.float64)


def _recorded(case: Case, index: int, name: str, call: int) -> Array:
    """Return the recorded values before and after a call."""
    return case.arrays[f"step/p{index}/{name}"][call : call + 2].astype(np.float64)
