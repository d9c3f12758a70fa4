"""Checkpoints: resuming gives the bits of not stopping, what does not fit is told, nothing is half loaded."""

import logging
import math
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16
from sampling import sampled
from training import Array, bits, random_tensors

import stepspec
from stepspec import RowSparse, archive, checkpoint
from stepspec.checkpoint import Part
from stepspec.hyperparameters import Hyperparameter
from stepspec.lr_scheduler import CosineScheduler, FactorScheduler, MultiFactorScheduler

NAMES = {0: "a_weight", 1: "a_bias", 2: "table"}
SHAPES = ((3, 5), (7,), (40, 6))
HERE = Path(__file__).parent
# (dtype of the weights, options)
STORAGE: tuple[tuple[Any, dict[str, Any]], ...] = (
    (np.float32, {}),
    (np.float64, {}),
    (bfloat16, {"multi_precision": True}),
    (np.float16, {"rounding": "stochastic", "seed": 2**64 - 1}),
    (bfloat16, {"rounding": "stochastic", "seed": 5}),
)


class Model:
    """Some named tensors with their optimizer; the table has row-sparse gradients."""

    def __init__(self, optimizer: stepspec.Optimizer, dtype: Any = np.float32) -> None:
        self.optimizer = optimizer
        self.weights = dict(enumerate(random_tensors(SHAPES, dtype)))
        self.states = {i: optimizer.create_state_multi_precision(i, w) for i, w in self.weights.items()}

    def train(self, steps: int, fused: bool = False) -> None:
        """Step with gradients that depend on the number of the step; one tensor is left out now and then."""
        run = self.optimizer.fused_step if fused else self.optimizer.step
        for _ in range(steps):
            number = self.optimizer.num_update
            grads: list[Any] = random_tensors(SHAPES, np.float32, seed=number + 1)
            rows = np.arange(number % 5, 40, 7)
            grads[2] = RowSparse(grads[2][rows], rows, SHAPES[2])
            fed = [i for i in self.weights if i != 1 or number % 3]
            run(fed, *([kind[i] for i in fed] for kind in (self.weights, grads, self.states)))  # type: ignore[arg-type]

    def part(self, **changes: Any) -> Part:
        return replace(
            Part(self.optimizer, self.optimizer.param_idx2name, self.weights, self.states), **changes
        )

    def parts(self, **changes: Any) -> dict[str, Part]:
        return {"": self.part(**changes)}

    def everything(self) -> Any:
        """Return all that a checkpoint could change."""
        optimizer = self.optimizer
        plain = {name: x for name, x in vars(optimizer).items() if isinstance(x, (bool, int, float, str))}
        schedule = optimizer.lr_scheduler and vars(optimizer.lr_scheduler)
        multipliers = dict(optimizer.lr_mult), dict(optimizer.wd_mult)
        settings = plain, schedule, multipliers, {i: optimizer.update_count(i) for i in range(5)}
        states = {i: {name: bits(x) for name, x in state.items()} for i, state in self.states.items()}
        return settings, states, [bits(weight) for weight in self.weights.values()]


def sgd(**options: Any) -> Model:
    given: dict[str, Any] = {"momentum": 0.9, "param_idx2name": NAMES} | options
    return Model(stepspec.SGD(**given))


def trained(steps: int = 3, **options: Any) -> Model:
    model = sgd(**options)
    model.train(steps)
    return model


def refusal(data: bytes, parts: dict[str, Part]) -> list[str]:
    """Return the differences that a strict load complains of."""
    with pytest.raises(
        ValueError, match="the checkpoint does not fit; strict=False would load the rest"
    ) as info:
        checkpoint.loads(data, parts)
    return [line.removeprefix("- ") for line in str(info.value).splitlines()[1:]]


# ---------------------------------------------------------------------- resuming


