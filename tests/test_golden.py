"""Replay recorded MXNet trajectories through `step` and `fused_step`; golden/README.md explains them."""

import functools
import json
from typing import Any

import pytest
from golden_drift import drift_complaints
from golden_records import (
    CASES,
    GOLDEN,
    OPTIMIZERS,
    PATHS,
    Arrays,
    Case,
    build,
    complaints,
    load,
    paths,
    replay,
    same_bits,
)


def runs(refused: bool) -> list[Any]:
    """Return every case on every path, as one parameter set each."""
    # One worker takes all cases of an optimizer, so that its kernels are compiled once.
    return [
        pytest.param(
            case,
            path,
            id=f"{case.name}-{path}",
            marks=pytest.mark.xdist_group(case.record["optimizer"]),
        )
        for case in CASES.values()
        if (case.expect["compare"] == "raises") == refused
        for path in paths(case)
    ]


@functools.cache
def replayed(name: str, path: str, feed: str) -> Arrays:
    """Replay a case once for all tests that look at it."""
    return replay(CASES[name], path, feed)


@pytest.mark.parametrize(("case", "path"), runs(refused=False))
def test_trajectory(case: Case, path: str) -> None:
    for entry in [case.expect, *case.expect.get("also", [])]:
        got = replayed(case.name, path, entry["feed"])
        found = list(complaints(case, got, case.reference(entry["compare"]), entry["tol"]))
        assert not found, f"against {entry['compare']} ({entry['why']}):\n" + "\n".join(found[:10])


@pytest.mark.parametrize(("case", "path"), [run for run in runs(refused=False) if run.values[1] == "step"])
def test_paths_give_the_same_bits(case: Case, path: str) -> None:
    feed = case.expect["feed"]
    step, fused = (replayed(case.name, each, feed) for each in (path, "fused"))
    assert step.keys() == fused.keys()
    assert [key for key in step if not same_bits(step[key], fused[key])] == []


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("case", [*load("SGLD")], ids=lambda case: case.name)
def test_drift(case: Case, path: str) -> None:
    """Of SGLD, MXNet's noise is not ours: what is added to it must agree."""
    assert case.expect["how"] == "drift"
    assert list(drift_complaints(case, path)) == []


@pytest.mark.parametrize(("case", "path"), runs(refused=True))
def test_refusal(case: Case, path: str) -> None:
    words = ("lazy_update", "clip_gradient", "momentum", "wd")
    culprit = next(word for word in words if word in case.expect["why"])
    if case.expect["at"] == "construct":
        with pytest.raises(ValueError, match=culprit):
            build(case, path)
    else:
        with pytest.raises(ValueError, match=culprit):
            replay(case, path, case.expect["feed"])


def test_collection() -> None:
    """Every recorded case is expected, and what is collected covers optimizers, schedulers and both paths."""
    expectations = json.loads((GOLDEN / "expect.json").read_text(encoding="utf-8"))
    recorded = [case for name in (*OPTIMIZERS, "SGLD") for case in load(name)]
    assert {case.name for case in recorded} == set(expectations)
    assert {case.record["optimizer"] for case in CASES.values()} == set(OPTIMIZERS)
    assert any("lr_scheduler" in case.record for case in CASES.values())
    kinds = {
        tensor[key] for case in recorded for tensor in case.record["params"] for key in ("dtype", "gstype")
    }
    assert kinds == {"float16", "float32", "float64", "default", "row_sparse"}
