"""The sections of `make gpu` in processes of their own, and what they measure, on the emulated device."""

import enum
import importlib
import os
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gpu
import gpu_bandwidth
import gpu_experiments
import gpu_machine
import gpu_models
import gpu_tools
import torch_peer
from cases import Case, Reason, model_of
from gpu_emulated import emulated
from gpu_processes import Apart, Found
from sections import Table, Target
from shapes import SETS, Shapes
from timing import Contender

SHAPES: Shapes = {"fc_weight": (7, 5), "fc_bias": (7,)}
FOUND = Found([Table("Times", ("step", "ms"), [("one", "2")])], [Target("ratio", 1.0, 2.0)], {"a": 1}, [])


class Status(enum.IntEnum):
    SUCCESS = 0
    OUT_OF_MEMORY = 2


class FakeDriver:
    """The functions of cuda.bindings.driver that the clock calls; time is the host's."""

    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR="major",
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR="minor",
        CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT="count",
        CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE="cache",
    )

    def __init__(self) -> None:
        self.free, self.alive = 2**37, 0
        self.status = Status.SUCCESS
        self.copied: set[tuple[int, ...]] = set()

    def __getattr__(self, name: str) -> Any:
        answers: dict[str, tuple[Any, ...]] = {
            "cuInit": (),
            "cuDevicePrimaryCtxRetain": (object(),),
            "cuCtxSetCurrent": (),
            "cuMemGetInfo": (self.free, 2**38),
            "cuDeviceGetName": (b"NVIDIA H200\0\0",),
        }
        return lambda *arguments: (self.status, *answers[name])

    def cuCtxSynchronize(self) -> tuple[Status]:  # noqa: N802 - CUDA's name
        return (self.status,)

    def cuDeviceGetAttribute(self, name: str, device: int) -> tuple[Status, int]:  # noqa: N802 - as above
        return Status.SUCCESS, {"major": 9, "minor": 0, "count": 132, "cache": 60 * 2**20}[name]

    def cuEventCreate(self, flags: int) -> tuple[Status, SimpleNamespace]:  # noqa: N802 - as above
        self.alive += 1
        return Status.SUCCESS, SimpleNamespace(time=0.0)

    def cuEventRecord(self, event: SimpleNamespace, stream: int) -> tuple[Status]:  # noqa: N802 - as above
        event.time = time.perf_counter()
        return (Status.SUCCESS,)

    def cuEventElapsedTime(self, one: Any, other: Any) -> tuple[Status, float]:  # noqa: N802 - as above
        return Status.SUCCESS, 1e3 * (other.time - one.time)

    def cuEventDestroy(self, event: SimpleNamespace) -> tuple[Status]:  # noqa: N802 - as above
        self.alive -= 1
        return (Status.SUCCESS,)

    def cuMemcpyDtoDAsync(self, *arguments: int) -> tuple[Status]:  # noqa: N802 - as above
        self.copied.add(arguments)
        return (Status.SUCCESS,)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    """Measure small tensors: the emulated device, and torch on the host."""
    fake = FakeDriver()
    importlib.import_module("numba.cuda")  # it needs the real one
    monkeypatch.setattr("cuda.bindings.driver", fake)
    for module in (gpu_bandwidth, gpu_experiments):
        monkeypatch.setattr(module, "ROWS", {"124 M": 3, "1 G": 4})
        monkeypatch.setattr(module, "COLUMNS", 16)
    for name in SETS:
        monkeypatch.setitem(SETS, name, lambda: SHAPES)
    model_of.cache_clear()

    def fused(case: Case) -> Contender | Reason:
        return torch_peer.contender(case, "fused")

    def foreach(case: Case) -> Contender | Reason:
        return gpu_models.foreach(case, "cpu")

    monkeypatch.setitem(gpu_models.PEERS, gpu_models.FUSED, fused)
    monkeypatch.setitem(gpu_models.PEERS, gpu_models.FOREACH, foreach)
    monkeypatch.setattr(gpu_models, "launches", lambda contender: 7)
    return fake


def found(tmp_path: Path, *chosen: str, status: int = 0) -> Found:
    """Run a section as its process does, and return what it wrote down."""
    path = tmp_path / "found.pickle"
    with emulated() as device, pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "installed", lambda: ([device], {}))
        patch.setenv("CUDA_HOME", "")  # so that none is looked for
        fixed = ["--rounds", "1", "--output", str(tmp_path), "--child", str(path)]
        assert gpu.main([*chosen, *fixed]) == status
    return Found.read(path)


