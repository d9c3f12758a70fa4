"""One contest: stepspec and its peers do the same steps, are compared, and then timed in turns."""

import gc
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import TypeAlias

from agreement import STEPS, disagreement, same_bits, take_steps
from cases import Array, Case, Reason
from ours import both
from stepspec.overview import Overview, Streams
from stream import LEAST, Stream, gigabytes
from timing import Contender, PeerError, Timing, interleave

Peers: TypeAlias = Mapping[str, Callable[[Case], Contender | Reason]]


@dataclass(frozen=True)
class Traffic:
    """What launches with the same streams move, and the GB/s of a plain loop over such streams."""

    streams: Streams
    bytes: int
    bandwidth: float


@dataclass(frozen=True)
class Outcome:
    """What a contest found: times by label, and for the peers without one the reason.

    `traffic` is empty for models that may stay in a cache.
    """

    optimizer: str
    dtype: str
    masters: bool
    set: str
    tensors: int
    parameters: int
    bytes: int
    times: dict[str, Timing]
    missing: dict[str, str] = field(default_factory=dict)
    traffic: tuple[Traffic, ...] = ()

    @property
    def fused(self) -> Timing:
        return self.times["fused_step"]

    @property
    def gigabytes(self) -> float:
        """The bandwidth of the fused step in GB/s."""
        return gigabytes(self.bytes, self.fused)

    @property
    def bound(self) -> float | None:
        """The milliseconds that plain loops over the same streams take, one after the other."""
        return sum(part.bytes / part.bandwidth for part in self.traffic) / 1e6 if self.traffic else None

    @property
    def share(self) -> float | None:
        """The fused step's share of the streaming bandwidth."""
        return self.bound / self.fused.median if self.bound else None

    def ratio(self, label: str) -> float | None:
        """Return how many times as long as the fused step a contender takes."""
        return self.times[label].median / self.fused.median if label in self.times else None


class Persistent:
    """A contender whose gradients are the same arrays at every step."""

    def __init__(self, contender: Contender) -> None:
        self.label = contender.label
        self.step, self.weights, self.close = contender.step, contender.weights, contender.close
        contender.prepare()

    def prepare(self) -> None:
        """Nothing changes."""


def hold(
    case: Case, name: str, rounds: int, peers: Peers, *, steps: int = STEPS, persistent: bool = False
) -> Outcome:
    """Compare stepspec's two paths and the peers after some steps, and time them.

    `name` is the model's, `steps` how many are compared. With `persistent` the gradients of all timed steps
    are the same arrays; otherwise they are new ones, as autograd hands them over.
    """
    with ExitStack() as stack:
        ours = [stack.enter_context(closing(path)) for path in both(case)]
        for path in ours:
            take_steps(path, steps)
        same_bits(case, ours)
        rivals, missing = agreeing(case, ours[0].weights(), peers, steps, stack)
        plan = ours[0].plan()
        bytes_of = {} if case.model.size < LEAST or case.model.is_sparse else moved(plan)
        streams = [stack.enter_context(closing(Stream(s, case.model.size, case.threads))) for s in bytes_of]
        contenders: list[Contender] = [*ours, *rivals, *streams]
        times = _timed([Persistent(c) for c in contenders] if persistent else contenders, rounds, missing)
    gc.collect()  # some peers refer to themselves
    return Outcome(
        case.optimizer,
        case.model.dtype,
        case.has_masters,
        name,
        len(case.model.shapes),
        case.model.size,
        plan.bytes,
        {label: timing for label, timing in times.items() if label not in {s.label for s in streams}},
        missing,
        tuple(
            Traffic(kind, size, one.bandwidth(times[one.label]))
            for (kind, size), one in zip(bytes_of.items(), streams, strict=True)
        ),
    )


def agreeing(
    case: Case, reached: list[Array], peers: Peers, steps: int, stack: ExitStack
) -> tuple[list[Contender], dict[str, str]]:
    """Return the peers that end where stepspec did, and why the others do not."""
    rivals: list[Contender] = []
    missing: dict[str, str] = {}
    for label, make in peers.items():
        rival = make(case)
        if isinstance(rival, Reason):
            missing[label] = rival.why
            continue
        stack.enter_context(closing(rival))
        try:
            take_steps(rival, steps)
            difference = disagreement(case, reached, rival.weights())
        except PeerError as error:
            difference = str(error)
        if difference:
            missing[label] = difference
        else:
            rivals.append(rival)
    return rivals, missing


def moved(plan: Overview) -> dict[Streams, int]:
    """Return the bytes that launches move, by the streams that they walk."""
    found: dict[Streams, int] = {}
    for group in plan.groups:
        for launch in group.launches:
            if launch.bytes:
                found[launch.streams] = found.get(launch.streams, 0) + launch.bytes
    return found


def _timed(contenders: Sequence[Contender], rounds: int, missing: dict[str, str]) -> dict[str, Timing]:
    """Time contenders in turns; one that fails meanwhile is left out, and the others begin again."""
    while True:
        try:
            return interleave(contenders, rounds, warm_ups=1)
        except PeerError as error:
            failed = next(c for c in contenders if c.label == error.label)
            missing[failed.label] = str(error)
            contenders = [c for c in contenders if c is not failed]
