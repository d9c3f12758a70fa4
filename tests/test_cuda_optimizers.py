"""Every optimizer on arrays of a GPU, executed by the PTX machine: the bits of `step`."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from device_training import train_on_device
from emulated_driver import EmulatedDriver
from sampling import sampled, turn
from training import assert_same_bits, random_tensors, train

import stepspec
from stepspec.cuda.driver import use

SHAPES: tuple[tuple[int, ...], ...] = (
    (),
    (7,),
    (0, 3),
    (5, 0),
    (3, 5),
    (300, 1),
    (1, 300),
    (4, 5, 3),
    (67, 65),
)
LANGUAGE = Path(__file__).parent / "specs"
NAMES = dict(enumerate(["a_weight", "a_bias", "gamma", "b_weight", "c_weight", "bias"]))


@pytest.fixture
def driver() -> Iterator[EmulatedDriver]:
    emulated = EmulatedDriver()
    with use(emulated):
        yield emulated


@sampled("dtype", [np.float32, np.float64], each=0, always=1)
def test_device_has_the_bits_of_step(
    optimizer_class: type[stepspec.Optimizer], dtype: Any, driver: EmulatedDriver
) -> None:
    weights = random_tensors(SHAPES, dtype)
    options = with_all_terms(optimizer_class)
    expected = train(optimizer_class(**options), weights, fused=False)
    assert_same_bits(expected, train_on_device(driver, optimizer_class(**options), weights))


def with_all_terms(optimizer_class: type[stepspec.Optimizer], **more: Any) -> dict[str, Any]:
    """Return arguments with which a rule has all its terms."""
    momentum = {"momentum": 0.9} if hasattr(optimizer_class, "momentum") else {}
    wd = {"wd": 0.05} if optimizer_class.uses_wd else {}
    return {"clip_gradient": 0.7, "rescale_grad": -0.5, "param_idx2name": NAMES} | momentum | wd | more


HALF = (np.float16, ml_dtypes.bfloat16)


@pytest.mark.filterwarnings("ignore:.*updates smaller")
@sampled("how", ("nearest", "stochastic", "master"), each=0, most=2)
def test_half_precision(optimizer_class: type[stepspec.Optimizer], how: str, driver: EmulatedDriver) -> None:
    dtype = HALF[turn(f"{optimizer_class.__name__} {how}") % 2]
    weights = random_tensors(SHAPES, dtype)
    own = {"multi_precision": True} if how == "master" else {"rounding": how}
    options = with_all_terms(optimizer_class, **own)
    expected = train(optimizer_class(**options), weights, fused=how == "stochastic", steps=2)
    assert_same_bits(expected, train_on_device(driver, optimizer_class(**options), weights, steps=2))


def test_gradients_of_other_dtypes(representative: type[stepspec.Optimizer], driver: EmulatedDriver) -> None:
    weights = random_tensors([(67, 65), (7,)], np.float32)
    grads = [[random_tensors([w.shape], dtype, 1)[0] for w, dtype in zip(weights, HALF, strict=True)]]
    options = with_all_terms(representative)
    expected = train(representative(**options), weights, fused=False, steps=1, grads=grads)
    found = train_on_device(driver, representative(**options), weights, steps=1, grads=grads)
    assert_same_bits(expected, found)


SPARSE: tuple[tuple[tuple[int, ...], list[int]], ...] = (
    ((40, 3), [1, 5, 6, 39]),
    ((300,), [0, 299]),
    ((70, 61), []),
    ((9, 700), [3, 4, 8]),
    ((0, 4), []),
)


@pytest.mark.filterwarnings("ignore:.*updates smaller")
@sampled("dtype", [np.float32, np.float64, *HALF], each=0, most=2)
def test_row_sparse_gradients(
    optimizer_class: type[stepspec.Optimizer], dtype: Any, driver: EmulatedDriver
) -> None:
    """Some storages are updated lazily, if the rule has a lazy form."""
    has_lazy = hasattr(optimizer_class, "lazy_update")
    lazy = has_lazy and turn(f"{optimizer_class.__name__} {np.dtype(dtype)}") % 2 == 0
    options = with_all_terms(optimizer_class, **({"lazy_update": True} if lazy else {}))
    weights = random_tensors([shape for shape, _ in SPARSE], dtype)
    grads = [
        [
            stepspec.RowSparse(random_tensors([(len(rows), *shape[1:])], dtype, seed)[0], rows, shape)
            for shape, rows in (SPARSE if seed != 1 else [(shape, rows[::2]) for shape, rows in SPARSE])
        ]
        for seed in range(2)
    ]
    expected = train(optimizer_class(**options), weights, fused=lazy, grads=grads, steps=2)
    found = train_on_device(driver, optimizer_class(**options), weights, grads=grads, steps=2)
    assert_same_bits(expected, found)


def test_special_values(optimizer_class: type[stepspec.Optimizer], driver: EmulatedDriver) -> None:
    tiny, huge = np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).max
    values = np.array([0.0, -0.0, 1.0, np.inf, -np.inf, np.nan, tiny, -tiny, huge, -huge], np.float32)
    weight, grad = (np.ascontiguousarray(array) for array in np.meshgrid(values, values))
    grads = [[grad], [grad.T]]
    for clip_gradient in (None, 1.0):
        options = with_all_terms(optimizer_class, clip_gradient=clip_gradient)
        expected = train(optimizer_class(**options), [weight], fused=False, grads=grads, steps=2)
        found = train_on_device(driver, optimizer_class(**options), [weight], grads=grads, steps=2)
        assert_same_bits(expected, found)


# many large passes of a few kinds, which random rules launch, too; or names and choices, which no device sees
ON_THE_HOST_ONLY = {"reductions", "absent", "collisions", "renamed", "by_variant", "switched"}


@pytest.mark.parametrize("spec", sorted({path.stem for path in LANGUAGE.glob("*.yaml")} - ON_THE_HOST_ONLY))
def test_rules_that_use_all_of_the_language(language_package: Any, spec: str, driver: EmulatedDriver) -> None:
    module = importlib.import_module(f"language_specs.{spec}")
    (kind,) = (
        value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__
    )
    weights = random_tensors([(5,), (3, 5), (20, 31)], np.float32)
    expected = train(kind(), weights, fused=False, steps=2)
    assert_same_bits(expected, train_on_device(driver, kind(), weights, steps=2))