def test_bandwidth_is_measured_beside_a_copy(tmp_path: Path, api: FakeDriver) -> None:
    all_found = found(tmp_path, "--only", "bandwidth", "--optimizers", "SGD", "LARS")
    (table,) = (t for t in all_found.tables if t.title.startswith("Bandwidth"))
    assert [row[:3] for row in table.rows] == [
        ("SGD", "124 M", "1"), ("LARS", "124 M", table.rows[1][2]), ("SGD", "1 G", "1"), table.rows[3][:3]
    ]  # fmt: skip
    assert [target.what.partition(":")[0] for target in all_found.targets] == ["SGD, 124 M", "SGD, 1 G"]
    assert not all_found.failures
    assert api.alive == 0
    assert {size for _, _, size, _ in api.copied} == {3 * 16 * 4, 4 * 16 * 4}
    assert all(target != source for target, source, _, _ in api.copied)


def test_what_does_not_fit_is_left_out(tmp_path: Path, api: FakeDriver) -> None:
    api.free = 1
    (_, table) = found(tmp_path, "--only", "bandwidth", "--optimizers", "SGD").tables
    assert table.note.startswith("SGD, 124 M: less than 0 GiB of memory are free")


def test_models_are_timed_beside_torch(tmp_path: Path, api: FakeDriver) -> None:
    pytest.importorskip("torch")
    chosen = ["--optimizers", "SGD", "LARS", "--sets", "1000 small", "--dtypes", "float32"]
    all_found = found(tmp_path, "--only", "models", *chosen)
    assert not all_found.failures
    (table,) = (t for t in all_found.tables if t.title.startswith("Models"))
    cells = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    assert [row["step"] for row in cells] == ["SGD, 1000 small", "LARS, 1000 small"]
    assert cells[0]["kernels: `fused_step`".replace("`", "")] == "1"
    assert [row["kernels: torch foreach"] for row in cells] == ["7", "7"]
    assert all(int(row["host us: fused_step"]) > 0 for row in cells)
    whats = [target.what for target in all_found.targets]
    assert whats == ["SGD, 1000 small: torch fused", "LARS, 1000 small: torch foreach"]


def test_a_peer_that_fails_is_left_out(
    tmp_path: Path, api: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(case: Case) -> Contender | Reason:
        raise RuntimeError("CUDA out of memory\nand more")

    monkeypatch.setitem(gpu_models.PEERS, gpu_models.FUSED, out_of_memory)
    monkeypatch.setattr(torch_peer, "HAS_TORCH", False)
    monkeypatch.setattr("torch_rules.HAS_TORCH", False)
    chosen = ["--optimizers", "SGD", "--sets", "MLP", "--dtypes", "bfloat16"]
    all_found = found(tmp_path, "--only", "models", *chosen)
    (_, table) = all_found.tables
    assert "torch fused: RuntimeError: CUDA out of memory." in table.note
    assert "torch foreach: not installed." in table.note
    assert table.rows[0][3:5] == ("-", "-")


def test_experiments_run(tmp_path: Path, api: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_experiments, "MULTIPLES", (0.5, 2.0))
    (_, table) = found(tmp_path, "--only", "experiments", "--optimizers", "SGD").tables
    forms = ["aligned", "one element off", "0.5 times the blocks that fit", "2 times the blocks that fit"]
    assert [row[0] for row in table.rows] == [f"SGD, {form}" for form in forms]


def test_a_lost_gpu_ends_its_section(
    tmp_path: Path, api: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*arguments: object) -> None:
        api.status = Status.OUT_OF_MEMORY
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(gpu_bandwidth, "large", lost)
    all_found = found(tmp_path, "--only", "bandwidth", "--optimizers", "SGD", "NAG", status=1)
    assert all_found.failures == [
        "bandwidth: SGD, 124 M: RuntimeError: an illegal memory access was encountered",
        "bandwidth: the GPU answers no more, nothing else was tried",
    ]


def test_the_machine_is_told_and_takes_a_step(tmp_path: Path, api: FakeDriver) -> None:
    facts = found(tmp_path, "--only", "machine").tables[1]
    rows = {row[0]: row[1] for row in facts.rows}
    assert rows["GPU"].startswith("NVIDIA H200, compute capability 9.0, 132 multiprocessors, 60 MiB of L2")
    assert "numba-cuda 0." in rows["packages"]
    assert facts.note == ""


def test_a_machine_without_a_gpu_is_told_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "installed", lambda: ([], {"torch": "torch finds no GPU"}))
    monkeypatch.setenv("CUDA_HOME", "")  # so that none is looked for
    path = tmp_path / "found.pickle"
    assert gpu.main(["--only", "machine", "--child", str(path), "--output", str(tmp_path)]) == 1
    read = Found.read(path)
    assert "no library finds a GPU: {'torch': 'torch finds no GPU'}" in read.failures[0]
    assert "arrays of torch: torch finds no GPU" in capsys.readouterr().out