@sampled("dtype, options", STORAGE, always=1)
def test_resumed_training_has_the_bits_of_an_uninterrupted_one(
    optimizer_class: type[stepspec.Optimizer], dtype: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    def schedule() -> CosineScheduler:
        return CosineScheduler(30, base_lr=0.05, warmup_steps=4)

    def make(**more: Any) -> Model:
        named: dict[str, Any] = {"param_idx2name": NAMES, "lr_scheduler": schedule(), "learning_rate": None}
        if hasattr(optimizer_class, "momentum"):
            named["momentum"] = 0.9
        return Model(optimizer_class(**named | options | more), dtype)

    described = f"{optimizer_class.__name__} {np.dtype(dtype)} {options}"
    moment = int(np.random.default_rng([*described.encode()]).integers(1, 12))
    whole, first = make(), make()
    whole.optimizer.set_lr_mult({0: 0.5, "table": 2.0})
    first.optimizer.set_lr_mult({0: 0.5, "table": 2.0})
    whole.train(12)
    first.train(moment)
    for suffix in (".npz", ".safetensors"):
        checkpoint.save(tmp_path / f"states{suffix}", first.parts())
        # other numbers, which the file overrules
        second = make(rescale_grad=0.25, clip_gradient=3.0, begin_num_update=9, seed=1)
        second.weights = {i: weight.copy() for i, weight in first.weights.items()}
        arrays = {(i, name): array for i, state in second.states.items() for name, array in state.items()}
        assert checkpoint.load(tmp_path / f"states{suffix}", second.parts()) == []
        assert all(second.states[i][name] is array for (i, name), array in arrays.items())
        second.train(12 - moment)
        assert second.everything() == whole.everything()


def test_a_plan_follows_what_was_loaded() -> None:
    """Kernels that have run with the old numbers run with those of the file, in the same arrays."""
    whole, second = sgd(), sgd(learning_rate=0.7)
    whole.optimizer.set_lr_mult({0: 0.5})
    whole.train(2, fused=True)
    data = checkpoint.dumps(whole.parts())
    weights = {i: weight.copy() for i, weight in whole.weights.items()}
    whole.train(3, fused=True)
    second.train(4, fused=True)
    checkpoint.loads(data, second.parts())
    for i, weight in weights.items():
        second.weights[i][...] = weight
    second.train(3, fused=True)
    assert second.everything()[1:] == whole.everything()[1:]


def test_states_are_made_for_tensors_not_seen_yet() -> None:
    data = checkpoint.dumps(trained().parts())
    for weights in ({}, sgd().weights):
        new = stepspec.SGD(param_idx2name=NAMES)
        part = Part(new, NAMES, weights, {}, open=not weights)
        assert checkpoint.loads(data, {"": part}) == []
        assert {i: {name: bits(x) for name, x in state.items()} for i, state in part.states.items()} == (
            trained().everything()[1]
        )
        assert (new.momentum, new.num_update, new.update_count(1)) == (
            0.9,
            3,
            trained().optimizer.update_count(1),
        )


def test_states_that_were_not_made_yet() -> None:
    """Saved before the first step, a checkpoint takes back what came later."""
    early = sgd()
    data = checkpoint.dumps(early.parts(states={}))
    later = trained()
    assert checkpoint.loads(data, later.parts()) == []
    assert later.states == {}
    assert later.optimizer.num_update == 0


def test_tensors_are_known_by_name() -> None:
    model = trained()
    turned = {0: "table", 1: "a_weight", 2: "a_bias"}
    model.optimizer.set_wd_mult({0: 0.25, "a_bias": 0.5})
    other = stepspec.SGD(momentum=0.9, param_idx2name=turned)
    states: dict[int, dict[str, Array]] = {}
    checkpoint.loads(checkpoint.dumps(model.parts()), {"": Part(other, turned, {}, states, open=True)})
    for i, name in turned.items():
        was = next(k for k, v in NAMES.items() if v == name)
        assert bits(states[i]["mom"]) == bits(model.states[was]["mom"])
        assert other.update_count(i) == model.optimizer.update_count(was)
    assert other.wd_mult == {1: 0.25, "a_bias": 0.5}


def test_tensors_without_names_are_known_by_index() -> None:
    model = Model(stepspec.SGD(momentum=0.9))
    model.train(2)
    model.optimizer.set_lr_mult({2: 0.5, 77: 3.0})
    data = checkpoint.dumps(model.parts())
    for weights in ({}, model.weights):
        other = stepspec.SGD()
        states: dict[int, dict[str, Array]] = {}
        checkpoint.loads(data, {"": Part(other, {}, weights, states, open=not weights)})
        assert list(states) == [0, 1, 2]
        assert other.lr_mult == {2: 0.5, 77: 3.0}


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_awkward_names(suffix: str, tmp_path: Path) -> None:
    names = dict(
        enumerate(["", "a/b", "a%2Fb", "ß ..\\\n", "\0", "../../x", "mom", "__metadata__", "x.npy", "3", "b"])
    )
    optimizer = stepspec.SGD(momentum=0.9, param_idx2name=names)
    parts = {}
    for key, start in (("", 0), ("a", 100), ("a/b", 200), ("*bias", 300)):
        states = {i: {"mom": np.full(2, start + i, np.float32)} for i in names}
        parts[key] = Part(optimizer, names, {}, states, open=True)
    checkpoint.save(tmp_path / f"x{suffix}", parts)
    found = {key: replace(part, states={}) for key, part in parts.items()}
    checkpoint.load(tmp_path / f"x{suffix}", found)
    for key, part in parts.items():
        assert {i: s["mom"].tolist() for i, s in found[key].states.items()} == {
            i: s["mom"].tolist() for i, s in part.states.items()
        }


def test_how_a_step_is_run_is_not_changed() -> None:
    model = sgd(use_fused_step=False, aggregate_num=1)
    checkpoint.loads(checkpoint.dumps(trained().parts()), model.parts())
    assert (model.optimizer.use_fused_step, model.optimizer.aggregate_num) == (False, 1)


def test_infinite_hyperparameters() -> None:
    class Bounded(stepspec.Optimizer):
        low = Hyperparameter("[-inf, inf]")
        high = Hyperparameter("(0, inf]")

    one, two = Bounded(), Bounded()
    one.low, one.high, one.clip_gradient = -np.inf, np.inf, None
    two.low, two.high, two.clip_gradient = 1.0, 2.0, 3.0
    checkpoint.loads(checkpoint.dumps({"": Part(one, {}, {}, {})}), {"": Part(two, {}, {}, {})})
    assert (two.low, two.high, two.clip_gradient) == (-np.inf, np.inf, np.inf)


def test_a_file_says_what_it_is(tmp_path: Path) -> None:
    model = trained(lr_scheduler=MultiFactorScheduler([5, 8], 0.5), learning_rate=None)
    checkpoint.save(tmp_path / "a.npz", model.parts())
    _, content = archive.load(tmp_path / "a.npz")
    record = content["parts"][""]
    assert (record["optimizer"], record["rule"]) == ("SGD", stepspec.SGD.rule)
    assert record["hyperparameters"]["clip_gradient"] is None
    assert record["lr_scheduler"]["class"] == "MultiFactorScheduler"
    assert record["lr_scheduler"]["arguments"]["step"] == [5, 8]
    assert record["tensors"]["a_weight"] == {
        "shape": [3, 5],
        "dtype": "float32",
        "count": 3,
        "states": ["mom"],
    }
    with np.load(tmp_path / "a.npz") as file:
        assert bits(file["a_weight/mom"]) == bits(model.states[0]["mom"])


def test_numbers_of_a_trainer(tmp_path: Path) -> None:
    """They are handed over after all checks, and set together with the rest or not at all."""
    source, numbers = trained(), {"bound": 0.1, "careful": True, "skipped": 2**60, "none": None}
    seen: list[Any] = []
    found: dict[str, Any] = {}

    def accept(saved: Any) -> list[Callable[[], object]]:
        seen.append((saved, model.everything()))
        return [partial(found.update, saved)]

    for suffix, given in ((".npz", numbers), (".safetensors", None)):
        checkpoint.save(tmp_path / f"a{suffix}", source.parts(), given)
        model = sgd()
        before = model.everything()
        checkpoint.load(tmp_path / f"a{suffix}", model.parts(), accept=accept)
        assert seen.pop() == (given or {}, before)
        assert found == numbers
        assert model.everything()[1] == source.everything()[1]
    with pytest.raises(ValueError, match="does not fit"):
        checkpoint.load(tmp_path / "a.npz", transposed(sgd()).parts(), accept=accept)
    assert seen == []


def test_numbers_that_a_trainer_refuses(tmp_path: Path) -> None:
    def refuse(saved: Any) -> list[Callable[[], object]]:
        raise ValueError(f"no trainer takes {saved}")

    checkpoint.save(tmp_path / "a.npz", trained().parts(), {"skipped": 3})
    model = sgd()
    before = model.everything()
    for strict in (True, False):
        with pytest.raises(ValueError, match=r"no trainer takes \{'skipped': 3\}"):
            checkpoint.load(tmp_path / "a.npz", model.parts(), strict=strict, accept=refuse)
        assert model.everything() == before


# ---------------------------------------------------------------------- what does not fit


def other_rule(model: Model) -> Model:
    class SGD(stepspec.SGD):
        rule = stepspec.SGD.rule.replace("weight - mom", "weight + mom")

    model.optimizer.__class__ = SGD
    return model


def read_only(model: Model) -> Model:
    model.states[0]["mom"].flags.writeable = False
    return model


def only(model: Model, *indices: int) -> Model:
    model.weights = {i: model.weights[i] for i in indices}
    model.states = {i: model.states[i] for i in indices}
    return model


def transposed(model: Model) -> Model:
    model.weights[0] = model.weights[0].T
    model.states[0] = {"mom": model.states[0]["mom"].T}
    return model


def a_schedule(num_update: int) -> float:
    return 0.1


REFUSALS: dict[str, tuple[Callable[[], Model], list[str]]] = {
    "optimizer and rule": (
        lambda: Model(stepspec.NAG(param_idx2name=NAMES)),
        [
            "the checkpoint was written by SGD, and this optimizer is NAG",
            "the update rule differs",
            "lazy_update",
        ],
    ),
    "rule": (
        lambda: other_rule(sgd()),
        [
            "the update rule differs: it has the line 'weight = weight - mom' in the checkpoint "
            "and 'weight = weight + mom' here"
        ],
    ),
    "shape": (
        lambda: transposed(sgd()),
        [
            "tensor 'a_weight': its shape is (3, 5) in the checkpoint, (5, 3) here",
            "tensor 'a_weight': state 'mom' has shape (3, 5) of float32 in the checkpoint, (5, 3) of float32",
        ],
    ),
    "dtype": (
        lambda: Model(stepspec.SGD(momentum=0.9, param_idx2name=NAMES), np.float64),
        [
            f"tensor {name!r}: {text}"
            for name, shape in zip(NAMES.values(), SHAPES, strict=True)
            for text in (
                "its dtype is float32 in the checkpoint, float64 here",
                f"state 'mom' has shape {shape} of float32 in the checkpoint, {shape} of float64 here",
            )
        ],
    ),
    "missing tensor": (lambda: only(sgd(), 0, 2), ["tensor 'a_bias' is only in the checkpoint"]),
    "renamed tensor": (
        lambda: sgd(param_idx2name=NAMES | {1: "b"}),
        ["tensor 'a_bias' is only in the checkpoint", "tensor 'b' is not in the checkpoint"],
    ),
    "a name that is an index": (
        lambda: sgd(param_idx2name={0: "a_weight", 1: "a_bias"}),
        ["tensor 'table' is only in the checkpoint", "tensor '2' is not in the checkpoint"],
    ),
    "read-only": (lambda: read_only(sgd()), ["tensor 'a_weight': state 'mom' is read-only here"]),
    "state that would appear": (
        lambda: sgd(momentum=0.0),
        ["SGD: momentum cannot change to 0.9: there are states, and 'mom' would appear or vanish"]
        + [f"tensor {name!r}: state 'mom' is only in the checkpoint" for name in NAMES.values()],
    ),
    "schedule": (
        lambda: sgd(lr_scheduler=FactorScheduler(3), learning_rate=None),
        ["lr_scheduler is None in the checkpoint, FactorScheduler(base_lr=0.01, warmup_steps=0"],
    ),
    "callable": (
        lambda: sgd(lr_scheduler=a_schedule, learning_rate=None),
        ["lr_scheduler is None in the checkpoint, a_schedule here"],
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_lists_every_difference_and_changes_nothing(case: str) -> None:
    make, expected = REFUSALS[case]
    model, data = make(), checkpoint.dumps(trained().parts())
    before = model.everything()
    found = refusal(data, model.parts())
    assert len(found) == len(expected), found
    for difference, start in zip(found, expected, strict=True):
        assert start in difference
    assert model.everything() == before


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (FactorScheduler(3), FactorScheduler(4)),
        (FactorScheduler(3), FactorScheduler(3, base_lr=0.02)),
        (MultiFactorScheduler([3, 5]), MultiFactorScheduler([3, 6])),
        (FactorScheduler(3), a_schedule),
        (FactorScheduler(3), None),
        (a_schedule, math.sqrt),
    ],
)
def test_schedules_are_compared(one: Any, two: Any) -> None:
    data = checkpoint.dumps(trained(lr_scheduler=one, learning_rate=None).parts())
    checkpoint.loads(data, sgd(lr_scheduler=one, learning_rate=None).parts())
    assert len(refusal(data, sgd(lr_scheduler=two, learning_rate=None).parts())) == 1


class Halving(FactorScheduler):
    """A user's own schedule, with attributes of its own."""

    def __init__(self, step: int, more: Any = None) -> None:
        super().__init__(step, 0.5)
        self.more = more


def scheduled(schedule: Any) -> Model:
    return sgd(lr_scheduler=schedule, learning_rate=None)


def test_schedules_of_users_are_compared() -> None:
    data = checkpoint.dumps(scheduled(Halving(3)).parts())
    checkpoint.loads(data, scheduled(Halving(3)).parts())
    for other in (Halving(4), Halving(3, "more"), FactorScheduler(3, 0.5)):
        (difference,) = refusal(data, scheduled(other).parts())
        assert "lr_scheduler is Halving(base_lr=0.01, " in difference


@pytest.mark.parametrize(
    ("more", "same"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(7), 7),
        (np.bool_(True), True),
        ((1, (np.float64(2.0), None)), [1, [2.0, None]]),
        (math.inf, math.inf),
        (Halving(2), Halving(2)),
        (a_schedule, a_schedule),
    ],
)
def test_attributes_of_schedules(more: Any, same: Any) -> None:
    data = checkpoint.dumps(scheduled(Halving(3, more)).parts())
    checkpoint.loads(data, scheduled(Halving(3, same)).parts())
    assert len(refusal(data, scheduled(Halving(3, "other")).parts())) == 1


