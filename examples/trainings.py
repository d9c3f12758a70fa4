"""How each optimizer trains on the digits: its arguments, the weights' dtype, the least accuracy."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

try:
    from ml_dtypes import bfloat16
except ImportError as error:
    sys.exit(f"{error}: the example needs more packages: pip install -e '.[examples]'")

REQUIRED_ACCURACY = 0.95
# DCASGD is made for workers with gradients of old weights; SGLD draws from the posterior, at no best point.
OTHER_TASKS = {"DCASGD": 0.9, "SGLD": 0.9}


@dataclass(frozen=True)
class Training:
    """An optimizer, its arguments (what is not given keeps its default), and the dtype of the weights."""

    name: str
    optimizer: str
    arguments: Mapping[str, Any]
    dtype: DTypeLike = np.float32

    @property
    def required(self) -> float:
        """The least test accuracy."""
        return OTHER_TASKS.get(self.optimizer, REQUIRED_ACCURACY)


MOMENTUM = {"learning_rate": 0.02, "momentum": 0.9, "wd": 1e-3}
# What an optimizer is given; one that is not here trains with its defaults.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "AdaBelief": {"learning_rate": 0.002, "wd": 1e-3},
    "Adam": {"learning_rate": 0.002, "wd": 1e-3},
    "AdamW": {"learning_rate": 0.002, "wd": 1e-2},
    "Adamax": {"learning_rate": 0.005, "wd": 1e-3},
    "DCASGD": {"learning_rate": 0.05, "wd": 1e-3},
    "FTML": {"learning_rate": 0.005, "wd": 1e-3},
    "GroupAdaGrad": {"learning_rate": 0.05},
    "LAMB": {"learning_rate": 0.005, "wd": 1e-2},
    "LANS": {"learning_rate": 0.002, "wd": 1e-2},
    "LARS": {"learning_rate": 0.1, "momentum": 0.9, "eta": 0.02, "wd": 1e-3},
    "NAG": MOMENTUM,
    "SGD": MOMENTUM,
    # The gradient is that of the sum over all 1437 images, and a prior's of variance 1/30.
    "SGLD": {"learning_rate": 5e-5, "rescale_grad": 1437.0, "wd": 30.0},
    "Signum": {"learning_rate": 0.0005, "wd_lh": 1e-2},
}
HALF_PRECISION = (
    Training("SGD, float16 with masters", "SGD", {**MOMENTUM, "multi_precision": True}, np.float16),
    Training("SGD, bfloat16 stochastic", "SGD", {**MOMENTUM, "rounding": "stochastic"}, bfloat16),
)


def trainings(optimizers: Sequence[str]) -> list[Training]:
    """Return one training for each optimizer in float32, then those in half precision."""
    single = [Training(name, name, ARGUMENTS.get(name, {})) for name in optimizers]
    return [*single, *(half for half in HALF_PRECISION if half.optimizer in optimizers)]
