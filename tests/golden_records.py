"""Recorded MXNet trajectories: read, replayed through stepspec, compared; golden/README.md explains them."""

import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

import stepspec
from stepspec.places import to_host

Array: TypeAlias = npt.NDArray[Any]
Arrays: TypeAlias = dict[str, Array]

GOLDEN = Path(__file__).parent / "golden"
OPTIMIZERS = tuple(sorted(path.stem.removeprefix("truth_") for path in GOLDEN.glob("truth_*.npz")))
PATHS = ("step", "fused")
OPPOSITE_MOMENTUM = ("DCASGD", "LARS", "NAG", "SGD", "Signum")  # MXNet stores -mom of these

UNRECORDED = "/m_schedule"  # of Nadam: MXNet has one for all tensors, which is no state


@dataclass(frozen=True)
class Case:
    """One recorded case: its description, its arrays, its expectation and, if there is one, its truth."""

    record: dict[str, Any]
    arrays: Arrays
    expect: dict[str, Any]
    truth: Arrays

    @property
    def name(self) -> str:
        return str(self.record["id"])

    def reference(self, run: str) -> Arrays:
        """Return the arrays of a recorded run, or of the truth, under names such as `p0/state/mom`."""
        if run in ("truth", "deviates"):
            return self.truth
        turned = self.record["optimizer"] in OPPOSITE_MOMENTUM
        found = {}
        for name, array in self.arrays.items():
            if name.startswith(run + "/"):
                found[name.removeprefix(run + "/")] = -array if turned and name.endswith("/mom") else array
        return found


def open_records(path: Path) -> tuple[dict[str, Any], Arrays]:
    with np.load(path, allow_pickle=False) as entries:
        return json.loads(entries["json"].tobytes()), {key: entries[key] for key in entries if key != "json"}


def unpack(table: dict[str, Any], buffers: Arrays) -> Arrays:
    return {
        name: buffers[buffer][start : start + math.prod(shape)].reshape(shape)
        for name, (buffer, start, shape) in table.items()
    }


def load(optimizer: str) -> Iterator[Case]:
    expectations = json.loads((GOLDEN / "expect.json").read_text(encoding="utf-8"))
    content, buffers = open_records(GOLDEN / f"{optimizer}.npz")
    truth_path = GOLDEN / f"truth_{optimizer}.npz"
    truths, truth_buffers = open_records(truth_path) if truth_path.exists() else ({"truth": {}}, {})
    for record in content["cases"]:
        truth = unpack(truths["truth"].get(record["id"], {}), truth_buffers)
        yield Case(record, unpack(record["arrays"], buffers), expectations[record["id"]], truth)


CASES = {case.name: case for name in OPTIMIZERS for case in load(name)}


def paths(case: Case) -> Sequence[str]:
    given: Sequence[str] = case.expect.get("paths", PATHS)  # lazy updates are fused only
    return given


# ---- replaying


def build(case: Case, path: str) -> stepspec.Optimizer:
    record = case.record
    arguments = dict(record["kwargs"], use_fused_step=path == "fused")
    if record["idx2name"]:
        arguments["param_idx2name"] = {int(index): name for index, name in record["idx2name"].items()}
    if arguments.get("aggregate_num") == "inf":
        arguments["aggregate_num"] = math.inf
    with warnings.catch_warnings():
        if "lr_scheduler" in record:
            kind = getattr(stepspec.lr_scheduler, record["lr_scheduler"]["class"])
            arguments["lr_scheduler"] = kind(**record["lr_scheduler"]["args"])
            warnings.simplefilter("ignore")  # a learning rate beside a scheduler is meant in some cases
        optimizer = stepspec.create(record["optimizer"], **arguments)
    optimizer.set_lr_mult(keyed(record.get("lr_mult", {})))
    optimizer.set_wd_mult(keyed(record.get("wd_mult", {})))
    if "param_dict" in record:
        optimizer.param_dict = {int(i): SimpleNamespace(**entry) for i, entry in record["param_dict"].items()}
    return optimizer


def keyed(multipliers: dict[str, float]) -> dict[int | str, float]:
    return {int(key) if key.isdigit() else key: value for key, value in multipliers.items()}


def replay(case: Case, path: str, feed: str, place: Callable[[Array], Any] = np.copy) -> Arrays:
    """Return `p0/w`, `p0/state/...` of a replayed case, each with its values before and after every call.

    `place` copies weights and gradients to where they shall lie.
    """
    optimizer = build(case, path)
    weights, states = started(case, optimizer, place)
    seen = [snapshot(weights, states)]
    for call, fed in enumerate(case.record["feed"]):
        given = {i: gradient(case, i, call, case.arrays[f"p{i}/grad"][call]) for i in fed}
        grads = {i: placed(grad, place) for i, grad in given.items()}
        for group in [fed] if feed == "call" else [[i] for i in fed]:
            updated, slopes = [weights[i] for i in group], [grads[i] for i in group]
            optimizer.update_multi_precision(group, updated, slopes, [states[i] for i in group])
        seen.append(snapshot(weights, states))
        for i, grad in grads.items():
            assert same_bits(numbers(grad), numbers(given[i])), f"p{i} call {call}: gradient written"
        for key, value in seen[-1].items():
            kept = untouched(case, int(key[1 : key.index("/")]), call)
            assert same_bits(value[kept], seen[-2][key][kept]), f"{key} call {call}: written, but not fed"
        for i in weights:
            if (master := seen[-1].get(f"p{i}/state/master")) is not None:
                half = master.astype(np.float16)
                assert same_bits(seen[-1][f"p{i}/w"], half), f"p{i} call {call}: not the master"
    return {key: np.stack([values[key] for values in seen]) for key in seen[0]}