@pytest.mark.parametrize("more", [{1: 2}, np.zeros(2), {3}, [object()]])
def test_a_schedule_that_cannot_be_saved(more: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"cannot hold Halving\.more of the lr_scheduler, .*; keep numbers"):
        checkpoint.save(tmp_path / "a.npz", scheduled(Halving(3, more)).parts())
    assert list(tmp_path.iterdir()) == []


def test_only_an_open_part_takes_tensors_that_are_not_here() -> None:
    """A trainer's tensors can all be in other groups; an updater's just have not come yet."""
    data = checkpoint.dumps({"": Part(stepspec.SGD(), {}, {}, {0: {}})})
    part = Part(stepspec.SGD(), {}, {}, {})
    assert refusal(data, {"": part}) == ["tensor '0' is only in the checkpoint"]
    assert part.states == {}
    assert checkpoint.loads(data, {"": replace(part, open=True)}) == []
    assert part.states == {0: {}}


def test_masters_of_other_weights() -> None:
    """The next update would write the master over the weight, whatever that is."""

    def make() -> Model:
        model = Model(stepspec.SGD(momentum=0.9, multi_precision=True, param_idx2name=NAMES), np.float16)
        model.train(2)
        return model

    source, model = make(), make()
    data = checkpoint.dumps(source.parts())
    model.weights[1][3] = np.nextafter(model.weights[1][3], np.float16(9))
    before = model.everything()
    text = "tensor 'a_bias': its weight is not its master in the checkpoint, rounded: first bring"
    for parts in (model.parts(), model.parts(states={})):
        (difference,) = refusal(data, parts)
        assert difference.startswith(text)
    assert model.everything() == before
    assert len(checkpoint.loads(data, model.parts(), strict=False)) == 1
    checkpoint.loads(data, model.parts(weights={}))  # of weights that are not here nothing is said


