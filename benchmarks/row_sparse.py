"""What row-sparse gradients save: a step of one table, dense and with 1% of the rows."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np

from cases import DTYPES, OPTIMIZERS, Array, Case, Gradient, Model, draw
from contest import Outcome, hold
from figures import cell, footnotes
from ours import Stepspec
from peers import PEERS
from sections import Options, Part, Table, Target
from shapes import Shapes
from stepspec import RowSparse

ROWS, COLUMNS = 2_000_000, 32
PRESENT = 100  # every so many rows there is one in a gradient
# No row comes again within a burst of steps, so that it is as rarely in a cache as in training.
GRADIENTS = 64
# As many gradients there are as dense arrays, and so many steps are compared.
DENSE = 2


@dataclass(frozen=True)
class Kind:
    """An optimizer with settings beside those that it has in practice."""

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

    def case(self, drawn: Model, threads: int) -> Case:
        masters = {"multi_precision": drawn.dtype != "float32"}
        return Case(self.optimizer, OPTIMIZERS[self.optimizer] | masters | self.settings, drawn, threads)


KINDS = (
    Kind("SGD", {"momentum": 0.0}),
    Kind("GroupAdaGrad"),
    Kind("SGD", {"lazy_update": True}),
    Kind("LARS", {"lazy_update": True}),
    Kind("SGD"),
    Kind("NAG"),
    Kind("FTML"),
)


class RowSparseGradients:
    """Times of a table of `rows` rows, by dtype and kind."""

    name = "row-sparse"

    def __init__(self, rows: int = ROWS) -> None:
        self.rows = rows
        self.results: dict[str, Outcome] = {}
        self.drawn: tuple[str, Model, Model] | None = None

    def parts(self, options: Options) -> Iterator[Part]:
        for dtype in options.dtypes:
            for kind in KINDS:
                # stepspec takes no such approximation together with masters
                if kind.optimizer in options.optimizers and (dtype == "float32" or not kind.is_lazy):
                    title = f"{kind.label}, {dtype}, row-sparse"
                    yield Part(title, partial(self._hold, options, dtype, kind))

    def _hold(self, options: Options, dtype: str, kind: Kind) -> None:
        if self.drawn is None or self.drawn[0] != dtype:
            self.drawn = None  # freed before the next is drawn
            self.drawn = (dtype, *table(self.rows, dtype))
        _, sparse, dense = self.drawn
        threads = options.environment.threads
        twin = Stepspec(kind.case(dense, threads), "fused_step", "dense")
        rivals = {"dense": lambda _: twin, **PEERS}
        steps = 1 if kind.is_lazy else DENSE
        name = f"{kind.label}, {dtype}"
        self.results[name] = hold(kind.case(sparse, threads), name, options.rounds, rivals, steps=steps)

    def tables(self) -> Iterator[Table]:
        labels = ("step", "dense", *PEERS)
        rows = [
            (
                name,
                str(o.fused),
                *(cell(o, label) for label in labels),
                f"{o.bytes / 1e6:.2f}",
                f"{o.gigabytes:.1f}",
            )
            for name, o in self.results.items()
        ]
        if rows:
            title = f"Row-sparse gradients, {1 / PRESENT:.0%} of {self.rows:,} x {COLUMNS}"
            header = ("optimizer", "`fused_step`", "`step`", "dense `fused_step`", *PEERS, "MB", "GB/s")
            yield Table(title, header, rows, footnotes(self.results))

    def targets(self) -> Iterator[Target]:
        return iter(())

    def data(self) -> object:
        return {name: asdict(outcome) for name, outcome in self.results.items()}


def table(rows: int, dtype: str) -> tuple[Model, Model]:
    """Draw a weight, with row-sparse gradients of different rows, and with the first of them as arrays."""
    random = np.random.default_rng(0)
    shape = (rows, COLUMNS)
    shapes: Shapes = {"table_weight": shape}
    weights: list[Array] = [draw(random, shape, 0.1).astype(DTYPES[dtype], copy=False)]
    parts = random.permutation(rows)[: GRADIENTS * (rows // PRESENT)].reshape(GRADIENTS, -1)
    sparse: list[list[Gradient]] = []
    dense: list[list[Gradient]] = []
    for part in parts:
        values = draw(random, (part.size, COLUMNS), 0.01).astype(DTYPES[dtype], copy=False)
        grad = RowSparse(values, np.sort(part), shape)
        sparse.append([grad])
        if len(dense) < DENSE:
            # A copy, for what was never written of an array of zeros is one page, read from the cache.
            dense.append([grad.to_dense().copy()])
    return Model(shapes, weights, sparse), Model(shapes, weights, dense)
