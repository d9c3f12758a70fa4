"""Kernels of every form against plain NumPy, bit for bit, at any number of threads."""

from __future__ import annotations

import itertools
import os
import re
from typing import Any

import numpy as np
import pytest
from assembly import CONTRACTED, entry_assembly
from launch import Launch, bits, draw

from stepspec import cpu
from stepspec.arithmetic import clip
from stepspec.cpu import Kernel, Reduction, elements, rows, scalars
from stepspec.formats import Formats
from stepspec.layout import TAIL

DTYPES = ("float32", "float64")
THREADS = (1, 2, 5)
SHAPES = [
    (1, 1),
    (7, 1),
    (255, 1),
    (257, 1),
    (4096, 1),
    (33, 40),
    (3, 5000),
    (300, 257),
    (9000, 3),
    (700, 1000),
]


@elements("weight", "grad")
def descend(weight, grad, rate):
    for i in range(weight.size):
        weight[i] = weight[i] - rate * clip(grad[i], rate)


@elements("weight", "grad", w_norm="norm", total="sum", average="mean", largest="max")
def measure(weight, grad, w_norm, total, average, largest, scale):
    for i in range(weight.size):
        w_norm[i] = weight[i]
        total[i] = scale * grad[i]
        average[i] = weight[i] * grad[i]
        largest[i] = grad[i]


@rows(element=("weight", "grad"), row=("history",), column=("bias",))
def by_row(weight, grad, history, bias, rate):
    for r in range(weight.shape[0]):
        for i in range(weight.shape[1]):
            weight[r, i] = weight[r, i] - rate * grad[r, i] * history[r] + bias[i]
        history[r] = history[r] + rate


@rows(
    element=("weight",),
    row=("history",),
    column=("bias",),
    square=Reduction("norm"),
    of_rows=Reduction("mean", over="row"),
    of_columns=Reduction("max", over="column"),
    per_column=Reduction("mean", per="column"),
    high=Reduction("max", per="column"),
    length=Reduction("norm", per="column"),
)
def measure_rows(weight, history, bias, square, of_rows, of_columns, per_column, high, length, scale):
    for r in range(weight.shape[0]):
        of_rows[r] = scale * history[r]
        for i in range(weight.shape[1]):
            square[r, i] = weight[r, i] + bias[i]
            per_column[r, i] = scale * weight[r, i]
            high[r, i] = weight[r, i]
            length[r, i] = weight[r, i] - history[r]
    for i in range(bias.size):
        of_columns[i] = scale * bias[i]


@rows(column=("bias",), largest=Reduction("max", over="column"))
def of_columns(bias, largest):
    for i in range(bias.size):
        largest[i] = bias[i]


@scalars("ratio", "double")
def ratio(w_norm, total):
    value = w_norm / total if total != 0.0 else 1.0
    return value, 2.0 * value


@scalars("half")
def half(w_norm):
    return 0.5 * w_norm


def larger(a: Any, b: Any) -> Any:
    return np.where((a > b) | (a != a), a, b)


