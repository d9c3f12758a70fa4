"""The real driver and the real cuda.bindings, above a libcuda that has no GPU but checks its arguments."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cuda.bindings
import pytest

STUB = Path(__file__).with_name("stub_driver.c")

ARRAYS = """
import gc, os, threading
import numpy as np
from cuda.bindings import driver as api
import stepspec
from stepspec.cuda.calls import CudaError
from stepspec.cuda.driver import driver

class Lying:
    def __init__(self, array, device=1, stream=None):
        self.memory, pinned = driver().allocate(device, array.nbytes), driver().pin(array.nbytes)
        pinned.array[:] = array.reshape(-1).view(np.uint8)
        driver().copy_in(device, self.memory.address, pinned.address, array.nbytes, 0)
        self.__cuda_array_interface__ = {
            "shape": array.shape, "typestr": array.dtype.str, "data": (self.memory.address, False),
            "stream": stream, "version": 3,
        }

def step(stream=1):
    grads = [Lying(np.ones(70), stream=stream), Lying(np.ones((3, 5000)), stream=stream)]
    opt.update([0, 1], weights, grads, states)

weights = [Lying(np.zeros(70), stream=2), Lying(np.zeros((3, 5000)))]
opt = stepspec.SGD(momentum=0.9)
states = [opt.create_state(i, weight) for i, weight in enumerate(weights)]
assert stepspec.places.to_host(states[1]["mom"]).tolist() == np.zeros((3, 5000)).tolist()
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("stub")
    subprocess.check_call([compiler, "-shared", "-fPIC", "-w", STUB, "-o", folder / "libcuda.so.1", "-ldl"])
    return folder


def run(library: Path, script: str, major: int = int(cuda.bindings.__version__.partition(".")[0])) -> str:
    """Return what a script and the stub print, in a process with that driver."""
    env = {**os.environ, "LD_LIBRARY_PATH": str(library), "STUB_VERSION": str(1000 * major)}
    command = [sys.executable, "-W", "error", "-c", script]
    return subprocess.run(command, env=env, text=True, stdout=subprocess.PIPE, timeout=120, check=True).stdout


def test_steps_call_the_driver_as_it_asks_for(library: Path) -> None:
    said = run(library, f"{ARRAYS}\nstep()\nassert int(api.cuCtxGetCurrent()[1]) == 0")
    name = "stepspec_generated_sgd_cuda_update_mom_float64"
    # the weights' stream waits for that of the gradients, which then waits for the step
    assert said.splitlines() == [
        "record 0", "wait 2", f"{name} 5 1 1, 256 1 1, 0, stream 2", "record 2", "wait 0"
    ]  # fmt: skip


def test_other_threads_have_no_context_before_and_after(library: Path) -> None:
    script = """
def other():
    step(stream=2)
    found.append(int(api.cuCtxGetCurrent()[1]))

found = []
thread = threading.Thread(target=other)
thread.start()
thread.join()
assert found == [0]
"""
    assert "256 1 1, 0, stream 2" in run(library, ARRAYS + script)


def test_all_memory_is_given_back(library: Path) -> None:
    script = """
step()
addresses = [each.__cuda_array_interface__["data"][0] for each in weights]
assert [*map(driver().device_of, addresses)] == [1, 1]
del opt, weights, states
gc.collect()
assert [*map(driver().device_of, addresses)] == [None, None]
"""
    run(library, ARRAYS + script)


def test_captured_streams_and_forked_children_are_refused(library: Path) -> None:
    script = """
try:
    step(stream=99)
except RuntimeError as error:
    print(error)
if not os.fork():
    try:
        step()
    except CudaError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
"""
    said = run(library, f"import warnings\nwarnings.simplefilter('ignore')\n{ARRAYS}{script}")
    assert "SGD: a step cannot be captured in a CUDA graph" in said
    assert "this process was forked from one that uses CUDA" in said


def test_an_old_driver_is_named(library: Path) -> None:
    script = """
from stepspec.cuda.driver import MissingCuda, driver
try:
    driver()
except MissingCuda as error:
    print(error)
"""
    assert "the NVIDIA driver supports CUDA 11.0" in run(library, script, 11)
