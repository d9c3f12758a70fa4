"""A training that is killed again and again, each time resumed from its checkpoint: for test_checkpoint.py.

The trainer is a forked child; weights and checkpoint are files. The parent kills it at random moments and
compares what it finds with a training that nobody stopped. Prints how many kills came how far.
"""

import mmap
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from training import random_tensors

import stepspec
from stepspec import archive, checkpoint
from stepspec.checkpoint import Part

Tensors = dict[int, Any]
SHAPES = ((40, 30), (2000,), ())


class Training:
    """Some tensors and their optimizer after a number of steps."""

    def __init__(self) -> None:
        schedule = stepspec.lr_scheduler.CosineScheduler(5000, base_lr=0.05, warmup_steps=7)
        names = {0: "table", 1: "long", 2: "number"}
        self.optimizer = stepspec.NAG(learning_rate=None, lr_scheduler=schedule, param_idx2name=names)
        self.weights: Tensors = dict(enumerate(random_tensors(SHAPES, np.float32)))
        self.states = {i: self.optimizer.create_state(i, weight) for i, weight in self.weights.items()}

    @property
    def parts(self) -> dict[str, Part]:
        return {"": Part(self.optimizer, self.optimizer.param_idx2name, self.weights, self.states)}

    def step(self) -> None:
        """Step with gradients that depend on the number of the step only."""
        grads = random_tensors(SHAPES, np.float32, seed=self.optimizer.num_update)
        lists = (list(self.weights.values()), grads, list(self.states.values()))
        self.optimizer.step(list(self.weights), *lists)

    def save(self, path: Path) -> None:
        """Save the weights under the number of the step, then the checkpoint, which makes them count."""
        count = self.optimizer.num_update
        archive.save(weights_of(path, count), {f"weight/{i}": w for i, w in self.weights.items()}, None)
        checkpoint.save(path, self.parts)
        weights_of(path, count - 1).unlink(missing_ok=True)

    def resume(self, path: Path) -> None:
        checkpoint.load(path, self.parts)
        weights, _ = archive.load(weights_of(path, self.optimizer.num_update))
        self.weights = {i: weights[f"weight/{i}"] for i in self.weights}

    def bits(self) -> bytes:
        arrays = [*self.weights.values(), *(state["mom"] for state in self.states.values())]
        return b"".join(array.tobytes() for array in arrays) + repr(self.optimizer.learning_rate).encode()


def weights_of(path: Path, count: int) -> Path:
    return path.with_name(f"weights-{count}{path.suffix}")


def train(path: Path, finished: mmap.mmap) -> None:
    """Go on from the checkpoint until somebody kills this process, and tell how many saves have ended."""
    training = Training()
    training.resume(path)
    while True:
        training.step()
        training.save(path)
        note(finished, training.optimizer.num_update)


def note(finished: mmap.mmap, count: int) -> None:
    finished[:8] = count.to_bytes(8, "little")


def kill_once(path: Path, finished: mmap.mmap, patience: float) -> None:
    child = os.fork()
    if child == 0:
        try:
            train(path, finished)
        finally:
            os._exit(1)
    time.sleep(patience)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the training ended by itself"


def main(folder: Path, suffix: str, kills: int) -> None:
    uninterrupted, expected = Training(), []
    path, finished = folder / f"states{suffix}", mmap.mmap(-1, 8)
    uninterrupted.save(path)
    expected.append(uninterrupted.bits())
    chance, torn, patience = random.Random(0), 0, 0.02
    for _ in range(kills):
        before = int.from_bytes(finished[:8], "little")
        kill_once(path, finished, chance.uniform(0, patience))
        resumed = Training()
        resumed.resume(path)
        count, acknowledged = resumed.optimizer.num_update, int.from_bytes(finished[:8], "little")
        assert acknowledged <= count <= acknowledged + 1, (acknowledged, count)
        while len(expected) <= count:
            uninterrupted.step()
            expected.append(uninterrupted.bits())
        assert resumed.bits() == expected[count], f"other bits after {count} steps"
        note(finished, count)
        # however fast the disk is, about two of three children get a step done
        patience *= 1.2 if count == before else 0.9
        torn += len(list(folder.glob(".*.tmp"))) > 0
        for left in folder.glob(".*.tmp"):
            left.unlink()
    print(f"{kills} kills, {torn} while a file was written, {len(expected) - 1} steps")


if __name__ == "__main__":
    # NumPy's threads sleep; none of them holds a lock
    warnings.filterwarnings("ignore", ".*multi-threaded.*", DeprecationWarning)
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
