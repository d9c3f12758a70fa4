"""Reductions of CUDA kernels on the PTX machine against the readable reference, bit for bit."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cuda_launch import SM_90, Launcher, same_bits
from ptx_machine import Memory

from stepspec import reference
from stepspec.arithmetic import maximum
from stepspec.cuda import Reduction, columns, elements, reductions, rows, scalars
from stepspec.cuda.kernels import Kernel
from stepspec.cuda.passes import layout_of, passes
from stepspec.cuda.scalar_entries import gather, scatter
from stepspec.formats import Formats

pytestmark = pytest.mark.xdist_group("ptx")

Array = np.ndarray[Any, Any]

DTYPES = {name: np.dtype(name) for name in ("float16", "float32", "float64")}
DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
LENGTHS = (0, 1, 7, 8, 9, 255, 256, 257, 4095, 4096, 4097, 70000)
SPECIALS = {
    "nan": [np.nan, 1.0, np.inf],
    "inf": [np.inf, -np.inf, 2.0],
    "zeros": [-0.0, 0.0, -0.0],
    "negative zeros": [-0.0],
    "subnormal": [1e-45, -3e-42, 6e-8],
}


def largest(x: Array) -> np.float64:
    return reference.largest(x) if x.size else np.float64(-np.inf)


REFERENCE: dict[str, Any] = {
    "norm": reference.norm,
    "sum": reference.total,
    "mean": reference.mean,
    "max": largest,
}


@elements(reads=("weight", "grad"), reduces={"n": "norm", "m": "mean", "top": "max", "s": "sum"})
def reduce(weight: Any, grad: Any, scale: Any) -> Any:
    return weight, scale * grad, grad, weight + grad


@elements(reads=("weight",), reduces={"m": "mean", "top": "max"})
def mean_and_largest(weight: Any) -> Any:
    return weight, weight


def draw(size: int, dtype: str, seed: int) -> Array:
    rng = np.random.default_rng([size, seed])
    values = rng.standard_normal(size) * 10.0 ** rng.integers(-4, 4, size)
    return values.astype(DTYPES[dtype])


def special(kind: str, dtype: str, size: int) -> Array:
    """Return numbers among which stand special ones; only these, if they would change nothing."""
    rng = np.random.default_rng(size)
    values = draw(size, dtype, 3)
    places = rng.random(size) < (1.0 if "zeros" in kind else 0.01)
    places[size // 2] = True
    with np.errstate(all="ignore"):
        values[places] = rng.choice(SPECIALS[kind], np.count_nonzero(places)).astype(DTYPES[dtype])
    return values


def check(kernel: Kernel, formats: Formats, weights: list[Array], grads: list[Array]) -> None:
    memory, compute = Memory(1 << 24), np.dtype(formats.compute)
    arrays = {"weight": weights, "grad": grads}
    rows = {name: [memory.put(array) for array in each] for name, each in arrays.items()}
    launcher = Launcher(
        memory, [(1, weight.size) for weight in weights], {**rows, "scale": [0.7] * len(weights)}
    )
    launcher.run(passes(kernel, formats))
    with np.errstate(all="ignore"):
        for tensor, (stored, values) in enumerate(zip(weights, grads, strict=True)):
            weight, grad = stored.astype(compute), values.astype(compute)
            terms = weight, compute.type(0.7) * grad, grad, weight + grad
            for (name, reduction), term in zip(kernel.reduces.items(), terms, strict=True):
                want = np.array([REFERENCE[reduction.kind](term)])
                got = launcher.result(name)[tensor : tensor + 1]
                assert same_bits(got, want), (name, tensor, term.size, got, want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_length_has_the_bits_of_the_reference(dtype: str) -> None:
    weights = [draw(size, dtype, 1) for size in LENGTHS]
    check(reduce, Formats.plain(dtype), weights, [draw(size, dtype, 2) for size in LENGTHS])


def test_partial_results_are_reduced_level_by_level() -> None:
    counts, memory = (2, 255, 256, 4096, 4097, 9000), Memory(1 << 22)
    rng = np.random.default_rng(0)
    partials = [rng.standard_normal(count) ** 2 for count in counts]
    shapes = [(2048, 2 * count) for count in counts]
    _, finish = passes(mean_and_largest, Formats.plain("float32"))
    launcher = Launcher(memory, shapes, {})
    for slot in finish.slots:
        if slot.role == "buffer":
            launcher.put_scratch(slot, partials)
    launcher.run([finish], grid=64)
    for tensor, (each, shape) in enumerate(zip(partials, shapes, strict=True)):
        total = reference.total(each)
        want = {"m": total / np.float64(shape[0] * shape[1]), "top": each.max()}
        assert {name: launcher.result(name)[tensor] for name in want} == want


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_special_values(dtype: str) -> None:
    arrays = [special(kind, dtype, size) for kind in SPECIALS for size in (7, 300, 4100)]
    check(reduce, Formats.plain(dtype), arrays, arrays)


@pytest.mark.parametrize(
    "formats", [Formats("float32", "float16", "float32", "float16"), Formats("float64", "float32", "float64")]
)
def test_gradients_in_their_own_storage(formats: Formats) -> None:
    weights = [draw(size, formats.weight, 1) for size in (5, 300, 5000)]
    check(reduce, formats, weights, [draw(weight.size, formats.grad, 2) for weight in weights])


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_absent_rows_count_as_zeros(share: float) -> None:
    shapes, memory, rng = (
        [(3, 7), (300, 1), (40, 130), (2, 5000), (90, 50)],
        Memory(1 << 22),
        np.random.default_rng(0),
    )
    weights = [draw(r * c, "float32", 1).reshape(r, c) for r, c in shapes]
    present = [np.flatnonzero(rng.random(r) < share) for r, _ in shapes]
    values = [draw(found.size * c, "float16", 2) for found, (_, c) in zip(present, shapes, strict=True)]
    given = {"weight": weights, "grad": values, "present_rows": present}
    rows = {name: [memory.put(array) for array in arrays] for name, arrays in given.items()}
    counts = {"present": [found.size for found in present], "scale": [0.7] * len(shapes)}
    launcher = Launcher(memory, shapes, {**rows, **counts})
    launcher.run(passes(reduce, Formats("float32", "float16", "float32", gradient="scattered")))
    for tensor, weight in enumerate(weights):
        grad = np.zeros_like(weight)
        grad[present[tensor]] = values[tensor].reshape(-1, weight.shape[1])
        want = {"n": weight, "m": np.float32(0.7) * grad, "top": grad, "s": weight + grad}
        for name, terms in want.items():
            expected = REFERENCE[reduce.reduces[name].kind](terms)
            assert launcher.result(name)[tensor] == expected, (name, shapes[tensor])


def per_column() -> Kernel:
    kinds = {
        name: Reduction(kind, per="column") for name, kind in {"n": "norm", "m": "mean", "top": "max"}.items()
    }
    function = rows(
        element=("weight", "grad"), row=("h",), column=("c",), reduces={**kinds, "s": Reduction("sum")}
    )
    return function(lambda weight, grad, h, c, scale: (weight, scale * grad, weight + h, grad * c))


SHAPES = [(0, 3), (1, 1), (255, 2), (256, 5), (257, 300), (3, 0), (600, 17), (66000, 1)]


@pytest.mark.parametrize("formats", [Formats.plain("float32"), Formats("float64", "float32", "float64")])
def test_columns_have_the_bits_of_the_reference(formats: Formats) -> None:
    kernel, memory, compute = per_column(), Memory(1 << 24), np.dtype(formats.compute)
    sizes = {"weight": [r * c for r, c in SHAPES], "h": [r for r, _ in SHAPES], "c": [c for _, c in SHAPES]}
    sizes["grad"] = sizes["weight"]
    arrays = {
        name: [draw(size, formats.grad if name == "grad" else formats.weight, k) for size in each]
        for k, (name, each) in enumerate(sizes.items())
    }
    places = {name: [memory.put(array) for array in each] for name, each in arrays.items()}
    results = {name: [memory.allocate(compute.itemsize * c) for _, c in SHAPES] for name in ("n", "m", "top")}
    launcher = Launcher(memory, SHAPES, {**places, **results, "scale": [0.7] * len(SHAPES)})
    launcher.run(reductions.passes_of(kernel, layout_of(kernel, formats)), grid=300)
    with np.errstate(all="ignore"):
        for tensor, shape in enumerate(SHAPES):
            weight, grad = (
                arrays[name][tensor].astype(compute).reshape(shape) for name in ("weight", "grad")
            )
            h, c = arrays["h"][tensor].reshape(-1, 1), arrays["c"][tensor]
            want = {"n": reference.column_norm(weight), "m": reference.column_mean(compute.type(0.7) * grad)}
            top = weight + h
            want["top"] = reference.column_max(top) if top.size else np.full((1, shape[1]), -np.inf, compute)
            for name, values in want.items():
                got = memory.get(results[name][tensor], like=np.empty((1, shape[1]), compute))
                assert same_bits(got, values), (name, shape)
            got = launcher.result("s")[tensor : tensor + 1]
            assert same_bits(got, np.array([reference.total(grad * c)])), ("s", shape)


@columns(reads=("c", "top"), writes=("c", "d"))
def update_columns(c: Any, top: Any, rho: Any) -> Any:
    return rho * c + top, c


@columns(reads=("c",), reduces={"n": "norm", "top": "max"})
def reduce_columns(c: Any, rho: Any) -> Any:
    return rho * c, c


@pytest.mark.parametrize("dtype", DTYPES)
def test_columns_kernels(dtype: str) -> None:
    counts, memory = [0, 1, 300, 4100], Memory(1 << 22)
    formats = Formats.plain(dtype)
    compute = np.dtype(formats.compute)
    arrays = {name: [draw(count, dtype, k) for count in counts] for k, name in enumerate(("c", "d"))}
    arrays["top"] = [draw(count, formats.compute, 7) for count in counts]
    places = {name: [memory.put(array) for array in each] for name, each in arrays.items()}
    launcher = Launcher(
        memory, [(2, count) for count in counts], {**places, "n": [0.0] * 4, "rho": [0.9] * 4}
    )
    launcher.run(passes(update_columns, formats, frozenset(["top"])))
    for k, count in enumerate(counts):
        c, top = arrays["c"][k].astype(compute), arrays["top"][k]
        got = [memory.get(places[name][k], like=np.empty(count, DTYPES[dtype])) for name in ("c", "d")]
        assert same_bits(got[0], (compute.type(0.9) * c + top).astype(DTYPES[dtype]))
        assert same_bits(got[1], arrays["c"][k])
        arrays["c"][k] = got[0]
    launcher = Launcher(memory, [(2, count) for count in counts], {"c": places["c"], "rho": [0.9] * 4})
    launcher.run(passes(reduce_columns, formats))
    for k, each in enumerate(arrays["c"]):
        c = each.astype(compute)
        norm = np.array([reference.norm(compute.type(0.9) * c)])
        assert same_bits(launcher.result("n")[k : k + 1], norm)
        assert launcher.result("top")[k] == largest(c)


@scalars("ratio", "bound")
def combine(n: Any, m: Any, t: Any) -> Any:
    return n / (m * t) if m > 0.0 else 1.0, maximum(n, m)


def test_scalars_are_computed_in_float64_for_every_tensor() -> None:
    count, memory = 300, Memory(1 << 20)
    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal(count) for name in ("n", "m", "t")}
    values["t"][::7] = 0.0
    launcher = Launcher(memory, [(1, 1)] * count, values)
    launcher.run(passes(combine, Formats.plain("float32")), grid=2)
    with np.errstate(all="ignore"):
        ratio = np.where(values["m"] > 0, values["n"] / (values["m"] * values["t"]), 1.0)
    assert same_bits(launcher.result("ratio"), ratio)
    assert same_bits(launcher.result("bound"), reference.maximum(values["n"], values["m"]))


def test_states_kept_per_tensor_are_read_and_written_at_their_addresses() -> None:
    memory, states = Memory(1 << 20), np.arange(300.0)
    places = [memory.put(states[k : k + 1]) for k in range(states.size)]
    launcher = Launcher(memory, [(3, 4)] * 300, {"beta": places, "new": -states})
    launcher.run([gather("beta", "now")])
    assert same_bits(launcher.result("now"), states)
    launcher.run([scatter("beta", "new")])
    written = [memory.get(place, like=states[:1])[0] for place in places]
    assert same_bits(np.array(written), -states)


def test_a_norm_of_many_elements_needs_no_local_memory() -> None:
    for this in passes(reduce, Formats.plain("float32")):
        code = this.code(SM_90)
        assert (code.stack, code.spills) == (0, 0)
        assert code.registers <= 128


def test_the_simulator_folds_to_the_bits_of_the_reference() -> None:
    """It must be chosen before numba.cuda is imported, so that it runs in a process of its own."""
    script = Path(__file__).with_name("simulated_folds.py")
    ran = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
