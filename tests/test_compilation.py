"""The disk cache of compiled kernels: what it notices, what it survives."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numba
import numpy as np
import pytest

from stepspec import compilation, cpu, sources
from stepspec.formats import Formats
from stepspec.machine_code import MachineCode

HELPERS = """
from stepspec.compilation import inlined

FACTOR = {factor}.0

@inlined
def scaled(x):
    return x * type(x)(FACTOR)
"""

KERNELS = """
from stepspec.cpu import elements
from {helpers} import scaled

@elements("weight")
def update(weight, rate):
    for i in range(weight.size):
        weight[i] = scaled(weight[i]) + rate
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("STEPSPEC_CACHE_DIR", str(folder))
    return folder


def load(name: str, folder: Path) -> ModuleType:
    """Import a file afresh, as a new process would."""
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def kernel(folder: Path, factor: int = 2, kernels: str = KERNELS) -> cpu.Kernel:
    """Write a module of kernels and one of helpers beside it, and import both."""
    folder.mkdir(exist_ok=True)
    for name, text in (("cache_helpers", HELPERS.format(factor=factor)), ("cache_kernels", kernels)):
        (folder / f"{name}.py").write_text(text.replace("{helpers}", "cache_helpers"))
        module = load(name, folder)
    made: cpu.Kernel = module.update
    return made


