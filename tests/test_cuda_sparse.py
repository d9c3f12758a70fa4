"""Row-sparse gradients on the PTX machine: absent rows are zeros, or are left alone."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cuda_launch import Launcher, same_bits
from ptx_machine import Memory

from stepspec import noise, reference
from stepspec.cuda import elements, row_entries, rows, scattered, terms
from stepspec.cuda.kernels import Kernel, row_values
from stepspec.cuda.passes import layout_of, passes
from stepspec.cuda.recipes import Pass
from stepspec.formats import Formats

pytestmark = pytest.mark.xdist_group("ptx")

RNG = np.random.default_rng(6)
KEY, COUNT = -(2**40) + 12345, 7
HALF = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}

Array = np.ndarray[Any, Any]
Shape = tuple[int, int]


@elements(reads=("weight", "grad", "mom"), writes=("weight", "mom"))
def step_elements(weight: Any, grad: Any, mom: Any, lr: Any) -> Any:
    new_mom = mom + lr * grad
    return weight - new_mom, new_mom


@terms(square_sum="norm")
def _terms(grad: Any) -> Any:
    return grad


@row_values("new_h")
def _values(h: Any, square_sum: Any) -> Any:
    return h + square_sum


@rows(
    _terms,
    _values,
    element=("weight", "grad"),
    row=("h",),
    writes=("weight",),
    row_writes={"h": "new_h"},
)
def step_rows(weight: Any, grad: Any, new_h: Any, lr: Any) -> Any:
    return weight - lr * grad / new_h


# present rows: some, none, all, the outermost; narrow and wide ones, chunks that begin within rows; no rows
CASES: tuple[tuple[Shape, Sequence[int]], ...] = (
    ((5000, 1), range(3, 4990, 7)),
    ((300, 37), [0, 1, 2, 150, 298, 299]),
    ((40, 130), []),
    ((9, 300), range(9)),
    ((3, 5000), [1]),
    ((2, 9000), [0, 1]),
    ((0, 4), []),
)


class Tensors:
    """Weights, row-sparse gradients and states of some shapes, and what a step makes of them."""

    def __init__(self, formats: Formats, cases: Sequence[tuple[Shape, Sequence[int]]]) -> None:
        self.formats, self.cases = formats, cases
        self.compute = np.dtype(formats.compute)
        stored, given = (HALF.get(name) or np.dtype(name) for name in (formats.weight, formats.grad))
        self.arrays: dict[str, list[Array]] = {
            "weight": [RNG.standard_normal(shape).astype(stored) for shape, _ in cases],
            "grad": [RNG.standard_normal((len(rows), shape[1])).astype(given) for shape, rows in cases],
            "mom": [RNG.standard_normal(shape).astype(stored) for shape, _ in cases],
            "h": [1 + RNG.random((shape[0], 1)).astype(stored) for shape, _ in cases],
        }
        if formats.copy:
            self.arrays["copy"] = [weight.astype(HALF[formats.copy]) for weight in self.arrays["weight"]]
        self.memory = Memory(1 << 24)
        self.places = {name: [self.memory.put(x) for x in each] for name, each in self.arrays.items()}

    def run(self, these: Sequence[Pass], grid: int) -> None:
        lists = [np.array(rows, np.int64) for _, rows in self.cases]
        many = len(self.cases)
        table = {
            **self.places,
            "lr": [0.3] * many,
            "present_rows": [self.memory.put(found) for found in lists],
            "present": [found.size for found in lists],
            "noise_key": [KEY] * many,
            "noise_count": [COUNT] * many,
        }
        launcher = Launcher(self.memory, [shape for shape, _ in self.cases], table)
        launcher.run(these, grid)

    def expected(self, kernel: Kernel, tensor: int) -> dict[str, Array]:
        """Return what the arrays of a tensor hold after the step: as stored, without rounding the weight."""
        (shape, rows), compute = self.cases[tensor], self.compute
        named = {name: each[tensor].astype(compute) for name, each in self.arrays.items()}
        weight, grad, lr = named["weight"], np.zeros(shape, compute), compute.type(0.3)
        grad[list(rows)] = named["grad"]
        if kernel is step_elements:
            new = named["mom"] + lr * grad
            found = {"weight": weight - new, "mom": new}
        else:
            new = named["h"] + reference.row_norm(grad)
            found = {"weight": weight - lr * grad / new, "h": new}
        if self.formats.gradient == "lazy":
            absent = np.setdiff1d(np.arange(shape[0]), list(rows))
            for name, array in found.items():
                array[absent] = named[name][absent]
        return found

    def stored(self, name: str, values: Array, tensor: int) -> Array:
        """Return values as an array stores them."""
        dtype = self.arrays[name][tensor].dtype
        if name != "weight" or not self.formats.stochastic:
            return values.astype(dtype)
        rounded = noise.round_stochastically(values, dtype, noise.words(KEY, COUNT, values.shape))
        if self.formats.gradient == "lazy":
            absent = np.setdiff1d(np.arange(values.shape[0]), list(self.cases[tensor][1]))
            rounded[absent] = self.arrays[name][tensor][absent]
        return rounded


FORMATS = {
    "float32": Formats.plain("float32"),
    "float64": Formats.plain("float64"),
    "master": Formats("float32", "float16", "float32", copy="float16"),
    "stochastic": Formats("bfloat16", "bfloat16", "bfloat16", stochastic=True),
}


def pairs() -> list[Any]:
    """Return combinations of kernels, kinds of gradients and formats in which every two of them meet."""
    gradients: tuple[Any, Any] = ("scattered", "lazy")
    return [
        pytest.param(kernel, replace(formats, gradient=gradient), id=f"{name}-{gradient}-{form}")
        for turn, (name, formats) in enumerate(FORMATS.items())
        for form, kernel, gradient in (
            ("elements", step_elements, gradients[turn % 2]),
            ("rows", step_rows, gradients[1 - turn % 2]),
        )
    ]


@pytest.mark.parametrize(("kernel", "formats"), pairs())
def test_row_sparse_gradients(kernel: Kernel, formats: Formats) -> None:
    tensors = Tensors(formats, CASES)
    tensors.run(passes(kernel, tensors.formats), grid=3)
    for tensor, (shape, _) in enumerate(CASES):
        expected = tensors.expected(kernel, tensor)
        if formats.copy:
            expected["copy"] = expected["weight"]
        for name, values in expected.items():
            want = tensors.stored(name, values, tensor)
            got = tensors.memory.get(tensors.places[name][tensor], want)
            assert same_bits(got, want), (name, shape)


@pytest.mark.parametrize(
    ("kernel", "entries"), [(step_elements, scattered), (step_rows, row_entries)], ids=["elements", "rows"]
)
def test_parts_take_runs_of_present_rows_by_turns(kernel: Kernel, entries: Any) -> None:
    formats, shape = Formats("float32", "float32", "float32", gradient="lazy"), (1500, 10)
    tensors = Tensors(formats, [(shape, range(1500))])
    (most,) = passes(kernel, formats)
    (fewer,) = entries.passes_of(kernel, layout_of(kernel, formats), 2)
    assert most.parts(*shape) > fewer.parts(*shape) == 2
    tensors.run((fewer,), grid=3)
    want = tensors.expected(kernel, 0)["weight"]
    assert same_bits(tensors.memory.get(tensors.places["weight"][0], want), want)
