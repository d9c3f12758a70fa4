"""Flat entries on the PTX machine against NumPy, bit for bit, and what their PTX looks like."""

import inspect
import re
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cuda_launch import SM_90, launch, same_bits
from ptx_machine import Memory

from stepspec import noise
from stepspec.cuda import elements
from stepspec.cuda.kernels import Kernel
from stepspec.cuda.passes import passes
from stepspec.formats import HALF, Formats
from stepspec.generated import ftml_cuda, sgd_cuda

pytestmark = pytest.mark.xdist_group("ptx")

Array = np.ndarray[Any, Any]

DTYPES = {name: np.dtype(name) for name in ("float16", "float32", "float64")}
DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
PLAIN = [Formats.plain(name) for name in DTYPES]
MASTERS = [Formats("float32", name, "float32", copy=name) for name in HALF]
MIXED = [
    Formats("float64", "float32", "float64"),
    Formats("float64", "float16", "float64"),
    Formats("float32", "float64", "float32"),
    Formats("bfloat16", "float32", "bfloat16"),
    Formats("float32", "float16", "float32", copy="bfloat16"),
]
NOISY = [replace(Formats.plain(name), stochastic=True) for name in HALF]
# none; less than a packet; packets, with and without more; a whole chunk; several, and a packet's part
SHAPES = [(0, 3), (1, 1), (3, 1), (4, 1), (2, 130), (1, 4096), (3, 2731), (4097, 1)]
SCALARS = {"lr": 0.1, "momentum": 0.9}
SPECIALS = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -3e-42, 6e-8, 65519.0, 65520.0, 3.4e38, 1e-45]


@elements(reads=("weight", "grad", "mom"), writes=("weight", "mom"))
def momentum_step(weight: Any, grad: Any, mom: Any, lr: Any, momentum: Any) -> Any:
    new_mom = momentum * mom + lr * grad
    return weight - new_mom, new_mom


@elements(reads=("grad",), writes=("weight",))
def assign(grad: Any) -> Any:
    return grad


@elements(reads=("weight",), writes=("weight",))
def identity(weight: Any) -> Any:
    return weight


def label(formats: Formats) -> str:
    words = [formats.weight, formats.grad, formats.state, formats.copy, "stochastic" * formats.stochastic]
    return "-".join(word for word in words if word)


def draw(size: int, dtype: str, seed: int) -> Array:
    """Return random numbers with some special ones among them."""
    rng = np.random.default_rng([size, seed])
    values = rng.standard_normal(size) * 10.0 ** rng.integers(-9, 6, size)
    places = rng.random(size) < 0.2
    values[places] = rng.choice(SPECIALS, np.count_nonzero(places))
    with np.errstate(all="ignore"):
        return values.astype(np.float32).astype(DTYPES[dtype])


class Tensors:
    """Arrays of some tensors, on the host and in the machine's memory."""

    def __init__(self, kernel: Kernel, formats: Formats, shapes: list[tuple[int, int]], shift: int) -> None:
        self.kernel, self.formats, self.shapes = kernel, formats, shapes
        self.memory = Memory(1 << 22)
        storage = {"weight": formats.weight, "grad": formats.grad, "mom": formats.state}
        names = [parameter.name for parameter in kernel.arrays]
        self.arrays = {
            name: [draw(rows * columns, storage[name], seed) for rows, columns in shapes]
            for seed, name in enumerate(names)
        }
        if formats.copy:
            self.arrays["copy"] = [
                np.zeros(array.size, DTYPES[formats.copy]) for array in self.arrays["weight"]
            ]
        self.addresses = {
            name: [self._put(array, shift) for array in arrays] for name, arrays in self.arrays.items()
        }
        self.keys = [noise.tensor_key(5, str(tensor)) for tensor in range(len(shapes))]

    def _put(self, array: Array, shift: int) -> int:
        """Return the address of an array that lies so many elements behind an aligned address."""
        behind = np.concatenate([np.zeros(shift, array.dtype), array])
        return self.memory.put(behind) + shift * array.itemsize

    def run(self, grid: int) -> None:
        count = len(self.shapes)
        rows: dict[str, Any] = {name: [value] * count for name, value in SCALARS.items()}
        rows |= {**self.addresses, "noise_key": self.keys, "noise_count": [2**33 + 9] * count}
        (this,) = passes(self.kernel, self.formats)
        launch(self.memory, this, self.shapes, rows, grid)

    def got(self, name: str) -> list[Array]:
        pairs = zip(self.addresses[name], self.arrays[name], strict=True)
        return [self.memory.get(address, like=array) for address, array in pairs]

    def expected(self) -> dict[str, list[Array]]:
        """Return the arrays after the step in NumPy."""
        found: dict[str, list[Array]] = {name: list(arrays) for name, arrays in self.arrays.items()}
        number = DTYPES[self.formats.compute].type
        scalars = {name: number(SCALARS[name]) for name in self.kernel.scalars}
        taken = set(inspect.signature(self.kernel.function).parameters)  # type: ignore[arg-type]  # never None
        for tensor in range(len(self.shapes)):
            with np.errstate(all="ignore"):
                wide = {name: found[name][tensor].astype(number) for name in taken & found.keys()}
                results = self.kernel.function(**wide, **scalars)  # type: ignore[misc]  # never None here
            results = results if isinstance(results, tuple) else (results,)
            for name, values in zip(self.kernel.writes, results, strict=True):
                found[name][tensor] = self._stored(name, tensor, values)
                if name == "weight" and self.formats.copy:
                    with np.errstate(all="ignore"):
                        found["copy"][tensor] = values.astype(DTYPES[self.formats.copy])
        return found

    def _stored(self, name: str, tensor: int, values: Array) -> Array:
        dtype = self.arrays[name][tensor].dtype
        if name == "weight" and self.formats.stochastic:
            words = noise.words(self.keys[tensor], 9, values.shape)
            return noise.round_stochastically(values, dtype, words)
        with np.errstate(all="ignore"):
            return values.astype(dtype)

    def check(self, grid: int = 3) -> None:
        self.run(grid)
        for name, arrays in self.expected().items():
            for got, want, shape in zip(self.got(name), arrays, self.shapes, strict=True):
                assert same_bits(got, want), (name, shape)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("formats", [*PLAIN, *MASTERS, *MIXED, *NOISY], ids=label)
