"""What row-sparse gradients save: the fused step of one table, dense and with 1% of the rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agreement import STEPS, same_update
from contenders import HAS_TORCH, MOMENTUM, RATE, Gradient, Model, Stepspec, TorchSGD, draw
from results import SparseResult
from shapes import Shapes
from stepspec import RowSparse
from timing import Contender, interleave

COLUMNS = 64
PRESENT = 100  # every so many rows there is one in a gradient
# No row comes again within a burst of steps, so that it is as rarely in a cache as in training.
GRADIENTS = 64


@dataclass(frozen=True)
class Case:
    """An optimizer with settings of its own."""

    optimizer: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        words = (name if value is True else f"{name} {value}" for name, value in self.settings.items())
        return ", ".join([self.optimizer, *words])

    @property
    def is_lazy(self) -> bool:
        """Whether absent rows are left alone although a gradient of zeros would move them."""
        return "lazy_update" in self.settings

    def contenders(self, table: Table, threads: int) -> tuple[Stepspec, Stepspec, TorchSGD | None]:
        """Return the dense one, the row-sparse one, and torch's if it has the same."""
        settings = {"learning_rate": RATE, **self.settings}
        dense = Stepspec(self.optimizer, "fused_step", table.dense, "dense", **settings)
        sparse = Stepspec(self.optimizer, "fused_step", table.sparse, "row-sparse", **settings)
        same = HAS_TORCH and self.optimizer == "SGD" and not self.settings
        return dense, sparse, TorchSGD(table.sparse, threads, momentum=0.0) if same else None


CASES = (
    Case("SGD"),
    Case("GroupAdaGrad"),
    Case("SGD", {"momentum": MOMENTUM, "lazy_update": True}),
    Case("LARS", {"momentum": MOMENTUM, "lazy_update": True}),
    Case("SGD", {"momentum": MOMENTUM}),
)


class Table:
    """One weight, with row-sparse gradients of different rows, and two of these as dense arrays."""

    def __init__(self, rows: int, gradients: int = GRADIENTS) -> None:
        random = np.random.default_rng(0)
        shape = (rows, COLUMNS)
        shapes: Shapes = {"table": shape}
        weights = [draw(random, shape, 0.1)]
        parts = random.permutation(rows)[: gradients * (rows // PRESENT)].reshape(gradients, -1)
        sparse: list[list[Gradient]] = []
        dense: list[list[Gradient]] = []
        for part in parts:
            grad = RowSparse(draw(random, (part.size, COLUMNS), 0.01), np.sort(part), shape)
            sparse.append([grad])
            if len(dense) < 2:
                # A copy, for what was never written of an array of zeros is one page, read from the cache.
                dense.append([grad.to_dense().copy()])
        self.sparse, self.dense = Model(shapes, weights, sparse), Model(shapes, weights, dense)


def measure(table: Table, case: Case, threads: int, rounds: int) -> SparseResult:
    """Time one optimizer with dense and with row-sparse gradients, and torch where it has the same."""
    dense, sparse, peer = case.contenders(table, threads)
    rivals: list[Contender | None] = [dense, sparse, peer]
    times = interleave([rival for rival in rivals if rival], rounds)
    plan = sparse.plan()
    return SparseResult(
        name=case.label,
        skips=bool(plan.lazy),
        bytes=plan.bytes,
        dense=times[dense.label],
        sparse=times[sparse.label],
        torch=times[peer.label] if peer else None,
    )


def check(threads: int) -> None:
    """Compare dense and row-sparse steps on a small table: where later lazy ones differ, a first one."""
    table = Table(30 * PRESENT, gradients=2)
    for case in CASES:
        dense, sparse, peer = case.contenders(table, threads)
        same_update(table.sparse, [sparse, dense], peer, steps=1 if case.is_lazy else STEPS)
