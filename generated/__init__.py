# Generated from specs/ by stepspec. Do not edit: run "make generate".
"""The optimizers that stand in `specs/`, one module each, with their kernels beside them."""

from stepspec.generated.ftml import FTML
from stepspec.generated.group_adagrad import GroupAdaGrad
from stepspec.generated.lars import LARS
from stepspec.generated.nag import NAG
from stepspec.generated.sgd import SGD

__all__ = [
    "FTML",
    "LARS",
    "NAG",
    "SGD",
    "GroupAdaGrad",
]
