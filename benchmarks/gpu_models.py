"""Steps of whole models on a GPU, beside torch: its fused optimizers, and foreach where it has none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch_peer
import torch_rules
from agreement import STEPS, take_steps
from cases import Array, Case, Reason, model_of, settings_of
from contest import Outcome, agreeing
from figures import cell, footnotes
from gpu_clock import EventClock
from gpu_places import Device
from ours import Stepspec
from sections import Options, Part, Table, Target
from timing import Contender, Timing, interleave

FUSED, FOREACH = "torch fused", "torch foreach"
# the model whose peers' kernels are counted
COUNTED = "1000 small"


@dataclass(frozen=True)
class Result:
    """What a contest found, the host's time of each contender's steps, and the kernels each one launches."""

    outcome: Outcome
    host: dict[str, Timing]
    launches: dict[str, int]


class Models:
    """Times of all optimizers on all sets."""

    name = "models"

    def __init__(self, device: Device, clock: EventClock) -> None:
        self.device, self.clock = device, clock
        self.results: list[Result] = []

    def parts(self, options: Options) -> Iterator[Part]:
        for dtype in options.dtypes:
            for name in options.sets:
                for optimizer in options.optimizers:
                    title = f"{optimizer} {dtype}, {name}"
                    yield Part(title, partial(self._hold, options, dtype, name, optimizer))
        # last: what a profiler leaves behind would slow the launches down
        for result in self.results:
            if result.outcome.set == COUNTED:
                title = f"kernels of {result.outcome.optimizer} {result.outcome.dtype}, {COUNTED}"
                yield Part(title, partial(self._count, result))

    def _hold(self, options: Options, dtype: str, name: str, optimizer: str) -> None:
        case = case_of(optimizer, dtype, name, options.environment.threads)
        with ExitStack() as stack:
            ours = stack.enter_context(closing(Stepspec(case, "fused_step", place=self.device)))
            take_steps(ours, STEPS)
            rivals, missing = able(case, ours.weights(), stack)
            self.clock.host.clear()
            contenders = [ours, *rivals]
            times = interleave(contenders, options.rounds, clock=self.clock)
            plan = ours.plan()
            size, tensors = case.model.size, len(case.model.shapes)
            self.results.append(
                Result(
                    Outcome(
                        optimizer, dtype, case.has_masters, name, tensors, size, plan.bytes, times, missing
                    ),
                    {label: self.clock.of_host(label) for label in times},
                    {ours.label: sum(group.regions for group in plan.groups)},
                )
            )

    def _count(self, result: Result) -> None:
        outcome = result.outcome
        case = case_of(outcome.optimizer, outcome.dtype, outcome.set, 1)
        for label in (label for label in PEERS if label in outcome.times):
            rival = PEERS[label](case)
            if not isinstance(rival, Reason):
                take_steps(rival, STEPS)
                result.launches[label] = launches(rival)

    def tables(self) -> Iterator[Table]:
        for dtype in dict.fromkeys(result.outcome.dtype for result in self.results):
            found = [result for result in self.results if result.outcome.dtype == dtype]
            rows = [line(result) for result in found]
            notes = footnotes({f"{r.outcome.optimizer}, {r.outcome.set}": r.outcome for r in found})
            title = f"Models, {dtype}{' with float32 masters' if found[0].outcome.masters else ''}"
            header = ("step", "parameters", "`fused_step`", FUSED, FOREACH, "GB/s", *HOST, *LAUNCHES)
            yield Table(title, header, rows, notes)

    def targets(self) -> Iterator[Target]:
        for outcome in (result.outcome for result in self.results):
            if outcome.dtype != "float32":
                continue
            aims = {"GPT-2 small": 1.0, "1000 small": 2.0}
            if FUSED in outcome.times and outcome.set in aims:
                yield self._target(outcome, FUSED, aims[outcome.set])
            if FUSED not in outcome.times and FOREACH in outcome.times:
                yield self._target(outcome, FOREACH, 3.0)

    def _target(self, outcome: Outcome, label: str, aim: float) -> Target:
        slow, fast = outcome.times[label], outcome.fused
        spread = f"{slow.low / fast.high:.2f} to {slow.high / fast.low:.2f} between quartiles"
        return Target(f"{outcome.optimizer}, {outcome.set}: {label}", aim, outcome.ratio(label), note=spread)

    def data(self) -> object:
        return [asdict(result) for result in self.results]


LABELS = ("fused_step", FUSED, FOREACH)
HOST = tuple(f"host us: {label}" for label in LABELS)
LAUNCHES = tuple(f"kernels: {label}" for label in LABELS)


def line(result: Result) -> tuple[str, ...]:
    outcome = result.outcome
    return (
        f"{outcome.optimizer}, {outcome.set}",
        f"{outcome.parameters / 1e6:.2f} M",
        str(outcome.fused),
        cell(outcome, FUSED),
        cell(outcome, FOREACH),
        f"{outcome.gigabytes:.0f}",
        *(f"{1e3 * result.host[label].median:.0f}" if label in result.host else "-" for label in LABELS),
        *(str(result.launches.get(label, "-")) for label in LABELS),
    )


def foreach(case: Case, device: str) -> Contender | Reason:
    """Return torch's foreach optimizer, else the rule in foreach functions."""
    if case.optimizer in torch_rules.RULES:
        return torch_rules.contender(case, device)
    return torch_peer.contender(case, "foreach", device)


PEERS: dict[str, Callable[[Case], Contender | Reason]] = {
    FUSED: partial(torch_peer.contender, way="fused", device="cuda"),
    FOREACH: partial(foreach, device="cuda"),
}


def case_of(optimizer: str, dtype: str, name: str, threads: int) -> Case:
    return Case(optimizer, settings_of(optimizer, dtype), model_of(name, dtype), threads)


def able(case: Case, reached: list[Array], stack: ExitStack) -> tuple[list[Contender], dict[str, str]]:
    """Return the peers that end where stepspec did, and why the others do not: one may fail in any way."""
    rivals: list[Contender] = []
    missing: dict[str, str] = {}
    for label, make in PEERS.items():
        try:
            found, why = agreeing(case, reached, {label: make}, STEPS, stack)
        except Exception as error:  # noqa: BLE001 - stepspec is timed all the same
            found, why = [], {label: f"{type(error).__name__}: {first_line(error)}"}
        rivals += found
        missing |= why
    return rivals, missing


def first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def launches(contender: Contender) -> int:
    """Return how many kernels one step of a peer launches."""
    import torch

    contender.prepare()
    torch.cuda.synchronize()
    profiler: Any = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
    with profiler:
        contender.step()
        torch.cuda.synchronize()
    found = [event for event in profiler.events() if event.device_type.name == "CUDA"]
    kernels = [event for event in found if not getattr(event, "is_user_annotation", False)]
    return sum(not event.name.startswith(("Memcpy", "Memset", "Optimizer.")) for event in kernels)
