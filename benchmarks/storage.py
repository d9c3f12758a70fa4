"""What half precision saves: the fused step on one model, its numbers stored in different ways."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from cases import DTYPES, OPTIMIZERS, Case, Model
from contest import Outcome, hold
from figures import footnotes, header, line
from peers import PEERS
from sections import Options, Part, Table, Target
from shapes import SETS

# Most updates by flat gradients are lost in half precision, and so would be the difference to a peer.
STEEP = 10.0
SET = "ResNet-50"
# what the comparison finds of 2.13
KNOWN = "torch's fused SGD leaves most weights in half precision as they are: pytorch issue 191763."


@dataclass(frozen=True)
class Storage:
    """An optimizer whose weights and gradients have one dtype, with the options that say how."""

    optimizer: str
    dtype: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        words = {"multi_precision": "float32 masters", "rounding": "stochastic"}
        return ", ".join([self.optimizer, self.dtype, *(words[name] for name in self.options)])


# beside float32, and bfloat16 with masters, which are compared on all sets
STORAGES = (
    Storage("SGD", "float16"),
    Storage("SGD", "bfloat16"),
    Storage("SGD", "float16", {"multi_precision": True}),
    Storage("SGD", "bfloat16", {"rounding": "stochastic"}),
    Storage("LARS", "float16", {"multi_precision": True}),
)


class HalfPrecision:
    """Times of some optimizers on one set, stored in half precision."""

    name = "storage"

    def __init__(self) -> None:
        self.results: dict[str, Outcome] = {}

    def parts(self, options: Options) -> Iterator[Part]:
        for storage in STORAGES:
            yield Part(f"{storage.label}, {SET}", partial(self._hold, options, storage))

    def _hold(self, options: Options, storage: Storage) -> None:
        drawn = Model.random(SETS[SET](), DTYPES[storage.dtype], STEEP)
        settings = OPTIMIZERS[storage.optimizer] | storage.options
        case = Case(storage.optimizer, settings, drawn, options.environment.threads)
        self.results[storage.label] = hold(case, SET, options.rounds, PEERS)

    def tables(self) -> Iterator[Table]:
        rows = [line(label, outcome, PEERS) for label, outcome in self.results.items()]
        if rows:
            note = f"{footnotes(self.results)} {KNOWN}"
            yield Table(f"Half precision, {SET}", header("weights and gradients", PEERS), rows, note)

    def targets(self) -> Iterator[Target]:
        return iter(())

    def data(self) -> object:
        return {label: asdict(outcome) for label, outcome in self.results.items()}
