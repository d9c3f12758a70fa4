"""What there is on a machine with a GPU: versions, compilers, the GPU itself, and whether one step works."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from environment import installed
from gpu_clock import EventClock
from gpu_places import Device
from gpu_tools import sanitizer
from gpu_trials import Trial, difference, ended
from places import HOST
from sections import Options, Part, Table, Target
from shapes import Shapes

PACKAGES = (
    "numpy ml_dtypes numba llvmlite numba-cuda cuda-bindings cuda-core cuda-pathfinder nvidia-nvjitlink "
    "nvidia-nvvm torch cupy-cuda13x"
).split()
# numba-cuda looks for the first ones when it is imported; new versions of NumPy have the others only
RENAMED = {"row_stack": "vstack", "trapz": "trapezoid", "in1d": "isin"}
TOOLKITS = (Path("/usr/local/cuda"), Path("/opt/cuda"))


def prepare() -> None:
    """Let numba-cuda be imported beside a new NumPy, and find a toolkit where no package brings it."""
    for name, other in RENAMED.items():
        vars(np).setdefault(name, getattr(np, other))
    if not os.environ.keys() & {"CUDA_HOME", "CUDA_PATH"}:
        compiler = shutil.which("nvcc")
        folders = [*([Path(compiler).resolve().parents[1]] if compiler else []), *TOOLKITS]
        home = next((folder for folder in folders if (folder / "nvvm").is_dir()), None)
        if home:
            os.environ["CUDA_HOME"] = str(home)


class Machine:
    """Tells what the machine has, and takes a step of SGD with each library's arrays."""

    name = "machine"

    def __init__(self, devices: Sequence[Device], libraries: Mapping[str, str]) -> None:
        self.devices, self.libraries = devices, libraries
        self.facts: dict[str, str] = {}
        self.failures: list[str] = []

    def parts(self, options: Options) -> Iterator[Part]:
        yield Part("what there is", self._look)
        yield Part("one tensor", self._step)

    def _look(self) -> None:
        self.facts |= {f"arrays of {name}": text for name, text in self.libraries.items()}
        for what, ask in ASKED.items():
            try:
                self.facts[what] = ask()
            except Exception as error:  # noqa: BLE001 - what is missing is a finding, too
                self.facts[what] = f"{type(error).__name__}: {error}"
        print("\n".join(f"  {what}: {text}" for what, text in self.facts.items()), flush=True)

    def _step(self) -> None:
        if not self.devices:
            raise RuntimeError(f"no library finds a GPU: {self.libraries}")
        shapes: Shapes = {"one_weight": (7, 5)}
        trial = Trial("SGD", "float32")
        (expected,) = ended(trial, shapes, HOST).values()
        for device in self.devices:
            (found,) = ended(trial, shapes, device).values()
            text = difference(expected, found)
            if text:
                self.failures.append(f"{trial}, {device.name}: {text}")
            print(f"  steps of SGD, {device.name}: {text or 'the CPU bits'}", flush=True)

    def tables(self) -> Iterator[Table]:
        yield Table("The machine", ("what", "which"), [*self.facts.items()], "\n".join(self.failures))

    def targets(self) -> Iterator[Target]:
        return iter(())

    def data(self) -> object:
        return self.facts


def packages() -> str:
    return ", ".join(f"{name} {installed(name)}" for name in PACKAGES)


def gpu() -> str:
    clock = EventClock()
    names = clock.driver.CUdevice_attribute

    def attribute(name: str) -> int:
        which = getattr(names, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(clock.call(clock.driver.cuDeviceGetAttribute(which, 0)))

    name = clock.call(clock.driver.cuDeviceGetName(100, 0)).partition(b"\0")[0].decode()
    major, minor = (attribute(f"COMPUTE_CAPABILITY_{which}") for which in ("MAJOR", "MINOR"))
    cache = attribute("L2_CACHE_SIZE") / 2**20
    return (
        f"{name}, compute capability {major}.{minor}, {attribute('MULTIPROCESSOR_COUNT')} multiprocessors, "
        f"{cache:.0f} MiB of L2, {clock.free() / 2**30:.0f} GiB of memory free"
    )


def driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem", "--format=csv,noheader"]
    return subprocess.check_output(command, text=True, timeout=30).strip()


def compilers() -> str:
    from cuda.bindings import nvjitlink, nvvm

    versions = {"libNVVM": nvvm.version(), "nvJitLink": nvjitlink.version()}
    return ", ".join(f"{name} {'.'.join(map(str, number))}" for name, number in versions.items())


ASKED: dict[str, Callable[[], str]] = {
    "Python": platform.python_version,
    "packages": packages,
    "GPU": gpu,
    "driver, clocks": driver,
    "compilers": compilers,
    "CUDA_HOME": lambda: os.environ.get("CUDA_HOME", "not set"),
    "compute-sanitizer": lambda: sanitizer() or "none",
}
