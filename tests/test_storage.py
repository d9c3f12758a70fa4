"""Half precision, row-sparse gradients and noise in kernels: the bits of dense kernels, rounded by NumPy."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from assembly import CONTRACTED, PACKED, full_assembly
from launch import DTYPES, Launch, bits, draw
from test_cpu import by_row, measure, measure_rows

from stepspec import cpu, halves, noise
from stepspec.cpu import Kernel, Reduction
from stepspec.formats import HALF, SUPPORTED, Formats
from stepspec.generated import group_adagrad_cpu, lars_cpu, sgd_cpu
from stepspec.layout import Layout
from stepspec.pieces import steps

FLAT, ROWS = sgd_cpu.update_mom, by_row
SHAPES = [(1, 1), (7, 1), (9001, 1), (33, 40), (3, 5000), (300, 257), (5, 0), (0, 3)]
SCALARS = {"rescale_grad": 0.7, "clip_gradient": 1.1, "wd": 0.01, "momentum": 0.9, "lr": 0.1, "rate": 0.3}
SCALARS |= {"scale": 0.3, "epsilon": 1e-3}
HALF_FORMATS = [Formats.plain(name) for name in HALF]
MIXED = [
    *HALF_FORMATS,
    Formats("float16", "float32", "float16"),
    Formats("bfloat16", "float16", "bfloat16"),
    Formats("float32", "bfloat16", "float32"),
    Formats("float32", "float16", "float32", copy="float16"),
    Formats("float32", "float32", "float32", copy="bfloat16"),
    Formats("float64", "float16", "float64"),
    Formats("float64", "bfloat16", "float64"),
    Formats("float64", "float32", "float64"),
]
SPARSE = [
    Formats.plain("float32"),
    Formats("float64", "bfloat16", "float64"),
    Formats.plain("float16"),
    Formats("float32", "bfloat16", "float32", copy="bfloat16"),
    Formats("bfloat16", "float32", "bfloat16", stochastic=True),
]
NOISY = [replace(formats, stochastic=True) for formats in HALF_FORMATS]


def label(value: Any) -> str:
    """Return a short name of formats or kernels for test ids."""
    if isinstance(value, Formats):
        return Layout((), value).label
    return str(value.function.__name__) if isinstance(value, Kernel) else str(value)


class Case:
    """Arrays of some tensors for a kernel, stored as `formats` says, and what the kernel must make of them.

    That comes from the dense kernel in the compute dtype, over the widened arrays, rounded by NumPy.
    """

    def __init__(self, kernel: Kernel, formats: Formats, present: list[np.ndarray] | None = None) -> None:
        self.kernel, self.formats, self.present = kernel, formats, present
        layout = Layout(kernel.parameters, formats)
        self.arrays: dict[str, list[np.ndarray]] = {}
        for seed, parameter in enumerate(kernel.parameters):
            if parameter.role in ("element", "row", "column"):
                shapes = [{"element": s, "row": s[:1], "column": s[1:]}[parameter.role] for s in SHAPES]
                dtype = layout.storage(parameter.name)
                self.arrays[parameter.name] = [abs(draw(shape, dtype, seed)) for shape in shapes]
        self.keys = [noise.tensor_key(3, str(tensor)) for tensor in range(len(SHAPES))]

    def launch(self, formats: Formats, **arrays: list[np.ndarray]) -> Launch:
        count = len(SHAPES)
        numbers: dict[str, list[Any]] = {name: [value] * count for name, value in SCALARS.items()}
        numbers |= {"noise_key": self.keys, "noise_count": [9] * count}
        return Launch(formats, SHAPES, **arrays, **numbers)

    def widened(self) -> dict[str, list[np.ndarray]]:
        """Return arrays in the compute dtype; rows of the gradient that are not present are zeros."""
        wide = {
            k: [a.astype(np.float32).astype(self.formats.compute) for a in v] for k, v in self.arrays.items()
        }
        if self.formats.compute == self.formats.weight == "float64":
            wide |= {k: [a.copy() for a in v] for k, v in self.arrays.items() if k != "grad"}
        if self.present is not None and "grad" in wide:
            for grad, rows in zip(wide["grad"], self.present, strict=True):
                grad[np.setdiff1d(np.arange(len(grad)), rows)] = 0
        return wide

    def rounded(self, name: str, tensor: int, values: np.ndarray) -> np.ndarray:
        before = self.arrays[name][tensor]
        if name == "weight" and self.formats.stochastic:
            words = noise.words(self.keys[tensor], 9, values.shape)
            found = noise.round_stochastically(values, before.dtype, words)
        else:
            found = values.astype(before.dtype)
        if self.formats.gradient == "lazy" and self.present is not None and len(before) == SHAPES[tensor][0]:
            kept = before.copy()
            kept[self.present[tensor]] = found[self.present[tensor]]
            found = kept
        return found

    def expected(self) -> dict[str, list[np.ndarray]]:
        wide = self.widened()
        self.launch(Formats.plain(self.formats.compute), **wide).run(self.kernel, 1)
        return {
            name: [self.rounded(name, tensor, values) for tensor, values in enumerate(arrays)]
            for name, arrays in wide.items()
            if name != "grad"
        }

    def check(self, threads: int, chunks: int) -> None:
        arrays = {name: [array.copy() for array in found] for name, found in self.arrays.items()}
        expected = self.expected()
        if self.present is not None:
            arrays["present_rows"] = self.present
            arrays["grad"] = [grad[rows] for grad, rows in zip(arrays["grad"], self.present, strict=True)]
        if self.formats.copy:
            copies = [array.astype(DTYPES[self.formats.copy]) for array in arrays["weight"]]
            arrays["copy"] = copies
            expected["copy"] = [array.astype(copies[0].dtype) for array in expected["weight"]]
        launch = self.launch(self.formats, **arrays)
        launch.run(self.kernel, threads, chunks)
        for name, wanted in expected.items():
            for got, want, shape in zip(launch.arrays[name], wanted, SHAPES, strict=True):
                assert same_numbers(got, want), (name, shape)


def same_numbers(got: np.ndarray, want: np.ndarray) -> bool:
    """Tell whether bits are equal; all NaN are."""
    whole = np.dtype(f"u{got.itemsize}")
    with np.errstate(all="ignore"):
        both_nan = np.isnan(got.astype(np.float32)) & np.isnan(want.astype(np.float32))
    same: np.ndarray = (got.view(whole) == want.view(whole)) | both_nan
    return got.dtype == want.dtype and bool(same.all())


def some_rows(share: float) -> list[np.ndarray]:
    rng = np.random.default_rng(8)
    return [np.flatnonzero(rng.random(rows) < share).astype(np.int64) for rows, _ in SHAPES]


@pytest.mark.parametrize("kernel", [FLAT, ROWS], ids=label)
@pytest.mark.parametrize("formats", MIXED, ids=label)
def test_dense(formats: Formats, kernel: Kernel) -> None:
    case = Case(kernel, formats)
    for threads, chunks in ((1, 1), (2, 3), (2, 1000)):
        case.check(threads, chunks)


@pytest.mark.parametrize(
    ("formats", "gradient"),
    [(HALF_FORMATS[0], "dense"), (MIXED[6], "scattered"), (NOISY[1], "scattered"), (NOISY[0], "lazy")],
    ids=label,
)
def test_buffers_of_the_kernel_itself(formats: Formats, gradient: Any) -> None:
    present = some_rows(0.3) if gradient != "dense" else None
    Case(group_adagrad_cpu.update, replace(formats, gradient=gradient), present).check(2, 2)


@pytest.mark.parametrize("kernel", [FLAT, ROWS], ids=label)
@pytest.mark.parametrize("formats", NOISY, ids=label)
def test_stochastic(formats: Formats, kernel: Kernel) -> None:
    case = Case(kernel, formats)
    for threads, chunks in ((1, 1), (2, 3), (2, 1000)):
        case.check(threads, chunks)


@pytest.mark.parametrize("kernel", [FLAT, ROWS], ids=label)
@pytest.mark.parametrize(
    ("formats", "gradient"),
    list(zip(SPARSE, itertools.cycle(["scattered", "lazy"]), strict=False)),
    ids=label,
)
def test_row_sparse(formats: Formats, kernel: Kernel, gradient: Any) -> None:
    for share in (0.0, 0.02, 0.5, 1.0):
        case = Case(kernel, replace(formats, gradient=gradient), some_rows(share))
        for chunks in (1, 3, 50):
            case.check(2, chunks)


@cpu.rows(element=("weight", "grad"), length=Reduction("norm"), high=Reduction("max", per="column"))
def measure_gradient(weight: Any, grad: Any, length: Any, high: Any, scale: Any) -> None:
    for r in range(weight.shape[0]):
        for i in range(weight.shape[1]):
            length[r, i] = weight[r, i] - scale * grad[r, i]
            high[r, i] = grad[r, i]


REDUCING = [
    (measure, MIXED[0], "dense"),
    (measure, MIXED[5], "scattered"),
    (measure, MIXED[8], "scattered"),
    (lars_cpu.reduce, MIXED[1], "scattered"),
    (lars_cpu.reduce, MIXED[9], "dense"),
    (measure_gradient, MIXED[6], "scattered"),
]


@pytest.mark.parametrize(("kernel", "formats", "gradient"), REDUCING, ids=label)
def test_reductions(formats: Formats, kernel: Kernel, gradient: Any) -> None:
    present = some_rows(0.1) if gradient == "scattered" else None
    case = Case(kernel, replace(formats, gradient=gradient), present)
    expected = case.launch(Formats.plain(formats.compute), **case.widened())
    expected.run(kernel, 1)
    arrays = dict(case.arrays)
    if present is not None:
        arrays["present_rows"] = present
        arrays["grad"] = [grad[rows] for grad, rows in zip(arrays["grad"], present, strict=True)]
    for chunks in (1, 1000):
        found = case.launch(case.formats, **arrays)
        found.run(kernel, 2, chunks)
        for parameter in kernel.reductions:
            if parameter.name in expected.numbers:
                np.testing.assert_array_equal(found.numbers[parameter.name], expected.numbers[parameter.name])
            else:
                pairs = zip(found.arrays[parameter.name], expected.arrays[parameter.name], strict=True)
                for got, want in pairs:
                    np.testing.assert_array_equal(got, want)


def test_results_of_reductions_are_in_the_compute_dtype() -> None:
    """The array `bias` holds what a reduction made: float32, though states are bfloat16."""
    case = Case(by_row, Formats.plain("bfloat16"))
    case.arrays["bias"] = [draw(shape[1:], "float32", 5) for shape in SHAPES]
    expected = case.expected()
    arrays = {name: [array.copy() for array in found] for name, found in case.arrays.items()}
    launch = case.launch(case.formats, **arrays)
    launch.produced.add("bias")
    launch.run(by_row, 2)
    for got, want in zip(arrays["weight"], expected["weight"], strict=True):
        assert bits(got) == bits(want)


def test_a_lazy_kernel_reduces_nothing() -> None:
    with pytest.raises(AssertionError, match="reduces nothing"):
        lars_cpu.reduce.address(Formats("float32", "float32", "float32", gradient="lazy"))


def test_entries_are_shared_where_formats_make_no_difference() -> None:
    plain, half = Formats.plain("float32"), Formats("float32", "float16", "float32", copy="float16")
    assert sgd_cpu.update.address(plain) != sgd_cpu.update.address(half)
    # without gradient; and a kernel that reduces writes no weight
    assert measure_rows.address(plain) == measure_rows.address(replace(half, gradient="scattered"))
    assert lars_cpu.combine.address(plain) == lars_cpu.combine.address(HALF_FORMATS[0])
    # no states; and rounding of float32 is to the nearest
    assert sgd_cpu.update.address(Formats("bfloat16", "float32", "bfloat16")) == sgd_cpu.update.address(
        Formats("bfloat16", "float32", "float32")
    )
    assert sgd_cpu.update.address(replace(plain, stochastic=True)) == sgd_cpu.update.address(plain)


@pytest.mark.parametrize(
    ("formats", "message"),
    [
        (Formats("float32", "float64", "float32"), "float32 weights, float64 gradients"),
        (Formats("float64", "float32", "float32"), "float32 states"),
        (Formats("float16", "float16", "float64"), "float64 states"),
        (Formats("float64", "float64", "float64", copy="float16"), "no master of float64"),
        (Formats("float32", "float32", "float32", copy="float32"), "copy of float32"),
        (Formats("float32", "int8", "float32"), "not float32, int8"),
    ],
)
def test_formats_without_kernels_are_refused(formats: Formats, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        FLAT.address(formats)


# ---- conversions


@cpu.elements("weight", "grad")
def assign(weight: Any, grad: Any) -> None:
    for i in range(weight.size):
        weight[i] = grad[i]


def assigned(values: np.ndarray, formats: Formats) -> np.ndarray:
    """Return what a kernel makes of values by reading and writing each."""
    found = np.full(values.shape, 77, DTYPES[formats.weight])
    shapes = [(values.size, 1)]
    # a kernel of its own: entries of other tests may have been compiled with other instructions
    kernel = cpu.Kernel(assign.function, assign.form, assign.parameters)
    Launch(formats, shapes, weight=[found], grad=[values], noise_key=[5], noise_count=[1]).run(kernel, 2)
    return found


@pytest.fixture(params=[True, False], ids=["instructions", "integers"])
def _conversions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Convert float16 with the processor's instructions, where it has them, or with integers."""
    if not request.param:
        monkeypatch.setattr(halves, "has_float16", lambda *target: False)
    monkeypatch.setenv("STEPSPEC_CACHE_DIR", str(tmp_path))


