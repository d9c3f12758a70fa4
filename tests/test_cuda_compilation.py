"""Compiling for a GPU without one: device forms, what is refused, and the cache."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_launch import SM_90, launch, same_bits
from numba import cuda
from ptx_machine import Memory

from stepspec import arithmetic, reference
from stepspec.arithmetic import clip, maximum, minimum, power
from stepspec.cuda import compilation, elements, recipes
from stepspec.cuda.access import reader, word, writer
from stepspec.cuda.compilation import Code, compile_entry
from stepspec.cuda.device_code import device_form
from stepspec.cuda.driver import MissingCuda
from stepspec.cuda.kernels import Kernel
from stepspec.cuda.passes import passes
from stepspec.formats import Formats

pytestmark = pytest.mark.xdist_group("ptx")

FLOAT32 = Formats.plain("float32")
SPECIALS = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-40, 88.7, -103.9, 700.0, 22.1, 1e-3, -1e-8]
FUNCTIONS: list[tuple[Callable[..., Any], Callable[..., Any]]] = [
    (arithmetic.exp, reference.exp),
    (arithmetic.log, reference.log),
    (arithmetic.tanh, reference.tanh),
    (arithmetic.sqrt, np.sqrt),
    (arithmetic.sign, reference.sign),
    (arithmetic.square, np.square),
]

_read, _write = reader("float32", "float32"), writer("float32", "float32")


@elements(reads=("grad",), writes=("weight",))
def plain(grad: Any) -> Any:
    return grad + grad


def applied(function: Callable[..., Any]) -> Kernel:
    """Return the kernel of a function of one number."""
    return Kernel("elements", function, plain.arrays, plain.writes)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("function", "expected"), FUNCTIONS, ids=lambda pair: getattr(pair, "__name__", ""))
def test_functions_of_kernels_have_the_bits_of_the_reference(
    function: Any, expected: Callable[[Any], Any], dtype: str
) -> None:
    def of_gradient(grad: Any) -> Any:
        return function(grad)

    rng = np.random.default_rng(2)
    values = np.concatenate([SPECIALS, rng.standard_normal(2000) * 10.0 ** rng.integers(-6, 3, 2000)])
    with np.errstate(all="ignore"):
        values = values.astype(dtype)
        want = np.asarray(expected(values), dtype)
    assert same_bits(run(applied(of_gradient), values), want)


def run(kernel: Kernel, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return what a kernel makes of a gradient."""
    memory = Memory(1 << 20)
    grad, weight = memory.put(values), memory.put(np.zeros_like(values))
    (this,) = passes(kernel, Formats.plain(values.dtype.name))
    launch(memory, this, [(len(values), 1)], {"grad": [grad], "weight": [weight]})
    return memory.get(weight, like=values)


def test_functions_of_two_numbers() -> None:
    """Equal to the reference in every case of a NaN or a zero on either side."""

    def of_gradient(grad: Any) -> Any:
        return maximum(minimum(grad, -grad), clip(power(grad, 3), grad * grad))

    values = np.array(SPECIALS, np.float32)
    with np.errstate(all="ignore"):
        smaller = reference.minimum(values, -values)
        want = reference.maximum(smaller, reference.clip(reference.power(values, 3), values * values))
    assert same_bits(run(applied(of_gradient), values), want)


def test_products_and_sums_stay_apart() -> None:
    def of_gradient(grad: Any) -> Any:
        return grad * grad - grad

    (this,) = passes(applied(of_gradient), FLOAT32)
    ptx = this.code(SM_90).ptx
    assert "mul.rn.f32" in ptx
    assert "sub.rn.f32" in ptx


def test_a_contraction_is_refused() -> None:
    def entry(table: int, items: int, count: int) -> None:
        _write(items, 0, cuda.fma(_read(table, 0), _read(table, 1), _read(table, 2)))

    with pytest.raises(
        RuntimeError, match=r"contracting\.kernel: nvJitLink \d+\.\d+ contracted operations to fma"
    ):
        compile_entry(lambda: entry, "contracting.kernel", None, SM_90)


def test_what_has_no_device_form_is_named() -> None:
    something = object()

    def outer(x: Any) -> Any:
        return something(x)  # type: ignore[operator]  # that is what is wrong with it

    with pytest.raises(
        TypeError, match=r"test_cuda_compilation\..*outer: something is <object .*no device form"
    ):
        device_form(outer)


def test_a_module_of_this_package_is_refused() -> None:
    """Its functions are the CPU's, or NumPy's."""

    def outer(x: Any) -> Any:
        return arithmetic.square(x)

    with pytest.raises(TypeError, match="outer: import by name what it takes of arithmetic"):
        device_form(outer)


def test_an_attribute_may_have_the_name_of_a_global() -> None:
    """Of `x.real` in a module with a global `real`, only the latter is a global of the function."""
    namespace: dict[str, Any] = {"real": object(), "__name__": "somewhere"}
    exec("def function(x): return x.real", namespace)  # a function whose module has just these names
    device_form(namespace["function"])


