"""What every spec in specs/ is held to; a new one is tested without a line added here."""

import importlib
import inspect
import platform
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from assembly import CONTRACTED, PACKED, full_assembly
from training import SHAPES, Array, assert_same_bits, bits, moved, named, random_tensors, train

import stepspec
from settings import own_numbers, settings
from stepspec.cpu import Kernel

NAMES = dict(enumerate(["a_weight", "a_bias", "gamma", "weight_b", "bias"]))


def shapes(optimizer_class: type[stepspec.Optimizer]) -> list[tuple[int, ...]]:
    """Return the shapes to test; a rule with a maximum refuses empty tensors."""
    return [shape for shape in SHAPES if not (optimizer_class.refuses_empty and 0 in shape)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fused_has_the_bits_of_step(optimizer_class: type[stepspec.Optimizer], dtype: Any) -> None:
    weights = random_tensors(shapes(optimizer_class), dtype)
    for options in settings(optimizer_class):
        results = []
        for fused, threads in ((False, 1), (True, 1), (True, 2)):
            stepspec.set_num_threads(threads)
            results.append(train(optimizer_class(param_idx2name=NAMES, **options), weights, fused=fused))
        # eta = 0 is a fraction of nothing: only there may weights stay as they are
        assert 0.0 in options.values() or moved(results[0][0], weights), named(options)
        assert_same_bits(results[0], results[1])
        assert_same_bits(results[0], results[2])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values_have_the_same_bits(optimizer_class: type[stepspec.Optimizer], dtype: Any) -> None:
    tiny, huge = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    values = np.array([0.0, -0.0, 1.0, np.inf, -np.inf, np.nan, tiny, -tiny, huge, -huge], dtype)
    weight, grad = (np.ascontiguousarray(a) for a in np.meshgrid(values, values))
    cases: tuple[dict[str, Any], ...] = ({}, {"clip_gradient": 1.0})
    for options in cases:
        runs = [
            train(optimizer_class(**options), [weight], fused=fused, grads=[[grad], [grad.T]], steps=2)
            for fused in (False, True)
        ]
        assert_same_bits(runs[0], runs[1])


def test_grouping_changes_nothing(optimizer_class: type[stepspec.Optimizer]) -> None:
    weights = random_tensors(shapes(optimizer_class), np.float32)
    together = train(optimizer_class(), weights)
    for count in (1, 2, 5, float("inf")):
        assert_same_bits(together, train(optimizer_class(aggregate_num=count), weights))
    for number, weight in enumerate(weights):
        # noise goes by the name, or else the index
        optimizer = optimizer_class(param_idx2name={0: str(number)})
        alone = train(optimizer, [weight], grads=[[g] for g in _grads(weights, number)])
        assert bits(alone[0][0]) == bits(together[0][number])


def _grads(weights: list[Array], number: int) -> list[Array]:
    shapes = [w.shape for w in weights]
    return [random_tensors(shapes, np.float32, seed=step + 1)[number] for step in range(3)]


def test_update_takes_the_chosen_path(
    optimizer_class: type[stepspec.Optimizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, grad = np.ones((3, 4), np.float32), np.ones((3, 4), np.float32)
    for fused, path in ((True, "fused_step"), (False, "step")):
        optimizer = optimizer_class(use_fused_step=fused)
        called: list[str] = []
        monkeypatch.setattr(optimizer_class, path, lambda *_, path=path, called=called: called.append(path))
        optimizer.update([0], [weight], [grad], [{}])
        assert called == [path]


def test_states(optimizer_class: type[stepspec.Optimizer]) -> None:
    optimizer = optimizer_class()
    for dtype in (np.float32, np.float64):
        weight = np.ones((4, 3, 2), dtype)
        state = optimizer.create_state(0, weight)
        again = optimizer.create_state_multi_precision(0, weight)
        assert {n: bits(a) for n, a in state.items()} == {n: bits(a) for n, a in again.items()}
        for array in state.values():
            # one number per tensor is always float64
            assert array.dtype == (np.float64 if array.shape == (1,) else dtype)
            assert array.shape in {weight.shape, (4, 1, 1), (1, 3, 2), (1,)}
            assert array.flags.writeable
            assert array.flags.c_contiguous


def test_defaults_stand_in_the_docstring(optimizer_class: type[stepspec.Optimizer]) -> None:
    doc = inspect.getdoc(optimizer_class) or ""
    for name, parameter in inspect.signature(optimizer_class).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        match = re.search(rf"^{name} : .*default (\S+)", doc, re.MULTILINE)
        assert match, f"{name} is not documented"
        if isinstance(parameter.default, float):
            assert float(match[1]) == parameter.default
    assert "https://" in doc or "References" not in doc


def test_hyperparameters_are_checked(optimizer_class: type[stepspec.Optimizer]) -> None:
    bad: list[tuple[Any, type[Exception]]] = [
        (float("nan"), ValueError),
        (-1.0, ValueError),
        (float("-inf"), ValueError),
        ("0.5", TypeError),
        (True, TypeError),
        ([0.5], TypeError),
    ]
    numbers = own_numbers(optimizer_class)
    for name in (*numbers, "learning_rate", "wd"):
        off = numbers[name].off if name in numbers else None
        for value, error in bad:
            if value == off:
                continue
            with pytest.raises(error, match=name):
                optimizer_class(**{name: value})
    optimizer = optimizer_class()
    for name in own_numbers(optimizer_class):
        before = getattr(optimizer, name)
        with pytest.raises(ValueError, match=name):
            setattr(optimizer, name, float("nan"))
        assert getattr(optimizer, name) == before


def test_a_numpy_number_does_not_promote(optimizer_class: type[stepspec.Optimizer]) -> None:
    """np.float64 would make float64 arrays of float32 ones in `step`."""
    weights = random_tensors([(5, 6)], np.float32)
    plain = train(optimizer_class(learning_rate=0.25, rescale_grad=0.5), weights, fused=False)
    half: Any = np.float32(0.5)
    numpy = train(optimizer_class(learning_rate=np.float64(0.25), rescale_grad=half), weights, fused=False)
    assert_same_bits(plain, numpy)


def test_gradients_are_not_written(optimizer_class: type[stepspec.Optimizer]) -> None:
    weights = random_tensors(shapes(optimizer_class), np.float32)
    grads = random_tensors(shapes(optimizer_class), np.float32, seed=9)
    copies = [grad.copy() for grad in grads]
    for grad in grads:
        grad.flags.writeable = False
    for fused in (False, True):
        train(optimizer_class(), weights, steps=1, fused=fused, grads=[grads])
    assert all(bits(a) == bits(b) for a, b in zip(grads, copies, strict=True))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads x86 assembly")
def test_kernels_are_vectorized_and_not_contracted(
    optimizer_class: type[stepspec.Optimizer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = importlib.import_module(f"{optimizer_class.__module__}_cpu")
    kernels = [value for value in vars(module).values() if isinstance(value, Kernel)]
    assert kernels
    for kernel in kernels:
        assembly = full_assembly(kernel, "float32", monkeypatch, tmp_path)
        assert not re.search(CONTRACTED, assembly), kernel.name
        # a scalars kernel has no loop
        assert kernel.form == "scalars" or re.search(PACKED, assembly), kernel.name