def test_every_storage_has_the_bits_of_numpy(formats: Formats, shift: int) -> None:
    """With `shift`, arrays do not begin at multiples of 16 bytes: element by element."""
    Tensors(momentum_step, formats, SHAPES, shift).check()


@pytest.mark.parametrize("grid", [1, 2, 40])
def test_any_grid_does_all_items(grid: int) -> None:
    Tensors(momentum_step, PLAIN[1], SHAPES, 0).check(grid)


@pytest.mark.parametrize("name", HALF)
def test_every_half_is_widened(name: str) -> None:
    """A scaled gradient of all halves, from zero."""
    every = np.arange(2**16, dtype=np.uint16).view(DTYPES[name])
    tensors = Tensors(momentum_step, Formats("float32", name, "float32"), [(256, 256)], 0)
    tensors.memory.bytes_at(tensors.addresses["grad"][0], every.nbytes)[:] = every.view(np.uint8)
    tensors.arrays["grad"] = [every]
    tensors.check(16)


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("name", HALF)
def test_float32_is_rounded(name: str, stochastic: bool) -> None:
    """What lies around the middles between neighbouring halves, and a share of all float32."""
    halves = np.arange(2**16, dtype=np.uint16).view(DTYPES[name]).astype(np.float32)
    sorted_halves = np.unique(halves[np.isfinite(halves)])
    middles = (sorted_halves[:-1] / 2 + sorted_halves[1:] / 2).astype(np.float32)
    around = [np.nextafter(middles, np.float32(limit)) for limit in (-np.inf, np.inf)]
    anything = np.random.default_rng(4).integers(0, 2**32, 2**15, dtype=np.uint32).view(np.float32)
    values = np.concatenate([middles, *around, anything, halves])
    formats = Formats(name, "float32", name, stochastic=stochastic)
    tensors = Tensors(assign, formats, [(len(values), 1)], 0)
    tensors.memory.bytes_at(tensors.addresses["grad"][0], values.nbytes)[:] = values.view(np.uint8)
    tensors.arrays["grad"] = [values]
    tensors.check(64)


@pytest.mark.parametrize(
    ("kernel", "most"), [(sgd_cuda.update_mom, 64), (ftml_cuda.update, 128)], ids=["sgd", "ftml"]
)
def test_registers_and_accesses(kernel: Kernel, most: int) -> None:
    """Numbers stay in registers, so few that four blocks have room (of FTML two), and go in wide accesses."""
    for formats in (PLAIN[1], PLAIN[2], PLAIN[3], MASTERS[0]):
        (this,) = passes(kernel, formats)
        code = this.code(SM_90)
        assert code.registers <= most, formats
        assert code.stack == code.spills == code.shared == 0, formats
        wide = re.findall(r"(ld|st)\.global\.v[24]\.[fu](?:32|64)", code.ptx)
        assert wide.count("ld") >= 2 * len(kernel.arrays), formats
        assert wide.count("st") >= 2 * len(kernel.writes), formats


def test_loads_come_before_their_use() -> None:
    """Of two packets of three arrays in a whole chunk, all six are asked for before anything is computed."""
    (this,) = passes(momentum_step, PLAIN[1])
    code = re.findall(r"(?:ld|st)\.global\.v4|mul\.rn\.f32", this.code(SM_90).ptx)
    text = " ".join(code).replace("ld.global.v4", "L").replace("st.global.v4", "S").replace("mul.rn.f32", "m")
    assert "L L L L L L m" in text


def test_elements_of_a_huge_tensor_have_64_bit_positions() -> None:
    """Only the last two chunks of one of more than 2**33 elements are there."""
    behind, size = 2**33 - 4096, 4096 + 5
    memory = Memory(1 << 20)
    arrays = [draw(size, "float32", seed) for seed in range(3)]
    places = [memory.put(array) for array in arrays]
    names = ("weight", "grad", "mom")
    rows: dict[str, list[float]] = {name: [value] for name, value in SCALARS.items()}
    rows |= {name: [place - 4 * behind] for name, place in zip(names, places, strict=True)}
    (this,) = passes(momentum_step, PLAIN[1])
    launch(memory, this, [(behind + size, 1)], rows, first=behind // 4096)
    with np.errstate(all="ignore"):
        want: Any = momentum_step.functions[0](*arrays, *map(np.float32, SCALARS.values()))
    for place, values in zip((places[0], places[2]), want, strict=True):
        assert same_bits(memory.get(place, like=values), values)


def test_chunks_of_a_huge_tensor_are_64_bit() -> None:
    (this,) = passes(momentum_step, PLAIN[1])
    assert this.parts(2**17, 2**16) == 2**21
    assert this.parts(0, 7) == 0
    assert this.parts(1, 4097) == 2


def test_equal_layouts_share_their_passes() -> None:
    """A gradient's storage makes no difference to a kernel that reads none."""
    first, second = (passes(identity, Formats("float32", grad, "float32")) for grad in ("float16", "float64"))
    assert first is second
