"""What the language has beyond the five optimizers, end to end: `step` and `fused_step` agree bit for bit."""

from typing import Any

import numpy as np
import pytest
from training import SHAPES, assert_same_bits, moved, random_tensors, train

import stepspec

RULES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("LambLike", {"wd": 0.01, "clip_gradient": 1.5}),
    ("LambLike", {"lower_bound": 0.5, "upper_bound": 2.0}),
    ("Factored", {"wd": 0.01}),
    ("Scheduled", {"wd": 0.1, "rescale_grad": 0.5}),
    ("Switched", {"wd": 0.1}),
    ("Switched", {"wd": 0.1, "centered": True}),
    ("Switched", {"wd": 0.1, "momentum": 0.9}),
    ("Switched", {"wd": 0.1, "momentum": 0.9, "centered": True}),
    ("EveryFunction", {"wd": 0.1}),
    ("EveryFunction", {"learning_rate": 0.9, "bound": 0.3}),
    ("Reductions", {"wd": 0.01}),
    ("Renamed", {"wd": 0.1}),
    ("ByVariant", {"wd": 0.1}),
    ("Collisions", {}),
    ("Absent", {}),
    ("Absent", {"kept": False}),
)
WITH_MAX = ("Reductions",)


def _shapes(rule: str) -> list[tuple[int, ...]]:
    return [s for s in SHAPES if rule not in WITH_MAX or 0 not in s]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("rule", "options"), RULES, ids=[f"{r}-{i}" for i, (r, _) in enumerate(RULES)])
def test_fused_has_the_bits_of_step(
    language_package: Any, rule: str, options: dict[str, Any], dtype: Any
) -> None:
    names = {1: "first_bias", 4: "conv_weight"}
    weights = random_tensors(_shapes(rule), dtype)
    results = []
    for fused, threads in ((False, 1), (True, 1), (True, 2)):
        stepspec.set_num_threads(threads)
        optimizer = getattr(language_package, rule)(param_idx2name=names, **options)
        results.append(train(optimizer, weights, fused=fused))
    assert moved(results[0][0], weights)
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[0], results[2])


def test_requirement_is_checked_at_construction_and_on_change(language_package: Any) -> None:
    with pytest.raises(ValueError, match="lower_bound <= upper_bound"):
        language_package.LambLike(lower_bound=2.0, upper_bound=1.0)
    optimizer = language_package.LambLike(lower_bound=0.5, upper_bound=1.0)
    with pytest.raises(ValueError, match="lower_bound <= upper_bound"):
        optimizer.lower_bound = 3.0
    assert optimizer.lower_bound == 0.5


def test_state_per_tensor_is_one_float64(language_package: Any) -> None:
    optimizer = language_package.Scheduled()
    weight = np.ones((2, 2), np.float32)
    state = optimizer.create_state(0, weight)
    assert state["product"].shape == ()
    assert state["product"].dtype == np.float64
    optimizer.update([0], [weight], [np.ones_like(weight)], [state])
    assert state["product"] == 1.0 * (0.9 * (1 - 0.5 * 0.96**1))


def test_static_choice_by_dimensions(language_package: Any) -> None:
    optimizer = language_package.Factored()
    assert set(optimizer.create_state(0, np.ones((3, 4)))) == {"by_row", "by_column"}
    assert set(optimizer.create_state(1, np.ones(3))) == {"full"}


def test_maximum_refuses_an_empty_tensor(language_package: Any) -> None:
    optimizer = language_package.Reductions(param_idx2name={0: "empty"})
    weight = np.ones((0, 3), np.float32)
    state = optimizer.create_state(0, weight)
    for step in (optimizer.step, optimizer.fused_step):
        with pytest.raises(ValueError, match="empty"):
            step([0], [weight], [weight.copy()], [state])


def test_a_state_can_keep_the_old_weight(language_package: Any) -> None:
    for fused in (False, True):
        optimizer = language_package.Renamed()
        weight = np.arange(6, dtype=np.float64).reshape(2, 3)
        before = weight.copy()
        state = optimizer.create_state(0, weight)
        (optimizer.fused_step if fused else optimizer.step)([0], [weight], [np.ones_like(weight)], [state])
        np.testing.assert_array_equal(state["previous"], before)
