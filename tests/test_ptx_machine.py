"""The PTX machine: each family of instructions against NumPy, and planted faults that it has to find."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from ptx_machine import Machine, MachineError, Memory

WIDTHS = {1: "u8", 2: "b16", 4: "b32", 8: "b64"}
REGISTERS = {1: "%h", 2: "%h", 4: "%r", 8: "%d"}
Array = npt.NDArray[Any]

FRAME = """
.version 9.0
.target sm_90
.address_size 64
{outside}
.visible .entry kernel({parameters})
.maxntid 64, 1, 1
{{
    .reg .pred %p<9>;
    .reg .b16 %h<20>;
    .reg .b32 %r<60>;
    .reg .b64 %d<60>;
    mov.u32 %r50, %tid.x;
    mov.u32 %r51, %ctaid.x;
    mad.lo.s32 %r52, %r51, 64, %r50;
    {loads}
    {body}
    {stores}
    ret;
}}
"""


def kernel(body: str, pointers: int = 1, outside: str = "") -> Machine:
    """Return a kernel over int64 parameters that stand in %d40, %d41, ...; %r52 is the thread of the grid."""
    parameters = ", ".join(f".param .u64 p{i}" for i in range(pointers))
    loads = "\n".join(f"ld.param.u64 %d{40 + i}, [p{i}];" for i in range(pointers))
    return Machine(FRAME.format(outside=outside, parameters=parameters, loads=loads, body=body, stores=""))


def run(body: str, *arrays: Array, result: Any = np.uint32, grid: int = 1) -> Array:
    """Return what a body leaves in %r9 (%d9, %h9) of 64 threads, given their elements of arrays.

    These are in %r0, %r1, ... (%d0 ..., %h0 ... by their size).
    """
    dtype = np.dtype(result)
    loads, stores = [], []
    for index, array in enumerate([*arrays, np.empty(64 * grid, dtype)]):
        size = array.itemsize
        place = f"mul.wide.u32 %d30, %r52, {size}; add.s64 %d31, %d30, %d{40 + index};"
        if index < len(arrays):
            loads.append(f"{place} ld.global.{WIDTHS[size]} {REGISTERS[size]}{index}, [%d31];")
        else:
            stores.append(f"{place} st.global.{WIDTHS[size]} [%d31], {REGISTERS[size]}9;")
    memory = Memory(1 << 20)
    machine = kernel("\n".join([*loads, body, *stores]), len(arrays) + 1)
    out = memory.allocate(64 * grid * dtype.itemsize)
    machine.launch(memory, grid, [*(memory.put(a) for a in arrays), out], threads=64)
    return memory.get(out, np.empty(64 * grid, dtype))


def same(found: Array, expected: Array) -> None:
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    if found.dtype.kind == "f":
        np.testing.assert_array_equal(np.signbit(found[found == 0]), np.signbit(expected[expected == 0]))


def numbers(dtype: Any, seed: int) -> Array:
    """Return 64 numbers, the special ones among them."""
    rng = np.random.default_rng(seed)
    info = np.finfo(dtype)
    special = [
        0.0,
        -0.0,
        np.inf,
        -np.inf,
        np.nan,
        info.tiny / 4,
        -info.tiny,
        info.max,
        info.min,
        1.0,
        -1.0,
        0.5,
    ]
    many = np.concatenate([special, rng.standard_normal(52) * 10.0 ** rng.integers(-8, 9, 52)])
    return rng.permutation(many).astype(dtype)


def integers(dtype: Any, seed: int) -> Array:
    info = np.iinfo(dtype)
    rng = np.random.default_rng(seed)
    special = np.array([0, 1, 2, info.max, info.min, info.max - 1, 7, 31, 32, 33, 64, 63], dtype)
    many: Array = rng.permutation(
        np.concatenate([special, rng.integers(info.min, info.max, 52, dtype, endpoint=True)])
    )
    return many


SIGNED: dict[int, Any] = {4: np.int32, 8: np.int64}
FLOATS: dict[int, Any] = {4: np.float32, 8: np.float64}


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize(
    ("name", "numpy"),
    [
        ("add.rn", np.add), ("sub.rn", np.subtract), ("mul.rn", np.multiply), ("div.rn", np.divide),
        ("min", np.fmin), ("max", np.fmax), ("min.NaN", np.minimum), ("max.NaN", np.maximum),
    ],
)  # fmt: skip
def test_floats_are_rounded_once_in_their_own_type(name: str, numpy: np.ufunc, size: int) -> None:
    a, b = numbers(FLOATS[size], 1), numbers(FLOATS[size], 2)
    if "m" in name[0] and name[1] in "ia":  # fmin and fmax choose any zero
        a, b = a + FLOATS[size](0), b + FLOATS[size](0)
    r = REGISTERS[size]
    found = run(f"{name}.f{8 * size} {r}9, {r}0, {r}1;", a, b, result=FLOATS[size])
    with np.errstate(all="ignore"):
        same(found, numpy(a, b))


def test_the_smaller_zero_is_the_negative_one() -> None:
    a = np.tile(np.array([0.0, -0.0], np.float32), 32)
    for name, sign in (("min", True), ("max", False)):
        found = run(f"{name}.f32 %r9, %r0, %r1;", a, -a, result=np.float32)
        assert (np.signbit(found) == sign).all()


@pytest.mark.parametrize("size", [4, 8])
def test_functions_of_one_float(size: int) -> None:
    a, r, dtype = numbers(FLOATS[size], 3), REGISTERS[size], FLOATS[size]
    with np.errstate(all="ignore"):
        for name, expected in (
            ("sqrt.rn", np.sqrt(a)),
            ("rcp.rn", dtype(1) / a),
            ("neg", -a),
            ("abs", np.abs(a)),
        ):
            same(run(f"{name}.f{8 * size} {r}9, {r}0;", a, result=dtype), expected)


@pytest.mark.parametrize("size", [4, 8])
def test_fma_rounds_once(size: int) -> None:
    dtype, r = FLOATS[size], REGISTERS[size]
    tiny = np.finfo(dtype).eps
    a = np.full(64, 1 + tiny, dtype)
    c = np.full(64, -(1 + 2 * tiny), dtype)
    found = run(f"fma.rn.f{8 * size} {r}9, {r}0, {r}0, {r}1;", a, c, result=dtype)
    same(found, np.full(64, float(tiny) ** 2, dtype))
    plain = run(
        f"mul.rn.f{8 * size} {r}9, {r}0, {r}0; add.rn.f{8 * size} {r}9, {r}9, {r}1;", a, c, result=dtype
    )
    assert not plain.any()


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("signed", [True, False])
def test_integers_wrap(size: int, signed: bool) -> None:
    dtype = SIGNED[size] if signed else {4: np.uint32, 8: np.uint64}[size]
    a, b, r = integers(dtype, 4), integers(dtype, 5), REGISTERS[size]
    kind = f"{'s' if signed else 'u'}{8 * size}"
    exact = [(int(x), int(y)) for x, y in zip(a, b, strict=True)]
    wrapped: dict[str, list[int | None]] = {
        "add": [x + y for x, y in exact],
        "sub": [x - y for x, y in exact],
        "mul.lo": [x * y for x, y in exact],
        "mul.hi": [x * y >> 8 * size for x, y in exact],
        "div": [abs(x) // abs(y) * (-1 if (x < 0) != (y < 0) else 1) if y else None for x, y in exact],
        "rem": [abs(x) % abs(y) * (-1 if x < 0 else 1) if y else None for x, y in exact],
        "min": [min(pair) for pair in exact],
        "max": [max(pair) for pair in exact],
    }
    for name, expected in wrapped.items():
        found = run(f"{name}.{kind} {r}9, {r}0, {r}1;", a, b, result=dtype)
        for value, right in zip(found, expected, strict=True):
            assert right is None or int(value) % 256**size == right % 256**size, name


def test_wide_products_and_sums() -> None:
    a, b, c = integers(np.int32, 6), integers(np.int32, 7), integers(np.int64, 8)
    wide = a.astype(np.int64) * b.astype(np.int64)
    same(run("mul.wide.s32 %d9, %r0, %r1;", a, b, result=np.int64), wide)
    same(run("mad.wide.s32 %d9, %r0, %r1, %d2;", a, b, c, result=np.int64), wide + c)
    same(run("mad.lo.s32 %r9, %r0, %r1, %r1;", a, b, result=np.int32), (wide + b).astype(np.int32))
    u, v = a.view(np.uint32), b.view(np.uint32)
    same(run("mul.wide.u32 %d9, %r0, %r1;", u, v, result=np.uint64), u.astype(np.uint64) * v)


def test_bits() -> None:
    a, b = integers(np.uint32, 9), integers(np.uint32, 10)
    n = np.arange(64, dtype=np.uint32)
    exact = [int(x) for x in a]
    same(run("and.b32 %r9, %r0, %r1;", a, b), a & b)
    same(run("or.b32 %r9, %r0, %r1;", a, b), a | b)
    same(run("xor.b32 %r9, %r0, %r1;", a, b), a ^ b)
    same(run("not.b32 %r9, %r0;", a), ~a)
    same(run("shl.b32 %r9, %r0, %r1;", a, n), _u32([x << k for x, k in zip(exact, range(64), strict=True)]))
    same(run("shr.u32 %r9, %r0, %r1;", a, n), _u32([x >> k for x, k in zip(exact, range(64), strict=True)]))
    signed = [int(x) >> k for x, k in zip(a.view(np.int32), range(64), strict=True)]
    same(run("shr.s32 %r9, %r0, %r1;", a, n), _u32(signed))
    same(run("popc.b32 %r9, %r0;", a), _u32([x.bit_count() for x in exact]))
    same(run("clz.b32 %r9, %r0;", a), _u32([32 - x.bit_length() for x in exact]))
    pairs = list(zip(exact, map(int, b), strict=True))
    left = [((y << 32 | x) << 7 >> 32) for x, y in pairs]
    same(run("shf.l.wrap.b32 %r9, %r0, %r1, 7;", a, b), _u32(left))
    same(run("shf.r.clamp.b32 %r9, %r0, %r1, 40;", a, b), b)


def _u32(values: list[int]) -> Array:
    return np.array([value % 2**32 for value in values], np.uint32)


def test_fields_of_bits() -> None:
    a, b = integers(np.uint32, 11), integers(np.uint32, 12)
    same(run("bfe.u32 %r9, %r0, 5, 9;", a), a >> 5 & 511)
    same(run("bfe.s32 %r9, %r0, 5, 9;", a), (a.view(np.int32) << 18 >> 23).view(np.uint32))
    same(run("bfe.s32 %r9, %r0, 28, 9;", a), (a.view(np.int32) >> 28).view(np.uint32))
    same(run("bfe.u32 %r9, %r0, 0, 32;", a), a)
    same(run("bfi.b32 %r9, %r0, %r1, 8, 8;", a, b), (b & ~np.uint32(0xFF00)) | (a & 255) << 8)
    same(run("prmt.b32 %r9, %r0, %r1, 0x5410;", a, b), (a & 0xFFFF) | b << 16)
    same(run("prmt.b32 %r9, %r0, %r1, 0x0123;", a, b), a.byteswap())
    signs = np.where(a >> 31, np.uint32(2**32 - 1), np.uint32(0))
    same(run("prmt.b32 %r9, %r0, 0, 0xBBBB;", a), signs)


@pytest.mark.parametrize("name", "eq ne lt le gt ge equ neu ltu leu gtu geu num nan".split())
def test_comparisons_of_floats(name: str) -> None:
    a, b = numbers(np.float32, 13), numbers(np.float32, 14)
    b[:8] = a[:8]
    unordered = np.isnan(a) | np.isnan(b)
    plain = {
        "eq": a == b, "ne": a != b, "lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b,
        "num": ~unordered, "nan": unordered,
    }  # fmt: skip
    expected = plain[name] & ~unordered if name in plain and name != "nan" else plain.get(name, unordered)
    if name not in plain:
        expected = plain[name[:-1]] | unordered
    found = run(f"setp.{name}.f32 %p1, %r0, %r1; selp.b32 %r9, 1, 0, %p1;", a, b)
    same(found, expected.astype(np.uint32))


def test_comparisons_of_integers_and_combined_ones() -> None:
    a, b = integers(np.uint32, 15), integers(np.uint32, 16)
    b[::3] = a[::3]
    s, t = a.view(np.int32), b.view(np.int32)
    for spelled, expected in (
        ("lt.s32", s < t), ("ge.u32", a >= b), ("ne.b32", a != b), ("lo.u32", a < b), ("hs.u32", a >= b),
    ):  # fmt: skip
        found = run(f"setp.{spelled} %p1, %r0, %r1; selp.u32 %r9, 1, 0, %p1;", a, b)
        same(found, expected.astype(np.uint32))
    low = "setp.lt.u32 %p2, %r0, 1000;"
    found = run(f"{low} setp.eq.or.s32 %p1|%p3, %r0, %r1, !%p2; selp.u32 %r9, 1, 0, %p1;", a, b)
    same(found, ((a == b) | (a >= 1000)).astype(np.uint32))
    found = run(f"{low} setp.eq.and.s32 %p1|%p3, %r0, %r1, %p2; selp.u32 %r9, 1, 0, %p3;", a, b)
    same(found, ((a != b) & (a < 1000)).astype(np.uint32))
    found = run(f"{low} setp.lt.s32 %p1, %r0, 0; xor.pred %p4, %p1, %p2; @%p4 mov.u32 %r9, 5;", a)
    same(found, np.where((s < 0) ^ (a < 1000), 5, 0).astype(np.uint32))


def test_conversions_of_integers() -> None:
    a = integers(np.int32, 17)
    same(run("cvt.s64.s32 %d9, %r0;", a, result=np.int64), a.astype(np.int64))
    same(run("cvt.u64.u32 %d9, %r0;", a, result=np.uint64), a.view(np.uint32).astype(np.uint64))
    same(run("cvt.s32.s8 %r9, %r0;", a, result=np.int32), a.astype(np.int8).astype(np.int32))
    same(run("cvt.u32.u16 %r9, %r0;", a, result=np.int32), a.astype(np.uint16).astype(np.int32))
    b = integers(np.int64, 18)
    same(run("cvt.u32.u64 %r9, %d0;", b), b.astype(np.uint32))
    same(run("cvt.rn.f32.s64 %r9, %d0;", b, result=np.float32), b.astype(np.float32))
    same(run("cvt.rn.f64.u32 %d9, %r0;", a, result=np.float64), a.view(np.uint32).astype(np.float64))


def test_conversions_of_floats_to_integers_saturate() -> None:
    a = numbers(np.float64, 19)
    a[:4] = 2.5, -2.5, 3.5, 1e18
    for mode, rounded in (
        ("rni", np.rint(a)),
        ("rzi", np.trunc(a)),
        ("rmi", np.floor(a)),
        ("rpi", np.ceil(a)),
    ):
        expected = [0 if np.isnan(x) else int(min(max(x, -(2.0**31)), 2.0**31 - 1)) for x in rounded]
        same(run(f"cvt.{mode}.s32.f64 %r9, %d0;", a, result=np.int32), np.array(expected, np.int32))
        same(run(f"cvt.{mode}.f64.f64 %d9, %d0;", a, result=np.float64), rounded)
    unsigned = run("cvt.rzi.u64.f64 %d9, %d0;", np.full(64, -1.0), result=np.uint64)
    assert not unsigned.any()
    lost = run("cvt.rzi.s64.f64 %d9, %d0;", np.full(64, np.nan), result=np.int64)
    assert (lost == np.iinfo(np.int64).min).all()
    top = run("cvt.rzi.s64.f64 %d9, %d0;", np.full(64, 1e300), result=np.int64)
    assert (top == np.iinfo(np.int64).max).all()


def test_conversions_between_floats() -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    a, wide = numbers(np.float32, 20), numbers(np.float64, 21)
    a[:6] = 65519.0, 65520.0, 1.00048828125, 1.00390625, 6e-8, 3.3895e38
    with np.errstate(all="ignore"):
        same(run("cvt.rn.f32.f64 %r9, %d0;", wide, result=np.float32), wide.astype(np.float32))
        same(run("cvt.f64.f32 %d9, %r0;", a, result=np.float64), a.astype(np.float64))
        half, brain = a.astype(np.float16), a.astype(bfloat16)
    same(run("cvt.rn.f16.f32 %h9, %r0;", a, result=np.float16), half)
    same(run("cvt.f32.f16 %r9, %h0;", half, result=np.float32), half.astype(np.float32))
    found = run("cvt.rn.bf16.f32 %h9, %r0;", a, result=np.uint16).view(bfloat16)
    same(found.astype(np.float32), brain.astype(np.float32))
    same(run("cvt.f32.bf16 %r9, %h0;", brain.view(np.uint16), result=np.float32), brain.astype(np.float32))
    packed = run("cvt.rn.bf16x2.f32 %r9, %r0, %r1;", a[::-1].copy(), a).view(np.uint16).view(bfloat16)
    same(packed[::2].astype(np.float32), brain.astype(np.float32))
    same(packed[1::2].astype(np.float32), brain[::-1].astype(np.float32))


def test_moves_pack_and_unpack() -> None:
    a, b = integers(np.uint32, 22), integers(np.uint32, 23)
    same(
        run("mov.b64 %d9, {%r0, %r1};", a, b, result=np.uint64),
        a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32),
    )
    both = run("mov.b64 %d9, {%r0, %r1}; mov.b64 {%r2, %r3}, %d9; sub.u32 %r9, %r2, %r3;", a, b)
    same(both, a - b)
    same(run("mov.b32 {%h0, %h1}, %r0; mov.b32 %r9, {%h1, %h0};", a), a << 16 | a >> 16)
    same(run("mov.b32 {_, %h1}, %r0; cvt.u32.u16 %r9, %h1;", a), a >> 16)


def test_constants_are_of_their_instructions_type() -> None:
    a = numbers(np.float32, 24)
    with np.errstate(all="ignore"):
        same(run("mul.rn.f32 %r9, %r0, 0f3E800000;", a, result=np.float32), a * np.float32(0.25))
    wide = run("cvt.f64.f32 %d0, %r0; mul.rn.f64 %d9, %d0, 0d3FD0000000000000;", a, result=np.float64)
    same(wide, a.astype(np.float64) * 0.25)
    same(run("add.s32 %r9, %r0, -5;", a.view(np.uint32)), a.view(np.uint32) - np.uint32(5))


LOOP = """
    mov.u32 %r9, 0;
    mov.u32 %r1, 0;