def test_a_master_beyond_the_range_of_its_weight() -> None:
    def make() -> Model:
        model = Model(stepspec.SGD(multi_precision=True), np.float16)
        model.weights[1][0], model.states[1]["master"][0] = np.inf, 1e9
        model.weights[1][1], model.states[1]["master"][1] = np.nan, np.nan
        return model

    with np.errstate(all="raise"):
        assert checkpoint.loads(checkpoint.dumps(make().parts()), make().parts()) == []


def test_multipliers_of_tensors_that_are_not_here() -> None:
    model = trained()
    model.optimizer.set_lr_mult({1: 0.5})
    data = checkpoint.dumps(model.parts())
    other = only(sgd(param_idx2name={0: "a_weight", 2: "table"}), 0, 2)
    assert refusal(data, other.parts()) == [
        "lr_mult is given for tensor 'a_bias', which is not here",
        "tensor 'a_bias' is only in the checkpoint",
    ]


def test_a_hyperparameter_out_of_range(monkeypatch: pytest.MonkeyPatch) -> None:
    data = checkpoint.dumps(trained().parts())
    monkeypatch.setattr(stepspec.SGD.momentum, "range", stepspec.hyperparameters.Range.parse("[0, 0.5)"))
    model = sgd(momentum=0.4)
    assert refusal(data, model.parts()) == ["SGD: momentum = 0.9 is outside of its range [0, 0.5)"]


