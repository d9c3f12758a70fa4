"""What the language has beyond the optimizers: `step` and `fused_step` agree bit for bit."""

import functools
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16
from training import SHAPES, assert_same_bits, moved, random_tensors, train

import stepspec
from stepspec import RowSparse
from stepspec.rates import Rate

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
    ("Noisy", {"momentum": 0.9, "wd": 0.1}),
    ("Noisy", {"blurred": True, "seed": 7}),
    ("NoisyRows", {}),
    ("Sparse", {}),
    ("Sparse", {"scaled": False, "momentum": 0.9, "wd": 0.1}),
)
WITH_MAX = ("Reductions",)
NAMED = [pytest.param(*rule, id=f"{rule[0]}-{number}") for number, rule in enumerate(RULES)]
# compiling takes a second for each storage of a rule: float32 for all, float64 and half precision for some;
# random rules are run in all of them
STORED = [
    pytest.param(*given.values, dtype, id=f"{given.id}-{dtype.__name__}")
    for number, given in enumerate(NAMED)
    for dtype in (np.float32, np.float64)[: 1 + (number % 4 == 1)]
]


def _shapes(rule: str) -> list[tuple[int, ...]]:
    return [s for s in SHAPES if rule not in WITH_MAX or 0 not in s]


@pytest.mark.parametrize(("rule", "options", "dtype"), STORED)
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


@pytest.mark.parametrize("number", range(0, len(RULES), 4), ids=lambda number: NAMED[number].id)
def test_half_precision_and_rows_have_the_bits_of_step(language_package: Any, number: int) -> None:
    """Weights in bfloat16, every other gradient row-sparse in float16: as `step` with dense gradients."""
    rule, options = RULES[number]
    storage: dict[str, Any] = {"multi_precision": True} if number % 8 else {"rounding": "stochastic"}
    shapes = [shape for shape in _shapes(rule) if len(shape) > 0]
    weights = random_tensors(shapes, bfloat16)
    kinds: dict[bool, list[list[Any]]] = {False: [], True: []}
    for seed in range(2):
        dense = random_tensors(shapes, np.float16, seed=seed)
        for grad in dense[::2]:
            grad[1::3] = 0
        rows = [RowSparse.from_dense(g) if i % 2 == 0 else g for i, g in enumerate(dense)]
        kinds[False].append(dense)
        kinds[True].append(rows)
    results = []
    for fused, sparse in ((False, False), (False, True), (True, True)):
        optimizer = getattr(language_package, rule)(**options, **storage)
        results.append(train(optimizer, weights, steps=2, fused=fused, grads=kinds[sparse]))
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
    assert state["product"].shape == (1,)
    assert state["product"].dtype == np.float64
    optimizer.update([0], [weight], [np.ones_like(weight)], [state])
    assert state["product"] == 1.0 * (0.9 * (1 - 0.5 * 0.96**1))


NUMBERS = """
name: Numbers
summary: What the host knows becomes a number of the tensor.
hyperparameters:
  learning_rate: {default: 0.5}
state:
  count: {per: tensor}
  zero: {per: tensor}
  chosen: {per: tensor}
update: |
  count = 1
  count += 2
  zero = lr - lr
  chosen = tanh(2 if norm(grad) > 0 else count) + exp(-count)
  weight -= grad / zero + log(count) * chosen
"""


@pytest.mark.parametrize("fused", [False, True])
def test_numbers_per_tensor_are_float64_whoever_knows_them(fused: bool) -> None:
    optimizer = stepspec.compile(NUMBERS)(use_fused_step=fused)
    weight, grad = np.ones(2, np.float32), np.array([1, -1], np.float32)
    state = optimizer.create_state(0, weight)
    optimizer.update([0], [weight], [grad], [state])
    assert weight.tolist() == [-np.inf, np.inf]
    assert state["chosen"] == pytest.approx(np.tanh(2) + np.exp(-3), rel=1e-15)


LAZY_NORM = """
name: LazyNorm
summary: The gradient is read before the last pass only.
hyperparameters:
  learning_rate: {default: 0.5}
lazy_update: true
update: |
  weight -= lr * norm(grad) * weight
"""


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_lazy_pass_that_reads_no_gradient(dtype: Any) -> None:
    optimizer = stepspec.compile(LAZY_NORM)(lazy_update=True, rounding="stochastic")
    weight = np.ones((3, 2), dtype)
    grad = stepspec.RowSparse(np.array([[3, 4]], dtype) / 4, np.array([1]), weight.shape)
    optimizer.update([0], [weight], [grad], [optimizer.create_state(0, weight)])
    assert weight.tolist() == [[1, 1], [0.375, 0.375], [1, 1]]


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


ROW_SPARSE: tuple[tuple[dict[str, Any], bool], ...] = (
    ({}, True),
    ({"scaled": False}, True),
    ({"scaled": False, "wd": 0.1}, False),
    ({"scaled": False, "epsilon": 0.0}, False),
    ({"momentum": 0.9}, False),
)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("options", "exact"), ROW_SPARSE)
def test_skipped_rows_are_as_zeros_would_leave_them(
    language_package: Any, options: dict[str, Any], exact: bool, fused: bool
) -> None:
    """Whether rows are skipped is decided per tensor; the numbers do not show it, up to the sign of zero."""
    optimizers = [language_package.Sparse(use_fused_step=fused, **options) for _ in range(2)]
    assert optimizers[0]._lazy_is_exact(Rate(0.01, options.get("wd", 0.0), 1), {}, 2, np.float32) == exact
    start = np.random.default_rng(0).standard_normal((300, 20), np.float32)
    weights = [start.copy(), start.copy()]
    states = [o.create_state(0, w) for o, w in zip(optimizers, weights, strict=True)]
    for number in range(3):
        grad = _sparse_gradient(number)
        optimizers[0].update([0], weights[:1], [grad], states[:1])
        optimizers[1].update([0], weights[1:], [grad.to_dense()], states[1:])
        np.testing.assert_array_equal(weights[0], weights[1])
        for name, array in states[0].items():
            np.testing.assert_array_equal(array, states[1][name])


@pytest.mark.parametrize(("rule", "options"), [("Sparse", {"scaled": False}), ("Noisy", {})])
def test_lazy_update_moves_present_rows_alone(
    language_package: Any, rule: str, options: dict[str, Any]
) -> None:
    kind = functools.partial(getattr(language_package, rule), momentum=0.9, wd=0.1, **options)
    lazy, dense = kind(lazy_update=True), kind()
    start = np.random.default_rng(0).standard_normal((300, 20), np.float32)
    weights, grad = [start.copy(), start.copy()], _sparse_gradient(0)
    states = [lazy.create_state(0, start), dense.create_state(0, start)]
    lazy.update([0], weights[:1], [grad], states[:1])
    dense.update([0], weights[1:], [grad.to_dense()], states[1:])
    absent = np.delete(np.arange(300), grad.rows)
    for name in ("weight", *states[0]):
        before = start if name == "weight" else dense.create_state(0, start)[name]
        after = weights if name == "weight" else [state[name] for state in states]
        np.testing.assert_array_equal(after[0][grad.rows], after[1][grad.rows])
        np.testing.assert_array_equal(after[0][absent], before[absent])
    assert not np.array_equal(weights[1][absent], start[absent])


def _sparse_gradient(seed: int) -> stepspec.RowSparse:
    random = np.random.default_rng(seed)
    rows = np.flatnonzero(random.random(300) < 0.1)
    return stepspec.RowSparse(random.standard_normal((rows.size, 20), np.float32), rows, (300, 20))
