"""What an order of a call launches on a GPU, ready for a stream."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain

from stepspec.cuda.launches import Action, Program
from stepspec.cuda.staging import Shipment
from stepspec.cuda.strided import Copies
from stepspec.inputs import Inputs


class Launches:
    """The program of an order, the copies around each of its groups, and the scalars that it reads.

    Parameters
    ----------
    program
        Compiled and loaded.
    copies
        For each group what is copied into buffers before it, and back after it.
    labels
        What messages call the tensors.

    """

    def __init__(
        self, program: Program, copies: Sequence[tuple[Copies, Copies]], labels: Sequence[str]
    ) -> None:
        self.program, self._copies = program, copies
        self.inputs = Inputs(program.tables.inputs, labels)
        self._ready: tuple[int, list[list[Action]]] | None = None

    def send(self, shipment: Shipment, stream: int) -> None:
        """Bring what the launches read up to date."""
        for copies in chain.from_iterable(self._copies):
            copies.send(shipment, stream)
        self.program.send(partial(shipment.send, stream=stream))

    def ready(self, stream: int) -> list[list[Action]]:
        """Return the launches of each group, ready for a stream."""
        if self._ready is None or self._ready[0] != stream:
            groups = zip(self._copies, self.program.launches(stream), strict=True)
            actions = [
                [*before.launch(stream), *launches, *after.launch(stream)]
                for (before, after), launches in groups
            ]
            self._ready = stream, actions
        return self._ready[1]
