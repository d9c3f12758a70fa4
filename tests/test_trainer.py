"""The Trainer: names, groups, clipping, steps left out, and refusals that change nothing."""

import copy
import logging
import math
import pickle
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from training import Array, bits, random_tensors

import stepspec
from stepspec import checkpoint, joint, norms_cpu
from stepspec.lr_scheduler import FactorScheduler
from stepspec.overlaps import check_overlaps
from stepspec.trainer import Trainer
from stepspec.updater import Updater

SHAPES = {"fc1_weight": (4, 3), "fc1_bias": (4,), "fc2_weight": (300, 70), "fc2_bias": (2, 1, 3)}
PATHS = pytest.mark.parametrize("fused", [False, True], ids=["step", "fused"])
GROUPS = {"*_bias": {"wd": 0.0, "learning_rate": 0.02}, "fc2*": {"momentum": 0.5}}


def model(dtype: Any = np.float32, seed: int = 0, scale: float = 1.0) -> dict[str, Array]:
    """Return new tensors by name."""
    return dict(zip(SHAPES, random_tensors(SHAPES.values(), dtype, seed, scale), strict=True))


def contents(trainer: Trainer) -> list[bytes]:
    """Return all that a step may change."""
    arrays = [*trainer.params.values(), *(a for state in trainer.states.values() for a in state.values())]
    counts = [
        updater.optimizer.update_count(index)
        for updater in trainer.updaters.values()
        for index in range(len(SHAPES))
    ]
    return [*map(bits, arrays), repr((counts, list(trainer.states))).encode()]


def factors(trainer: Trainer) -> list[float]:
    return [updater.optimizer.rescale_grad for updater in trainer.updaters.values()]


# ------------------------------------------------------------------ steps


@PATHS
def test_a_trainer_steps_as_its_optimizer(optimizer_class: type[stepspec.Optimizer], fused: bool) -> None:
    params, others = model(), model()
    trainer = Trainer(params, optimizer_class.__name__.lower(), use_fused_step=fused)
    optimizer = optimizer_class(param_idx2name=dict(enumerate(SHAPES)))
    weights = list(others.values())
    states = [optimizer.create_state(i, w) for i, w in enumerate(weights)]
    assert not trainer.states
    for seed in range(1, 4):
        grads = model(seed=seed)
        assert trainer.step(dict(reversed(grads.items())))
        optimizer.update(range(4), weights, list(grads.values()), states)
    assert [*map(bits, params.values())] == [*map(bits, weights)]
    assert list(trainer.states) == list(SHAPES)
    for state, name in zip(states, SHAPES, strict=True):
        assert state.keys() == trainer.states[name].keys()
        assert all(bits(state[key]) == bits(trainer.states[name][key]) for key in state)


@PATHS
def test_a_trainer_takes_half_precision_and_row_sparse_gradients(fused: bool) -> None:
    params = {"table": np.ones((6, 4), ml_dtypes.bfloat16), "bias": np.ones(4, np.float16)}
    trainer = Trainer(params, "sgd", learning_rate=1.0, multi_precision=True, use_fused_step=fused)
    rows = stepspec.RowSparse(np.full((2, 4), 3, np.float32), [1, 4], (6, 4))
    trainer.clip_global_norm = 1.0
    assert trainer.step({"table": rows, "bias": np.zeros(4, np.float32)})
    assert trainer.global_norm == math.sqrt(8 * 9)
    moved = 1 - trainer.states["table"]["master"]
    assert moved[[1, 4]] == pytest.approx(1 / math.sqrt(8), rel=1e-6)
    assert not moved[[0, 2, 3, 5]].any()
    assert trainer.states["bias"]["master"].dtype == np.float32


def test_batch_size_divides() -> None:
    by_batch, by_hand = model(np.float64), model(np.float64)
    one = Trainer(by_batch, "sgd", rescale_grad=5.0, groups={"*bias": {"rescale_grad": 0.7}})
    two = Trainer(by_hand, "sgd", rescale_grad=5.0 / 7, groups={"*bias": {"rescale_grad": 0.7 / 7}})
    for seed in (1, 2):
        one.step(model(np.float64, seed), batch_size=7)
        two.step(model(np.float64, seed))
        assert factors(one) == [5.0, 0.7]
    assert [*map(bits, by_batch.values())] == [*map(bits, by_hand.values())]


@pytest.mark.parametrize(
    ("size", "error"), [(0, ValueError), (-1, ValueError), (math.inf, ValueError), ("3", TypeError)]
)
def test_batch_sizes_that_are_none(size: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="batch_size must be"):
        Trainer(model(), "sgd").step(model(), batch_size=size)


