"""The functions of `step` and of the compiled kernels: the same bits, in the stated order, and accurate."""

import math
import platform
import re
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest

from stepspec import arithmetic, canonical, reference
from stepspec.compilation import compiled

DTYPES = [np.float32, np.float64]
LENGTHS = [0, 1, 7, 8, 9, 255, 256, 257, 4095, 4096, 4097, 10_000]
TWO_LEVELS = 4096 * 257
KINDS = ["sum", "norm", "mean", "max"]
PER_TENSOR = {"sum": "total", "norm": "norm", "mean": "mean", "max": "largest"}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


def same_bits(a: Any, b: Any) -> bool:
    """Compare dtype, shape and values; every NaN equals every NaN, -0.0 differs from 0.0."""
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bool(np.all((np.isnan(a) & np.isnan(b)) | ((a == b) & (np.signbit(a) == np.signbit(b)))))


def special(dtype: Any) -> Any:
    """Return zeros, infinities, NaN, subnormal, tiny, usual and huge numbers of both signs."""
    info = np.finfo(dtype)
    positive = [0, 1, 2, 0.5, 0.75, 3, 1e-3, 22.5, 88.8, 709.8, 1e9, math.inf, info.tiny, info.max, info.eps]
    positive += [info.smallest_subnormal, info.smallest_subnormal * 3, math.nan]
    numbers = np.array(positive, dtype)
    return np.concatenate([numbers, -numbers])


