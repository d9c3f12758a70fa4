"""Weights, gradients and states in float16 and bfloat16: masters, mixed dtypes, stochastic rounding."""

import warnings
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16
from sampling import sampled
from training import SHAPES, Array, assert_same_bits, bits, moved, random_tensors, train

import stepspec
from stepspec.formats import compute_dtype

HALF = (np.float16, bfloat16)
NAMES = dict(enumerate(["a_weight", "a_bias", "gamma", "weight_b", "bias"]))
OPTIONS: tuple[dict[str, Any], ...] = ({}, {"clip_gradient": 0.7, "rescale_grad": -0.5})
# (dtype of the weight, of the gradient) that differ
MIXED = (
    (bfloat16, np.float32),
    (np.float16, np.float32),
    (np.float32, bfloat16),
    (np.float32, np.float16),
    (bfloat16, np.float16),
    (np.float64, np.float32),
    (np.float64, bfloat16),
)


def shapes(optimizer_class: type[stepspec.Optimizer]) -> list[tuple[int, ...]]:
    return [shape for shape in SHAPES if not (optimizer_class.refuses_empty and 0 in shape)]


def quiet(optimizer_class: type[stepspec.Optimizer], **options: Any) -> stepspec.Optimizer:
    """Return an optimizer that has warned of half precision already."""
    optimizer = optimizer_class(**options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer.create_state(0, np.zeros(1, np.float16))
    return optimizer


def master_of(optimizer_class: type[stepspec.Optimizer], **options: Any) -> stepspec.Optimizer:
    return optimizer_class(multi_precision=True, **options)


def stochastic(optimizer_class: type[stepspec.Optimizer], **options: Any) -> stepspec.Optimizer:
    return optimizer_class(rounding="stochastic", seed=7, **options)


# consecutive ones differ in all
WAYS = (
    (np.float16, quiet),
    (bfloat16, master_of),
    (np.float16, stochastic),
    (bfloat16, quiet),
    (np.float16, master_of),
    (bfloat16, stochastic),
)


@sampled("dtype, make", WAYS, each=3)
def test_fused_has_the_bits_of_step(optimizer_class: type[stepspec.Optimizer], dtype: Any, make: Any) -> None:
    weights = random_tensors(shapes(optimizer_class), dtype)
    for options in OPTIONS:
        results = []
        for fused, threads in ((False, 1), (True, 1), (True, 2)):
            stepspec.set_num_threads(threads)
            optimizer = make(optimizer_class, param_idx2name=NAMES, **options)
            results.append(train(optimizer, weights, fused=fused))
        assert_same_bits(results[0], results[1])
        assert_same_bits(results[0], results[2])
        if make is master_of:  # else small steps may be lost in rounding
            assert moved(
                [state["master"] for state in results[0][1]], [w.astype(np.float32) for w in weights]
            )


@sampled("dtype", HALF)
def test_weight_is_the_rounded_master(optimizer_class: type[stepspec.Optimizer], dtype: Any) -> None:
    weights = random_tensors(shapes(optimizer_class), dtype)
    for fused in (False, True):
        stepped, states = train(master_of(optimizer_class), weights, fused=fused)
        for weight, state in zip(stepped, states, strict=True):
            assert state["master"].dtype == np.float32
            assert bits(weight) == bits(state["master"].astype(dtype))


@sampled("dtype", HALF)
def test_masters_move_as_float32_weights_do(optimizer_class: type[stepspec.Optimizer], dtype: Any) -> None:
    weights = random_tensors([(5, 33), (300,)], dtype)
    grads = [random_tensors([(5, 33), (300,)], dtype, seed=k) for k in range(3)]
    _, states = train(master_of(optimizer_class), weights, grads=grads)
    wide = [[g.astype(np.float32) for g in some] for some in grads]
    single, single_states = train(optimizer_class(), [w.astype(np.float32) for w in weights], grads=wide)
    masters = [{name: a for name, a in state.items() if name != "master"} for state in states]
    assert_same_bits(([state["master"] for state in states], masters), (single, single_states))


@sampled("dtype, given", MIXED, most=3)
def test_gradients_of_another_dtype(
    optimizer_class: type[stepspec.Optimizer], dtype: Any, given: Any
) -> None:
    weights = random_tensors(shapes(optimizer_class), dtype)
    grads = [random_tensors(shapes(optimizer_class), given, seed=k) for k in range(2)]
    wide = [[g.astype(compute_dtype(np.dtype(dtype))) for g in some] for some in grads]
    makes = (quiet, master_of) if dtype in HALF else (quiet,)
    for make in makes:
        results = [
            train(make(optimizer_class), weights, steps=2, fused=fused, grads=some)
            for fused, some in ((False, grads), (True, grads), (False, wide))
        ]
        assert_same_bits(results[0], results[1])
        assert_same_bits(results[0], results[2])


def test_a_float64_gradient_needs_a_float64_weight(optimizer_class: type[stepspec.Optimizer]) -> None:
    for dtype in (*HALF, np.float32):
        weight = np.ones((3, 4), dtype)
        optimizer = quiet(optimizer_class)
        state = optimizer.create_state(5, weight)
        for update in (optimizer.step, optimizer.fused_step):
            with pytest.raises(TypeError, match=r"gradient of tensor 5 has dtype float64.*astype"):
                update([5], [weight], [np.ones((3, 4))], [state])
        assert optimizer.update_count(5) == 0


@sampled("dtype, make", WAYS, each=3)
def test_special_values_have_the_same_bits(
    optimizer_class: type[stepspec.Optimizer], dtype: Any, make: Any
) -> None:
    numbers = [0.0, -0.0, 1.0, np.inf, -np.inf, np.nan, 6e-8, -6e-8, 5e-5, 65504.0, -65504.0, 1e-40]
    with np.errstate(all="ignore"):
        values = np.array(numbers, np.float32).astype(dtype)
    weight, grad = (np.ascontiguousarray(a) for a in np.meshgrid(values, values))
    runs = [
        train(make(optimizer_class), [weight], fused=fused, grads=[[grad], [grad.T]], steps=2)
        for fused in (False, True)
    ]
    assert_same_bits(runs[0], runs[1])


def test_half_precision_without_a_master_warns_once(optimizer_class: type[stepspec.Optimizer]) -> None:
    optimizer = optimizer_class(param_idx2name={0: "embedding"})
    half = np.ones(3, np.float16)
    with pytest.warns(UserWarning, match="'embedding'.*float16.*multi_precision=True") as caught:
        optimizer.create_state(0, half)
    assert caught[0].filename == __file__
    optimizer.create_state(1, half)
    optimizer_class().create_state(0, np.ones(3, np.float32))
    optimizer_class(multi_precision=True).create_state_multi_precision(0, half)
    optimizer_class(rounding="stochastic").create_state_multi_precision(0, half)


def test_a_master_is_expected_where_it_was_asked_for(optimizer_class: type[stepspec.Optimizer]) -> None:
    weight, grad = np.ones(3, np.float16), np.ones(3, np.float16)
    optimizer = optimizer_class(multi_precision=True)
    state = optimizer.create_state(0, weight)
    with pytest.raises(ValueError, match=r"lacks 'master'; create it with create_state_multi_precision"):
        optimizer.update([0], [weight], [grad], [state])
    state = optimizer.create_state_multi_precision(0, weight)
    for wrong, error in (
        (state["master"].astype(np.float64), TypeError),
        (np.ones(4, np.float32), ValueError),
    ):
        with pytest.raises(error, match="'master' of tensor 0"):
            optimizer.update([0], [weight], [grad], [{**state, "master": wrong}])
    with pytest.raises(ValueError, match="same array"):
        optimizer.update([0, 1], [weight, weight.copy()], [grad, grad], [state, state])
    plain = quiet(optimizer_class)
    with pytest.raises(ValueError, match="holds 'master'"):
        plain.update([0], [weight], [grad], [state])


@pytest.mark.filterwarnings("ignore:.*no master")
def test_a_switch_is_seen_by_the_next_step(optimizer_class: type[stepspec.Optimizer]) -> None:
    """What a cached plan was made for must not outlive a change of `multi_precision`."""
    weight, grad = np.ones((4, 4), np.float16), np.ones((4, 4), np.float16)
    for before, after in ((False, True), (True, False)):
        optimizer = optimizer_class(multi_precision=before)
        state = optimizer.create_state_multi_precision(0, weight)
        optimizer.fused_step([0], [weight], [grad], [state])
        optimizer.multi_precision = after
        with pytest.raises(ValueError, match="'master'"):
            optimizer.fused_step([0], [weight], [grad], [state])


def test_an_update_without_create_state_warns_too() -> None:
    half = np.ones(3, np.float16)
    for fused in (False, True):
        optimizer = stepspec.SGD(use_fused_step=fused)
        with pytest.warns(UserWarning, match="tensor 0 has dtype float16 and no master") as caught:
            optimizer.update([0], [half], [half.copy()], [{}])
        assert caught[0].filename == __file__
        optimizer.update([0], [half], [half.copy()], [{}])


# ---- stochastic rounding


def test_arguments() -> None:
    with pytest.raises(ValueError, match="rounding must be 'nearest' or 'stochastic', not 'up'"):
        stepspec.SGD(rounding="up")
    with pytest.raises(TypeError, match="rounding"):
        stepspec.SGD(rounding=True)
    with pytest.raises(ValueError, match="excludes multi_precision"):
        stepspec.SGD(rounding="stochastic", multi_precision=True)
    with pytest.raises(ValueError, match="seed"):
        stepspec.SGD(seed=-1)
    with pytest.raises(ValueError, match="seed"):
        stepspec.SGD(seed=1 << 64)
    with pytest.raises(TypeError, match="seed"):
        stepspec.SGD(seed=0.5)
    optimizer = stepspec.SGD(rounding="stochastic")
    with pytest.raises(ValueError, match="excludes multi_precision"):
        optimizer.multi_precision = True
    assert not optimizer.multi_precision


@pytest.mark.parametrize("dtype", HALF)
def test_rounding_is_unbiased(dtype: Any) -> None:
    """The mean of many rounded numbers is the number, within 5 standard deviations of the mean."""
    many = 200_000
    start, ulp = 1.0, float(np.finfo(np.float16).eps) if dtype is np.float16 else 2.0**-7
    for part in (0.01, 0.3, 0.5, 0.9):
        weight = np.full(many, start, dtype)
        optimizer = stepspec.SGD(learning_rate=1.0, rounding="stochastic")
        optimizer.update([0], [weight], [np.full(many, -part * ulp, np.float32)], [{}])
        values, counts = np.unique(weight.astype(np.float64), return_counts=True)
        assert values.tolist() == [start, start + ulp]
        share = counts[1] / many
        assert abs(share - part) < 5 * np.sqrt(part * (1 - part) / many), part


@pytest.mark.parametrize("dtype", HALF)
def test_small_updates_add_up(dtype: Any) -> None:
    """1000 updates of a hundredth of the precision move the weights by ten times the precision."""
    ends = {}
    for rounding in ("nearest", "stochastic"):
        weight = np.ones(4096, dtype)
        optimizer = quiet(stepspec.SGD, learning_rate=1.0, rounding=rounding)
        ulp = 2.0**-10 if dtype is np.float16 else 2.0**-7
        for _ in range(1000):
            optimizer.update([0], [weight], [np.full(4096, -0.01 * ulp, np.float32)], [{}])
        ends[rounding] = (weight.astype(np.float64).mean() - 1) / ulp
    assert ends["nearest"] == 0
    assert ends["stochastic"] == pytest.approx(10, abs=0.3)


def test_noise_depends_on_seed_name_count_and_element_only() -> None:
    grads = [np.full((64, 32), -0.3 * 2.0**-7, np.float32)]
    weight = np.ones((64, 32), bfloat16)

    def run(index: int = 0, begin: int = 0, view: bool = False, **options: Any) -> Array:
        optimizer = stepspec.SGD(learning_rate=1.0, rounding="stochastic", begin_num_update=begin, **options)
        mine = np.asfortranarray(weight) if view else weight.copy()
        optimizer.update([index], [mine], grads, [{}])
        return mine

    first = run()
    assert bits(run()) == bits(first)
    assert bits(np.ascontiguousarray(run(view=True))) == bits(first)
    assert bits(run(param_idx2name={0: "w"})) == bits(run(index=3, param_idx2name={3: "w"}))
    for other in (run(seed=1), run(index=1), run(begin=1), run(param_idx2name={0: "w"})):
        assert bits(other) != bits(first)
        assert abs(np.mean(other == first) - 0.58) < 0.06  # as independent draws agree


def test_float32_weights_are_never_rounded_stochastically(optimizer_class: type[stepspec.Optimizer]) -> None:
    weights = random_tensors([(5, 6)], np.float32)
    assert_same_bits(train(stochastic(optimizer_class), weights), train(optimizer_class(seed=7), weights))


def test_changes_of_rounding_and_seed_are_seen() -> None:
    optimizer = quiet(stepspec.SGD, learning_rate=1.0)
    weight, grad = np.ones(4096, bfloat16), np.full(4096, -0.3 * 2.0**-7, np.float32)
    steps = (("nearest", 0), ("stochastic", 0), ("stochastic", 1), ("nearest", 1))
    for count, (rounding, seed) in enumerate(steps):
        optimizer.rounding, optimizer.seed = rounding, seed
        weight[...] = 1
        optimizer.update([0], [weight], [grad], [{}])
        fresh = quiet(stepspec.SGD, learning_rate=1.0, rounding=rounding, seed=seed, begin_num_update=count)
        again = np.ones(4096, bfloat16)
        fresh.update([0], [again], [grad], [{}])
        assert bits(weight) == bits(again)
