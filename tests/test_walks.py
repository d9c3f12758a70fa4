"""Walks along rows in strips: what generated kernels ask for ahead, and rows of every length."""

import numpy as np
import pytest

import stepspec
from stepspec.generator.emit import emit
from stepspec.generator.errors import Source
from stepspec.generator.reader import read_spec

TWICE = """
name: Twice
summary: Two row reductions, the second of what the first made.
hyperparameters:
  learning_rate: {default: 0.1}
state:
  mom: {per: element, init: 0, doc: Kept.}
update: |
  centred = grad - mean(grad, per=row)
  mom = mom + centred
  weight -= lr * centred / (1 + norm(weight * centred, per=row))
"""


def test_every_walk_asks_for_what_the_next_one_meets_first() -> None:
    kernels = emit(read_spec(Source("twice.yaml", TWICE), "twice"))["twice_cpu.py"]
    lines = [line.strip() for line in kernels.splitlines()]
    asked = [line for line in lines if line.startswith(("prefetch(", "for i in strip("))]
    assert asked == [
        "prefetch(weight, r, column)",
        "for i in strip(weight, column):",
        "prefetch(mom, r, column)",
        "for i in strip(weight, column):",
        "prefetch(grad, r + 1, column)",
        "for i in strip(weight, column):",
    ]
    assert [line for line in lines if "row_scratch(" in line] == [
        "terms = row_scratch(weight)",
        "terms_2 = row_scratch(weight)",
    ]


@pytest.mark.parametrize("columns", [1, 7, 8, 255, 256, 257, 300, 4096, 4097, 9000])
def test_rows_of_every_length_have_the_bits_of_step(columns: int) -> None:
    weight = np.random.default_rng(columns).standard_normal((3, columns)).astype(np.float32)
    results = []
    for fused in (True, False):
        optimizer = stepspec.create("groupadagrad", use_fused_step=fused)
        mine = weight.copy()
        state = optimizer.create_state(0, mine)
        optimizer.update([0], [mine], [weight * np.float32(0.1)], [state])
        results.append((mine, state["history"]))
    (fused_weight, fused_history), (plain_weight, plain_history) = results
    assert fused_weight.tobytes() == plain_weight.tobytes()
    assert fused_history.tobytes() == plain_history.tobytes()
