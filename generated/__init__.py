# Generated from specs/ by stepspec. Do not edit: run "make generate".
"""The optimizers that stand in `specs/`, one module each, with their kernels beside them."""

from stepspec.generated.adabelief import AdaBelief
from stepspec.generated.adadelta import AdaDelta
from stepspec.generated.adagrad import AdaGrad
from stepspec.generated.adam import Adam
from stepspec.generated.adamax import Adamax
from stepspec.generated.adamw import AdamW
from stepspec.generated.dcasgd import DCASGD
from stepspec.generated.ftml import FTML
from stepspec.generated.ftrl import Ftrl
from stepspec.generated.group_adagrad import GroupAdaGrad
from stepspec.generated.lamb import LAMB
from stepspec.generated.lans import LANS
from stepspec.generated.lars import LARS
from stepspec.generated.nadam import Nadam
from stepspec.generated.nag import NAG
from stepspec.generated.rmsprop import RMSProp
from stepspec.generated.sgd import SGD
from stepspec.generated.sgld import SGLD
from stepspec.generated.signum import Signum

__all__ = [
    "DCASGD",
    "FTML",
    "LAMB",
    "LANS",
    "LARS",
    "NAG",
    "SGD",
    "SGLD",
    "AdaBelief",
    "AdaDelta",
    "AdaGrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Ftrl",
    "GroupAdaGrad",
    "Nadam",
    "RMSProp",
    "Signum",
]
