"""The script of `make gpu`, as far as it goes without a GPU: on the host and on the emulated device."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpu
import gpu_models
import torch_rules
from agreement import STEPS, disagreement, take_steps
from cases import DTYPES, OPTIMIZERS, Case, Model, Reason, settings_of
from environment import environment
from gpu_bandwidth import Share
from gpu_check import Check
from gpu_experiments import patched
from gpu_trials import FORMS, STORAGES, TINY, Trial, difference, drawn, ended, optimizers, trials
from ours import Stepspec
from places import HOST, Host
from sections import Options, Part
from shapes import Shapes
from stepspec import RowSparse, generated
from stepspec.cuda import launches
from timing import Contender, Timing, interleave

SHAPES: Shapes = {"fc_weight": (7, 5), "fc_bias": (7,), "stem_weight": (4, 3, 2, 2)}
ONE: Shapes = {"odd_weight": (9, 5)}


class Nearby(Host):
    """The host's memory as if it were a device, which can be told to give a wrong number back."""

    name = "nearby"
    dtypes = ("float32", "float64", "float16", "bfloat16")

    def __init__(self, is_wrong: bool = False) -> None:
        self.is_wrong = is_wrong

    def back(self, array: Any) -> Any:
        found = array.copy()
        if self.is_wrong and found.ndim:
            found.reshape(-1)[-1:] += 1
        return found


def options(tmp_path: Path, *names: str) -> Options:
    return Options(1, (), names, ("float32",), tmp_path, environment(1))


@pytest.mark.parametrize("optimizer", sorted(torch_rules.RULES))
def test_foreach_rules_do_what_stepspec_does(optimizer: str) -> None:
    pytest.importorskip("torch")
    case = Case(optimizer, settings_of(optimizer, "float32"), Model.random(SHAPES), 1)
    ours, theirs = Stepspec(case, "step"), torch_rules.contender(case, "cpu")
    assert not isinstance(theirs, Reason)
    for contender in (ours, theirs):
        take_steps(contender, STEPS)
    assert disagreement(case, ours.weights(), theirs.weights()) == ""


def test_every_optimizer_has_a_peer_or_a_reason() -> None:
    for optimizer in OPTIMIZERS:
        for dtype in ("float32", "bfloat16"):
            case = Case(optimizer, settings_of(optimizer, dtype), Model.random(SHAPES, DTYPES[dtype]), 1)
            found = gpu_models.foreach(case, "cpu")
            assert isinstance(found, Reason) or found.label == "torch foreach"


def test_trials_reach_every_variant() -> None:
    assert set(optimizers()) == set(generated.__all__) >= OPTIMIZERS.keys()
    found = [*trials("SGD", "float32", {}, FORMS)]
    assert {trial.form for trial in found} == set(FORMS)
    assert {"momentum", "clip_gradient", "learning_rate", "lazy_update"} <= {
        name for trial in found for name in trial.settings
    }
    masters = [*trials("SGD", "float16", {"multi_precision": True}, FORMS)]
    assert not any("lazy_update" in trial.settings for trial in masters)


def test_gradients_have_the_form_of_the_trial() -> None:
    _, dense = drawn(Trial("SGD", "float32", grads="bfloat16"), TINY)
    assert {grad.dtype.name for grad in dense[0]} == {"bfloat16"}
    _, sparse = drawn(Trial("SGD", "float32", form="sparse"), TINY)
    assert [isinstance(grad, RowSparse) for grad in sparse[0]] == [bool(shape) for shape in TINY.values()]
    weights, special = drawn(Trial("SGD", "float16", form="special"), TINY)
    (weight,), (grad,) = weights.values(), special[0]
    assert isinstance(grad, np.ndarray)
    assert (0.0, np.inf) in zip(weight.flat, grad.flat, strict=True)


@pytest.mark.parametrize(
    ("one", "other", "text"),
    [
        ([1.0, np.nan], [1.0, -np.nan], ""),
        ([0.0, 2.0], [-0.0, 2.0], "1 of 2 differ, the first at 0: -0.0 instead of 0.0"),
        ([1.0], [1.0, 2.0], "float32 (1,) became float32 (2,)"),
    ],
)
def test_differences_are_of_bits(one: list[float], other: list[float], text: str) -> None:
    assert difference(np.array(one, np.float32), np.array(other, np.float32)) == text


def test_a_trial_ends_alike_wherever_it_runs() -> None:
    trial = Trial("SGD", "bfloat16", {"rounding": "stochastic", "momentum": 0.9})
    one, two = (ended(trial, ONE, place) for place in (HOST, Nearby()))
    assert one.keys() == two.keys() == {"odd_weight", "odd_weight, mom"}
    assert not any(difference(one[name], two[name]) for name in one)