def test_missing_and_unknown_gradients() -> None:
    trainer = Trainer(model(), "sgd", momentum=0.9)
    grads = model(seed=1)
    before = contents(trainer)
    with pytest.raises(
        ValueError, match=r"2 of 4 tensors have no gradient: 'fc1_bias', 'fc2_bias'; .*ignore"
    ):
        trainer.step({**grads, "fc1_bias": None, "fc2_bias": None})
    with pytest.raises(ValueError, match=r"for 'fc1_wieght', but no tensor of that name; did you mean"):
        trainer.step({**grads, "fc1_wieght": grads["fc1_weight"]}, ignore_missing=True)
    with pytest.raises(TypeError, match="grads must be a dict of names to gradients, not list"):
        trainer.step(list(grads.values()))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="ignore_missing must be True or False, not 'no'"):
        trainer.step(grads, ignore_missing="no")  # type: ignore[arg-type]
    assert contents(trainer) == before
    trainer.step(grads)
    bias = trainer.params["fc1_bias"].copy()
    del grads["fc1_bias"]
    assert trainer.step(grads, ignore_missing=True)
    assert [trainer.optimizer.update_count(i) for i in range(4)] == [2, 1, 2, 2]
    assert bits(trainer.params["fc1_bias"]) == bits(bias)
    assert trainer.step({}, ignore_missing=True)
    assert trainer.optimizer.num_update == 2


def test_states_are_made_from_the_weights_of_the_first_step() -> None:
    params = {"w": np.ones(3, np.float16)}
    trainer = Trainer(params, "sgd", learning_rate=1.0, multi_precision=True)
    params["w"][...] = 5  # as by loading a model
    trainer.step({"w": np.ones(3, np.float32)})
    assert params["w"].tolist() == [4, 4, 4]


# ------------------------------------------------------------------ groups


@PATHS
@pytest.mark.parametrize("clip", [None, 0.5])
def test_groups_are_optimizers_of_their_own(fused: bool, clip: float | None) -> None:
    params, others = model(), model()
    options = {"learning_rate": 0.1, "momentum": 0.9, "wd": 0.1, "use_fused_step": fused}
    trainer = Trainer(params, "nag", groups=GROUPS, clip_global_norm=clip, **options)  # type: ignore[arg-type]
    assert list(trainer.updaters) == ["", "*_bias", "fc2*"]
    makers = {
        "fc1_weight": stepspec.create("nag", **options),
        "fc2_weight": stepspec.create("nag", **options | {"momentum": 0.5}),
        "fc1_bias": stepspec.create("nag", **options | {"wd": 0.0, "learning_rate": 0.02}),
        "fc2_bias": stepspec.create("nag", **options | {"wd": 0.0, "learning_rate": 0.02}),
    }
    updaters = {name: Updater(optimizer) for name, optimizer in makers.items()}
    for seed in range(1, 4):
        grads = model(seed=seed)
        trainer.step(grads)
        for name, updater in updaters.items():
            if clip is not None and trainer.global_norm:
                updater.optimizer.rescale_grad = min(1, clip / trainer.global_norm)
            updater(0, grads[name], others[name])
    assert [*map(bits, params.values())] == [*map(bits, others.values())]
    assert set(trainer.updaters["*_bias"].states) == {1, 3}


