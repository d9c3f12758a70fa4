"""MXNet 2.0 as a contender: a process of the interpreter that MXNET_PYTHON names, driven over pipes."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from cases import Array, Case, Gradient, Reason
from stepspec import RowSparse
from timing import PeerError

WORKER = Path(__file__).with_name("mxnet_worker.py")
LIMIT = 120.0  # seconds that an answer may take: loading a model and trying the slowest optimizer on it
# Measured: without its engine's threads MXNet steps small tensors twice as fast and large ones as fast.
ENGINE = "NaiveEngine"


def contender(case: Case) -> MXNet | Reason:
    """Return MXNet on its own copy of the case's model, or why it cannot do the case."""
    python = os.environ.get("MXNET_PYTHON")
    if not python:
        return Reason("not installed: MXNET_PYTHON names no interpreter")
    if case.model.dtype == "bfloat16":
        return Reason("no optimizers for bfloat16")
    try:
        return MXNet(case, python)
    except PeerError as error:
        return Reason(str(error))


class MXNet:
    """An optimizer of MXNet on its own copy of a model; `aggregate` is how many tensors one call takes."""

    label = "MXNet"

    def __init__(self, case: Case, python: str) -> None:
        self.shapes = list(case.model.shapes.values())
        self.worker = Worker([python, str(WORKER)], case.threads)
        try:
            self.aggregate = int(self._start(case))
        except BaseException:
            self.close()
            raise

    def _start(self, case: Case) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            sets: dict[str, Sequence[Gradient]] = {"weights": case.model.weights}
            sets |= {f"gradients{i}": grads for i, grads in enumerate(case.model.grads)}
            for name, arrays in sets.items():
                save(Path(folder, f"{name}.npz"), arrays)
            weights, *gradients = (str(Path(folder, f"{name}.npz")) for name in sets)
            return self.worker.ask(
                "start",
                optimizer=case.optimizer,
                settings=dict(case.settings),
                shapes=case.model.shapes,
                weights=weights,
                gradients=gradients,
            )

    def prepare(self) -> None:
        """Its process lays out the gradients, before it looks at the clock."""

    def step(self) -> float:
        """Return the seconds that the step took there: the way to the other process is not MXNet's."""
        return float(self.worker.ask("step"))

    def weights(self) -> list[Array]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "weights.npz")
            self.worker.ask("save", path=str(path))
            with np.load(path) as arrays:
                return [arrays[str(i)].reshape(shape) for i, shape in enumerate(self.shapes)]

    def close(self) -> None:
        self.worker.close()


def save(path: Path, gradients: Sequence[Gradient]) -> None:
    """Write arrays as mxnet_worker.py reads them."""
    arrays: dict[str, Array] = {}
    for i, gradient in enumerate(gradients):
        if isinstance(gradient, RowSparse):
            arrays |= {f"{i}_values": gradient.values, f"{i}_rows": gradient.rows}
        else:
            arrays[str(i)] = gradient
    np.savez(path, **arrays)  # type: ignore[arg-type]  # the stub takes the names for those of its options


class Worker:
    """A process that answers requests in lines of JSON; what it says besides is kept for the error."""

    def __init__(self, command: list[str], threads: int, limit: float = LIMIT) -> None:
        self.limit = limit
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed with the process
        environment = {"MXNET_ENGINE_TYPE": ENGINE, **os.environ, "OMP_NUM_THREADS": str(threads)}
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.said,
                text=True,
                env=environment,
            )
        except OSError as error:
            self.said.close()
            raise PeerError(f"cannot run {command[0]}: {error.strerror}") from None
        self.close = weakref.finalize(self, end, self.process, self.said)

    def ask(self, do: str, **arguments: object) -> Any:
        """Send a request and return the answer.

        Raises a PeerError if the process answers with an error, is gone, or does not answer within the limit.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(json.dumps({"do": do, **arguments}), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            raise self._gone() from None
        if not select.select([self.process.stdout], [], [], self.limit)[0]:
            self.close()
            raise PeerError(f"no answer to '{do}' within {self.limit:g} s")
        line = self.process.stdout.readline()
        if not line:
            raise self._gone()
        try:
            reply = json.loads(line)
        except ValueError:
            self.close()
            raise PeerError(f"not an answer to '{do}': {line.strip()}") from None
        if "error" in reply:
            raise PeerError(reply["error"])
        return reply["result"]

    def _gone(self) -> PeerError:
        """Tell why the process closed its pipes: by its last words."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(self.limit)
        self.said.seek(0)
        last = [line for line in self.said.read().splitlines() if line.strip()][-1:]
        self.close()
        return PeerError(": ".join([f"its process ended with code {self.process.returncode}", *last]))


def end(process: subprocess.Popen[str], said: IO[str]) -> None:
    """End a process and close its files."""
    process.kill()
    process.wait()
    for file in (process.stdin, process.stdout, said):
        if file is not None:
            with contextlib.suppress(BrokenPipeError):  # of a request that it did not live to read
                file.close()
