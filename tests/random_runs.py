"""What a random optimizer is run with: arguments, tensors of many shapes and storages, odd values."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from random_specs import NUMBERS, RandomSpec
from training import Array

import stepspec

SHAPES = (
    (3, 5), (7,), (), (1,), (40, 1), (1, 300), (2, 3, 2, 2), (4, 300), (300, 9), (5000,), (3, 1500),
    (4, 0), (0, 3),
)  # fmt: skip
NAMES = {0: "fc_weight", 1: "fc_bias", 2: "norm_gamma"}
# dtype of weights, of gradients, how halves are stored
STORAGES = (
    *[("float32", "float32", "")] * 4,
    ("float64", "float64", ""),
    ("float64", "float32", ""),
    ("float32", "float16", ""),
    ("float16", "float16", ""),
    ("float16", "float32", "master"),
    ("bfloat16", "bfloat16", "master"),
    ("bfloat16", "bfloat16", "stochastic"),
    ("float16", "float16", "stochastic"),
)
DTYPES: Mapping[str, Any] = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float32": np.float32,
    "float64": np.float64,
}


@dataclass(frozen=True)
class Run:
    """How an optimizer is made, and what it is given.

    Attributes
    ----------
    arguments, objects
        What the constructor is given: numbers, and attributes of the tensors' objects.
    shapes, dtype, grad_dtype
        Of the weights.
    order
        How arrays lie in memory: "C", "F", or "strided".
    rows
        "": gradients are dense; "scattered" or "lazy": they hold some rows.
    odd
        Which share of numbers is none of the ordinary ones: NaN, infinite, zero, subnormal, huge.

    """

    arguments: Mapping[str, Any]
    objects: tuple[Mapping[str, Any], ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    grad_dtype: str
    order: str
    rows: str
    odd: float
    scale: float
    seed: int
    steps: int
    threads: int

    def make(self, kind: type[stepspec.Optimizer], **others: Any) -> stepspec.Optimizer:
        """Return an optimizer with the arguments."""
        objects = {index: SimpleNamespace(**given) for index, given in enumerate(self.objects)}
        return kind(param_idx2name=NAMES, param_dict=objects, **{**self.arguments, **others})

    def weights(self) -> list[Array]:
        """Return new weights, the same each time."""
        return [self._laid_out(array) for array in self._arrays(0, self.dtype)]

    def gradients(self, number: int) -> list[Array | stepspec.RowSparse]:
        """Return the gradients of a step, counted from 0."""
        arrays = self._arrays(number + 1, self.grad_dtype)
        return [self._sparse(a) if self.rows and a.ndim else self._laid_out(a) for a in arrays]

    def _arrays(self, number: int, dtype: str) -> list[Array]:
        chance = np.random.default_rng((self.seed, number))
        return [self._array(chance, shape, DTYPES[dtype]) for shape in self.shapes]

    def _array(self, chance: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
        info = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
        odd = np.array(
            [np.nan, np.inf, -np.inf, 0, -0.0, 1, info.smallest_subnormal, info.max, info.tiny], dtype
        )
        array = np.array(chance.standard_normal(shape) * self.scale, dtype)
        chosen = odd[chance.integers(odd.size, size=shape)]
        with np.errstate(all="ignore"):
            return np.array(np.where(chance.random(shape) < self.odd, chosen, array), dtype)

    def _laid_out(self, array: Array) -> Array:
        if array.ndim == 0 or self.order == "C":
            return array
        if self.order == "F":
            return np.asfortranarray(array)
        wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
        wide[..., ::2] = array
        return wide[..., ::2]

    def _sparse(self, array: Array) -> stepspec.RowSparse:
        present: Array = np.random.default_rng(self.seed).random(array.shape[:1]) < 0.4
        present[:1] = True
        return stepspec.RowSparse(array[present], np.flatnonzero(present), array.shape)


class Variety(NamedTuple):
    """What there is to choose from: storages, and what rows gradients hold; see `Run`."""

    storages: tuple[tuple[str, str, str], ...]
    rows: tuple[str, ...]


ALL = Variety(STORAGES, ("", "", "", "scattered", "lazy", "lazy"))
PLAIN = Variety(STORAGES[:1], ("",))


def random_run(
    chance: random.Random, written: RandomSpec, kind: type[stepspec.Optimizer], variety: Variety = ALL
) -> Run:
    """Return a run of a class; most choices are the simplest."""

    def one(*options: Any) -> Any:
        return options[chance.randrange(len(options))]

    dtype, grad_dtype, storage = one(*variety.storages)
    may_be_lazy = "lazy_update" in written.text and storage != "master"
    rows = one(*[rows for rows in variety.rows if rows != "lazy" or may_be_lazy])
    filled = [shape for shape in SHAPES if 0 not in shape]
    shapes = filled if kind.refuses_empty else SHAPES
    numbers = {name: one(*NUMBERS[name].values) for name in written.numbers}
    arguments = {
        **numbers,
        **{name: one(False, True) for name in written.switches},
        "learning_rate": one(0.1, 1.0, 1e-3, 0.0),
        "wd": one(0.0, 0.1) if kind.uses_wd else 0.0,
        "rescale_grad": one(1.0, -0.5, 0.0),
        "clip_gradient": one(None, 0.5, 1e-20),
        "begin_num_update": one(0, 1, 1000),
        "aggregate_num": one(None, 1, 2),
        "multi_precision": storage == "master",
        "rounding": storage if storage == "stochastic" else "nearest",
    }
    tensors = (one(*filled), *(one(*shapes) for _ in range(one(1, 0, 2))))
    objects = tuple(
        {"lr_mult": one(1.0, 1.0, 0.5, 0.0), "wd_mult": one(1.0, 1.0, 0.0)}
        | {name: one(False, True) for name in written.flags if one(False, True)}
        for _ in tensors
    )
    odd, scale, order = (
        one(0.0, 0.0, 0.05, 0.5),
        one(1.0, 1.0, 1e-3, 100.0),
        one("C", "C", "C", "F", "strided"),
    )
    seed = chance.randrange(1000)
    return Run(
        arguments, objects, tensors, dtype, grad_dtype, order, rows, odd, scale, seed, one(2, 1, 3), one(2, 1)
    )