def test_multipliers_of_groups() -> None:
    params = {name: np.ones(2) for name in SHAPES}
    groups: dict[str, dict[str, float]] = {"*weight": {"lr_mult": 0.5, "wd_mult": 0}, "fc1*": {"lr_mult": 0}}
    trainer = Trainer(params, "sgd", learning_rate=1.0, wd=1.0, groups=groups)
    trainer.step({name: np.zeros(2) for name in SHAPES})
    assert [params[name][0] for name in SHAPES] == [1, 1, 1, 0]
    trainer.step({name: np.ones(2) for name in SHAPES})
    assert [params[name][0] for name in SHAPES] == [0.5, 1, 0.5, -1]


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        ({"*baias": {}}, ValueError, r"groups: '\*baias' matches no tensor; the names are 'fc1_weight', 'fc"),
        ({"*": {}, "fc1*": {}}, ValueError, r"'fc1\*' matches only tensors that earlier patterns took"),
        ({"FC1*": {}}, ValueError, "matches no tensor"),
        ({"": {}}, ValueError, "use '[*]' for all tensors"),
        ({"fc1*": {"wdd": 1}}, TypeError, r"group 'fc1\*': SGD has no argument 'wdd'; did you mean 'wd'"),
        ({"fc1*": {"wd": -1}}, ValueError, r"group 'fc1\*': SGD: wd = -1 is outside"),
        ({"fc1*": {"wd_mult": -1}}, ValueError, r"group 'fc1\*': .*wd_mult"),
        ({"fc1*": {"param_idx2name": {}}}, TypeError, "param_idx2name is made of the names in params"),
        ({"fc1*": 0.1}, TypeError, "groups must be a dict such as"),
        ({0: {}}, TypeError, "groups must be a dict such as"),
        (["fc1*"], TypeError, "groups must be a dict such as"),
        (0, TypeError, "groups must be a dict such as"),
        ("", TypeError, "groups must be a dict such as"),
    ],
)
def test_bad_groups(groups: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Trainer(model(), "sgd", groups=groups)


@PATHS
def test_all_groups_are_checked_before_any_moves(fused: bool) -> None:
    trainer = Trainer(model(), "sgd", momentum=0.9, groups=GROUPS, use_fused_step=fused)
    trainer.step(model(seed=1))
    before = contents(trainer)
    spoilt: dict[str, Array] = {
        "fc2_weight": np.ones((300, 71), np.float32),
        "fc1_weight": np.ones((4, 3)),
        "fc2_bias": trainer.params["fc2_weight"][:2, :3].reshape(2, 1, 3),
        "fc1_bias": trainer.states["fc2_weight"]["mom"][0, :4],
    }
    for name, bad in spoilt.items():
        with pytest.raises((TypeError, ValueError), match=rf"the gradient of '{name}' \(index \d\)"):
            trainer.step({**model(seed=2), name: bad}, batch_size=8)
        assert contents(trainer) == before
        assert factors(trainer) == [1.0, 1.0, 1.0]


def test_gradients_apart_are_known_again(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []

    def check(*arguments: Any) -> None:
        checked.append(1)
        check_overlaps(*arguments)

    monkeypatch.setattr(joint, "check_overlaps", check)
    trainer = Trainer(model(), "sgd", groups=GROUPS)
    grads: dict[str, Any] = dict(model(seed=1))
    for seed in range(3):
        trainer.step(model(seed=seed))
    assert checked == [1]
    grads["fc1_bias"] = trainer.params["fc2_weight"][7, :4]
    with pytest.raises(ValueError, match=r"weight of 'fc2_weight' \(index 2\) .* gradient of 'fc1_bias'"):
        trainer.step(grads)
    table = trainer.params["fc2_weight"]
    grads |= model(seed=1) | {"fc2_weight": stepspec.RowSparse(table[:2], [4, 5], table.shape)}
    with pytest.raises(ValueError, match=r"overlap|same"):
        trainer.step(grads)
    grads["fc2_weight"] = stepspec.RowSparse(table[:2].copy(), [4, 5], table.shape)
    grads["fc1_weight"] = trainer.params["fc1_bias"][:3] * np.ones((4, 1), np.float32)
    assert trainer.step(grads)
    rows = np.lib.stride_tricks.as_strided(trainer.params["fc1_weight"], (2, 70), (0, 0))
    grads["fc2_weight"] = stepspec.RowSparse(rows, [4, 5], table.shape)
    with pytest.raises(ValueError, match=r"weight of 'fc1_weight' .* gradient of 'fc2_weight'"):
        trainer.step(grads)


def test_rows_that_jump_over_other_memory_are_looked_at() -> None:
    memory = np.zeros((4, 70), np.float32)
    params = {"table": np.ones((9, 70), np.float32), "row": memory[2]}
    trainer = Trainer(params, "sgd", groups={"row": {"wd": 0.1}})
    row = np.ones(70, np.float32)
    for values in (memory[:2].copy(), memory[:2]):
        assert trainer.step({"table": stepspec.RowSparse(values, [1, 4], (9, 70)), "row": row})
    with pytest.raises(ValueError, match=r"gradient of 'table' .* weight of 'row'"):
        trainer.step({"table": stepspec.RowSparse(memory[::2], [1, 4], (9, 70)), "row": row})


class Moody:
    """A schedule that does not give the same rate twice, and every other time none."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, num_update: int) -> float:
        self.asked.append(num_update)
        return 0.5 if len(self.asked) % 2 else math.nan


@PATHS
def test_a_step_asks_a_schedule_once(fused: bool) -> None:
    schedule = Moody()
    groups = {"fc2*": {"lr_scheduler": schedule}}
    trainer = Trainer(model(), "sgd", groups=groups, learning_rate=0.5, use_fused_step=fused)
    assert trainer.step(model(seed=1))
    assert schedule.asked == [1]
    assert trainer.updaters["fc2*"].optimizer.lr_scheduler is schedule
    before = contents(trainer)
    with pytest.raises(ValueError, match="rate for update 2 must not be NaN"):
        trainer.step(model(seed=2))
    assert contents(trainer) == before
    assert trainer.updaters["fc2*"].optimizer.lr_scheduler is schedule
    other = Trainer(model(), "sgd", learning_rate=0.5)
    other.step(model(seed=1))
    assert [*map(bits, other.params.values())] == [*map(bits, trainer.params.values())]


# ------------------------------------------------------------------ the rate


def test_the_learning_rate_is_one_for_all_but_groups_with_their_own() -> None:
    trainer = Trainer(model(), "sgd", learning_rate=0.5, groups=GROUPS)
    trainer.set_learning_rate(0.25)
    rates = {pattern: updater.optimizer.learning_rate for pattern, updater in trainer.updaters.items()}
    assert rates == {"": 0.25, "*_bias": 0.02, "fc2*": 0.25}
    assert trainer.learning_rate == 0.25
    with pytest.raises(ValueError, match="learning_rate = -1"):
        trainer.set_learning_rate(-1)
    assert trainer.learning_rate == 0.25


def test_a_rate_is_set_for_all_groups_or_none() -> None:
    trainer = Trainer(model(), "sgd", learning_rate=0.5, groups={"*_bias": {"wd": 0.0}, "fc2*": {"wd": 0.1}})
    optimizer = trainer.updaters["fc2*"].optimizer
    optimizer.lr_scheduler = FactorScheduler(step=2, base_lr=1.0)
    with pytest.raises(
        ValueError, match=r"trainer.updaters\['fc2\*'\].optimizer\): SGD: the lr_scheduler dec"
    ):
        trainer.set_learning_rate(0.25)
    optimizer.lr_scheduler = None
    assert [updater.optimizer.learning_rate for updater in trainer.updaters.values()] == [0.5] * 3


def test_no_tensor_has_the_common_rate() -> None:
    trainer = Trainer(model(), "sgd", groups={"*bias": {"learning_rate": 0.2}, "*": {"learning_rate": 0.3}})
    with pytest.raises(ValueError, match=r"every tensor is in a group .*trainer.updaters\['\*'\].optimizer"):
        trainer.set_learning_rate(0.1)
    assert trainer.learning_rate == 0.2


def test_the_rate_is_at_the_updates_of_the_tensors_in_no_group() -> None:
    schedule = FactorScheduler(step=1, factor=0.5, base_lr=1.0)
    trainer = Trainer(
        model(), "sgd", learning_rate=None, lr_scheduler=schedule, groups={"*bias": {"begin_num_update": 9}}
    )
    trainer.step(model(seed=1))
    assert trainer.learning_rate == schedule(1)
    only = {name: grad for name, grad in model(seed=1).items() if "bias" in name}
    trainer.step(only, ignore_missing=True)
    assert trainer.learning_rate == schedule(1)


def test_a_schedule_of_a_group_keeps_its_base_rate() -> None:
    groups = {"*_bias": {"lr_scheduler": FactorScheduler(step=5, base_lr=0.25)}}
    trainer = Trainer(model(), "sgd", learning_rate=0.5, groups=groups)
    assert [updater.optimizer.learning_rate for updater in trainer.updaters.values()] == [0.5, 0.25]


@pytest.mark.parametrize("pattern", ["*bias", "*"])
def test_a_schedule_is_at_the_number_of_updates(pattern: str) -> None:
    schedule = FactorScheduler(step=2, factor=0.5, base_lr=1.0)
    trainer = Trainer(
        model(), "sgd", learning_rate=None, lr_scheduler=schedule, groups={pattern: {"wd": 0.1}}
    )
    for number in range(1, 6):
        trainer.step(model(seed=number))
        assert trainer.learning_rate == schedule(number)
    with pytest.raises(ValueError, match="the lr_scheduler decides the learning rate"):
        trainer.set_learning_rate(0.1)


# ------------------------------------------------------------------ clipping


@PATHS
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_clipping_is_a_factor_of_all_gradients(fused: bool, dtype: Any) -> None:
    params, others = model(dtype), model(dtype)
    grads = model(dtype, seed=1)
    kept = [grad.tobytes() for grad in grads.values()]
    options: dict[str, Any] = {"momentum": 0.9, "rescale_grad": 0.5, "use_fused_step": fused}
    options["multi_precision"] = True
    trainer = Trainer(params, "sgd", clip_global_norm=0.25, **options)
    trainer.step(grads, batch_size=2)
    norm = math.sqrt(sum(float((grad.astype(float) ** 2).sum()) for grad in grads.values())) / 4
    assert trainer.global_norm == pytest.approx(norm, rel=1e-12)
    assert trainer.optimizer.rescale_grad == 0.5
    options["rescale_grad"] = 0.25 * (0.25 / (trainer.global_norm or 0))
    Trainer(others, "sgd", **options).step(grads)
    assert [*map(bits, params.values())] == [*map(bits, others.values())]
    assert [grad.tobytes() for grad in grads.values()] == kept


def test_gradients_below_the_bound_are_as_they_are() -> None:
    params, others = model(), model()
    trainer = Trainer(params, "sgd", clip_global_norm=1e9)
    trainer.step(model(seed=1))
    Trainer(others, "sgd").step(model(seed=1))
    assert [*map(bits, params.values())] == [*map(bits, others.values())]
    assert trainer.global_norm is not None
    assert trainer.global_norm < 1e9


def test_groups_and_paths_do_not_change_the_norm() -> None:
    norms = set()
    for options in ({}, {"groups": GROUPS}, {"use_fused_step": False}, {"groups": {"*2*": {"wd": 0.1}}}):
        arguments: dict[str, Any] = options
        trainer = Trainer(model(), "sgd", clip_global_norm=1.0, **arguments)
        trainer.step(model(seed=1))
        norms.add(trainer.global_norm)
    assert len(norms) == 1


def test_use_fused_step_is_for_norms_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise NotImplementedError

    monkeypatch.setattr(norms_cpu, "norms", fail)
    trainer = Trainer(model(), "sgd", clip_global_norm=1.0, use_fused_step=False)
    assert trainer.step(model(seed=1))
    trainer.optimizer.use_fused_step = True
    with pytest.raises(NotImplementedError):
        trainer.step(model(seed=1))


def test_the_norm_is_of_rescaled_gradients() -> None:
    params = {"a": np.zeros(1), "b": np.zeros(1)}
    groups = {"b": {"rescale_grad": -2.0}}
    trainer = Trainer(params, "sgd", learning_rate=1.0, groups=groups, clip_global_norm=1.0)
    trainer.step({"a": np.array([6.0]), "b": np.array([4.0])}, batch_size=2)
    assert trainer.global_norm == 5.0
    assert params["a"] == pytest.approx(-0.6)
    assert params["b"] == pytest.approx(0.8)
    assert factors(trainer) == [1.0, -2.0]


@PATHS
def test_clipping_beyond_the_range_of_squares(fused: bool) -> None:
    params = {"a": np.zeros(4)}
    trainer = Trainer(params, "sgd", learning_rate=1.0, clip_global_norm=1.0, skip_nonfinite=True)
    trainer.optimizer.use_fused_step = fused
    assert trainer.step({"a": np.full(4, 1e300)})
    assert params["a"].tolist() == pytest.approx([-0.5] * 4)
    assert trainer.global_norm == pytest.approx(2e300)


@pytest.mark.parametrize("bound", [0, -1.0, math.inf, math.nan])
def test_bounds_that_are_none(bound: float) -> None:
    with pytest.raises(ValueError, match="Trainer: clip_global_norm"):
        Trainer(model(), "sgd", clip_global_norm=bound)
    trainer = Trainer(model(), "sgd")
    with pytest.raises(ValueError, match="Trainer: clip_global_norm"):
        trainer.clip_global_norm = bound
    assert trainer.clip_global_norm == math.inf


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_what_is_not_finite_is_not_clipped(value: float, caplog: pytest.LogCaptureFixture) -> None:
    params, others = model(), model()
    grads = model(seed=1)
    grads["fc1_bias"][2] = value
    trainer = Trainer(params, "sgd", clip_global_norm=0.1)
    assert trainer.step(grads)
    assert "the gradient of 'fc1_bias' (index 1) holds inf or NaN" in caplog.text
    assert trainer.global_norm is not None
    assert not math.isfinite(trainer.global_norm)
    Trainer(others, "sgd").step(grads)
    assert [*map(bits, params.values())] == [*map(bits, others.values())]


# ------------------------------------------------------------------ steps left out


@PATHS
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_step_that_is_not_finite_moves_nothing(
    fused: bool, value: float, clip: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = Trainer(
        model(),
        "sgd",
        momentum=0.9,
        groups=GROUPS,
        skip_nonfinite=True,
        clip_global_norm=clip,
        use_fused_step=fused,
    )
    assert trainer.step(model(seed=1))
    before = contents(trainer)
    grads = model(seed=2)
    grads["fc2_bias"][1, 0, 2] = grads["fc2_weight"][299, 69] = value
    assert trainer.step(grads, batch_size=2) is False
    assert contents(trainer) == before
    assert trainer.skipped == 1
    assert factors(trainer) == [1.0, 1.0, 1.0]
    assert [record.levelno for record in caplog.records if record.name == "stepspec"] == [logging.WARNING]
    assert "the gradient of 'fc2_weight' (index 2) holds inf or NaN; 1 so far" in caplog.text
    assert trainer.step(model(seed=2)) is True
    assert trainer.skipped == 1


def test_a_first_step_left_out_makes_no_states() -> None:
    trainer = Trainer(model(), "sgd", momentum=0.9, skip_nonfinite=True)
    grads = model(seed=1)
    grads["fc1_bias"][0] = math.nan
    assert not trainer.step(grads)
    assert not trainer.states
    assert trainer.optimizer.num_update == 0
    trainer.optimizer.momentum = 0.0  # type: ignore[attr-defined]  # there is no state to vanish


def test_row_sparse_gradients_are_looked_at() -> None:
    trainer = Trainer({"table": np.ones((5, 2), np.float32)}, "sgd", skip_nonfinite=True)
    values = np.array([[1, 2], [3, math.inf]], np.float32)
    assert not trainer.step({"table": stepspec.RowSparse(values, [0, 3], (5, 2))})
    values[1, 1] = 4
    assert trainer.step({"table": stepspec.RowSparse(values, [0, 3], (5, 2))})


@PATHS
def test_large_finite_gradients_are_not_left_out(fused: bool) -> None:
    trainer = Trainer({"a": np.zeros(9)}, "sgd", skip_nonfinite=True, use_fused_step=fused)
    assert trainer.step({"a": np.full(9, 1.7e308)})
    assert trainer.params["a"].tolist() == [0.1 * -1.7e308] * 9


def test_without_the_option_nan_spreads() -> None:
    trainer = Trainer(model(), "sgd")
    grads = model(seed=1)
    grads["fc1_bias"][1] = math.nan
    assert trainer.step(grads)
    assert np.isnan(trainer.params["fc1_bias"]).tolist() == [False, True, False, False]


# ------------------------------------------------------------------ construction


OTHER = stepspec.SGD(param_idx2name={0: "x"})


@pytest.mark.parametrize(
    ("params", "optimizer", "options", "error", "message"),
    [
        ([np.ones(3)], "sgd", {}, TypeError, "params must be a dict of names to arrays, not list"),
        ({}, "sgd", {}, ValueError, "params holds no tensors"),
        ({0: np.ones(3)}, "sgd", {}, TypeError, "a name must be a str, not 0"),
        ({"a": [1.0]}, "sgd", {}, TypeError, "the weight of 'a' must be a numpy.ndarray, not list"),
        ({"a": np.ones(3, int)}, "sgd", {}, TypeError, "the weight of 'a' has dtype int64"),
        (model(), "sdg", {}, ValueError, "there is no optimizer 'sdg'; did you mean 'SGD'"),
        (model(), "nope", {}, ValueError, "there is no optimizer 'nope'; known are "),
        (model(), "sgd", {"name": "nag"}, TypeError, "SGD has no argument 'name'"),
        (model(), stepspec.SGD(), {"groups": []}, TypeError, "groups must be a dict such as"),
        (model(), None, {}, TypeError, "an optimizer's name must be a str"),
        (model(), "sgd", {"momentun": 0.9}, TypeError, "did you mean 'momentum'"),
        (model(), "sgd", {"param_idx2name": {}}, TypeError, "param_idx2name is made of the names"),
        (model(), "sgd", {"skip_nonfinite": 1}, TypeError, "Trainer: skip_nonfinite must be True or False"),
        (model(), "sgd", {"clip_global_norm": "1"}, TypeError, "Trainer: clip_global_norm must be a number"),
        (model(), stepspec.SGD(), {"wd": 0.1}, TypeError, "wd is for optimizers that the Trainer makes"),
        (model(), stepspec.SGD(), {"groups": GROUPS}, TypeError, "groups is for optimizers that the Trainer"),
        (model(), OTHER, {}, ValueError, "calls tensor 0 'x', but params call it 'fc1_weight'"),
    ],
)
def test_bad_construction(
    params: Any, optimizer: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Trainer(params, optimizer, **options)


def test_weights_must_not_overlap() -> None:
    base = np.ones(10)
    with pytest.raises(ValueError, match="the weight of 'a' and the weight of 'b' overlap in memory"):
        Trainer({"a": base[:6], "b": base[5:]}, "sgd", groups={"b": {"wd": 0.1}})


def test_an_optimizer_that_exists() -> None:
    optimizer = stepspec.SGD(learning_rate=0.5)
    trainer = Trainer({"w": np.ones(2)}, optimizer)
    assert trainer.optimizer is optimizer
    assert optimizer.param_idx2name == {0: "w"}
    trainer.step({"w": np.ones(2)})
    assert trainer.params["w"].tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="the optimizer belongs to another Trainer"):
        Trainer({"w": np.ones(2)}, optimizer)
    assert optimizer.num_update == 1
    params = trainer.params
    del trainer
    # the next one of the same model may go on with it
    assert Trainer(params, optimizer).step({"w": np.ones(2)})


def test_mistyped_attributes() -> None:
    trainer = Trainer(model(), "sgd")
    with pytest.raises(
        AttributeError, match="Trainer has no attribute 'clip_globl_norm'; did you mean 'clip_"
    ):
        trainer.clip_globl_norm = 3  # type: ignore[attr-defined]

    class Own(Trainer):
        def __init__(self) -> None:
            super().__init__(model(), "sgd")
            self.epoch = 0

    assert Own().epoch == 0


# ------------------------------------------------------------------ checkpoints, copies, threads


def trained(steps: range, trainer: Trainer) -> Trainer:
    for seed in steps:
        trainer.step(model(seed=seed), batch_size=3)
    return trainer


def make(params: Mapping[str, Array], **options: Any) -> Trainer:
    schedule = FactorScheduler(step=2, factor=0.5, base_lr=0.3)
    base: dict[str, Any] = {"lr_scheduler": schedule, "learning_rate": None, "momentum": 0.9, "wd": 0.01}
    groups = {"*_bias": {"wd": 0.0, "lr_mult": 2.0}, "fc2*": {"momentum": 0.5}}
    return Trainer(params, "sgd", groups=groups, clip_global_norm=1.0, **base | options)


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors"])
def test_going_on_from_a_file(tmp_path: Path, name: str) -> None:
    straight = trained(range(6), make(model()))
    first = trained(range(3), make(model()))
    first.save_states(tmp_path / name)
    second = make({key: weight.copy() for key, weight in first.params.items()}, wd=0.5)
    assert second.load_states(tmp_path / name) == []
    assert second.optimizer.wd == 0.01
    assert second.learning_rate == first.learning_rate
    trained(range(3, 6), second)
    assert contents(second) == contents(straight)
    assert second.learning_rate == straight.learning_rate


def test_what_is_the_trainers_own_goes_on_too(tmp_path: Path) -> None:
    path = tmp_path / "states.npz"
    first = make(model())
    first.skip_nonfinite = True
    broken = model(seed=1)
    broken["fc1_bias"][0] = math.inf
    assert not first.step(broken)
    first.save_states(path)
    second = make(model())
    second.clip_global_norm, second.skip_nonfinite = None, False
    assert second.load_states(path) == []
    assert (second.clip_global_norm, second.skip_nonfinite, second.skipped) == (1.0, True, 1)
    first.clip_global_norm = None
    first.save_states(path)
    second.load_states(path)
    assert second.clip_global_norm == math.inf


@pytest.mark.parametrize(
    "numbers",
    [
        {"clip_global_norm": -1.0, "skip_nonfinite": True, "skipped": 7},
        {"clip_global_norm": 2.0, "skip_nonfinite": "yes", "skipped": 7},
        {"clip_global_norm": 2.0, "skip_nonfinite": True, "skipped": -1},
        {"clip_global_norm": 2.0, "skip_nonfinite": True},
    ],
)
def test_numbers_that_no_trainer_has(tmp_path: Path, numbers: dict[str, Any]) -> None:
    path = tmp_path / "states.npz"
    first, second = trained(range(2), make(model())), make(model())
    parts = {pattern: first._groups[k].part() for k, pattern in enumerate(first.updaters)}
    checkpoint.save(path, parts, numbers)
    before = contents(second)
    for strict in (True, False):
        with pytest.raises(ValueError, match="Trainer"):
            second.load_states(path, strict=strict)
    assert contents(second) == before
    assert (second.clip_global_norm, second.skip_nonfinite, second.skipped) == (1.0, False, 0)
    # written by another program: none of these numbers, which then stay
    checkpoint.save(path, parts)
    assert second.load_states(path) == []
    assert second.clip_global_norm == 1.0
    assert contents(second) != before


def test_strict_is_true_or_false(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="strict must be True or False, not 'no'"):
        make(model()).load_states(tmp_path / "none.npz", strict="no")  # type: ignore[arg-type]


def test_tensors_without_an_update_are_saved_too(tmp_path: Path) -> None:
    path = tmp_path / "states.npz"
    trainer = make(model())
    trainer.save_states(path)
    assert not trainer.states
    part = {name: grad for name, grad in model(seed=1).items() if name != "fc2_weight"}
    trainer.step(part, ignore_missing=True)
    trainer.save_states(path)
    assert list(trainer.states) == ["fc1_weight", "fc1_bias", "fc2_bias"]
    other = make({key: weight.copy() for key, weight in trainer.params.items()})
    other.load_states(path)
    for each in (trainer, other):
        trained(range(2), each)
    assert contents(trainer) == contents(other)


def test_files_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "states.npz"
    trained(range(2), make(model())).save_states(path)
    params = model() | {"fc1_bias": np.ones(5, np.float32)}
    other = make(params)
    before = contents(other)
    with pytest.raises(ValueError, match=r"group '\*_bias': tensor 'fc1_bias': its shape is \(4,\)"):
        other.load_states(path)
    with pytest.raises(ValueError, match=r"group 'fc2\*': only in the checkpoint"):
        Trainer(model(), "sgd", momentum=0.9).load_states(path)
    assert contents(other) == before
    left = other.load_states(path, strict=False)
    assert left
    assert all("fc1_bias" in line for line in left)
    assert list(other.states) == ["fc1_weight", "fc2_weight", "fc2_bias"]


@pytest.mark.parametrize("how", [copy.deepcopy, lambda trainer: pickle.loads(pickle.dumps(trainer))])
def test_copies_go_on_alone(how: Callable[[Trainer], Trainer]) -> None:
    trainer = trained(range(2), make(model()))
    before = contents(trainer)
    other = trained(range(2, 4), how(trainer))
    assert contents(trainer) == before
    trained(range(2, 4), trainer)
    assert contents(trainer) == contents(other)
    grads = model() | {"fc1_weight": other.params["fc2_weight"].ravel()[:12].reshape(4, 3)}
    with pytest.raises(ValueError, match=r"weight of 'fc2_weight' .* gradient of 'fc1_weight'"):
        other.step(grads)


def test_another_thread_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(model(), "sgd")
    inside, done, raised = threading.Event(), threading.Event(), []
    update = stepspec.SGD.update_multi_precision

    def slow(self: stepspec.SGD, *arguments: Any) -> None:
        inside.set()
        assert done.wait(30)
        update(self, *arguments)

    monkeypatch.setattr(stepspec.SGD, "update_multi_precision", slow)
    thread = threading.Thread(target=trainer.step, args=(model(seed=1), 4))
    thread.start()
    assert inside.wait(30)
    try:
        trainer.step(model(seed=1))
    except RuntimeError as error:
        raised.append(str(error))
    finally:
        done.set()
        thread.join(30)
    assert raised[0].startswith("Trainer: another thread")
    assert trainer.optimizer.rescale_grad == 1.0
    assert trainer.optimizer.num_update == 1
    assert trainer.step(model(seed=1))


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_step_gives_rescale_grad_back(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(model(), "sgd", groups=GROUPS, rescale_grad=0.5)

    def fail(*arguments: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(stepspec.SGD, "update_multi_precision", fail)
        with pytest.raises(error):
            trainer.step(model(seed=1), batch_size=4)
    assert factors(trainer) == [0.5, 0.5, 0.5]
    assert not trainer.states
    # as if a second Ctrl-C had come before the values were put back
    trainer._overrides.set(trainer.optimizer, "rescale_grad", 0.125)
    trainer.step(model(seed=1))
    assert factors(trainer) == [0.5, 0.5, 0.5]
    other = Trainer(model(), "sgd", groups=GROUPS, rescale_grad=0.5)
    other.step(model(seed=1))
    assert contents(trainer) == contents(other)