def test_requirements_hold_for_all_hyperparameters_together() -> None:
    class Bounded(stepspec.Optimizer):
        low = Hyperparameter("[-inf, inf)")
        high = Hyperparameter("(-inf, inf]")
        requirements = {"low <= high": lambda self: self.low <= self.high}  # noqa: RUF012  # as generated

        def __init__(self, low: float, high: float) -> None:
            super().__init__()
            self.low, self.high = low, high

    for one, two in ((Bounded(1, 2), Bounded(3, 4)), (Bounded(3, 4), Bounded(1, 2))):
        checkpoint.loads(checkpoint.dumps({"": Part(one, {}, {}, {})}), {"": Part(two, {}, {}, {})})
        assert (two.low, two.high) == (one.low, one.high)


def test_requirements_that_do_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    data = checkpoint.dumps(trained(wd=0.5).parts())
    monkeypatch.setattr(
        stepspec.SGD, "requirements", {"wd < momentum / 2": lambda self: self.wd < self.momentum / 2}
    )
    assert refusal(data, sgd().parts()) == ["SGD requires wd < momentum / 2, but wd = 0.5, momentum = 0.9"]


def test_states_that_are_not_in_the_checkpoint() -> None:
    model = sgd()
    differences = refusal(checkpoint.dumps(trained(momentum=0.0).parts()), model.parts())
    assert differences[1:] == [
        f"tensor {name!r}: state 'mom' is not in the checkpoint" for name in NAMES.values()
    ]