def test_what_differs_is_counted_and_named() -> None:
    check = Check([], ONE)
    for device in (Nearby(), Nearby(is_wrong=True)):
        check.hold(Trial("SGD", "float32"), device, "float32")  # type: ignore[arg-type]  # has all it needs
    (count,) = check.counts.values()
    assert (count.trials, count.same) == (2, 1)
    assert check.failures[0].startswith("SGD, float32, dense, nearby: odd_weight: 1 of 45 differ")
    (target,) = check.targets()
    assert target.met is False
    (found,) = check.tables()
    assert found.rows == [("SGD", "float32", "nearby", "2", "1")]


def test_a_trial_that_fails_hides_no_other() -> None:
    class Broken(Nearby):
        def own(self, values: Any) -> Any:
            raise RuntimeError("out of memory")

    check = Check([], ONE)
    check.hold(Trial("SGD", "float32"), Broken(), "float32")  # type: ignore[arg-type]  # has all it needs
    assert check.failures == ["SGD, float32, dense, nearby: RuntimeError: out of memory"]


def test_parts_cover_storages_and_chosen_optimizers(tmp_path: Path) -> None:
    check = Check([Nearby(), Nearby()])  # type: ignore[list-item]  # has all it needs
    titles = [part.title for part in check.parts(options(tmp_path, "SGD"))]
    plain = [storage for _, storage in STORAGES if not storage]
    assert len(titles) == len(STORAGES) + len(plain)
    assert titles[0] == "SGD, float32, nearby"


class Slow:
    """A section whose first part fails and whose time is over then."""

    name = "check"

    def __init__(self) -> None:
        self.done: list[str] = []

    def parts(self, options: Options) -> Iterator[Part]:
        yield Part("first", self._fail)
        yield Part("second", lambda: self.done.append("second"))

    def _fail(self) -> None:
        raise ValueError("no such kernel")

    def tables(self) -> Iterator[Any]:
        return iter(())

    def targets(self) -> Iterator[Any]:
        return iter(())

    def data(self) -> object:
        return self.done


@pytest.mark.parametrize(("minutes", "done"), [(1.0, ["second"]), (0.0, [])])
def test_errors_are_reported_and_time_is_kept(tmp_path: Path, minutes: float, done: list[str]) -> None:
    ran, section = gpu.Run(), Slow()
    states: list[list[str]] = []
    gpu.run(options(tmp_path), section, minutes, ran, lambda: states.append([*section.done]), lambda: True)
    assert section.done == done
    assert states == ([[], ["second"], ["second"]] if done else [[]])
    skipped = [] if done else ["check: first", "check: second"]
    assert ran.skipped == skipped
    assert ran.errors == (["check: first: ValueError: no such kernel"] if done else [])


def test_a_share_is_of_the_copy_in_the_same_turns() -> None:
    step, copy = (Timing(ms, ms, ms, 1) for ms in (5.0, 2.0))
    share = Share("SGD", "124 M", 1, 2000, step, copy, 1000)
    assert share.of_copy == pytest.approx(0.8)


def test_a_clock_may_be_another_one() -> None:
    asked: list[int] = []

    def clock(contender: Contender, steps: int) -> list[float]:
        asked.append(steps)
        return [0.008] * steps

    case = Case("SGD", OPTIMIZERS["SGD"], Model.random(SHAPES), 1)
    times = interleave([Stepspec(case, "step")], 3, clock=clock)
    assert times["step"] == Timing(8.0, 8.0, 8.0, 6)
    assert asked == [2, 2, 2, 2]


def test_another_number_of_blocks_is_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launches, "blocks", lambda driver, device, code, items: min(items, 100))
    found: list[int] = []
    step = patched(lambda items: found.append(launches.blocks(None, 0, None, items)), 0.25)  # type: ignore[arg-type]  # the stand-in above looks at items only
    for items in (10, 1000):
        step(items)
    assert found == [10, 25]
    assert launches.blocks(None, 0, None, 1000) == 100  # type: ignore[arg-type]  # as above


def test_without_a_gpu_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "installed", lambda: ([], {"torch": "torch finds no GPU"}))
    monkeypatch.setenv("CUDA_HOME", "")  # so that none is looked for
    child = ["--only", "check", "--child", str(tmp_path / "found")]
    assert gpu.main(["--output", str(tmp_path), *child]) == 2
    assert "torch finds no GPU" in capsys.readouterr().err


def test_the_emulated_device_has_the_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "TINY", ONE)
    monkeypatch.setenv("CUDA_HOME", "")  # so that none is looked for
    monkeypatch.setattr("gpu_check.STORAGES", STORAGES[:1])
    chosen = ["--emulate", "--optimizers", "NAG", "--output", str(tmp_path)]
    assert gpu.main(chosen) == 0, capsys.readouterr()
    ((optimizer, _, library, count, same),) = json.loads((tmp_path / "gpu.json").read_text())["sections"][
        "check"
    ]["counts"]
    assert (optimizer, library, same) == ("NAG", "emulated", count)
    assert count > len(FORMS)
    assert "| NAG: share of trials with the CPU's bits | at least 1 | 1 | yes |" in capsys.readouterr().out
