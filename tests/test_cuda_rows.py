"""Kernels over rows on the PTX machine: the bits of the reference, for rows of any length."""

from typing import Any

import numpy as np
import pytest
from cuda_launch import Launcher, launch, same_bits
from ptx_machine import Memory

from stepspec import reference
from stepspec.cuda.kernels import Kernel, row_values, rows, terms
from stepspec.cuda.passes import passes
from stepspec.cuda.row_entries import row_parts, rows_of_part
from stepspec.formats import Formats
from stepspec.reductions import Reduction

pytestmark = pytest.mark.xdist_group("ptx")

RNG = np.random.default_rng(5)
FLOAT32 = Formats.plain("float32")


@terms(total="sum", largest="max")
def _first(grad, scale):  # type: ignore[no-untyped-def]  # as generated functions are
    return grad, scale * grad


@row_values("new_h")
def _values(h, total, largest):  # type: ignore[no-untyped-def]  # as generated functions are
    return h + total * largest


@terms(average="mean", length="norm")
def _second(grad, weight, new_h):  # type: ignore[no-untyped-def]  # as generated functions are
    return grad * new_h, weight


@rows(
    _first,
    _values,
    _second,
    element=("weight", "grad"),
    row=("h",),
    column=("c",),
    writes=("weight",),
    row_writes={"h": "new_h"},
)
def update(weight, c, total, average, length):  # type: ignore[no-untyped-def]  # as generated functions are
    """Use what two rounds of reductions give."""
    return weight - c * (total + average) / length


def _expected(weight: Any, grad: Any, h: Any, c: Any, scale: Any) -> tuple[Any, Any]:
    """Return weight and h, as `step` would have them."""
    with np.errstate(all="ignore"):
        total = reference.row_sum(grad)
        # a row without elements has no largest one: kernels start at -inf
        largest = reference.row_max(scale * grad) if grad.shape[1] else np.full_like(h, -np.inf)
        new_h = h + total * largest
        average, length = reference.row_mean(grad * new_h), reference.row_norm(weight)
        return weight - c * (total + average) / length, new_h


def _run(kernel: Kernel, shape: tuple[int, int], dtype: str, grad: Any, grid: int = 3) -> None:
    memory = Memory()
    weight, h, c = (RNG.standard_normal(s).astype(dtype) for s in (shape, (shape[0], 1), (1, shape[1])))
    arrays = {"weight": weight, "grad": grad, "h": h, "c": c}
    table: dict[str, list[float]] = {name: [memory.put(array)] for name, array in arrays.items()}
    (this,) = passes(kernel, Formats.plain(dtype))
    launch(memory, this, [shape], {**table, "scale": [0.3]}, grid)
    scale = np.dtype(dtype).type(0.3)
    for name, want in zip(("weight", "h"), _expected(weight, grad, h, c, scale), strict=True):
        assert same_bits(memory.get(int(table[name][0]), want), want), (name, shape)


# one row, one team too few, teams of 8, of a warp and of a block, packets and none, several rounds of loads;
# several blocks: whole, broken and more than 8 of them
SHAPES = (
    (1, 1),
    (33, 7),
    (70, 3),
    (9, 255),
    (3, 256),
    (10, 1000),
    (2, 2047),
    (2, 2048),
    (2, 4096),
    (2, 4097),
    (1, 8192),
    (2, 45000),
)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_of_any_length(shape: tuple[int, int]) -> None:
    _run(update, shape, "float32", RNG.standard_normal(shape).astype(np.float32))


def test_rows_in_float64() -> None:
    for shape in ((40, 9), (2, 4500)):
        _run(update, shape, "float64", RNG.standard_normal(shape))


def test_rows_without_elements_have_numbers_all_the_same() -> None:
    _run(update, (5, 0), "float32", np.empty((5, 0), np.float32))


@pytest.mark.parametrize("grid", [1, 50])
def test_any_grid_does_all_rows(grid: int) -> None:
    _run(update, (300, 20), "float32", RNG.standard_normal((300, 20)).astype(np.float32), grid)


@pytest.mark.parametrize("columns", [10, 300, 4200])
def test_special_values_in_rows(columns: int) -> None:
    specials = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-45, 3e38], np.float32)
    grad = np.full((len(specials), columns), -0.0, np.float32)
    grad[:, columns // 2] = specials
    _run(update, (len(specials), columns), "float32", grad)


@rows(
    _first,
    _values,
    element=("weight", "grad"),
    row=("h",),
    reduces={
        "n": Reduction("norm"),
        "m": Reduction("max", per="column"),
    },
    row_reduces={"s": (Reduction("sum", over="row"), "new_h"), "a": (Reduction("mean", over="row"), "total")},
)
def reduce(weight, grad, new_h):  # type: ignore[no-untyped-def]  # as generated functions are
    """Reduce over elements, per tensor and per column, and over rows."""
    return weight * new_h, grad + new_h


@pytest.mark.parametrize("shape", [(300, 30), (5, 1000), (2, 5000)], ids=str)
def test_numbers_of_rows_are_reduced_by_later_passes(shape: tuple[int, int]) -> None:
    memory, (many, columns) = Memory(), shape
    weight, grad = (RNG.standard_normal(shape).astype(np.float32) for _ in range(2))
    h = RNG.standard_normal((many, 1)).astype(np.float32)
    table: dict[str, Any] = {k: [memory.put(v)] for k, v in {"weight": weight, "grad": grad, "h": h}.items()}
    # never written: who reads the numbers of rows before they are there is found out
    table |= {name: [memory.allocate(4 * many)] for name in ("total", "new_h")}
    by_column = memory.allocate(4 * columns)
    launcher = Launcher(memory, [shape], {**table, "scale": [0.3], "m": [by_column]})
    launcher.run(passes(reduce, FLOAT32))
    total = reference.row_sum(grad)
    new_h = h + total * reference.row_max(np.float32(0.3) * grad)
    wanted = {"n": reference.norm(weight * new_h), "s": reference.total(new_h), "a": reference.mean(total)}
    for name, number in wanted.items():
        assert launcher.result(name)[0] == number, name
    largest = reference.column_max(grad + new_h)
    assert same_bits(memory.get(by_column, largest), largest)


def test_parts_hold_all_rows_once_and_whole_rounds_of_teams() -> None:
    for columns in (0, 1, 3, 100, 255, 256, 4096, 5000):
        per_part = rows_of_part(columns)
        assert columns >= 256 or per_part % 32 == 0
        for many in (0, 1, per_part, per_part + 1):
            assert row_parts(many, columns) == -(-many // per_part)
