"""States of MXNet's optimizers, taken over in the middle of recorded runs: the rest follows the record."""

import warnings
from typing import Any

import numpy as np
import pytest
from golden_records import CASES, OPPOSITE_MOMENTUM, OPTIMIZERS, Array, Case, build, gradient, largest, paths
from ml_dtypes import bfloat16
from training import bits

import stepspec
from stepspec.mxnet import import_states

States = dict[int, dict[str, Array]]
WITH_MASTERS: dict[str, Any] = {"momentum": 0.9, "multi_precision": True}


def recorded(case: Case, run: str, call: int, name: str, index: int) -> Array:
    """Return a weight or state of a run before a call, as MXNet holds it."""
    held: Array = case.arrays[f"{run}/p{index}/{name}"][call]
    return held


def layout(case: Case, run: str, call: int, index: int) -> Any:
    """Return a tensor's state as MXNet holds it: None, an array or a tuple; with a master, a pair of both."""
    names = case.record["state_names"]
    held = [f"{run}/p{index}/state/{name}" for name in names]
    found = [case.arrays[key][call] if key in case.arrays else None for key in held]
    if case.record["optimizer"] == "Nadam":  # of which MXNet has one, and the optimizer keeps it
        found.append(np.array([case.record["runs"][run]["log"][call - 1]["m_schedule"]]))
    state = found[0] if len(found) == 1 else tuple(found)
    master = f"{run}/p{index}/state/master"
    return (case.arrays[master][call], state) if master in case.arrays else state


def take_over(case: Case, run: str, call: int) -> tuple[stepspec.Optimizer, dict[int, Array], States]:
    """Return what goes on from a recorded run after some calls."""
    optimizer = build(case, paths(case)[0])
    indices = [tensor["index"] for tensor in case.record["params"]]
    weights = {i: recorded(case, run, call, "w", i).copy() for i in indices}
    counts = dict.fromkeys(indices, case.record["kwargs"].get("begin_num_update", 0))
    log = case.record["runs"][run]["log"]
    for fed, entry in zip(case.record["feed"][:call], log[:call], strict=True):
        counts |= dict(zip(fed, entry["t"], strict=True))
    states = {i: layout(case, run, call, i) for i in indices}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of half precision without a master, which some cases are about
        return optimizer, weights, import_states(optimizer, weights, states, counts)


# every recorded run that stepspec is held against, where nothing is meant to differ from it
RUNS = [
    pytest.param(case, case.expect["compare"], id=case.name)
    for case in CASES.values()
    if case.expect["compare"] in ("step", "fused")
]


@pytest.mark.parametrize(("case", "run"), RUNS)
def test_a_run_goes_on_in_stepspec(case: Case, run: str) -> None:
    """From the middle to the end: within what the whole run is allowed, weights, states and what moved."""
    steps, tolerance = case.record["steps"], case.expect["tol"]
    start = steps // 2
    optimizer, weights, states = take_over(case, run, start)
    for call in range(start, steps):
        fed = case.record["feed"][call]
        for group in [fed] if case.expect["feed"] == "call" else [[i] for i in fed]:
            grads = [gradient(case, i, call, case.arrays[f"p{i}/grad"][call]) for i in group]
            optimizer.update_multi_precision(
                group, [weights[i] for i in group], grads, [states[i] for i in group]
            )
    signed = -1 if case.record["optimizer"] in OPPOSITE_MOMENTUM else 1
    for i, weight in weights.items():
        first, last = (recorded(case, run, call, "w", i).astype(float) for call in (start, steps))
        assert largest(weight - last) <= tolerance["weights"] * largest(last)
        if tolerance["r"] is not None and "master" not in states[i]:
            room = tolerance["r"] * largest(last - first) + tolerance["k"] * largest(last)
            assert largest((weight - first) - (last - first)) <= room
        for name, state in states[i].items():
            if name == "m_schedule":
                wanted_product = case.record["runs"][run]["log"][-1]["m_schedule"]
                assert state.item() == pytest.approx(wanted_product, rel=1e-12)
                continue
            wanted = recorded(case, run, steps, f"state/{name}", i).astype(float).reshape(state.shape)
            wanted *= signed if name == "mom" else 1
            assert largest(state - wanted) <= tolerance["states"] * largest(wanted), name