def result(update: cpu.Kernel, dtype: str = "float32") -> float:
    """Return what the kernel makes of 3 with a rate of 1."""
    weight = np.full(1, 3.0, dtype)
    rows = [np.array([weight.ctypes.data]), np.ones(1)]
    table = np.array([row.ctypes.data for row in rows])
    items = np.array([(update.address(Formats.plain(dtype)), table.ctypes.data, 0, 0, 1)])
    cpu.run(cpu.Work(items, np.arange(2)), 1)
    return float(weight[0])


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return "compiled" and "loaded" for each entry since the last call."""
    words = [record.message.split()[0] for record in caplog.records if "update" in record.message]
    caplog.clear()
    return words


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "stepspec")
    return caplog


def test_a_kernel_is_compiled_once(tmp_path: Path, cache: Path, log: pytest.LogCaptureFixture) -> None:
    assert result(kernel(tmp_path / "a")) == 7.0
    assert events(log) == ["compiled"]
    assert result(kernel(tmp_path / "a")) == 7.0
    assert events(log) == ["loaded"]
    assert result(kernel(tmp_path / "a"), "float64") == 7.0
    assert events(log) == ["compiled"]
    assert len(list(cache.glob("cache_kernels.update-float*.kernel"))) == 2


def test_a_changed_helper_constant_is_noticed(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    assert result(kernel(tmp_path / "a", factor=2)) == 7.0
    assert result(kernel(tmp_path / "a", factor=5)) == 16.0
    assert events(log) == ["compiled", "compiled"]
    assert result(kernel(tmp_path / "a", factor=2)) == 7.0
    assert events(log) == ["loaded"]


def test_a_changed_kernel_is_noticed(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    assert result(kernel(tmp_path / "a")) == 7.0
    assert result(kernel(tmp_path / "a", kernels=KERNELS.replace("+ rate", "- rate"))) == 5.0
    assert events(log) == ["compiled", "compiled"]


def test_the_key_covers_stepspec_itself() -> None:
    from stepspec import arithmetic

    found: set[Path] = set()
    sources._add_sources(Path(arithmetic.__file__), found)
    names = {path.name for path in found}
    assert {"arithmetic.py", "canonical.py", "compilation.py", "pointers.py", "transcendental.py"} <= names
    assert "__init__.py" not in names


@pytest.mark.parametrize("damage", [lambda b: b[:100], lambda b: b"", lambda b: b[:-9] + bytes(9)])
def test_damaged_files_are_compiled_again(
    damage: object, tmp_path: Path, cache: Path, log: pytest.LogCaptureFixture
) -> None:
    assert result(kernel(tmp_path / "a")) == 7.0
    assert callable(damage)
    for path in cache.glob("cache_kernels*"):
        path.write_bytes(damage(path.read_bytes()))
    events(log)
    assert result(kernel(tmp_path / "a")) == 7.0
    assert any("damaged" in record.message for record in log.records)
    assert "compiled" in events(log)
    assert result(kernel(tmp_path / "a")) == 7.0
    assert events(log) == ["loaded"]


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("STEPSPEC_CACHE_DIR", str(tmp_path / "file"))
    assert result(kernel(tmp_path / "a")) == 7.0
    assert any("cannot write the kernel cache" in record.message for record in log.records)


def test_functions_without_a_file_are_not_cached(cache: Path) -> None:
    names: dict[str, object] = {"__name__": "no_file"}
    exec("def update(weight, rate):\n    weight[0] = weight[0] + rate", names)
    assert result(cpu.elements("weight")(names["update"])) == 4.0  # type: ignore[arg-type]  # exec made it a function
    assert not list(cache.glob("no_file*"))


def test_code_that_needs_what_a_process_lacks_is_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    """LLVM would end the process if it were told to link a function to a name that nobody knows."""
    to_bytes = MachineCode.to_bytes

    def foreign(code: MachineCode) -> bytes:
        return to_bytes(replace(code, externals=("nobody_knows_this",)))

    with monkeypatch.context() as patch:
        patch.setattr(MachineCode, "to_bytes", foreign)
        assert result(kernel(tmp_path / "a")) == 7.0
    events(log)
    assert result(kernel(tmp_path / "a")) == 7.0
    assert any("nobody_knows_this" in record.message for record in log.records)
    assert "compiled" in events(log)
    assert result(kernel(tmp_path / "a")) == 7.0
    assert events(log) == ["loaded"]


def test_what_was_compiled_is_told(tmp_path: Path) -> None:
    name = "cache_kernels.update-float32"
    before = compilation.compiled_names()
    assert result(kernel(tmp_path / "a")) == 7.0
    assert compilation.compiled_names() == (*before, name)
    assert result(kernel(tmp_path / "a")) == 7.0
    assert compilation.compiled_names() == (*before, name)


def test_without_numbas_compiler_only_cached_kernels_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert result(kernel(tmp_path / "a")) == 7.0
    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)
    assert result(kernel(tmp_path / "a")) == 7.0
    with pytest.raises(RuntimeError, match=r"NUMBA_DISABLE_JIT is set: unset it, .* use_fused_step=False"):
        result(kernel(tmp_path / "a"), "float64")


def test_step_runs_without_numbas_compiler(cache: Path) -> None:
    text = (
        "import numpy as np, stepspec; weight, grad = np.ones((2, 3), np.float32); "
        "run = lambda **options: stepspec.SGD(**options).update([0], [weight], [grad], [{}]); "
        "run(use_fused_step=False); print(weight[0]); run()"
    )
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-c", text]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "0.9\n"
    assert "use_fused_step=False" in done.stderr.splitlines()[-1]


def test_equal_names_do_not_mix(tmp_path: Path) -> None:
    first, second = kernel(tmp_path / "a", 2), kernel(tmp_path / "b", 5)
    assert (result(second), result(first)) == (16.0, 7.0)
    # now from the cache, in the other order
    first, second = kernel(tmp_path / "a", 2), kernel(tmp_path / "b", 5)
    assert (result(first), result(second)) == (7.0, 16.0)


def test_processes_share_the_cache(tmp_path: Path, cache: Path) -> None:
    kernel(tmp_path / "a")
    text = (
        "from cache_kernels import update; from stepspec.formats import Formats; "
        "update.address(Formats.plain('float32')); update.address(Formats.plain('float64'))"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "a")}
    running = [subprocess.Popen([sys.executable, "-c", text], env=environment) for _ in range(4)]
    assert [process.wait(120) for process in running] == [0] * 4
    assert len(list(cache.glob("cache_kernels*"))) == 2
    assert not list(cache.glob("*.tmp"))


def test_without_a_home_nothing_is_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    """As in a container whose user has neither $HOME nor an entry in the password file."""

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("STEPSPEC_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(Path, "home", home)
    assert result(kernel(tmp_path / "a")) == 7.0
    assert any("set STEPSPEC_CACHE_DIR" in record.message for record in log.records)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_waits_for_whoever_compiles() -> None:
    """A child could never take a lock that is held by a thread which only its parent has."""
    held = threading.Event()

    def compile_something() -> None:
        with compilation.compiling:
            held.set()
            time.sleep(0.2)

    thread = threading.Thread(target=compile_something)
    thread.start()
    assert held.wait(10)
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # a child that hangs is a failure
        with compilation.compiling:
            os._exit(0)
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


def test_inner_functions_cannot_be_called_from_python() -> None:
    @compilation.inlined
    def double(x: float) -> float:
        return 2.0 * x

    with pytest.raises(TypeError, match="double can be called from compiled code only"):
        double(1.0)


def either(first: bool, a: int, b: int) -> int:
    return a if first else b


def test_functions_that_python_calls() -> None:
    int64, boolean = numba.types.int64, numba.types.boolean
    chosen = compilation.compile_function(either, int64(boolean, int64, int64))
    assert [chosen(False, 3, -(2**40)), chosen(True, 3, 4)] == [-(2**40), 3]
