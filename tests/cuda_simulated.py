"""Run the kernels of the optimizers of some packages in numba-cuda's simulator, and compare them with `step`.

A script of its own, as NUMBA_ENABLE_CUDASIM has to be set before Numba is imported. Its arguments are modules
`package.name` of generated optimizers; the kernels stand in `package.name_cuda`.
"""

import functools
import importlib
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from cuda_host import Array, launch_on_host, taken
from numba import cuda
from training import assert_same_bits, random_tensors, train

from stepspec import arithmetic, transcendental
from stepspec.cuda import device_code
from stepspec.cuda.kernels import Function

# each is a thread of Python: 1 ms
THREADS = 8
SHAPES = ((), (10,), (2, 3))
OPTIONS: tuple[dict[str, Any], ...] = ({}, {"clip_gradient": 0.7, "momentum": 0.9, "wd": 0.1})


def simulated(
    function: Function, known: Mapping[str, Any], shape: tuple[int, int], dtype: Any, count: int
) -> list[Array]:
    """Call a function once per thread, with one number of each array."""
    arguments = tuple(np.broadcast_to(known[name], shape).ravel() for name in taken(function))
    results = np.full((count, shape[0] * shape[1]), np.nan, dtype)
    size = results.shape[1]
    if size:
        _kernel(function)[-(-size // THREADS), THREADS](arguments, results)
    return [result.reshape(shape) for result in results]


@functools.cache
def _kernel(function: Function) -> Any:
    body = device_code.device_form(function)

    def each(arguments: Any, results: Any) -> None:
        i = cuda.grid(1)
        if i < results.shape[1]:
            results[:, i] = body(*[argument[i] for argument in arguments])

    return cuda.jit(each)


def prepare() -> None:
    """Let NumPy stand in for what the simulator does not run: intrinsics, and functions of machine code."""
    primitives = ("select", "bits", "number", "root")
    device_code._forms.update({f: f for f in (getattr(transcendental, name) for name in primitives)})
    sqrt: Any = arithmetic.sqrt
    device_code._forms[sqrt.py_func] = np.sqrt


def check(module_name: str) -> None:
    """Compare two steps of the optimizer in a module, in every variant that OPTIONS reach."""
    module = importlib.import_module(module_name)
    kernels = importlib.import_module(f"{module_name}_cuda")
    found: Any = next(v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module_name)
    weights = random_tensors(SHAPES, np.float32)
    for options in OPTIONS:
        fitting = {name: value for name, value in options.items() if name != "wd" or found.uses_wd}
        fitting = {n: v for n, v in fitting.items() if n != "momentum" or hasattr(found, n)}
        make = functools.partial(found, param_idx2name={1: "bias"}, **fitting)
        expected = train(make(), weights, fused=False, steps=2)
        assert_same_bits(expected, train(launch_on_host(make(), kernels, simulated), weights, steps=2))


if __name__ == "__main__":
    # threads start with NumPy's own handling of overflow and invalid operations
    warnings.simplefilter("ignore", RuntimeWarning)
    prepare()
    for name in sys.argv[1:]:
        check(name)
        print(name)