def test_the_middles_are_worth_the_name() -> None:
    """All optimizers, and most runs, have states in the middle that are not what they were at first."""
    moved: dict[str, int] = {}
    for case, run in (param.values for param in RUNS):
        assert isinstance(case, Case)
        assert isinstance(run, str)
        for key, array in case.arrays.items():
            if key.startswith(f"{run}/") and "/state/" in key and array[len(array) // 2].any():
                moved[case.record["optimizer"]] = moved.get(case.record["optimizer"], 0) + 1
    assert set(moved) == set(OPTIMIZERS)
    assert min(count for name, count in moved.items() if name != "Nadam") > 10


# ---------------------------------------------------------------------- layouts


def test_signs_are_those_of_the_documentation() -> None:
    given = np.array([1.0, -2.0, 0.0, -0.0, np.inf], np.float32)
    weights = {3: np.zeros(5, np.float32)}
    for optimizer in (stepspec.SGD(momentum=0.5), stepspec.NAG(), stepspec.LARS(momentum=0.5)):
        (state,) = import_states(optimizer, weights, {3: given}).values()
        assert state["mom"].tobytes() == (-given).tobytes()
    (state,) = import_states(stepspec.FTML(), weights, {3: (given, given + 1, given * 2)}).values()
    assert [state[name].tobytes() for name in "dvz"] == [x.tobytes() for x in (given, given + 1, given * 2)]
    assert not any(np.may_share_memory(x, given) for x in state.values())


def test_masters() -> None:
    master, mom = np.linspace(0, 1, 6, dtype=np.float32), np.arange(6, dtype=np.float32)
    for dtype in (np.float16, bfloat16):
        weights = {0: master.astype(dtype)}
        for inner in (mom, [mom], (mom,)):
            found = import_states(stepspec.SGD(**WITH_MASTERS), weights, {0: (master, inner)})
            assert list(found[0]) == ["mom", "master"]
            assert bits(found[0]["mom"]) == bits(-mom)
            assert bits(found[0]["master"]) == bits(master)
        found = import_states(stepspec.SGD(multi_precision=True), weights, {0: [master, None]})
        assert list(found[0]) == ["master"]


def test_rows_and_none() -> None:
    weights: dict[int, Array] = {0: np.zeros((4, 2, 3), np.float32), 1: np.zeros((2, 5))}
    history = {0: np.arange(4, dtype=np.float32).reshape(4, 1), 1: np.ones((2, 1), np.float32)}
    found = import_states(stepspec.GroupAdaGrad(), weights, history)
    assert (found[0]["history"].shape, found[0]["history"].ravel().tolist()) == ((4, 1, 1), [0, 1, 2, 3])
    assert (found[1]["history"].dtype.name, found[1]["history"].shape) == ("float64", (2, 1))
    assert import_states(stepspec.SGD(), weights, {0: None, 1: ()}) == {0: {}, 1: {}}


def test_counts() -> None:
    optimizer = stepspec.SGD(begin_num_update=2)
    weights = {0: np.zeros(3), 5: np.zeros(3)}
    import_states(optimizer, weights, {0: None, 5: None}, {0: 7, np.int64(5): np.int32(9)})  # type: ignore[dict-item]
    assert [optimizer.update_count(i) for i in (0, 1, 5)] == [7, 2, 9]
    import_states(optimizer, {0: np.zeros(3)}, {0: None})
    assert optimizer.num_update == 9
    assert {type(key) for key in optimizer._counts} == {int}


class NDArray:
    """What MXNet's arrays look like from here."""

    def asnumpy(self) -> Array:
        return np.zeros(3)


ONE, HALF = np.zeros(3, np.float32), np.zeros(3, np.float16)
REFUSALS: dict[str, tuple[dict[str, Any], Any, Any, type[Exception], str]] = {
    "MXNet's own array": (
        {},
        ONE,
        NDArray(),
        TypeError,
        "must be a numpy.ndarray, not NDArray; .*asnumpy",
    ),
    "a list of numbers": ({}, ONE, [0.0, 0.0], ValueError, "has 2 arrays, and SGD keeps 1 .mom."),
    "none": ({}, ONE, None, ValueError, "the state of 'w' .index 0. has 0 arrays, and SGD keeps 1 .mom."),
    "some": ({"momentum": 0.0}, ONE, ONE, ValueError, "has 1 arrays, and SGD keeps 0: give it the hyperp"),
    "shape": ({}, ONE, np.zeros((3, 1), np.float32), ValueError, r"shape \(3, 1\), expected \(3,\)"),
    "dtype": ({}, ONE, np.zeros(3), TypeError, "state 'mom' of 'w' .* has dtype float64, expected float32"),
    "integers": ({}, HALF, np.zeros(3, int), TypeError, "has dtype int64"),
    "master missing": (
        WITH_MASTERS,
        HALF,
        ONE,
        ValueError,
        r"must be \(master, state\), since its weight is float16",
    ),
    "three": (WITH_MASTERS, HALF, (ONE, ONE, ONE), ValueError, r"must be \(master, state\)"),
    "half master": (
        WITH_MASTERS,
        HALF,
        (HALF[:2], ONE),
        ValueError,
        r"the master of 'w' .* has shape \(2,\)",
    ),
    "other master": (WITH_MASTERS, HALF, (ONE + 1, ONE), ValueError, "is not its master, rounded"),
}


@pytest.mark.parametrize("case", REFUSALS)
@pytest.mark.filterwarnings("ignore:.*no master")
def test_refusals_leave_no_traces(case: str) -> None:
    options, weight, state, kind, message = REFUSALS[case]
    optimizer: Any = stepspec.create("sgd", **{"momentum": 0.9, "param_idx2name": {0: "w"}} | options)
    with pytest.raises(kind, match=message):
        import_states(optimizer, {0: weight}, {0: state}, {0: 5})
    assert optimizer.num_update == 0
    optimizer.momentum = 0.5
    optimizer.momentum = 0.0  # no state exists that it would make vanish


def test_weights_and_states_are_of_the_same_tensors() -> None:
    optimizer = stepspec.SGD(param_idx2name={1: "b"})
    with pytest.raises(ValueError, match=r"'b' \(index 1\) has a weight, but no state"):
        import_states(optimizer, {0: ONE, 1: ONE}, {0: None})
    with pytest.raises(ValueError, match="tensor 2 has a state, but no weight"):
        import_states(optimizer, {0: ONE}, {0: None, 2: None})


@pytest.mark.parametrize(
    ("counts", "kind", "message"),
    [
        ({0: -1}, ValueError, r"counts\[0\] must not be negative"),
        ({0: 1.5}, TypeError, r"counts\[0\] must be an int"),
        ({0: 2**62}, ValueError, r"counts\[0\] must be below 2\*\*62"),
        ({"fc": 3}, TypeError, "counts: an index must be an int, not 'fc'"),
        ({None: 1}, TypeError, "counts: an index must be an int, not None"),
        ({0.5: 1}, TypeError, r"counts: an index must be an int, not 0\.5"),
        ({True: 9}, TypeError, "counts: an index must be an int, not True"),
        ({-1: 3}, ValueError, "counts: an index must not be negative: -1"),
        ({7: 3}, ValueError, "counts: tensor 7 has no weight here; leave its count out"),
        ([3], TypeError, r"counts must be a dict, not \[3\]"),
        (0, TypeError, "counts must be a dict, not 0"),
    ],
)
def test_counts_are_checked(counts: Any, kind: type[Exception], message: str) -> None:
    optimizer = stepspec.SGD()
    with pytest.raises(kind, match=message):
        import_states(optimizer, {0: ONE}, {0: None}, counts)
    assert optimizer._counts == {}


def test_the_largest_count() -> None:
    """Kernels hold counts in int64: a step that found out would already have begun."""
    optimizer = stepspec.SGD(rounding="stochastic", begin_num_update=2**62 - 1)
    weight = np.zeros(3, np.float16)
    state = import_states(optimizer, {0: weight}, {0: None}, {0: 2**62 - 1})[0]
    optimizer.update([0], [weight], [HALF], [state])
    assert optimizer.num_update == 2**62
    with pytest.raises(ValueError, match="SGD: begin_num_update must be below 2"):
        stepspec.SGD(begin_num_update=2**62)


@pytest.mark.parametrize(
    ("optimizer", "weights", "states", "message"),
    [
        (None, {}, {}, r"states are of an optimizer, such as stepspec\.SGD\(\), not of None"),
        (stepspec.SGD, {}, {}, "states are of an optimizer"),
        (stepspec.Trainer({"w": ONE}, "sgd"), {}, {}, "not of <stepspec.trainer.Trainer"),
        (stepspec.SGD(), [ONE], {0: None}, "weights must be a dict"),
        (stepspec.SGD(), {0: ONE}, [None], "states must be a dict"),
        (stepspec.SGD(), {0: ONE}, None, "states must be a dict, not None"),
        (stepspec.SGD(), {"w": ONE}, {"w": None}, "weights: an index must be an int, not 'w'"),
        (stepspec.SGD(), {1: ONE}, {True: None}, "states: an index must be an int, not True"),
    ],
)
def test_arguments_of_wrong_types(optimizer: Any, weights: Any, states: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        import_states(optimizer, weights, states)


def test_states_guard_the_hyperparameters() -> None:
    optimizer = stepspec.SGD(momentum=0.9)
    import_states(optimizer, {0: ONE}, {0: ONE})
    with pytest.raises(ValueError, match="momentum cannot change"):
        optimizer.momentum = 0.0