def test_symbols_are_readable() -> None:
    code = passes(plain, FLOAT32)[0].code(SM_90)
    assert code.name == "test_cuda_compilation.plain-float32"
    assert code.symbol == "test_cuda_compilation_plain_float32"
    assert f".entry {code.symbol}(" in code.ptx
    assert code.symbol.encode() in code.cubin


def test_symbols_are_ascii(cache: Path) -> None:
    """PTX knows no other letters; names of modules may have them."""
    assert compile_entry(Made(), "größe.kernel", None, SM_90).symbol == "gr__e_kernel"


def test_a_gpu_that_nvjitlink_does_not_know_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"kernel: nvJitLink \d+\.\d+ takes no -arch=sm_990 .* --upgrade"):
        compile_entry(Made(), "kernel", None, (99, 0))


def test_code_survives_as_bytes() -> None:
    code = passes(plain, FLOAT32)[0].code(SM_90)
    assert Code.from_bytes(code.to_bytes()) == code


class Made:
    """Makes an entry, and counts how often."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> Callable[..., None]:
        self.count += 1

        def entry(table: int, items: int, count: int) -> None:
            for k in range(cuda.blockIdx.x, count, cuda.gridDim.x):
                _write(table, word(items, k), _read(table, k))

        return entry


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEPSPEC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_entry_is_compiled_once(cache: Path) -> None:
    make = Made()
    first, second = (compile_entry(make, "name", "stamp", SM_90) for _ in range(2))
    assert first == second
    assert make.count == 1
    assert [path.name.partition("-")[0] for path in cache.iterdir()] == ["name.sm_90"]


def test_what_makes_a_difference_is_in_the_key(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Made()
    compile_entry(make, "name", "stamp", SM_90)
    assert ".target sm_80" in compile_entry(make, "name", "stamp", (8, 0)).ptx
    compile_entry(make, "name", "another stamp", SM_90)
    monkeypatch.setattr(compilation, "_versions", lambda: ("later",))
    compile_entry(make, "name", "stamp", SM_90)
    assert make.count == 4
    assert len(list(cache.iterdir())) == 4


def test_a_damaged_file_is_compiled_again(cache: Path) -> None:
    make = Made()
    whole = compile_entry(make, "name", "stamp", SM_90)
    (path,) = cache.iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    for _ in range(2):
        assert compile_entry(make, "name", "stamp", SM_90).symbol == whole.symbol
        assert make.count == 2


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("STEPSPEC_CACHE_DIR", str(tmp_path / "file" / "cache"))
    make = Made()
    for count in (1, 2):
        assert compile_entry(make, "name", "stamp", SM_90).cubin
        assert make.count == count


def test_a_stamp_tells_kernels_apart() -> None:
    """Kernels of one function that write otherwise, and other formats; equal ones agree."""
    other = Kernel("elements", plain.function, plain.arrays[:1], ("grad",))
    stamps = [
        passes(kernel, formats)[0].stamp
        for kernel in (plain, other)
        for formats in (FLOAT32, Formats.plain("float64"))
    ]
    assert None not in stamps
    assert len(set(stamps)) == len(stamps)
    again = Kernel("elements", plain.function, plain.arrays, plain.writes)
    assert passes(again, FLOAT32)[0].stamp == stamps[0]


def test_closures_are_not_cached() -> None:
    factor = 3.0

    def scaled(grad: Any) -> Any:
        return factor * grad

    assert passes(applied(scaled), FLOAT32)[0].stamp is None


def test_a_stamp_depends_on_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    stamp = passes(plain, FLOAT32)[0].stamp
    monkeypatch.setattr(recipes, "source_stamp", lambda function: f"changed {function.__name__}")
    assert passes(applied(plain.function), FLOAT32)[0].stamp != stamp  # type: ignore[arg-type]  # never None here


def test_threads_may_compile_at_once(cache: Path) -> None:
    make, found = Made(), []
    threads = [
        threading.Thread(target=lambda: found.append(compile_entry(make, "name", "stamp", SM_90)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert make.count == 1


def test_a_missing_compiler_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> tuple[int, int]:
        raise RuntimeError("libnvJitLink.so.13 was not found")

    monkeypatch.setattr("cuda.bindings.nvjitlink.version", missing)
    compilation._versions.cache_clear()
    with pytest.raises(MissingCuda, match=r"stepspec\[cuda\].*libnvJitLink"):
        compile_entry(Made(), "name", "stamp", SM_90)


WITHOUT_NUMBA_CUDA = """
import sys
sys.modules["numba.cuda"] = None
from stepspec.cuda.driver import MissingCuda
from stepspec.cuda.passes import passes
from stepspec.formats import Formats
from stepspec.generated import sgd_cuda
try:
    passes(sgd_cuda.update, Formats.plain("float32"))
except MissingCuda as error:
    print(error)
"""


def test_without_numba_cuda_the_extra_is_named() -> None:
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT_NUMBA_CUDA], capture_output=True, text=True, check=True
    )
    assert "pip install 'stepspec[cuda]'" in found.stdout
