"""What it costs that gradients are new arrays at every step: many small tensors with the same ones."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial

from cases import Case, model_of, settings_of
from comparison import least
from contest import Outcome, hold
from figures import footnotes, header, line
from peers import PEERS
from sections import Options, Part, Table, Target

SET = "1000 small"
OPTIMIZERS = ("SGD", "NAG", "Adam")
# compiled steps take minutes to compile for so many tensors, once for each kind of gradient arrays
RIVALS = {label: make for label, make in PEERS.items() if label != "torch compiled"}


class PersistentGradients:
    """Times of all contenders on many small tensors whose gradients stay where they are."""

    name = "persistent"

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def parts(self, options: Options) -> Iterator[Part]:
        for optimizer in OPTIMIZERS:
            yield Part(f"{optimizer}, persistent gradients, {SET}", partial(self._hold, options, optimizer))

    def _hold(self, options: Options, optimizer: str) -> None:
        settings = settings_of(optimizer, "float32")
        case = Case(optimizer, settings, model_of(SET, "float32"), options.environment.threads)
        self.outcomes.append(hold(case, SET, options.rounds, RIVALS, persistent=True))

    def tables(self) -> Iterator[Table]:
        rows = [line(outcome.optimizer, outcome, RIVALS) for outcome in self.outcomes]
        if rows:
            title = f"{SET}, float32, the same gradient arrays at every step"
            notes = footnotes({outcome.optimizer: outcome for outcome in self.outcomes})
            yield Table(title, header("optimizer", RIVALS), rows, notes)

    def targets(self) -> Iterator[Target]:
        for optimizer in ("SGD", "Adam"):
            target = least(optimizer, ("torch fused",), 10.0, (SET,), self.outcomes)
            yield replace(target, what=f"{target.what}, persistent gradients")

    def data(self) -> object:
        return [asdict(outcome) for outcome in self.outcomes]