$again:
    setp.ge.u32 %p1, %r1, %r0;
    @%p1 bra $end;
    and.b32 %r2, %r1, 1;
    setp.eq.u32 %p2, %r2, 0;
    @!%p2 bra $odd;
    add.u32 %r9, %r9, %r1;
    bra.uni $next;
$odd:
    sub.u32 %r9, %r9, 1;
$next:
    add.u32 %r1, %r1, 1;
    bra $again;
$end:
"""


def test_threads_take_their_own_ways() -> None:
    count = np.arange(128, dtype=np.uint32) * 7 % 23
    expected = [sum(k if k % 2 == 0 else -1 for k in range(n)) for n in count]
    same(run(LOOP, count, grid=2), _u32(expected))


def test_warps_exchange_registers() -> None:
    a = integers(np.uint32, 25)
    lanes = np.arange(64)
    same(run("shfl.sync.bfly.b32 %r9, %r0, 5, 31, -1;", a), a[lanes ^ 5])
    down = run("shfl.sync.down.b32 %r9|%p1, %r0, 4, 0x181f, -1; @!%p1 mov.u32 %r9, 0;", a)
    same(down, np.where(lanes % 8 < 4, a[(lanes + 4) % 64], 0).astype(np.uint32))
    up = run("shfl.sync.up.b32 %r9, %r0, 1, 0, -1;", a)
    same(up, np.where(lanes % 32 == 0, a, a[lanes - 1]))
    same(run("shfl.sync.idx.b32 %r9, %r0, 3, 31, -1;", a), a[lanes // 32 * 32 + 3])
    odd = "and.b32 %r1, %r0, 1; setp.ne.u32 %p1, %r1, 0;"
    ballots = [sum(int(x & 1) << i for i, x in enumerate(half)) for half in (a[:32], a[32:])]
    same(run(f"{odd} vote.sync.ballot.b32 %r9, %p1, -1;", a), np.repeat(_u32(ballots), 32))
    found = run(f"{odd} vote.sync.all.pred %p2, !%p1, -1; selp.b32 %r9, 1, 0, %p2;", a & np.uint32(2))
    assert (found == 1).all()


def test_atomics_take_turns() -> None:
    memory = Memory(1 << 20)
    total, smallest = memory.put(np.zeros(1, np.uint32)), memory.put(np.full(1, 99, np.int32))
    order = memory.allocate(4 * 128)
    machine = kernel(
        """
        atom.global.add.u32 %r1, [%d40], 1;
        sub.s32 %r2, 5, %r52;
        red.global.min.s32 [%d41], %r2;
        mul.wide.u32 %d1, %r1, 4;
        add.s64 %d1, %d1, %d42;
        st.global.u32 [%d1], %r52;
        atom.global.cas.b32 %r3, [%d41], 99, 98;
        """,
        3,
    )
    machine.launch(memory, 2, (total, smallest, order), threads=64)
    assert memory.get(total, np.empty(1, np.uint32)) == 128
    assert memory.get(smallest, np.empty(1, np.int32)) == 5 - 127
    same(np.sort(memory.get(order, np.empty(128, np.uint32))), np.arange(128, dtype=np.uint32))


def test_vectors_constants_and_local_memory() -> None:
    memory = Memory(1 << 20)
    values = np.arange(256, dtype=np.float32)
    source, target = memory.put(values), memory.allocate(values.nbytes)
    outside = ".const .align 4 .b8 table[8] = {1, 0, 0, 0, 2, 0, 0, 0};"
    body = """
    .local .align 16 .b8 __local_depot0[32];
    .reg .b64 %SP;
    .reg .b64 %SPL;
    mov.u64 %SPL, __local_depot0;
    cvta.local.u64 %SP, %SPL;
    mul.wide.u32 %d1, %r52, 16;
    add.s64 %d2, %d40, %d1;
    add.s64 %d3, %d41, %d1;
    ld.global.v4.f32 {%r1, %r2, %r3, %r4}, [%d2];
    st.local.v2.f32 [%SPL+8], {%r3, %r4};
    ld.v2.b32 {%r5, %r6}, [%SP+8];
    ld.const.u32 %r7, [table+4];
    cvt.rn.f32.u32 %r7, %r7;
    mul.rn.f32 %r1, %r1, %r7;
    st.global.v4.b32 [%d3], {%r1, %r2, %r6, %r5};
    """
    kernel(body, 2, outside).launch(memory, 1, (source, target), threads=64)
    expected = values.reshape(-1, 4)[:, [0, 1, 3, 2]] * np.array([2, 1, 1, 1], np.float32)
    same(memory.get(target, values), expected.reshape(-1))


# each thread leaves its number for the thread beside it
EXCHANGE = """
    .shared .align 4 .b8 places[256];
    mul.lo.u32 %r1, %r50, 4;
    mov.u32 %r2, places;
    add.u32 %r3, %r2, %r1;
    st.shared.u32 [%r3], %r0;
    {first}
    xor.b32 %r4, %r1, {distance};
    add.u32 %r5, %r2, %r4;
    ld.shared.u32 %r9, [%r5];
    {second}
    st.shared.u32 [%r3], %r9;
