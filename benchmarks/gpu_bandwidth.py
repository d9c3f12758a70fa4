"""The share of a device-to-device copy's bandwidth that steps of one large tensor reach."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from cases import OPTIMIZERS, Case, Model
from gpu_clock import EventClock
from gpu_places import Device
from ours import Stepspec
from sections import Options, Part, Table, Target
from stream import gigabytes
from timing import Timing, interleave

COLUMNS = 1024
ROWS = {"124 M": 121_600, "1 G": 2**20}
# arrays of a tensor's size: a copy's two, weight, two gradients, three states, and what a library sets aside
MOST_ARRAYS = 12
AIM = 0.9
FLOAT = 4


@dataclass(frozen=True)
class Share:
    """What a step moves, how long it takes, and a copy of one array in the same turns."""

    optimizer: str
    length: str
    stages: int
    bytes: int
    step: Timing
    copy: Timing
    copied: int

    @property
    def gigabytes(self) -> float:
        return gigabytes(self.bytes, self.step)

    @property
    def of_copy(self) -> float:
        """The step's share of the copy's bandwidth."""
        return self.gigabytes / gigabytes(self.copied, self.copy)


class Bandwidth:
    """Shares of all optimizers, in float32."""

    name = "bandwidth"

    def __init__(self, device: Device, clock: EventClock) -> None:
        self.device, self.clock = device, clock
        self.shares: list[Share] = []
        self.missing: list[str] = []

    def parts(self, options: Options) -> Iterator[Part]:
        for length in ROWS:
            for optimizer in options.optimizers:
                yield Part(f"{optimizer}, {length}", partial(self._measure, options, length, optimizer))

    def _measure(self, options: Options, length: str, optimizer: str) -> None:
        rows = ROWS[length]
        needed = MOST_ARRAYS * rows * COLUMNS * FLOAT
        if self.clock.free() < needed:
            gib = needed / 2**30
            self.missing.append(f"{optimizer}, {length}: less than {gib:.0f} GiB of memory are free")
            return
        step = large(optimizer, self.device, rows)
        copy = Copy(self.device, self.clock, rows)
        times = interleave([step, copy], options.rounds, clock=self.clock)
        plan = step.plan()
        stages = max(len([launch for launch in group.launches if launch.bytes]) for group in plan.groups)
        both = times[step.label], times[copy.label]
        self.shares.append(Share(optimizer, length, stages, plan.bytes, *both, copy.bytes))

    def tables(self) -> Iterator[Table]:
        rows = [
            (
                share.optimizer,
                share.length,
                str(share.stages),
                str(share.step),
                f"{share.bytes / (ROWS[share.length] * COLUMNS):.3g}",
                f"{share.gigabytes:.0f}",
                f"{gigabytes(share.copied, share.copy):.0f}",
                f"{share.of_copy:.1%}",
            )
            for share in self.shares
        ]
        if rows or self.missing:
            header = ("optimizer", "elements", "passes", "step", "bytes/element", "GB/s", "copy", "share")
            yield Table("Bandwidth, one float32 tensor", header, rows, "\n".join(self.missing))

    def targets(self) -> Iterator[Target]:
        for share in self.shares:
            if share.stages == 1:
                what = f"{share.optimizer}, {share.length}: share of a copy's bandwidth"
                yield Target(what, AIM, share.of_copy)

    def data(self) -> object:
        return [asdict(share) | {"share": share.of_copy} for share in self.shares]


class Resident:
    """A place whose arrays are there already, and not copied again."""

    def __init__(self, device: Device) -> None:
        self.name = device.name
        self.renewed, self.back = device.renewed, device.back

    def own(self, values: Any) -> Any:
        return values

    def lent(self, grad: Any) -> Any:
        return grad


def large(optimizer: str, device: Device, rows: int) -> Stepspec:
    """Return a contender that steps one tensor, drawn on the device."""
    shape = (rows, COLUMNS)
    grads = [[device.random(shape, 0.01)] for _ in range(2)]
    model = Model({"tensor_weight": shape}, [device.random(shape, 0.1)], grads)
    case = Case(optimizer, OPTIMIZERS[optimizer], model, 0)
    return Stepspec(case, "fused_step", f"{optimizer} of {rows} rows", Resident(device))


class Copy:
    """Copies one float32 array to another one: what a driver can do."""

    label = "copy"

    def __init__(self, device: Device, clock: EventClock, rows: int) -> None:
        self.clock = clock
        self.arrays = [device.random((rows, COLUMNS), 0.1) for _ in range(2)]
        self.addresses = [array.__cuda_array_interface__["data"][0] for array in self.arrays]
        self.size = rows * COLUMNS * FLOAT
        self.bytes = 2 * self.size

    def prepare(self) -> None:
        """Nothing to lay out."""

    def step(self) -> None:
        self.clock.call(self.clock.driver.cuMemcpyDtoDAsync(*self.addresses, self.size, 0))

    def weights(self) -> list[Any]:
        return []

    def close(self) -> None:
        """Nothing outlives this object."""
