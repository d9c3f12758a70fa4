"""What a launch should look like: packets of four elements or single ones, and how many blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

from cases import OPTIMIZERS, Case, Gradient, Model
from gpu_bandwidth import COLUMNS, ROWS, large
from gpu_clock import EventClock
from gpu_places import Device
from ours import Stepspec
from sections import Options, Part, Table, Target
from stepspec.cuda import launches
from timing import Timing, interleave

# of the blocks that fit on the device at once, at most as many as there are items
MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0, 16.0)
LENGTH = "124 M"
# more items than blocks fit on any device
MANY = 2**40


@dataclass(frozen=True)
class Variant:
    """How long a step takes in some form."""

    optimizer: str
    form: str
    time: Timing


class Experiments:
    """Times of steps of one large tensor in several forms."""

    name = "experiments"

    def __init__(self, device: Device, clock: EventClock) -> None:
        self.device, self.clock = device, clock
        self.variants: list[Variant] = []

    def parts(self, options: Options) -> Iterator[Part]:
        for optimizer in options.optimizers:
            yield Part(f"packets, {optimizer}", partial(self._packets, options, optimizer))
            yield Part(f"blocks, {optimizer}", partial(self._blocks, options, optimizer))

    def _packets(self, options: Options, optimizer: str) -> None:
        model = Model.random({"tensor_weight": (ROWS[LENGTH], COLUMNS)})
        case = Case(optimizer, OPTIMIZERS[optimizer], model, 0)
        contenders = [
            Stepspec(case, "fused_step", "aligned", self.device),
            Stepspec(case, "fused_step", "one element off", Shifted(self.device)),
        ]
        self._time(options, optimizer, contenders)

    def _blocks(self, options: Options, optimizer: str) -> None:
        contenders = []
        for multiple in MULTIPLES:
            contender = large(optimizer, self.device, ROWS[LENGTH])
            contender.label = f"{multiple:g} times the blocks that fit"
            contender.update = patched(contender.update, multiple)
            contenders.append(contender)
        self._time(options, optimizer, contenders)

    def _time(self, options: Options, optimizer: str, contenders: list[Stepspec]) -> None:
        times = interleave(contenders, options.rounds, clock=self.clock)
        self.variants += [Variant(optimizer, form, time) for form, time in times.items()]

    def tables(self) -> Iterator[Table]:
        if self.variants:
            rows = [(f"{v.optimizer}, {v.form}", str(v.time)) for v in self.variants]
            yield Table(f"Forms of launches, {LENGTH} elements in float32", ("form", "step"), rows)

    def targets(self) -> Iterator[Target]:
        return iter(())

    def data(self) -> object:
        return [asdict(variant) for variant in self.variants]


class Shifted:
    """A place whose weights and gradients lie one element off, so that no packets can be read."""

    def __init__(self, device: Device) -> None:
        self.name = device.name
        self.own: Any = device.shifted
        self.renewed, self.back = device.renewed, device.back

    def lent(self, grad: Gradient) -> Any:
        return self.own(grad)


def patched(update: Callable[..., None], multiple: float) -> Callable[..., None]:
    """Return a step whose plan, made when it is first called, launches another number of blocks."""
    fitting = launches.blocks

    def scaled(driver: Any, device: int, code: Any, items: int) -> int:
        return min(items, max(1, int(multiple * fitting(driver, device, code, MANY))))

    def step(*arguments: object) -> None:
        with patch.object(launches, "blocks", scaled):
            update(*arguments)

    return step