def test_states_to_make_must_fit_the_weights() -> None:
    """A checkpoint of an updater knows no shapes of weights."""
    data = checkpoint.dumps(trained().parts(weights={}))
    model = transposed(sgd())
    assert refusal(data, model.parts(states={})) == [
        "tensor 'a_weight': state 'mom' has shape (3, 5) of float32 in the checkpoint, (5, 3) of float32 here"
    ]


def test_a_name_that_was_an_index() -> None:
    data = checkpoint.dumps(Model(stepspec.SGD(momentum=0.9)).parts())
    part = Part(stepspec.SGD(), {2: "table"}, {}, {}, open=True)
    assert refusal(data, {"": part}) == ["tensor '2' is only in the checkpoint"]


def test_if_no_hyperparameter_is_accepted_none_is_changed() -> None:
    arrays, content = archive.loads(checkpoint.dumps(sgd(begin_num_update=3).parts()))
    content["parts"][""]["hyperparameters"] = {"momentum": 5.0}
    model = sgd()
    before = model.everything(), model.optimizer._versions
    assert "SGD: momentum = 5.0 is outside" in refusal(archive.dumps(arrays, content), model.parts())[-1]
    assert (model.everything(), model.optimizer._versions) == before


def test_groups_are_compared() -> None:
    data = checkpoint.dumps({"": trained().part(), "*bias": sgd().part()})
    assert refusal(data, {"": sgd().part(), "b*": sgd().part()}) == [
        "group '*bias': only in the checkpoint",
        "group 'b*': not in the checkpoint",
    ]
    found = refusal(data, {"": sgd().part(), "*bias": transposed(sgd()).part()})
    assert found[0].startswith("group '*bias': tensor 'a_weight': its shape")
    model = sgd()
    before = model.everything()
    refusal(data, {"": model.part(), "*bias": transposed(sgd()).part()})
    assert model.everything() == before


