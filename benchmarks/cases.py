"""What is stepped: optimizers with the settings they have in practice, and models of random numbers."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

try:
    from ml_dtypes import bfloat16
except ImportError as error:
    raise SystemExit(f"{error}: the benchmark needs ml_dtypes: pip install -e '.[bench]'") from None

import stepspec
from shapes import SETS, Shapes

Array: TypeAlias = npt.NDArray[Any]
Gradient: TypeAlias = Array | stepspec.RowSparse

DTYPES: dict[str, Any] = {"float32": np.float32, "bfloat16": bfloat16, "float16": np.float16}

# After so many updates nothing of the means' start is left to correct. torch and optax correct before epsilon
# and weight decay come in, MXNet and stepspec afterwards, so that only from then on all do the same.
LATE = {"begin_num_update": 100_000}
# stepspec's names of the hyperparameters; the peers translate them
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"learning_rate": 0.01, "momentum": 0.9},
    "NAG": {"learning_rate": 0.01, "momentum": 0.9},
    "GroupAdaGrad": {"learning_rate": 0.01, "epsilon": 1e-6},
    "FTML": {"learning_rate": 0.0025, "beta1": 0.6, "beta2": 0.999, "epsilon": 1e-8},
    "LARS": {"learning_rate": 0.5, "momentum": 0.9, "eta": 0.001, "epsilon": 1e-8},
    "Adam": {"learning_rate": 0.001, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, **LATE},
    "AdamW": {"learning_rate": 0.001, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "wd": 0.01, **LATE},
    # so small that it does not show whether it is under the root, as optax's, or beside it
    "AdaGrad": {"learning_rate": 0.01, "epsilon": 1e-16},
}


@dataclass(frozen=True)
class Model:
    """Weights to start from, by name their shapes, and the gradients of the steps that then repeat."""

    shapes: Shapes
    weights: list[Array]
    grads: list[list[Gradient]]

    @classmethod
    def random(cls, shapes: Shapes, dtype: npt.DTypeLike = np.float32, slope: float = 0.01) -> Model:
        """Draw weights and two sets of gradients; `slope` is the scale of the latter."""
        source = np.random.default_rng(0)

        def some(scale: float) -> list[Array]:
            return [draw(source, shape, scale).astype(dtype, copy=False) for shape in shapes.values()]

        return cls(shapes, some(0.1), [[*some(slope)] for _ in range(2)])

    @property
    def size(self) -> int:
        return sum(weight.size for weight in self.weights)

    @property
    def dtype(self) -> str:
        """The name of the weights' dtype, which is one for all."""
        return self.weights[0].dtype.name

    @property
    def is_sparse(self) -> bool:
        return any(isinstance(grad, stepspec.RowSparse) for grads in self.grads for grad in grads)


def draw(random: np.random.Generator, shape: tuple[int, ...], scale: float) -> npt.NDArray[np.float32]:
    values = random.standard_normal(shape, np.float32)
    values *= np.float32(scale)
    return values


@dataclass(frozen=True)
class Case:
    """An optimizer, its settings in stepspec's words, the model it steps, and on how many threads.

    With `multi_precision` among the settings, weights in half precision have float32 masters.
    """

    optimizer: str
    settings: Mapping[str, Any]
    model: Model
    threads: int

    @property
    def has_masters(self) -> bool:
        return bool(self.settings.get("multi_precision")) and self.model.dtype in ("float16", "bfloat16")

    @property
    def is_lazy(self) -> bool:
        """Whether rows that a gradient lacks are left alone although zeros would move them."""
        return bool(self.settings.get("lazy_update")) and self.model.is_sparse


def settings_of(optimizer: str, dtype: str) -> dict[str, object]:
    """Return an optimizer's settings in practice: half precision has masters."""
    return {**OPTIMIZERS[optimizer], "multi_precision": dtype != "float32"}


@functools.lru_cache(maxsize=1)  # the parts go from one model to the next
def model_of(name: str, dtype: str) -> Model:
    """Draw one of the SETS."""
    return Model.random(SETS[name](), DTYPES[dtype])


@dataclass(frozen=True)
class Reason:
    """Why a peer cannot do a case; `why` completes "MXNet: ...", as in "no such optimizer"."""

    why: str
