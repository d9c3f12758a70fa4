"""The main question: every optimizer on every set of shapes, beside every peer."""

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial

from cases import DTYPES, OPTIMIZERS, Case, model_of, settings_of
from contest import Outcome, hold
from figures import footnotes, header, line
from peers import PEERS
from sections import Options, Part, Table, Target

BANDWIDTH_SET = "GPT-2 small"

FUSED_BY_TORCH = ("SGD", "Adam", "AdamW", "AdaGrad")
FUSED_AIMS = {"GPT-2 small": 1.0, "ResNet-50": 1.0, "MLP": 1.5, "1000 small": 3.0}
# optimizer, peers of which the fastest counts, the least ratio of their time to the fused step's, sets or all
AIMS: tuple[tuple[str, tuple[str, ...], float, tuple[str, ...]], ...] = (
    *((name, ("torch fused",), aim, (set_,)) for name in FUSED_BY_TORCH for set_, aim in FUSED_AIMS.items()),
    ("NAG", ("torch foreach", "torch compiled"), 2.0, ()),
    ("SGD", ("optax",), 3.0, ()),
    ("NAG", ("optax",), 3.0, ()),
    ("LARS", ("optax",), 3.0, ()),
    ("SGD", ("MXNet",), 1.1, ("ResNet-50", "GPT-2 small")),
    ("NAG", ("MXNet",), 1.1, ("ResNet-50", "GPT-2 small")),
    ("SGD", ("MXNet",), 20.0, ("1000 small",)),
    ("NAG", ("MXNet",), 20.0, ("1000 small",)),
    ("LARS", ("MXNet",), 8.0, ()),
    ("FTML", ("MXNet",), 15.0, ()),
)


class Comparison:
    """Times of all contenders, by optimizer, dtype and set; gradients are new arrays at every step."""

    name = "peers"

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def parts(self, options: Options) -> Iterator[Part]:
        for dtype in options.dtypes:
            for name in options.sets:
                for optimizer in options.optimizers:
                    title = f"{optimizer} {dtype}, {name}"
                    yield Part(title, partial(self._hold, options, dtype, name, optimizer))

    def _hold(self, options: Options, dtype: str, name: str, optimizer: str) -> None:
        settings = settings_of(optimizer, dtype)
        case = Case(optimizer, settings, model_of(name, dtype), options.environment.threads)
        self.outcomes.append(hold(case, name, options.rounds, PEERS))

    def tables(self) -> Iterator[Table]:
        for optimizer in OPTIMIZERS:
            for dtype in DTYPES:
                found = [o for o in self.outcomes if (o.optimizer, o.dtype) == (optimizer, dtype)]
                if found:
                    title = f"{optimizer}, {dtype}{' with float32 masters' if found[0].masters else ''}"
                    rows = [line(outcome.set, outcome, PEERS) for outcome in found]
                    notes = footnotes({outcome.set: outcome for outcome in found})
                    yield Table(title, header("set", PEERS), rows, notes)

    def targets(self) -> Iterator[Target]:
        wide = [outcome for outcome in self.outcomes if outcome.dtype == "float32"]
        for optimizer, labels, aim, sets in AIMS:
            yield least(optimizer, labels, aim, sets, wide)
        for outcome in self.outcomes:
            if outcome.set == BANDWIDTH_SET:
                what = (
                    f"{outcome.optimizer}, {outcome.dtype}, {outcome.set}: share of the streaming bandwidth"
                )
                yield Target(what, 0.9, outcome.share)

    def data(self) -> object:
        return [
            asdict(outcome) | {"bound": outcome.bound, "share": outcome.share} for outcome in self.outcomes
        ]


def least(
    optimizer: str, labels: tuple[str, ...], aim: float, sets: tuple[str, ...], outcomes: list[Outcome]
) -> Target:
    """Return the target for the set, of those named or of all, on which the best of some peers does best."""
    what = f"{optimizer}, {' and '.join(sets) or 'every set'}: {' or '.join(labels)}"
    asked = [o for o in outcomes if o.optimizer == optimizer and (not sets or o.set in sets)]
    found = [
        (ratio, label, outcome) for outcome in asked for label in labels if (ratio := outcome.ratio(label))
    ]
    if not found:
        reasons = sorted({o.missing[label] for o in asked for label in labels if label in o.missing})
        return Target(what, aim, None, note="; ".join(reasons) or "not asked for")
    ratio, label, outcome = min(found, key=lambda one: one[0])
    slow, fast = outcome.times[label], outcome.fused
    where = f"{label}, {outcome.set}: " if len(found) > 1 else ""
    spread = f"{slow.low / fast.high:.2f} to {slow.high / fast.low:.2f} between quartiles"
    return Target(what, aim, ratio, note=where + spread)