# ---------------------------------------------------------------------- strict=False


def test_what_matches_is_loaded_and_the_rest_told(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    source = trained(wd=0.5)
    checkpoint.save(tmp_path / "a.npz", source.parts())
    model = transposed(sgd(lr_scheduler=FactorScheduler(3), learning_rate=None))
    kept = bits(model.states[0]["mom"])
    with caplog.at_level(logging.WARNING, "stepspec"):
        left = checkpoint.load(tmp_path / "a.npz", model.parts(), strict=False)
    assert [re.split("[ :]", text)[0] for text in left] == ["lr_scheduler", "tensor", "tensor"]
    (message,) = caplog.messages
    assert f"checkpoint '{tmp_path / 'a.npz'}' does not fit in part" in message
    assert all(text in message for text in left)
    assert bits(model.states[0]["mom"]) == kept
    assert model.optimizer.update_count(0) == 0
    for i in (1, 2):
        assert bits(model.states[i]["mom"]) == bits(source.states[i]["mom"])
        assert model.optimizer.update_count(i) == source.optimizer.update_count(i)
    assert model.optimizer.wd == 0.5
    assert isinstance(model.optimizer.lr_scheduler, FactorScheduler)


def test_another_rule_can_be_vouched_for(caplog: pytest.LogCaptureFixture) -> None:
    source, model = trained(), other_rule(sgd(wd=0.1))
    left = checkpoint.loads(checkpoint.dumps(source.parts()), model.parts(), strict=False)
    assert len(left) == len(caplog.records) == 1
    assert model.everything()[1] == source.everything()[1]
    assert model.optimizer.wd == 0


def test_hyperparameters_are_accepted_one_by_one() -> None:
    model = sgd(momentum=0.0)
    data = checkpoint.dumps(trained(wd=0.5, clip_gradient=2.0).parts())
    left = checkpoint.loads(data, model.parts(), strict=False)
    assert "momentum cannot change" in left[0]
    optimizer: Any = model.optimizer
    assert (optimizer.momentum, optimizer.wd, optimizer.clip_gradient) == (0.0, 0.5, 2.0)
    model.train(1)


def test_weight_decay_of_another_rule_is_left() -> None:
    data = checkpoint.dumps(Model(stepspec.SGD(wd=0.1, rescale_grad=0.5, param_idx2name=NAMES)).parts())
    model = Model(stepspec.GroupAdaGrad(param_idx2name=NAMES))
    left = checkpoint.loads(data, model.parts(), strict=False)
    assert "wd is 0.1 in the checkpoint, and GroupAdaGrad has no weight decay" in left
    assert (model.optimizer.wd, model.optimizer.rescale_grad) == (0.0, 0.5)
    model.train(1)


def test_weight_decay_that_multipliers_switch_off() -> None:
    """The rule has none, but its optimizer steps: so does the one that goes on."""
    source, model = (Model(stepspec.GroupAdaGrad(wd=wd, param_idx2name=NAMES)) for wd in (0.1, 0.0))
    source.optimizer.set_wd_mult(dict.fromkeys(NAMES, 0.0))
    source.train(1)
    assert checkpoint.loads(checkpoint.dumps(source.parts()), model.parts()) == []
    model.train(1)
    assert model.optimizer.wd == 0.1


def test_nothing_is_logged_where_all_fits(caplog: pytest.LogCaptureFixture) -> None:
    assert checkpoint.loads(checkpoint.dumps(trained().parts()), sgd().parts(), strict=False) == []
    assert caplog.records == []


# ---------------------------------------------------------------------- refused before anything is done


@pytest.mark.parametrize("content", [None, {}, [1, 2], "parts"])
def test_arrays_of_something_else(content: Any) -> None:
    data = archive.dumps({"a/mom": np.zeros(3)}, content)
    with pytest.raises(ValueError, match="the checkpoint holds arrays, but no optimizer's states"):
        checkpoint.loads(data, sgd().parts())


def test_names_must_differ(tmp_path: Path) -> None:
    for names in ({0: "a", 1: "a"}, {0: "2"}):
        model = sgd(param_idx2name=names)
        with pytest.raises(ValueError, match=r"tensors 0 and \d are both called .*change param_idx2name"):
            checkpoint.save(tmp_path / "a.npz", model.parts())
        with pytest.raises(ValueError, match="are both called"):
            checkpoint.loads(checkpoint.dumps(trained().parts()), model.parts())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a\ud800", r"tensor 'a\\ud800' has no name in UTF-8: surrogates not allowed; rename it"),
        ("ß" * 5001, r"tensor 'ß{40}\.\.\.' has a name of 10002 bytes: shorten it to 10000 at most"),
    ],
)
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_names_that_no_file_can_hold(suffix: str, name: str, message: str, tmp_path: Path) -> None:
    named = sgd(param_idx2name=NAMES | {1: name})
    multiplied = sgd()
    multiplied.optimizer.set_lr_mult({name: 0.5})
    for parts in (named.parts(), named.parts(states={}), multiplied.parts()):
        with pytest.raises(ValueError, match=message):
            checkpoint.save(tmp_path / f"a{suffix}", parts)
    with pytest.raises(ValueError, match=message.replace("tensor", "group")):
        checkpoint.save(tmp_path / f"a{suffix}", {name: sgd().part()})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_the_longest_names(suffix: str, tmp_path: Path) -> None:
    for character in "%/":
        longest = character * 10_000
        model = trained(param_idx2name=NAMES | {1: longest})
        checkpoint.save(tmp_path / f"a{suffix}", {longest: model.part()})
        other = sgd(param_idx2name=NAMES | {1: longest})
        assert checkpoint.load(tmp_path / f"a{suffix}", {longest: other.part()}) == []
        assert other.everything()[1] == model.everything()[1]


