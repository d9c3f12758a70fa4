"""Steps models with MXNet 2.0 for mxnet_peer.py: a script for MXNet's own interpreter, CPython 3.8.

Every line of standard input is a request in JSON, with its name under "do"; every answer is a line of JSON on
standard output, with a "result" or an "error". Arrays go through .npz files: the i-th tensor is "i", or
"i_values" and "i_rows" if it is row-sparse. The end of the input ends the process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any, Callable

import mxnet
import numpy as np

# How many tensors a call may take, of optimizers with kernels for several. Those of SGD and LARS hold 60, and
# crash with more; AdamW's hold 50, and its kernel for a single one writes to the gradient.
TOGETHER = {"SGD": (1, 60), "LARS": (1, 60), "AdamW": (4, 50)}
TRIALS = 3


class Run:
    """An optimizer that steps a model with the given sets of gradients in turns."""

    def __init__(
        self,
        optimizer: str,
        settings: dict[str, Any],
        shapes: dict[str, list[int]],
        weights: str,
        gradients: list[str],
    ) -> None:
        self.name, self.settings = optimizer, settings
        self.names = dict(enumerate(shapes))
        self.shapes = [tuple(shape) for shape in shapes.values()]
        if optimizer == "GroupAdaGrad":  # it knows matrices only: all axes but the first mean the same in one
            self.shapes = [(shape[0], int(np.prod(shape[1:]))) for shape in self.shapes]
        self.gradients = [self.load(path) for path in gradients]
        self.start = self.load(weights)
        self.aggregate = self.fastest()
        self.restart()
        del self.start

    def load(self, path: str) -> list[Any]:
        with np.load(path) as arrays:
            return [self.tensor(arrays, str(i), shape) for i, shape in enumerate(self.shapes)]

    @staticmethod
    def tensor(arrays: Any, key: str, shape: tuple[int, ...]) -> Any:
        if key in arrays:
            array = arrays[key].reshape(shape)
            return mxnet.nd.array(array, dtype=array.dtype)
        values, rows = arrays[key + "_values"], arrays[key + "_rows"]
        return mxnet.nd.sparse.row_sparse_array((values, rows), shape=shape, dtype=values.dtype)

    def restart(self) -> None:
        """Go back to the start with an optimizer that has not stepped yet."""
        self.optimizer = mxnet.optimizer.create(
            self.name, use_fused_step=True, param_idx2name=self.names, **self.settings
        )
        self.optimizer.aggregate_num = self.aggregate
        self.weights = [weight.copy() for weight in self.start]
        create = self.optimizer.create_state_multi_precision
        self.states = [create(i, weight) for i, weight in enumerate(self.weights)]
        self.turn = 0
        mxnet.nd.waitall()

    def fastest(self) -> int:
        """Return how many tensors a call should take: which is faster depends on their sizes."""
        # LARS confuses the masters of several tensors, at best with an error.
        confused = self.name == "LARS" and self.settings.get("multi_precision")
        choices = (1,) if confused else TOGETHER.get(self.name, (1,))
        taken = {}
        for self.aggregate in choices:
            self.restart()
            # one step even where there is no choice: it refuses what MXNet cannot do
            taken[self.aggregate] = min(self.step() for _ in range(TRIALS if len(choices) > 1 else 1))
        return min(taken, key=taken.__getitem__)

    def step(self) -> float:
        """Take a step and return its seconds."""
        grads = self.gradients[self.turn % len(self.gradients)]
        self.turn += 1
        count = self.aggregate if self.aggregate > 1 else len(grads)
        indices = list(self.names)
        update = self.optimizer.update_multi_precision
        begin = time.perf_counter()
        for first in range(0, len(grads), count):
            part = slice(first, first + count)
            update(indices[part], self.weights[part], grads[part], self.states[part])
        mxnet.nd.waitall()
        return time.perf_counter() - begin

    def save(self, path: str) -> None:
        """Write the weights, or the masters of those that have one."""
        arrays = self.weights
        if self.settings.get("multi_precision") and arrays[0].dtype == np.float16:
            arrays = [state[0] for state in self.states]
        np.savez(path, **{str(i): array.asnumpy() for i, array in enumerate(arrays)})


def answer(run: Run | None, request: dict[str, Any]) -> tuple[Run | None, object]:
    """Do what is asked; return the run to go on with, and the answer."""
    do = request.pop("do")
    if do == "start":
        run = Run(**request)
        return run, run.aggregate
    assert run is not None, do + " before start"
    methods: dict[str, Callable[..., object]] = {"step": run.step, "save": run.save}
    return run, methods[do](**request)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the benchmark, which then closes the input
    # Answers go where nothing else is written: MXNet prints warnings.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    run = None
    for line in sys.stdin:
        try:
            run, result = answer(run, json.loads(line))
            reply = {"result": result}
        except Exception as error:  # noqa: BLE001  # any of MXNet's refusals is the benchmark's to report
            lines = str(error).split("\n")  # the last one comes after the traceback of its C++
            reply = {"error": lines[-1].strip() or type(error).__name__}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
