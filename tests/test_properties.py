"""Random well-formed specs, generated, compiled and run: `step` and `fused_step` agree bit for bit.

Most are of elements alone, which are quick to compile. `make properties` checks 5,000 of them, and more with
`PROPERTYFLAGS="--specs 20000 --seed 2"`.
"""

from pathlib import Path

import pytest
from random_agreement import search

# seed -> specs; the last two make what takes longer to compile
SPECS = {**dict.fromkeys(range(8), 35), 8: 12, 9: 12}
assert sum(SPECS.values()) >= 300


@pytest.mark.parametrize(("seed", "specs"), SPECS.items())
def test_random_specs_agree(seed: int, specs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPSPEC_CACHE_DIR", str(tmp_path))
    done = search(seed, specs)
    assert done["specs"] >= specs
    # that they are worth comparing
    assert done["refused"] <= specs / 10
    assert done["finite"] > done["elements"] / 3
    assert done["kernels"] > specs / 2
    assert done["on CUDA's functions"] > specs / 2
