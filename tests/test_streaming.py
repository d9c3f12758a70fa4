"""Flat reductions, part by part: the bits of `reference` at every boundary, of extreme numbers too."""

import os
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from assembly import ANY_CONTRACTED, CONTRACTED, full_assembly
from launch import DTYPES, Launch, bits, draw

from stepspec import reference
from stepspec.cpu import Kernel, elements
from stepspec.formats import Formats
from stepspec.generated import lars_cpu, sgd_cpu

SIZES = [1, 8, 15, 255, 256, 257, 271, 272, 511, 513, 4095, 4096, 4097, 4351, 4352, 16384 + 257]


@elements("weight", length="norm", other="norm", total="sum", largest="max")
def one_array(weight: Any, length: Any, other: Any, total: Any, largest: Any, scale: float) -> None:
    for i in range(weight.size):
        length[i] = weight[i]
        other[i] = scale * weight[i]
        total[i] = weight[i]
        largest[i] = weight[i]


@elements("weight", "grad", "mom", length="norm")
def three_arrays(weight: Any, grad: Any, mom: Any, length: Any, scale: float) -> None:
    for i in range(weight.size):
        length[i] = scale * weight[i] + grad[i] * mom[i]


def extreme(size: int, dtype: str, seed: int) -> Any:
    """Return numbers of all sizes that the dtype has, subnormal and largest ones too, of both signs."""
    info, rng = np.finfo(dtype), np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        exponents = rng.integers(info.minexp - info.nmant, info.maxexp, size)
        numbers = np.ldexp(rng.uniform(0.5, 1, size), exponents).astype(dtype)
    special = np.array([0, -0.0, info.max, info.tiny, info.smallest_subnormal], dtype)
    picked = rng.random(size) < 0.1
    numbers[picked] = rng.choice(special, np.count_nonzero(picked))
    return numbers * rng.choice(np.array([-1, 1], dtype), size)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["usual", "extreme", "small", "infinite", "undefined", "negative zeros"])
def test_parts_have_the_bits_of_the_reference(kind: str, dtype: str) -> None:
    tensors = [extreme(size, dtype, size) for size in SIZES]
    if kind == "usual":
        tensors = [draw((size,), dtype, size) for size in SIZES]
    elif kind == "small":
        tensors = [x * np.finfo(dtype).tiny for x in tensors]
    elif kind == "negative zeros":
        tensors = [-np.zeros(size, dtype) for size in SIZES]
    elif kind != "extreme":
        for x in tensors:
            x[x.size // 2] = {"infinite": np.inf, "undefined": np.nan}[kind]
    launch = Launch(dtype, [(size, 1) for size in SIZES], weight=tensors, scale=[-0.5] * len(SIZES))
    launch.run(one_array, threads=2)
    with np.errstate(all="ignore"):
        expected = {
            "length": [reference.norm(x) for x in tensors],
            "other": [reference.norm(DTYPES[dtype].type(-0.5) * x) for x in tensors],
            "total": [reference.total(x) for x in tensors],
            "largest": [reference.largest(x) for x in tensors],
        }
    for name, values in expected.items():
        found = launch.numbers[name]
        assert np.array_equal(np.isnan(found), np.isnan(values)), name
        known = ~np.isnan(values)
        assert bits(found[known]) == bits(np.array(values)[known]), name


@pytest.mark.parametrize("gradient", ["dense", "scattered"])
@pytest.mark.parametrize("storage", ["bfloat16", "float16", "float32", "float64"])
def test_more_arrays_than_buffers_in_every_storage(
    storage: str, gradient: Literal["dense", "scattered"]
) -> None:
    compute = "float64" if storage == "float64" else "float32"
    shapes = [(33, 131), (9, 1024), (1, 70)]
    weight, grad = ([draw(shape, storage, seed) for shape in shapes] for seed in (1, 2))
    mom = [draw(shape, compute, 3) for shape in shapes]
    rows = [np.arange(0, shape[0], 2) for shape in shapes]
    dense = [np.zeros_like(g) for g in grad]
    for whole, g, present in zip(dense, grad, rows, strict=True):
        whole[present] = g[present]
    given: dict[str, Any] = {"grad": grad}
    if gradient == "scattered":
        given = {
            "grad": [g[present] for g, present in zip(grad, rows, strict=True)],
            "present_rows": rows,
        }
    formats = Formats(storage, storage, compute, gradient=gradient)
    launch = Launch(formats, shapes, weight=weight, mom=mom, scale=[0.25] * 3, **given)
    launch.run(three_arrays, threads=2)
    wide = dense if gradient == "scattered" else grad
    terms = [
        DTYPES[compute].type(0.25) * w.astype(compute) + g.astype(compute) * m
        for w, g, m in zip(weight, wide, mom, strict=True)
    ]
    assert bits(launch.numbers["length"]) == bits(np.array([reference.norm(x) for x in terms]))


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="reads x86 assembly")
@pytest.mark.parametrize(
    ("kernel", "dtype", "pattern"),
    [
        (lars_cpu.reduce, "float32", CONTRACTED),
        (lars_cpu.reduce, "float64", ANY_CONTRACTED),
        (sgd_cpu.update_mom, "float32", ANY_CONTRACTED),
    ],
)
def test_only_exact_squares_are_contracted(
    kernel: Kernel, dtype: str, pattern: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert not re.search(pattern, full_assembly(kernel, dtype, monkeypatch, tmp_path))


def test_what_counts_as_contracted() -> None:
    squares = [
        "\tvfmadd213pd\t(%rbx,%r14,8), %zmm0, %zmm0\n",
        "\tvfmadd213pd\t%ymm10, %ymm1, %ymm1\n",
        "\tvfmadd231pd\t%zmm1, %zmm1, %zmm0\n",
    ]
    others = [
        "\tvfmadd213pd\t%zmm10, %zmm1, %zmm11\n",
        "\tvfmadd231pd\t(%rax), %zmm1, %zmm0\n",
        "\tvfmadd213ps\t%ymm2, %ymm1, %ymm1\n",
        "\tvfnmadd231pd\t%ymm1, %ymm1, %ymm0\n",
        "\tvfmsub213pd\t%ymm0, %ymm1, %ymm1\n",
    ]
    assert not any(re.search(CONTRACTED, line) for line in squares)
    assert all(re.search(CONTRACTED, line) for line in others)
    assert all(re.search(ANY_CONTRACTED, line) for line in squares + others)