def started(
    case: Case, optimizer: stepspec.Optimizer, place: Callable[[Array], Any] = np.copy
) -> tuple[dict[int, Any], dict[int, Arrays]]:
    """Return the initial weights and new states of a case."""
    weights = {
        tensor["index"]: place(case.arrays[f"p{tensor['index']}/w0"]) for tensor in case.record["params"]
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of half precision without a master, which some cases are about
        return weights, {
            i: optimizer.create_state_multi_precision(i, weight) for i, weight in weights.items()
        }


def gradient(case: Case, index: int, call: int, dense: Array) -> Array | stepspec.RowSparse:
    tensor = next(tensor for tensor in case.record["params"] if tensor["index"] == index)
    if tensor["gstype"] != "row_sparse":
        return dense
    rows = np.flatnonzero(case.arrays[f"p{index}/rows"][call])
    return stepspec.RowSparse(dense[rows], rows, dense.shape)


def placed(grad: Array | stepspec.RowSparse, place: Callable[[Array], Any]) -> Any:
    if not isinstance(grad, stepspec.RowSparse):
        return place(grad)
    return stepspec.RowSparse(place(grad.values), grad.rows, grad.shape)


def numbers(grad: Array | stepspec.RowSparse) -> Array:
    return to_host(grad.values if isinstance(grad, stepspec.RowSparse) else grad)


def untouched(case: Case, index: int, call: int) -> Any:
    """Return which rows of a tensor's arrays a call must leave alone, as an index."""
    if index not in case.record["feed"][call]:
        return ...
    lazy = case.record["kwargs"].get("lazy_update") and f"p{index}/rows" in case.arrays
    return ~case.arrays[f"p{index}/rows"][call].astype(bool) if lazy else np.zeros(0, np.intp)


def snapshot(weights: Arrays | dict[int, Array], states: dict[int, Arrays]) -> Arrays:
    values = {f"p{i}/w": weight for i, weight in weights.items()}
    values |= {f"p{i}/state/{key}": x for i, state in states.items() for key, x in state.items()}
    return {key: np.array(to_host(array)) for key, array in values.items()}


def same_bits(a: Array, b: Array) -> bool:
    """Say whether two arrays are equal to the bit, any NaN being equal to any NaN."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bool(np.array_equal(a, b, equal_nan=True) and np.array_equal(np.signbit(a), np.signbit(b)))


# ---- comparing


def complaints(case: Case, got: Arrays, reference: Arrays, tolerance: dict[str, float]) -> Iterator[str]:
    recorded = {key for key in got if not key.endswith(UNRECORDED)}
    if recorded != set(reference):
        yield f"arrays {sorted(recorded)}, expected {sorted(reference)}"
        return
    dtypes = {f"p{tensor['index']}": tensor["dtype"] for tensor in case.record["params"]}
    for key, meant in reference.items():
        dtype, shape = got[key].dtype, got[key].shape
        tensor = key.partition("/")[0]
        has_master = f"{tensor}/state/master" in reference
        if dtype != ("float32" if has_master and not key.endswith("/w") else dtypes[tensor]):
            yield f"{key}: dtype {dtype}"
        if has_master and key.endswith("/w"):
            continue  # replay compares it with the master, to the bit
        # history: one value for each row, however arranged
        if shape != meant.shape and not (key.endswith("/history") and got[key].size == meant.size):
            yield f"{key}: shape {shape[1:]}, expected {meant.shape[1:]}"
            continue
        a, b = got[key].astype(np.float64), meant.astype(np.float64).reshape(shape)
        is_weight = key.endswith(("/w", "/master"))
        limit = tolerance["weights" if is_weight else "states"]
        for call in range(len(b)):
            label = f"{key} after {call} calls"
            yield from apart(label, a[call], b[call], limit * largest(b[call]))
            if is_weight and tolerance["r"] is not None:
                moved, wanted = a[call] - a[0], b[call] - b[0]
                room = tolerance["r"] * largest(wanted) + tolerance["k"] * largest(b[call])
                yield from apart(f"{label}, displacement", moved, wanted, room)


def apart(label: str, a: Array, b: Array, limit: float) -> Iterator[str]:
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        yield f"{label}: not finite at the same places"
    elif (distance := largest(np.where(np.isfinite(b), a - b, 0))) > limit:
        yield f"{label}: off by {distance:.2e}, allowed {limit:.2e}"


def largest(array: Array) -> float:
    return float(np.max(np.abs(array[np.isfinite(array)]), initial=0))