def test_numba_cuda_finds_the_names_that_numpy_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvvm").mkdir()
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.setenv(name, "")  # what is set below is taken back
        monkeypatch.delenv(name)
    monkeypatch.setattr(gpu_machine, "TOOLKITS", (tmp_path,))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(vars(np), "row_stack", None)
    monkeypatch.delitem(vars(np), "row_stack")
    gpu_machine.prepare()
    assert vars(np)["row_stack"] is np.vstack
    assert os.environ["CUDA_HOME"] == str(tmp_path)


def script(tmp_path: Path, text: str) -> list[str]:
    """Return a command whose last argument is a path to write FOUND to."""
    path = tmp_path / "child.py"
    begin = f"import sys, time, shutil\ndef write(): shutil.copy({str(tmp_path / 'kept')!r}, sys.argv[-1])\n"
    path.write_text(begin + textwrap.dedent(text))
    FOUND.write(tmp_path / "kept")
    return [sys.executable, str(path)]


@pytest.mark.parametrize(
    ("text", "seconds", "failure"),
    [
        ("write()", 60.0, ""),
        ("write(); sys.exit(1)", 60.0, ""),
        ("write(); sys.exit(-11 % 256)", 60.0, "check, SGD: ended with status 245"),
        ("write(); time.sleep(600)", 1.5, "check, SGD: killed after 2 s"),
    ],
)
def test_what_a_process_found_outlives_it(tmp_path: Path, text: str, seconds: float, failure: str) -> None:
    section = Apart("check", {"SGD": script(tmp_path, text)}, tmp_path)
    changes: list[int] = []
    section.run(seconds, lambda: changes.append(1))
    assert section.failures == ([failure] if failure else [])
    assert [*section.tables()] == FOUND.tables
    assert [*section.targets()] == FOUND.targets
    assert section.data() == {"processes": {"SGD": {"a": 1}}, "errors": section.errors}


def test_tables_of_several_processes_are_one(tmp_path: Path) -> None:
    write = script(tmp_path, "write()")
    section = Apart("check", {"SGD": write, "NAG": write}, tmp_path)
    section.run(60.0, lambda: None)
    (table,) = section.tables()
    assert table.rows == [("one", "2"), ("one", "2")]


@pytest.mark.parametrize(
    ("text", "limit", "verdict", "fails"),
    [
        ("print('========= ERROR SUMMARY: 0 errors')", 60, "ERROR SUMMARY: 0 errors; exit status 0", False),
        (
            "print('========= Invalid __global__ read\\n========= ERROR SUMMARY: 1 error'); exit(86)",
            60,
            "ERROR SUMMARY: 1 error; exit status 86; Invalid __global__ read",
            True,
        ),
        (
            "import time; print(1, flush=True); time.sleep(60)",
            1,
            "it says nothing; not done after 1 s",
            False,
        ),
    ],
)
def test_verdicts_of_compute_sanitizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, limit: int, verdict: str, fails: bool
) -> None:
    program = tmp_path / "compute-sanitizer"
    program.write_text(f"#!{sys.executable}\n{text}\n")
    program.chmod(0o755)
    monkeypatch.setattr(gpu_tools, "FOLDERS", (str(tmp_path),))
    monkeypatch.setattr(gpu_tools, "LIMIT", limit)
    all_found = found(tmp_path, "--only", "tools", "--optimizers", "SGD", status=fails)
    (_, table) = all_found.tables
    assert table.rows == [(tool, verdict) for tool in gpu_tools.TOOLS]
    assert len(all_found.failures) == 3 * fails


def test_without_compute_sanitizer_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_tools, "sanitizer", lambda: None)
    (_, table) = found(tmp_path, "--only", "tools").tables
    assert {verdict for _, verdict in table.rows} == {"no compute-sanitizer was found"}


def test_sections_follow_each_other_within_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, float]] = []

    def commands(name: str, options: object, seconds: float, arguments: object) -> dict[str, list[str]]:
        asked.append((name, seconds))
        return {name: script(tmp_path, "write()")}

    monkeypatch.setattr(gpu, "commands", commands)
    monkeypatch.setenv("CUDA_HOME", "")  # so that none is looked for
    assert gpu.main(["--minutes", "2", "--output", str(tmp_path)]) == 0
    assert [name for name, _ in asked] == ["machine", *gpu.PARTS]
    assert sum(gpu.PARTS.values()) == pytest.approx(1.0)
    assert all(0 < seconds <= 120 for _, seconds in asked)
    assert "| ratio | at least 1 | 2 | yes |" in capsys.readouterr().out
    assert (tmp_path / "gpu.md").read_text().count("## Times") == len(asked)


def test_nothing_is_tried_if_the_first_step_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def commands(name: str, *others: object) -> dict[str, list[str]]:
        asked.append(name)
        return {name: script(tmp_path, "sys.exit(2)")}

    monkeypatch.setattr(gpu, "commands", commands)
    monkeypatch.setenv("CUDA_HOME", "")  # so that none is looked for
    assert gpu.main(["--output", str(tmp_path)]) == 1
    assert asked == ["machine"]