@pytest.mark.parametrize(
    "value", [[1.0], None, np.ma.zeros(3), np.zeros(3, int), np.zeros(3, ">f4"), np.array(None)]
)
def test_states_that_cannot_be_saved(value: Any, tmp_path: Path) -> None:
    model = sgd()
    model.states[1] = {"mom": value}
    with pytest.raises(TypeError, match="state 'mom' of tensor 'a_bias' must be a NumPy array of float16"):
        checkpoint.save(tmp_path / "a.npz", model.parts())
    assert list(tmp_path.iterdir()) == []


def test_another_thread_in_the_middle_of_an_update(tmp_path: Path) -> None:
    model, data = sgd(), checkpoint.dumps(sgd().parts())
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        turn = model.optimizer._exclusive.take("SGD")
        taken.set()
        done.wait(60)
        model.optimizer._exclusive.give_back(turn)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait(60)
    for use in (lambda: checkpoint.dumps(model.parts()), lambda: checkpoint.loads(data, model.parts())):
        with pytest.raises(RuntimeError, match="another thread is in the middle of an update"):
            use()
    done.set()
    thread.join()
    checkpoint.loads(data, model.parts())
    model.train(1)


# ---------------------------------------------------------------------- killed


@pytest.mark.parametrize(("suffix", "kills"), [(".npz", 100), (".safetensors", 30)])
def test_a_killed_training_resumes_where_it_was(suffix: str, kills: int, tmp_path: Path) -> None:
    command = [sys.executable, str(HERE / "killed.py"), str(tmp_path), suffix, str(kills)]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    counted = re.fullmatch(r"(\d+) kills, (\d+) while a file was written, (\d+) steps\n", run.stdout)
    assert counted is not None
    done, torn, steps = map(int, counted.groups())
    assert done == kills
    assert min(torn, steps) > kills / 20
