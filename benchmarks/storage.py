"""What half precision saves: the fused step on one model, its numbers stored in different ways."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np

try:
    from ml_dtypes import bfloat16
except ImportError as error:
    raise SystemExit(f"{error}: the benchmark needs ml_dtypes: pip install -e '.[bench]'") from None

from agreement import same_update
from contenders import HAS_TORCH, MOMENTUM, RATE, Model, Stepspec, TorchSGD
from results import StorageResult
from shapes import Shapes
from stream import LEAST, Stream
from timing import Contender, interleave

DTYPES: dict[str, Any] = {"float32": np.float32, "float16": np.float16, "bfloat16": bfloat16}
# gradients are steep in the check: most updates of flat ones are lost in half precision
CHECKED: Shapes = {"table": (300, 64), "offset": (64,)}
STEEP = 10.0


@dataclass(frozen=True)
class Storage:
    """An optimizer with momentum whose weights and gradients have one dtype."""

    optimizer: str
    dtype: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        words = {"multi_precision": "float32 master", "rounding": "stochastic"}
        return ", ".join([self.optimizer, self.dtype, *(words[name] for name in self.options)])

    @property
    def has_peer(self) -> bool:
        return HAS_TORCH and self.optimizer == "SGD" and not self.options

    def contender(self, path: str, model: Model) -> Stepspec:
        settings = {"learning_rate": RATE, "momentum": MOMENTUM, **self.options}
        with warnings.catch_warnings(action="ignore"):  # of half precision without a master
            return Stepspec(self.optimizer, path, model, f"{self.label}, {path}", **settings)

    def peer(self, model: Model, threads: int) -> TorchSGD | None:
        return TorchSGD(model, threads, f"torch, {self.dtype}") if self.has_peer else None


STORAGES = (
    Storage("SGD", "float32"),
    Storage("SGD", "float16"),
    Storage("SGD", "bfloat16"),
    Storage("SGD", "float16", {"multi_precision": True}),
    Storage("SGD", "bfloat16", {"multi_precision": True}),
    Storage("SGD", "bfloat16", {"rounding": "stochastic"}),
    Storage("LARS", "float16", {"multi_precision": True}),
)


def measure(shapes: Shapes, threads: int, rounds: int) -> list[StorageResult]:
    """Time all storages beside torch, where it has the same, and the stream, all in turns."""
    for storage in STORAGES:
        check(storage, threads)
    models = {name: Model.random(shapes, dtype) for name, dtype in DTYPES.items()}
    ours = [storage.contender("fused_step", models[storage.dtype]) for storage in STORAGES]
    peers = [storage.peer(models[storage.dtype], threads) for storage in STORAGES]
    size = models["float32"].size
    stream = Stream(size, threads) if size >= LEAST else None
    rivals: list[Contender | None] = [*ours, *peers, stream]
    times = interleave([rival for rival in rivals if rival], rounds)
    reference = stream.bandwidth(times[stream.label]) if stream else None
    results = []
    for storage, fused, peer in zip(STORAGES, ours, peers, strict=True):
        result = StorageResult(
            name=storage.label,
            parameters=size,
            bytes=fused.plan().bytes,
            fused=times[fused.label],
            torch=times[peer.label] if peer else None,
            torch_fused=peer is not None and peer.fused,
            stream_bandwidth=reference,
        )
        results.append(result)
    return results


def check(storage: Storage, threads: int) -> None:
    """Compare both paths and the peer on a small model."""
    model = Model.random(CHECKED, DTYPES[storage.dtype], STEEP)
    alike = [storage.contender(path, model) for path in ("fused_step", "step")]
    same_update(model, alike, storage.peer(model, threads))