@pytest.mark.usefixtures("_conversions")
@pytest.mark.parametrize("name", HALF)
def test_every_half_is_widened(name: str) -> None:
    values = np.arange(2**16, dtype=np.uint16).view(DTYPES[name])
    found = assigned(values, Formats("float32", name, "float32"))
    assert same_numbers(found, values.astype(np.float32))
    wide = assigned(values, Formats("float64", name, "float64"))
    with np.errstate(invalid="ignore"):  # NaN that signal
        assert same_numbers(wide, found.astype(np.float64))


def float32_patterns(name: str) -> np.ndarray:
    """Return a share of all float32, and what lies around the middles between neighbouring halves."""
    every = np.arange(0, 2**32, 1009, dtype=np.uint64).astype(np.uint32)
    around = np.arange(2**16, dtype=np.uint16).view(DTYPES[name]).astype(np.float32).view(np.uint32)
    middle = np.uint32(1 << (12 if name == "float16" else 15))
    near = [around + np.uint32(d % 2**32) for d in (-1, 0, 1)]
    near += [around + middle + np.uint32(d % 2**32) for d in (-1, 0, 1)]
    # middles between subnormal float16 numbers are multiples of 2**-25
    tiny = ((np.arange(2**12, dtype=np.float32) + np.float32(0.5)) * np.float32(2.0**-24)).view(np.uint32)
    near += [tiny + np.uint32(d % 2**32) for d in (-1, 0, 1)]
    return np.concatenate([every, *near]).view(np.float32)


