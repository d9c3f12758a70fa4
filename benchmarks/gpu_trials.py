"""Short runs whose bits a GPU has to reproduce: which there are, and what they end in at a place."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import stepspec
from cases import DTYPES, OPTIMIZERS, Array, Gradient, draw
from gpu_places import Device
from settings import settings
from shapes import Shapes
from stepspec import generated

STEPS = 3
FLOAT64 = {"float64": np.float64}
# whatever may end inside a packet, a block or a row; the names are those that LARS looks at
SHAPES: Shapes = {
    "scalar_weight": (),
    "one_bias": (1,),
    "short_gamma": (7,),
    "no_rows_weight": (0, 3),
    "no_columns_weight": (5, 0),
    "few_weight": (3, 5),
    "narrow_weight": (300, 1),
    "flat_weight": (1, 300),
    "kernel_weight": (8, 16, 3, 3),
    "odd_weight": (257, 33),
    "block_weight": (4096,),
    "blocks_weight": (70_001,),
    "wide_weight": (3, 9000),
    "table_weight": (130, 520),
}
# what an emulator can do in a moment
TINY: Shapes = {"scalar_weight": (), "odd_bias": (7,), "few_weight": (9, 5), "block_weight": (4100,)}
FORMS = ("dense", "sparse", "strided", "shifted", "special", "stream", "grouped")
STORAGES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("float32", {}),
    ("float64", {}),
    ("float16", {}),
    ("bfloat16", {}),
    ("float16", {"multi_precision": True}),
    ("bfloat16", {"multi_precision": True}),
    ("float16", {"rounding": "stochastic"}),
    ("bfloat16", {"rounding": "stochastic"}),
)
# gradients of another dtype than their weights
OTHERS = {"float32": "bfloat16", "float64": "float32", "float16": "float32", "bfloat16": "float16"}


@dataclass(frozen=True)
class Trial:
    """Some steps of an optimizer on tensors of one dtype, gradients of another one if `grads` names it."""

    optimizer: str
    dtype: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    form: str = "dense"
    grads: str = ""

    def __str__(self) -> str:
        words = [f"{name}={value}" for name, value in self.settings.items()]
        grads = [f"gradients {self.grads}"] if self.grads else []
        return ", ".join([self.optimizer, self.dtype, *grads, self.form, *words])


def optimizers() -> tuple[str, ...]:
    """Return the names of all optimizers that have a spec."""
    return tuple(generated.__all__)


def formed(optimizer: str, dtype: str, storage: Mapping[str, Any], forms: Sequence[str]) -> Iterator[Trial]:
    """Yield all forms with the settings that an optimizer has in practice."""
    for form in forms:
        yield Trial(optimizer, dtype, {**OPTIMIZERS.get(optimizer, {}), **storage}, form)


def trials(optimizer: str, dtype: str, storage: Mapping[str, Any], forms: Sequence[str]) -> Iterator[Trial]:
    """Yield all forms, all settings with dense gradients, and what only some optimizers have."""
    kind = getattr(stepspec, optimizer)
    yield from formed(optimizer, dtype, storage, forms)
    has_masters = "multi_precision" in storage
    for arguments in settings(kind):
        if not (has_masters and arguments.get("lazy_update")):  # they exclude each other
            yield Trial(optimizer, dtype, {**storage, **arguments})
    yield Trial(optimizer, dtype, storage, grads=OTHERS[dtype])
    if "lazy_update" in inspect.signature(kind).parameters and not has_masters:
        yield Trial(optimizer, dtype, {**storage, "lazy_update": True}, "sparse")
    # where it is exact, the rows of the gradient are all that is touched
    if kind.uses_wd and "momentum" in inspect.signature(kind).parameters:
        yield Trial(optimizer, dtype, {**storage, "momentum": 0.0}, "sparse")


def ended(trial: Trial, shapes: Shapes, place: Any) -> dict[str, Array]:
    """Return weights and states, by name, after some steps at a place; forms are of a `Device` only."""
    weights, grads = drawn(trial, shapes)
    device: Device | None = place if hasattr(place, "dtypes") else None
    names = dict(enumerate(weights))
    grouped = {"aggregate_num": 2} if trial.form == "grouped" else {}
    optimizer = stepspec.create(trial.optimizer, param_idx2name=names, **trial.settings, **grouped)
    with device.stream() if device and trial.form == "stream" else contextlib.nullcontext():
        own = getattr(place, trial.form) if device and trial.form in ("strided", "shifted") else place.own
        arrays = [own(weight) for weight in weights.values()]
        with warnings.catch_warnings(action="ignore"):  # of half precision without a master
            states = [optimizer.create_state_multi_precision(i, a) for i, a in enumerate(arrays)]
        for number, turn in enumerate(grads):
            if number == STEPS - 1:
                optimizer.set_learning_rate(optimizer.learning_rate / 2)
            given = [place.lent(grad) for grad in turn]
            if device and trial.form == "strided":
                given = [device.strided(grad) for grad in turn if isinstance(grad, np.ndarray)]
            if device and trial.form == "stream":
                given = [device.late(grad) for grad in given]
            optimizer.fused_step([*names], arrays, given, states)
        found = {name: place.back(array) for name, array in zip(weights, arrays, strict=True)}
        for name, state in zip(weights, states, strict=True):
            found |= {f"{name}, {key}": place.back(array) for key, array in state.items()}
    return found


def drawn(trial: Trial, shapes: Shapes) -> tuple[dict[str, Array], list[list[Gradient]]]:
    """Draw the weights of a trial and the gradients of its steps."""
    if trial.form == "special":
        return special(trial)
    random = np.random.default_rng(0)
    dtypes = DTYPES | FLOAT64
    kind = getattr(stepspec, trial.optimizer)
    kept = {name: s for name, s in shapes.items() if not (kind.refuses_empty and 0 in s)}
    weights = {name: np.array(draw(random, s, 0.5), dtypes[trial.dtype]) for name, s in kept.items()}
    dtype = dtypes[trial.grads or trial.dtype]
    grads: list[list[Gradient]] = []
    for _ in range(STEPS):
        dense = [np.array(draw(random, shape, 0.5), dtype) for shape in kept.values()]
        grads.append([some_rows(random, g) if trial.form == "sparse" and g.ndim else g for g in dense])
    return weights, grads


def some_rows(random: np.random.Generator, grad: Array) -> stepspec.RowSparse:
    """Return a gradient of a third of the rows: none or one of few."""
    rows = np.flatnonzero(random.random(grad.shape[0]) < 1 / 3)
    return stepspec.RowSparse(np.ascontiguousarray(grad[rows]), rows, grad.shape)


def special(trial: Trial) -> tuple[dict[str, Array], list[list[Gradient]]]:
    """Return each special value with each other, as a weight and as a gradient."""
    dtype = (DTYPES | FLOAT64)[trial.dtype]
    # the range of float16 is within that of all others
    numbers = [0.0, -0.0, 1.0, np.inf, -np.inf, np.nan, 6e-8, -6e-8, 1e-40, 65504.0, -65504.0]
    with np.errstate(under="ignore"):
        values = np.array(numbers, dtype)
    weight, grad = (np.ascontiguousarray(a) for a in np.meshgrid(values, values))
    turned = np.ascontiguousarray(grad.T)
    return {"special_weight": weight}, [[grad], [turned], [grad]]


def difference(one: Array, other: Array) -> str:
    """Say how many bits-wise different numbers there are and which is the first; all NaNs are one."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return f"{one.dtype} {one.shape} became {other.dtype} {other.shape}"
    a, b = (np.ascontiguousarray(array).reshape(-1) for array in (one, other))
    word = np.dtype(f"u{a.itemsize}")
    apart = (a.view(word) != b.view(word)) & ~(np.isnan(a) & np.isnan(b))
    if not apart.any():
        return ""
    first = int(np.flatnonzero(apart)[0])
    many = f"{np.count_nonzero(apart)} of {a.size} differ"
    return f"{many}, the first at {first}: {b[first]} instead of {a[first]}"
