"""Optimizers compiled from specs: a readable NumPy step and fused kernels with the same bits."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stepspec import checkpoint as checkpoint
from stepspec import lr_scheduler as lr_scheduler
from stepspec import mxnet as mxnet
from stepspec.in_memory import compile as compile
from stepspec.num_threads import get_num_threads as get_num_threads
from stepspec.num_threads import set_num_threads as set_num_threads
from stepspec.optimizer import Optimizer as Optimizer
from stepspec.registry import create as create
from stepspec.registry import register as register
from stepspec.sparse import RowSparse as RowSparse
from stepspec.trainer import Trainer as Trainer
from stepspec.updater import Updater as Updater

_OWN = (
    "Optimizer",
    "RowSparse",
    "Trainer",
    "Updater",
    "__version__",
    "checkpoint",
    "compile",
    "create",
    "get_num_threads",
    "lr_scheduler",
    "mxnet",
    "register",
    "set_num_threads",
)


if TYPE_CHECKING:
    from stepspec.generated import *  # noqa: F403  # its __all__ lists the optimizers

    __all__: list[str]
    __version__: str
else:

    def __getattr__(name: str) -> Any:
        """Return what is looked up late: optimizers, so that generating them needs none; the slow version."""
        if name == "__all__":
            return [*_OWN, *_optimizers()]
        if name == "__version__":
            return import_module("importlib.metadata").version("stepspec")
        if name[:1].isupper() and name in _optimizers():
            return getattr(import_module("stepspec.generated"), name)
        raise AttributeError(f"module 'stepspec' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), "__version__", *_optimizers()})


def _optimizers() -> list[str]:
    names: list[str] = import_module("stepspec.generated").__all__
    return names