@pytest.mark.usefixtures("_conversions")
@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("name", HALF)
def test_float32_is_rounded(name: str, stochastic: bool) -> None:
    values = float32_patterns(name)
    found = assigned(values, Formats(name, "float32", name, stochastic=stochastic))
    if stochastic:
        wanted = noise.round_stochastically(values, DTYPES[name], noise.words(5, 1, values.shape))
    else:
        with np.errstate(all="ignore"):
            wanted = values.astype(DTYPES[name])
    assert same_numbers(found, wanted)


@pytest.mark.parametrize(
    ("triple", "features", "expected"),
    [
        ("x86_64-unknown-linux-gnu", "+avx,+f16c,-amx", True),
        ("x86_64-unknown-linux-gnu", "+avx,-f16c", False),
        ("x86_64-unknown-linux-gnu", "", False),
        ("arm64-apple-darwin", "", True),
        ("powerpc64le-unknown-linux-gnu", "", False),
    ],
)
def test_instructions_are_used_where_there_are_any(triple: str, features: str, expected: bool) -> None:
    assert halves.has_float16(triple, "any", features) == expected


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="chooses an x86 processor")
@pytest.mark.parametrize(
    ("processor", "features"), [("nehalem", "+sse4.2,+popcnt"), ("haswell", "+avx2,+f16c,+fma,+bmi2")]
)
def test_other_processors(processor: str, features: str, tmp_path: Path) -> None:
    """One without instructions for float16, and one that has those but none from float16 to float64."""
    script = f"""if True:
        from test_storage import *
        from numba.core.registry import cpu_target
        assert cpu_target.target_context.codegen().magic_tuple()[1:] == {(processor, features)}
        for formats in (*HALF_FORMATS, Formats("float64", "float16", "float64")):
            Case(FLAT, formats).check(2, 1)
        values = float32_patterns("float16")
        with np.errstate(all="ignore"):
            wanted = values.astype(np.float16)
        assert same_numbers(assigned(values, Formats("float16", "float32", "float16")), wanted)
        print("good")"""
    environment = os.environ | {
        "NUMBA_CPU_NAME": processor,
        "NUMBA_CPU_FEATURES": features,
        "STEPSPEC_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert (done.returncode, done.stdout) == (0, "good\n"), done.stderr


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="reads x86 assembly")
@pytest.mark.parametrize("formats", [*HALF_FORMATS, MIXED[5], MIXED[7], *NOISY], ids=label)
def test_half_precision_is_vectorized(
    formats: Formats, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assembly = full_assembly(FLAT, formats, monkeypatch, tmp_path)
    packed = PACKED if formats.compute == "float32" else PACKED.replace("ps", "pd")
    assert re.search(packed, assembly)
    assert not re.search(CONTRACTED, assembly)
    # no function of a library that need not be there
    assert not re.search(r"__(extend|trunc)|__gnu", assembly)
    if "float16" in (formats.weight, formats.grad) and formats.compute == "float32":
        assert re.search(r"vcvtph2psx?\s.*%[yz]mm", assembly)
    if formats.stochastic:
        assert re.search(r"vpmuludq\s.*%[yz]mm", assembly)


def test_running_out_of_memory_is_an_error() -> None:
    """A row that no memory can hold: the kernel cannot allocate its scratch."""
    weight, history = np.ones((1, 4), np.float32), np.ones(1, np.float32)
    launch = Launch("float32", [(1, 2**60)], weight=[weight], grad=[weight], history=[history])
    for formats in ("float32", "bfloat16"):
        launch.formats = Formats(formats, formats, formats, stochastic=True)
        with pytest.raises(MemoryError, match="no memory for the scratch of a kernel"):
            launch.run(group_adagrad_cpu.update, 1)
    # it is said once
    cpu.run(cpu.Work(np.empty((0, 5), np.int64), np.zeros(1, np.int64)))
    Case(FLAT, Formats.plain("float32")).check(1, 1)


def test_kernels_of_different_formats_are_different_functions() -> None:
    """The linker takes functions of one name for one: two of them in two cached files would mix."""
    formats = [Formats("float32", grad, "float32", gradient="scattered") for grad in SUPPORTED[:3]]
    made: list[Any] = [steps(Layout(FLAT.parameters, each))[0] for each in formats]
    assert len({scatter.py_func.__qualname__ for scatter in made}) == len(formats)
