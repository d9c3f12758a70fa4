"""Random well-formed specs, generated, compiled and run: `step` and `fused_step` agree bit for bit.

`make properties` checks 5,000 of them, and more with `PROPERTYFLAGS="--specs 20000 --seed 2"`.
"""

from pathlib import Path

import pytest
from random_agreement import CHUNK, search

SEEDS = range(10)
assert len(SEEDS) * CHUNK >= 300


@pytest.mark.parametrize("seed", SEEDS)
def test_random_specs_agree(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPSPEC_CACHE_DIR", str(tmp_path))
    done = search(seed, CHUNK)
    assert done["specs"] >= CHUNK
    # that they are worth comparing
    assert done["refused"] <= CHUNK // 10
    assert done["finite"] > done["elements"] / 3
    assert done["kernels"] > CHUNK / 2
    assert done["on CUDA's functions"] > CHUNK / 2
