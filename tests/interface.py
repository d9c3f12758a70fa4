"""What users of MXNet meet in an optimizer besides its arithmetic: arguments, ranges, states in order."""

import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import stepspec

# the next numbers beside the ends of ranges
TINY, LARGEST, BELOW_ONE = math.ulp(0.0), math.nextafter(math.inf, 0), math.nextafter(1, 0)


@dataclass(frozen=True)
class Ends:
    """The ends of a range: what is just taken, and what is refused just beside."""

    taken: tuple[float, ...]
    refused: tuple[float, ...]

    def cases(self) -> Iterator[tuple[float, bool]]:
        """Return numbers and whether they are taken."""
        yield from ((value, True) for value in self.taken)
        yield from ((value, False) for value in self.refused)


FRACTION = Ends((0.0, BELOW_ONE), (-TINY, 1.0))
NOT_NEGATIVE = Ends((0.0, LARGEST), (-TINY, math.inf))
RANGES = {
    **dict.fromkeys(("momentum", "rho", "beta1", "beta2"), FRACTION),
    **dict.fromkeys(("learning_rate", "epsilon", "eta", "lamda", "lamda1", "beta"), NOT_NEGATIVE),
    **dict.fromkeys(("schedule_decay", "wd_lh", "lower_bound"), NOT_NEGATIVE),
    "upper_bound": Ends((0.0, LARGEST, math.inf), (-TINY, -math.inf)),
    "clip_weights": Ends((TINY, LARGEST, math.inf), (0.0, -math.inf)),
}

BETAS = "learning_rate=0.001, beta1=0.9, beta2=0.999"
# as MXNet declares them; MXNet keeps states in this order, those behind a minus with the opposite sign
ARGUMENTS = {
    "AdaBelief": f"{BETAS}, epsilon=1e-06, correct_bias=True",
    "AdaDelta": "learning_rate=1.0, rho=0.9, epsilon=1e-06",
    "AdaGrad": "learning_rate=0.01, epsilon=1e-06",
    "Adam": f"{BETAS}, epsilon=1e-08, lazy_update=False",
    "AdamW": f"{BETAS}, epsilon=1e-06, correct_bias=True",
    "Adamax": "learning_rate=0.002, beta1=0.9, beta2=0.999, epsilon=1e-08",
    "DCASGD": "learning_rate=0.1, momentum=0.0, lamda=0.04",
    "FTML": "learning_rate=0.0025, beta1=0.6, beta2=0.999, epsilon=1e-08",
    "Ftrl": "learning_rate=0.1, lamda1=0.01, beta=1.0",
    "GroupAdaGrad": "learning_rate=0.01, epsilon=1e-06",
    "LAMB": f"{BETAS}, epsilon=1e-06, lower_bound=None, upper_bound=None, bias_correction=True",
    "LANS": f"{BETAS}, epsilon=1e-06, lower_bound=None, upper_bound=None",
    "LARS": "learning_rate=0.1, momentum=0.0, eta=0.001, epsilon=1e-08, lazy_update=False",
    "NAG": "learning_rate=0.1, momentum=0.9",
    "Nadam": f"{BETAS}, epsilon=1e-08, schedule_decay=0.004",
    "RMSProp": "learning_rate=0.001, rho=0.9, momentum=0.9, epsilon=1e-08, centered=False, clip_weights=None",
    "SGD": "learning_rate=0.1, momentum=0.0, lazy_update=False",
    "SGLD": "learning_rate=0.1",
    "Signum": "learning_rate=0.01, momentum=0.9, wd_lh=0.0",
}
STATES = {
    **dict.fromkeys(("AdaBelief", "Adam", "AdamW", "Adamax", "LAMB", "LANS"), "mean, var"),
    **dict.fromkeys(("LARS", "NAG", "SGD", "Signum"), "-mom"),
    "AdaGrad": "history",
    "GroupAdaGrad": "history per row",
    "AdaDelta": "acc_g, acc_delta",
    "DCASGD": "-mom, previous_weight",
    "FTML": "d, v, z",
    "Ftrl": "z, n",
    "Nadam": "mean, var, m_schedule per tensor",
    "RMSProp": "mean, var, mom",
    "SGLD": "",
}
WITHOUT_MOMENTUM = STATES | dict.fromkeys(("LARS", "NAG", "SGD", "Signum"), "")
WITHOUT_MOMENTUM |= {"DCASGD": "previous_weight", "RMSProp": "mean, var"}
# with these all states are kept
KEEPING = {"momentum": 0.5, "centered": True}


def differences(kind: type[stepspec.Optimizer]) -> Iterator[str]:
    """Yield where a class is not what the tables above say."""
    own = {n: p for n, p in inspect.signature(kind).parameters.items() if p.kind is not p.VAR_KEYWORD}
    arguments = ", ".join(f"{name}={parameter.default}" for name, parameter in own.items())
    if arguments != ARGUMENTS[kind.__name__]:
        yield f"arguments {arguments}"
    for name in (name for name in own if name in RANGES):
        for value, possible in RANGES[name].cases():
            if takes(kind, {name: value}) != possible:
                yield f"{name}: {value}"
    if "lower_bound" in own:
        for low, high, possible in ((1.0, 1.0, True), (1.0, BELOW_ONE, False)):
            if takes(kind, {"lower_bound": low, "upper_bound": high}) != possible:
                yield f"bounds {low} and {high}"
    for options, meant in ((KEEPING, STATES), (KEEPING | {"momentum": 0.0}, WITHOUT_MOMENTUM)):
        states = ", ".join(kept_states(kind, {n: v for n, v in options.items() if n in own}))
        if states != meant[kind.__name__]:
            yield f"states {states}"


def takes(kind: type[stepspec.Optimizer], arguments: dict[str, Any]) -> bool:
    try:
        kind(**arguments)
    except ValueError:
        return False
    return True


def kept_states(kind: type[stepspec.Optimizer], arguments: dict[str, Any]) -> Iterator[str]:
    """Yield the states of a tensor, with their sign and what they have one number for."""
    for name, state in kind(**arguments)._layout({"adapt": True}, 2).items():
        per = "" if state.per == "element" else f" per {state.per}"
        yield f"{'-' if state.mxnet_sign < 0 else ''}{name}{per}"