"""
BARRIER, WARP_BARRIER = "bar.sync 0;", "bar.warp.sync -1;"


def test_barriers_order_a_block() -> None:
    a = integers(np.uint32, 26)
    everyone = np.arange(64)
    found = run(EXCHANGE.format(first=BARRIER, second=BARRIER, distance=128), a)
    same(found, a[everyone ^ 32])
    found = run(EXCHANGE.format(first=WARP_BARRIER, second="barrier.sync 0;", distance=4), a)
    same(found, a[everyone ^ 1])


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [
        ("", BARRIER, 128),
        (BARRIER, "", 128),
        (WARP_BARRIER, BARRIER, 128),
        (BARRIER, "", 4),
        ("", BARRIER, 4),
    ],
)
def test_a_missing_barrier_is_a_race(first: str, second: str, distance: int) -> None:
    a = integers(np.uint32, 27)
    with pytest.raises(MachineError, match=r"\.shared\.u32 .* of thread \d+ of block 0 "):
        run(EXCHANGE.format(first=first, second=second, distance=distance), a)


def test_a_barrier_that_some_never_reach() -> None:
    with pytest.raises(MachineError, match="thread 8 waits at a barrier, and thread 0 has ended"):
        kernel("setp.lt.u32 %p1, %r50, 8; @%p1 ret; bar.sync 0;").launch(Memory(4096), 1, [0], threads=64)
    two = "setp.lt.u32 %p1, %r50, 8; @%p1 bra $a; bar.sync 0; bra $b; $a: bar.sync 0; $b:"
    with pytest.raises(MachineError, match="waits at another one"):
        kernel(two).launch(Memory(4096), 1, [0], threads=64)


PLACE = "shl.b32 %r1, %r52, 2; cvt.u64.u32 %d1, %r1; add.s64 %d2, %d40, %d1;"


@pytest.mark.parametrize(
    ("body", "count", "grid", "message"),
    [
        (f"{PLACE} ld.global.u32 %r2, [%d2];", 63, 1, "thread 63 of block 0 is outside all that"),
        (f"{PLACE} ld.global.u32 %r2, [%d2+-4];", 64, 1, "thread 0 of block 0 is outside"),
        (f"{PLACE} st.global.u32 [%d2+-536870912], %r1;", 64, 1, "thread 0 of block 0 is outside"),
        (f"{PLACE} st.global.b64 [%d2], %d2;", 66, 1, "thread 1 of block 0 is not aligned to 8 bytes"),
        (f"{PLACE} st.global.v2.b32 [%d2], {{%r1, %r1}};", 66, 1, "thread 1 .* not aligned to 8"),
        ("st.global.u32 [%d40], %r50;", 1, 1, "races with thread 63 of block 0, which wrote"),
        ("st.global.u32 [%d40], %r51;", 1, 2, "races with thread"),
        (f"{PLACE} xor.b32 %r3, %r50, 1; shl.b32 %r3, %r3, 2; cvt.u64.u32 %d3, %r3; add.s64 %d3, %d3, %d40;"
         "ld.global.u32 %r4, [%d3]; st.global.u32 [%d2], %r4;", 64, 1, "races with thread 1 .* which read"),
        ("ld.global.u32 %r4, [%d40]; bar.sync 0; setp.eq.u32 %p1, %r52, 70; @%p1 st.global.u32 [%d40], %r4;",
         1, 2, "thread 6 of block 1 (races|writes what several threads read)"),
        ("atom.global.add.u32 %r1, [%d40], 1; ld.global.u32 %r2, [%d40];", 1, 1, "atomically changed"),
    ],
)  # fmt: skip
def test_wrong_accesses_are_found(body: str, count: int, grid: int, message: str) -> None:
    memory = Memory(1 << 20)
    array = np.zeros(count, np.uint32)
    with pytest.raises(MachineError, match=message):
        kernel(body).launch(memory, grid, [memory.put(array)], threads=64)


def test_accesses_of_one_launch_do_not_race_with_the_next() -> None:
    memory = Memory(1 << 20)
    address = memory.put(np.zeros(64, np.uint32))
    turn = f"{PLACE} xor.b64 %d3, %d2, 4; ld.global.u32 %r4, [%d3]; bar.sync 0; st.global.u32 [%d2], %r4;"
    machine = kernel(turn)
    for _ in range(3):
        machine.launch(memory, 1, [address], threads=64)


def test_memory_that_nothing_has_written() -> None:
    memory = Memory(1 << 20)
    load = kernel(f"{PLACE} ld.global.u32 %r2, [%d2];")
    store = kernel(f"{PLACE} setp.ne.u32 %p1, %r50, 5; @%p1 st.global.u32 [%d2], %r1;")
    address = memory.allocate(256)
    store.launch(memory, 1, [address], threads=64)
    with pytest.raises(MachineError, match="thread 5 of block 0 reads memory that nothing has written"):
        load.launch(memory, 1, [address], threads=64)
    shared = ".shared .align 4 .b8 place[4]; mov.u32 %r1, place; ld.shared.u32 %r2, [%r1];"
    with pytest.raises(MachineError, match="nothing has written"):
        kernel(shared).launch(memory, 1, [0], threads=64)
    memory.free(address)
    with pytest.raises(MachineError, match="outside all that is allocated"):
        store.launch(memory, 1, [address], threads=64)


def test_shared_memory_ends() -> None:
    body = """
    .shared .align 4 .b8 place[128];
    mov.u32 %r1, place;
    mad.lo.u32 %r1, %r50, 4, %r1;
    st.shared.u32 [%r1], 0;
    """
    with pytest.raises(MachineError, match="thread 32 of block 0 is outside the 128 bytes of shared memory"):
        kernel(body).launch(Memory(4096), 1, [0], threads=64)


@pytest.mark.parametrize(
    "instruction",
    [
        "ex2.approx.f32 %r1, %r2", "div.full.f32 %r1, %r2, %r3", "add.ftz.f32 %r1, %r2, %r3",
        "mul.rz.f32 %r1, %r2, %r3", "cvt.rz.f32.f64 %r1, %d2", "sqrt.approx.f32 %r1, %r2", "bar.sync 1, 64",
        "ld.global.nc.u32 %r1, [%d1]", "add.s32 %r1, %r2, nowhere", "bar.red.popc.u32 %r1, 0, %p1",
    ],
)  # fmt: skip
def test_what_is_unknown_or_inexact_is_refused(instruction: str) -> None:
    with pytest.raises(MachineError, match=instruction.split(".")[0]):
        kernel(f"{instruction};").launch(Memory(4096), 1, [0], threads=64)


def test_some_threads_of_a_warp_cannot_shuffle() -> None:
    body = "setp.lt.u32 %p1, %r50, 8; @%p1 bra $end; shfl.sync.bfly.b32 %r1, %r50, 1, 31, -1; $end:"
    with pytest.raises(MachineError, match="only some threads of a warp"):
        kernel(body).launch(Memory(4096), 1, [0], threads=64)
