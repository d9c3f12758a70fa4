"""Random rules from spec to machine code: on an emulated device their kernels have the bits of `step`."""

import importlib
import random
from pathlib import Path

import numpy as np
import pytest
from device_training import train_on_device
from emulated_driver import EmulatedDriver
from random_rules import WideRule, random_spec
from training import assert_same_bits, random_tensors, train

from stepspec.cuda.driver import use
from stepspec.generator.emit import emit

# rules that reduce along rows, over columns and over the tensor, and keep states of every extent
SEEDS = (8, 33)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_rule(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / f"random_rule_{seed}"
    package.mkdir()
    for name, text in emit(random_spec(random.Random(seed), WideRule)).items():
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    found = importlib.import_module(f"{package.name}.x").X
    sizes: list[tuple[int, ...]] = [(), (6,), (5, 4), (3, 300)]
    weights = random_tensors(sizes, np.float32)
    expected = train(found(), weights, steps=2, fused=False)
    driver = EmulatedDriver()
    with use(driver):
        assert_same_bits(expected, train_on_device(driver, found(), weights, steps=2))