def random(dtype: Any, size: int, seed: int = 0) -> Any:
    """Return numbers of both signs and of many sizes."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(size) * 2.0 ** rng.integers(-12, 7, size)).astype(dtype)


def mapped(function: Any, *bounds: Any) -> Callable[[Any], Any]:
    """Return a compiled loop of a scalar function over an array."""

    @compiled
    def kernel(x: Any, out: Any, rest: Any) -> None:
        for i in range(x.size):
            out[i] = function(x[i], *rest)

    def run(x: Any) -> Any:
        out = np.empty_like(x)
        kernel(x, out, tuple(b if isinstance(b, int) else x.dtype.type(b) for b in bounds))
        return out

    run.kernel = kernel  # type: ignore[attr-defined]  # a function takes attributes
    return run


# Elementwise functions.

UNARY: list[tuple[str, tuple[Any, ...]]] = [
    ("clip", (0.75,)), ("clip", (math.inf,)), ("clip_between", (-0.5, 2.0)), ("clip_between", (0.0, -0.0)),
    ("sign", ()), ("square", ()), ("sqrt", ()), ("power", (2,)), ("power", (3,)), ("power", (8,)),
    ("exp", ()), ("log", ()), ("tanh", ()),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "bounds"), UNARY)
def test_numpy_and_compiled_functions_agree(name: str, bounds: tuple[Any, ...], dtype: Any) -> None:
    x = np.concatenate([special(dtype), random(dtype, 5000), np.linspace(-120, 100, 3001).astype(dtype)])
    assert same_bits(getattr(reference, name)(x, *bounds), mapped(getattr(arithmetic, name), *bounds)(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_maximum_and_minimum_agree(name: str, dtype: Any) -> None:
    values = np.concatenate([special(dtype), random(dtype, 40)])
    a, b = (np.ascontiguousarray(side).ravel() for side in np.meshgrid(values, values))
    function = getattr(arithmetic, name)

    @compiled
    def kernel(a: Any, b: Any, out: Any) -> None:
        for i in range(a.size):
            out[i] = function(a[i], b[i])

    out = np.empty_like(a)
    kernel(a, b, out)
    better = max if name == "maximum" else min
    plain = [p if p != p else q if q != q or p == q else better(p, q) for p, q in zip(a, b, strict=True)]
    assert same_bits(getattr(reference, name)(a, b), np.array(plain, dtype))
    assert same_bits(out, np.array(plain, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_selects_keep_zeros_and_nan(dtype: Any) -> None:
    x = np.array([-0.0, 0.0, math.nan, -math.inf, math.inf, 3, -3], dtype)
    assert same_bits(reference.clip(x, 2.0), np.array([-0.0, 0.0, math.nan, -2, 2, 2, -2], dtype))
    assert same_bits(reference.clip(x, math.inf), x)
    assert same_bits(reference.sign(x), np.array([0.0, 0.0, math.nan, -1, 1, 1, -1], dtype))
    assert same_bits(reference.where(x > 0, x, 0.5), np.array([0.5, 0.5, 0.5, 0.5, math.inf, 3, 0.5], dtype))


def test_a_python_number_is_rounded_to_the_dtype_of_the_array() -> None:
    x = np.array([1, -1], np.float32)
    assert same_bits(reference.clip(x, 0.1), np.array([0.1, -0.1], np.float32))
    assert same_bits(reference.maximum(x, 0), np.array([1, 0], np.float32))
    assert same_bits(reference.clip(x, 1e300), x)
    assert same_bits(reference.clip(x, 0), reference.clip(x, 0.0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "bounds"), UNARY)
def test_scalars_and_empty_arrays_keep_their_dtype(name: str, bounds: tuple[Any, ...], dtype: Any) -> None:
    function = getattr(reference, name)
    one = np.array([0.625], dtype)
    for x in (dtype(0.625), np.array(0.625, dtype)):
        assert same_bits(function(x, *bounds), function(one, *bounds)[0])
    assert same_bits(function(one[:0], *bounds), one[:0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_power_multiplies_from_left_to_right(dtype: Any) -> None:
    x = random(dtype, 1000)
    assert same_bits(reference.power(x, 5), (((x * x) * x) * x) * x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_spread_takes_shape_and_dtype(dtype: Any) -> None:
    like = np.zeros((2, 3), dtype)
    assert same_bits(reference.spread(0.1, like), np.array([[0.1] * 3] * 2, dtype))
    assert same_bits(reference.spread(np.array([[1], [2]], dtype), like), np.array([[1] * 3, [2] * 3], dtype))
    assert same_bits(reference.spread(1, dtype(0)), np.array(1, dtype))


# exp, log, tanh: a decimal computation is the truth.


def decimal_tanh(x: Decimal) -> Decimal:
    big, small = x.exp(), (-x).exp()
    return (big - small) / (big + small)


def ulps(got: float, want: Decimal) -> float:
    """Return the distance in units of the last place of the wanted float64."""
    return float(abs(Decimal(got) - want) / Decimal(math.ulp(float(want))))


FUNCTIONS: list[tuple[str, Callable[[Decimal], Decimal], float, float, float]] = [
    ("exp", Decimal.exp, -745, 709, 1.0), ("exp", Decimal.exp, -1, 1, 1.0),
    ("log", Decimal.ln, 1e-300, 1e3, 1.0), ("log", Decimal.ln, 0.5, 2, 1.0),
    ("tanh", decimal_tanh, -25, 25, 3.0), ("tanh", decimal_tanh, -1, 1, 3.0),
    ("tanh", decimal_tanh, -1e-5, 1e-5, 3.0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "truth", "low", "high", "bound"), FUNCTIONS)
def test_float64_functions_are_accurate(
    name: str, truth: Callable[[Decimal], Decimal], low: float, high: float, bound: float
) -> None:
    x = np.random.default_rng(1).uniform(low, high, 700)
    with localcontext() as context:
        context.prec = 60
        results = zip(x.tolist(), getattr(reference, name)(x).tolist(), strict=True)
        errors = [ulps(y, truth(Decimal(v))) for v, y in results]
    assert max(errors) < bound


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("exp", -104, 89), ("log", 1e-9, 10), ("log", 1e-9, 1e38), ("tanh", -10, 10), ("tanh", -0.1, 0.1)],
)
def test_float32_functions_are_correctly_rounded(name: str, low: float, high: float) -> None:
    """At most 1 in 100,000 may differ from the rounded float64 result of the math library; none was seen."""
    x = np.random.default_rng(2).uniform(low, high, 100_000).astype(np.float32)
    library = np.array([getattr(math, name)(v) for v in x.tolist()]).astype(np.float32)
    assert np.count_nonzero(getattr(reference, name)(x) != library) <= 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_functions_at_their_limits(dtype: Any) -> None:
    inf, nan, small = math.inf, math.nan, np.finfo(dtype).smallest_subnormal
    cases = {
        "exp": [(0, 1), (-0.0, 1), (inf, inf), (-inf, 0), (1e9, inf), (-1e9, 0), (small, 1), (nan, nan)],
        "log": [(1, 0), (0, -inf), (-0.0, -inf), (inf, inf), (-1, nan), (-inf, nan), (nan, nan)],
        "tanh": [(0, 0), (-0.0, -0.0), (inf, 1), (-inf, -1), (small, small), (-small, -small), (nan, nan)],
    }
    for name, pairs in cases.items():
        x, y = np.array(pairs, dtype).T
        assert same_bits(getattr(reference, name)(x), y), name
    x = special(dtype)
    assert same_bits(reference.tanh(-x), -reference.tanh(x))


def test_log_of_subnormal_numbers() -> None:
    x = np.ldexp(1.0, np.arange(-1074, -1020))
    np.testing.assert_allclose(reference.log(x), np.arange(-1074, -1020) * math.log(2), rtol=3e-16)


# Reductions: a slow statement of the canonical order is the oracle.


def larger(a: float, b: float) -> float:
    return a if a > b or a != a else b


def reduced(terms: list[float], kind: str, block: int, lanes: Callable[[int], int]) -> float:
    """Reduce by the canonical order, one Python float at a time."""
    start, fold = (-math.inf, larger) if kind == "max" else (0.0, lambda a, b: a + b)
    while True:
        count = lanes(len(terms))
        results = []
        for first in range(0, max(1, len(terms)), block):
            sums = [start] * count
            for i, term in enumerate(terms[first : first + block]):
                sums[i % count] = fold(sums[i % count], term)
            while len(sums) > 1:
                half = len(sums) // 2
                sums = [fold(sums[lane], sums[lane + half]) for lane in range(half)]
            results += sums
        if len(results) == 1:
            return results[0]
        terms = results


def oracle(terms: Any, kind: str, block: int = 4096, lanes: Callable[[int], int] | None = None) -> np.float64:
    """Return the float64 result of a 1-D operand."""
    wide = terms.astype(np.float64)
    prepared = wide * wide if kind == "norm" else wide
    result = np.float64(reduced(prepared.tolist(), kind, block, lanes or (lambda n: 8 if n < 256 else 256)))
    if kind == "norm":
        return np.float64(np.sqrt(result))
    return result / np.float64(terms.size) if kind == "mean" else result


def column_oracle(terms: Any, kind: str) -> np.float64:
    """Return the float64 result of one column."""
    return oracle(terms, kind, 256, lambda n: 1)


def operands(dtype: Any, size: int) -> Sequence[Any]:
    """Return random numbers, zeros of both signs, and numbers with an infinity and a NaN among them."""
    zeros = np.random.default_rng(3).choice(np.array([0.0, -0.0], dtype), size)
    infinite, undefined = random(dtype, size, 4), random(dtype, size, 5)
    infinite[size // 3 : size // 3 + 1] = math.inf
    undefined[size // 2 : size // 2 + 1] = math.nan
    return [random(dtype, size), zeros, -np.zeros(size, dtype), infinite, undefined]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", LENGTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_canonical_order(kind: str, size: int, dtype: Any) -> None:
    if kind == "max" and size == 0:
        return
    for x in operands(dtype, size):
        want = oracle(x, kind)
        result = getattr(reference, PER_TENSOR[kind])(x)
        assert isinstance(result, np.float64)
        assert same_bits(result, want)
        assert same_bits(getattr(reference, f"row_{kind}")(x[np.newaxis]), np.array([[want]]).astype(dtype))
        assert same_bits(dtype(getattr(arithmetic, f"row_{kind}")(x)), dtype(want))


@pytest.mark.parametrize(("kind", "dtype"), [("norm", np.float32), ("sum", np.float64), ("max", np.float32)])
def test_canonical_order_of_a_second_level(kind: str, dtype: Any) -> None:
    for size in (TWO_LEVELS, TWO_LEVELS - 4097):
        x = random(dtype, size)
        want = oracle(x, kind)
        assert same_bits(getattr(reference, PER_TENSOR[kind])(x), want)
        assert same_bits(dtype(getattr(arithmetic, f"row_{kind}")(x)), dtype(want))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(), (5,), (4, 3), (7, 300), (3, 17, 5), (2, 4097), (3, 2, 2), (0, 4), (4, 0)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_columns(kind: str, shape: tuple[int, ...], dtype: Any) -> None:
    x = random(dtype, math.prod(shape)).reshape(shape)
    rows = x.reshape(shape[0] if shape else 1, math.prod(shape[1:]))
    row_function, column_function = getattr(reference, f"row_{kind}"), getattr(reference, f"column_{kind}")
    if kind == "max" and x.size == 0:
        empty, other = (column_function, row_function) if shape[0] == 0 else (row_function, column_function)
        with pytest.raises(ValueError, match="largest of no elements"):
            empty(x)
        assert other(x).size == 0
        return
    per_row = np.array([oracle(row, kind) for row in rows], np.float64).astype(dtype)
    assert same_bits(row_function(x), per_row.reshape(shape[:1] + (1,) * len(shape[1:])))
    per_column = np.array([column_oracle(column, kind) for column in rows.T], np.float64).astype(dtype)
    assert same_bits(column_function(x), per_column.reshape((1,) * len(shape[:1]) + shape[1:]))


@pytest.mark.parametrize("rows", [255, 256, 257, 513, 256 * 256, 256 * 256 + 1])
def test_columns_of_many_rows(rows: int) -> None:
    x = random(np.float32, rows * 3).reshape(rows, 3)
    for kind in ("sum", "norm", "max"):
        want = np.array([[column_oracle(column, kind) for column in x.T]]).astype(np.float32)
        assert same_bits(getattr(reference, f"column_{kind}")(x), want)


def layouts(x: Any) -> Iterator[Any]:
    """Yield arrays equal to x with other strides."""
    yield np.asfortranarray(x)
    yield np.repeat(x, 2, axis=0)[::2]
    yield np.repeat(x, 3, axis=-1)[..., ::3]
    yield np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1]
    frozen = x.copy()
    frozen.flags.writeable = False
    yield frozen


@pytest.mark.parametrize("name", ["clip", "exp", "row_mean", "column_norm", "row_max", "norm", "largest"])
def test_strides_do_not_matter(name: str) -> None:
    x = random(np.float32, 130 * 70).reshape(130, 70)
    bounds = (0.5,) if name == "clip" else ()
    want = getattr(reference, name)(x, *bounds)
    for view in layouts(x):
        assert same_bits(getattr(reference, name)(view, *bounds), want)


@pytest.mark.parametrize("shape", [(3, 20_000), (9000, 3), (300, 300)])
def test_slabs_do_not_matter(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    x = random(np.float32, math.prod(shape)).reshape(shape)
    names = ["norm", "row_sum", "row_max", "column_sum", "column_max", "exp"]
    whole = [getattr(reference, name)(x) for name in names]
    monkeypatch.setattr(reference, "SLAB", reference.BLOCK)
    monkeypatch.setattr(reference, "FUNCTION_SLAB", 1000)
    for name, want in zip(names, whole, strict=True):
        assert same_bits(getattr(reference, name)(x), want)


def test_empty_operands() -> None:
    empty = np.empty(0, np.float32)
    assert same_bits(reference.total(empty), np.float64(0))
    assert same_bits(reference.norm(empty), np.float64(0))
    assert math.isnan(reference.mean(empty))
    with pytest.raises(ValueError, match="largest of no elements"):
        reference.largest(empty)


@pytest.mark.parametrize("size", [10, 1000, 100_000, 3_000_000])
def test_sums_and_norms_are_accurate(size: int) -> None:
    x = random(np.float32, size, 6)
    wide = x.astype(np.float64)
    assert abs(reference.norm(x) / math.sqrt(math.fsum(wide * wide)) - 1) < 1e-15
    assert abs(reference.total(x) - math.fsum(wide)) <= 1e-15 * math.fsum(abs(wide))


@pytest.mark.parametrize("name", ["norm", "largest", "row_norm", "column_sum"])
def test_reductions_make_no_copy_of_a_big_array(name: str) -> None:
    x = np.ones((4096, 2048), np.float32)
    tracemalloc.start()
    getattr(reference, name)(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes / 3


def test_both_sides_have_the_same_sizes() -> None:
    for name in ("BLOCK", "ROW_BLOCK", "LANES", "NARROW"):
        assert getattr(reference, name) == getattr(canonical, name)


@compiled
def cube(x: Any) -> Any:
    return arithmetic.power(x, 3)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads x86 assembly")
@pytest.mark.parametrize(
    ("function", "bounds", "instructions"),
    [
        (arithmetic.clip, (1.0,), ("(min|cmp\\w*)ps", "(max|cmp\\w*)ps")),
        (arithmetic.sqrt, (), ("sqrtps",)),
        (arithmetic.sign, (), ("cmp\\w*ps",)),
        (cube, (), ("mulps",)),
        (arithmetic.exp, (), ("mulpd", "addpd")),
        (arithmetic.log, (), ("divpd", "mulpd")),
        (arithmetic.tanh, (), ("divpd", "mulpd")),
    ],
)
def test_loops_are_vectorized(function: Any, bounds: tuple[Any, ...], instructions: tuple[str, ...]) -> None:
    run: Any = mapped(function, *bounds)
    run(np.ones(64, np.float32))
    (assembly,) = run.kernel.for_python.inspect_asm().values()
    loop = assembly[: assembly.index("cpython")]  # without the wrapper that unpacks Python arguments
    for instruction in instructions:
        assert re.search(instruction, loop)
    assert not re.search(r"\tcall", loop)