def canonical(values: np.ndarray, kind: str) -> float:
    """Return a reduction of all values in the order of Note [Canonical order]."""
    left = values.ravel().astype(np.float64)
    count = left.size
    fold, start = (larger, -np.inf) if kind == "max" else (np.add, 0.0)
    left = left * left if kind == "norm" else left
    while True:
        lanes = 256 if left.size >= 256 else 8
        blocks = np.full((max(1, -(-left.size // 4096)), 4096), start)
        blocks.reshape(-1)[: left.size] = left
        accumulated = np.full((len(blocks), lanes), start)
        for group in blocks.reshape(len(blocks), -1, lanes).swapaxes(0, 1):
            accumulated = fold(accumulated, group)
        while accumulated.shape[1] > 1:
            accumulated = fold(*np.split(accumulated, 2, axis=1))
        left = accumulated[:, 0]
        if left.size == 1:
            return float(finished(left, kind, count)[0])


def canonical_columns(values: np.ndarray, kind: str) -> np.ndarray:
    """Return a reduction of each column, rounded once to the dtype of the values."""
    left = values.astype(np.float64)
    fold, start = (larger, -np.inf) if kind == "max" else (np.add, 0.0)
    left = left * left if kind == "norm" else left
    while True:
        results = []
        for first in range(0, max(1, len(left)), 256):
            lane = np.full(left.shape[1], start)
            for row in left[first : first + 256]:
                lane = fold(lane, row)
            results.append(lane)
        left = np.array(results)
        if len(left) == 1:
            return finished(left[0], kind, len(values)).astype(values.dtype)


def finished(total: np.ndarray, kind: str, count: int) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.sqrt(total) if kind == "norm" else total / count if kind == "mean" else total


@pytest.fixture(params=DTYPES)
def dtype(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.mark.parametrize("threads", THREADS)
def test_elements(dtype: str, threads: int) -> None:
    shapes = [*SHAPES, (0, 1), (200_000, 1)]
    weights, grads = [draw(s, dtype, 1) for s in shapes], [draw(s, dtype, 2) for s in shapes]
    rates = [0.1 * (k + 1) for k in range(len(shapes))]
    rounded = np.array(rates).astype(dtype)
    expected = [w - r * np.clip(g, -r, r) for w, g, r in zip(weights, grads, rounded, strict=True)]
    Launch(dtype, shapes, weight=weights, grad=grads, rate=rates).run(descend, threads)
    for got, want in zip(weights, expected, strict=True):
        assert bits(got) == bits(want)


def test_reductions_of_elements(dtype: str) -> None:
    shapes = [*SHAPES, (0, 1), (3_000_001, 1)]
    weights, grads = [draw(s, dtype, 1) for s in shapes], [draw(s, dtype, 2) for s in shapes]
    weights[2][5], grads[3][6] = np.nan, np.inf
    scale = np.dtype(dtype).type(0.3)
    with np.errstate(invalid="ignore"):
        expected = {
            "w_norm": [canonical(w, "norm") for w in weights],
            "total": [canonical(scale * g, "sum") for g in grads],
            "average": [canonical(w * g, "mean") for w, g in zip(weights, grads, strict=True)],
            "largest": [canonical(g, "max") for g in grads],
        }
    for threads, chunks in itertools.product(THREADS, (1, 3, 1000)):
        launch = Launch(dtype, shapes, weight=weights, grad=grads, scale=[0.3] * len(shapes))
        launch.run(measure, threads, chunks)
        for name, want in expected.items():
            np.testing.assert_array_equal(launch.numbers[name], want, f"{name}, {threads}, {chunks}")


@pytest.mark.parametrize("threads", THREADS)
def test_rows(dtype: str, threads: int) -> None:
    shapes = [*SHAPES, (5, 0), (0, 5)]
    count = len(shapes)
    weights, grads = [draw(s, dtype, 1) for s in shapes], [draw(s, dtype, 2) for s in shapes]
    history, bias = [draw((s[0],), dtype, 3) for s in shapes], [draw((s[1],), dtype, 4) for s in shapes]
    rate = np.dtype(dtype).type(0.1)
    expected = [
        w - rate * g * h[:, None] + b for w, g, h, b in zip(weights, grads, history, bias, strict=True)
    ]
    later = [h + rate for h in history]
    launch = Launch(dtype, shapes, weight=weights, grad=grads, history=history, bias=bias, rate=[0.1] * count)
    launch.run(by_row, threads)
    for got, want in zip(weights + history, expected + later, strict=True):
        assert bits(got) == bits(want)


def test_reductions_of_rows(dtype: str) -> None:
    shapes = [*SHAPES, (66_000, 2), (0, 3), (5, 0)]
    weights = [draw(s, dtype, 1) for s in shapes]
    history, bias = [draw((s[0],), dtype, 3) for s in shapes], [draw((s[1],), dtype, 4) for s in shapes]
    launches = []
    for threads, chunks in itertools.product(THREADS, (1, 1000)):
        launch = Launch(dtype, shapes, weight=weights, history=history, bias=bias, scale=[0.3] * len(shapes))
        launch.run(measure_rows, threads, chunks)
        launches.append(launch)
    scale = np.dtype(dtype).type(0.3)
    for k, (w, h, b) in enumerate(zip(weights, history, bias, strict=True)):
        numbers = {"square": canonical(w + b, "norm"), "of_rows": canonical(scale * h, "mean")}
        numbers |= {"of_columns": canonical(scale * b, "max")} if len(w) else {}
        arrays = {
            "per_column": canonical_columns(scale * w, "mean"),
            "high": canonical_columns(w, "max"),
            "length": canonical_columns(w - h[:, None], "norm"),
        }
        for launch in launches:
            for name, want in numbers.items():
                np.testing.assert_array_equal(launch.numbers[name][k], want)
            for name, column in arrays.items():
                np.testing.assert_array_equal(launch.arrays[name][k], column)


def test_column_results_feed_a_later_kernel(dtype: str) -> None:
    weight, shapes = draw((500, 30), dtype, 1), [(500, 30)]
    zeros = np.zeros(500, dtype)
    launch = Launch(dtype, shapes, weight=[weight], history=[zeros], bias=[np.zeros(30, dtype)], scale=[1.0])
    launch.run(measure_rows, 2)
    launch.arrays |= {"bias": launch.arrays["per_column"], "grad": [weight]}
    launch.arrays["weight"] = [np.zeros_like(weight)]
    launch.numbers["rate"] = np.zeros(1)
    launch.run(by_row, 2)
    assert bits(launch.arrays["weight"][0]) == bits(
        np.broadcast_to(canonical_columns(weight, "mean"), (500, 30))
    )


def test_scalars() -> None:
    launch = Launch("float32", [(1, 1)] * 3, w_norm=[1.0, 2.0, 0.1], total=[3.0, 0.0, 0.3])
    launch.run(ratio, 2)
    assert launch.numbers["ratio"].tolist() == [1.0 / 3.0, 1.0, 0.1 / 0.3]
    assert launch.numbers["double"].tolist() == [2.0 / 3.0, 2.0, 2 * (0.1 / 0.3)]
    launch.run(half, 1)
    assert launch.numbers["half"].tolist() == [0.5, 1.0, 0.05]


def test_items_of_one_batch_run_in_order() -> None:
    launch = Launch("float32", [(1, 1)], w_norm=[8.0])
    slots = [launch.row(slot) for slot in half.slots]
    forth, back = launch.table(slots), launch.table(slots[::-1])
    items = [(half.address(Formats.plain("float32")), table, 0, 0, 1) for table in (forth, back, forth)]
    cpu.run(cpu.Work(np.array(items, np.int64), np.array([0, 3])), 2)
    assert (launch.numbers["w_norm"][0], launch.numbers["half"][0]) == (2.0, 1.0)


def test_no_items() -> None:
    cpu.run(cpu.Work(np.empty((0, 5), np.int64), np.zeros(1, np.int64)))


def test_chunks_keep_blocks_whole() -> None:
    assert descend.chunks(100, 7) == (16384, 700)
    assert half.chunks(100, 7) == (1, 1)
    assert by_row.chunks(100, 768) == (21, 100)
    assert by_row.chunks(100, 50_000) == (1, 100)
    assert by_row.chunks(5, 0)[1] == 5
    # without elements and rows there is one chunk, even for a tensor without rows
    for shape in ((100_000, 7), (0, 7)):
        assert of_columns.chunks(*shape) == (1, 1)
    for columns in (1, 3, 16, 768, 1001, 4096):
        unit, total = measure_rows.chunks(10_000, columns)
        assert total == 10_000
        assert unit * columns % 4096 == unit % 4096 == 0


def test_the_kernel_describes_its_table() -> None:
    assert [(slot.name, slot.role) for slot in by_row.slots] == [
        ("weight", "element"),
        ("grad", "element"),
        ("history", "row"),
        ("bias", "column"),
        ("rate", "scalar"),
        *((slot.name, slot.name) for slot in TAIL),
    ]
    assert descend.slots[-6:] == TAIL
    assert [slot.role for slot in ratio.slots] == ["scalar", "scalar", "result", "result"]
    assert [slot.name for slot in measure.reductions] == ["w_norm", "total", "average", "largest"]
    assert ratio.function(1.0, 2.0) == (0.5, 1.0)
    assert ratio.returns == ("ratio", "double")


def test_parameters_must_match_the_decorator() -> None:
    def kernel(weight, grad, rate): ...

    with pytest.raises(TypeError, match="first parameters must be grad, weight; they are weight, grad"):
        elements("grad", "weight")(kernel)
    with pytest.raises(TypeError, match="first parameters must be weight, w_norm"):
        elements("weight", w_norm="norm")(kernel)
    with pytest.raises(TypeError, match="first parameters"):
        rows(element=("weight",), row=("weight",))(kernel)
    with pytest.raises(TypeError, match="at least one"):
        scalars()
    with pytest.raises(ValueError, match="norm, sum, mean, max, not 'product'"):
        elements("weight", grad="product")
    with pytest.raises(ValueError, match="no reduction over 'row' per 'column'"):
        Reduction("sum", over="row", per="column")


def test_other_dtypes_are_refused() -> None:
    for dtype in ("int32", "float128"):
        with pytest.raises(TypeError, match=f"float32, float64, not .*{dtype}"):
            descend.address(Formats.plain(dtype))


@elements("weight", "grad", "d", "v", "z")
def many_arrays(weight, grad, d, v, z, rate, decay):
    for i in range(weight.size):
        new_v = decay * v[i] + rate * grad[i] * grad[i]
        new_d = new_v * decay + rate
        z[i] = decay * z[i] + grad[i] - (new_d - decay * d[i]) * weight[i]
        weight[i] = weight[i] - z[i] * new_d
        d[i] = new_d
        v[i] = new_v


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="reads x86 assembly")
@pytest.mark.parametrize("kernel", [descend, many_arrays])
def test_kernels_are_vectorized_and_not_contracted(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    assembly = entry_assembly(kernel, "float32", monkeypatch, tmp_path)
    assert re.search(r"v?mulps\s.*%[yz]mm", assembly)
    assert re.search(r"v?subps\s.*%[yz]mm", assembly)
    assert not re.search(CONTRACTED, assembly)
    assert not re.search(r"\bPy|NRT_|numba_", assembly)
