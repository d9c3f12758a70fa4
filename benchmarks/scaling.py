"""Whether the cost of a step grows with its elements and with its tensors, and with nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

import stepspec
from cases import OPTIMIZERS, Array, Case, Model
from ours import Stepspec
from sections import Options, Part, Table, Target
from shapes import Shapes
from stream import gigabytes
from timing import Timing, interleave, seconds

SMALLEST, LARGEST = 2**20, 2**30
HELD, MOVED = 12, 20  # bytes an element of SGD with momentum holds, and those a step reads and writes
ROOM = 0.75  # of the memory that is available, for the largest size
BEYOND = 2  # times the last cache: less than this stays there in part
COUNTS = (1000, 10_000, 100_000)
WIDTH = 16


@dataclass(frozen=True)
class Elements:
    """SGD with momentum on one tensor of so many elements."""

    elements: int
    step: Timing

    @property
    def nanoseconds(self) -> float:
        """The time of an element."""
        return self.step.median * 1e6 / self.elements


@dataclass(frozen=True)
class Tensors:
    """SGD with momentum on so many tensors of WIDTH elements; `first` are the milliseconds that plan them."""

    tensors: int
    first: float
    step: Timing


class Scaling:
    """Time of an element from a million to as many as the memory holds, and of a tensor up to 100,000."""

    name = "scaling"

    def __init__(self) -> None:
        self.elements: list[Elements] = []
        self.tensors: list[Tensors] = []
        self.cache = 0

    def parts(self, options: Options) -> Iterator[Part]:
        self.cache = last_cache(options.environment.caches)
        yield Part("scaling with elements", partial(self._elements, options))
        for count in COUNTS:
            yield Part(f"scaling, {count:,} tensors", partial(self._tensors, options, count))

    def _elements(self, options: Options) -> None:
        chosen = sizes(available())
        if not chosen:
            return
        arrays = [np.full(chosen[-1], value, np.float32) for value in (0.5, 0.25, 0.125)]
        times = interleave([Prefix(size, *arrays) for size in chosen], options.rounds)
        self.elements = [Elements(size, times[label(size)]) for size in chosen]

    def _tensors(self, options: Options, count: int) -> None:
        random = np.random.default_rng(0)
        shapes: Shapes = {f"tensor{i}_weight": (WIDTH,) for i in range(count)}
        weights, grads = ([*random.standard_normal((count, WIDTH), np.float32)] for _ in range(2))
        case = Case("SGD", OPTIMIZERS["SGD"], Model(shapes, weights, [grads]), options.environment.threads)
        one = Model({"tensor0_weight": (WIDTH,)}, weights[:1], [grads[:1]])
        seconds(Stepspec(replace(case, model=one), "fused_step"))  # compiles, or loads from the cache
        contender = Stepspec(case, "fused_step")
        first = seconds(contender) * 1e3
        self.tensors.append(Tensors(count, first, interleave([contender], options.rounds)[contender.label]))

    def tables(self) -> Iterator[Table]:
        if self.elements:
            header = ("elements", "held, MB", "`fused_step`, ms", "ns/element", "GB/s", "lies in")
            rows = [element_row(result, self.cache) for result in self.elements]
            yield Table("Scaling with elements: SGD, momentum 0.9, one tensor", header, rows)
        if self.tensors:
            title = f"Scaling with tensors: SGD, momentum 0.9, {WIDTH} elements each"
            names = ("tensors", "first step, ms", "us/tensor", "`fused_step`, ms", "us/tensor")
            note = "The first step plans; its kernels are compiled. Later ones get new gradient arrays."
            yield Table(title, names, [tensor_row(result) for result in self.tensors], note)

    def targets(self) -> Iterator[Target]:
        beyond = [e.nanoseconds for e in self.elements if e.elements * HELD >= BEYOND * self.cache]
        what = "time of an element in arrays beyond the caches, longest over shortest"
        if len(beyond) > 1:
            yield Target(what, 1.15, max(beyond) / min(beyond), at_least=False)
        else:
            yield Target(what, 1.15, None, at_least=False, note="not asked for, or too little memory")
        most = [t for t in self.tensors if t.tensors == COUNTS[-1]]
        reached = most[0].step.median * 1e3 / COUNTS[-1] if most else None
        what = f"microseconds of one of {COUNTS[-1]:,} tensors, once planned"
        yield Target(what, 0.3, reached, at_least=False, note="" if most else "not asked for")

    def data(self) -> object:
        return {
            "elements": [asdict(result) for result in self.elements],
            "tensors": [asdict(result) for result in self.tensors],
        }


class Prefix:
    """SGD with momentum on the first elements of arrays that other sizes share."""

    def __init__(self, size: int, weight: Array, mom: Array, grad: Array) -> None:
        self.label = label(size)
        self.optimizer = stepspec.create("SGD", **OPTIMIZERS["SGD"])
        self.weight, self.grad = weight[:size], grad[:size]
        self.state = {"mom": mom[:size]}

    def prepare(self) -> None:
        self.grad = self.grad.view()

    def step(self) -> None:
        self.optimizer.fused_step([0], [self.weight], [self.grad], [self.state])

    def weights(self) -> list[Array]:
        return [self.weight]

    def close(self) -> None:
        """Nothing outlives this object."""


def element_row(result: Elements, cache: int) -> tuple[str, ...]:
    held = result.elements * HELD
    return (
        label(result.elements),
        f"{held / 1e6:,.0f}",
        str(result.step),
        f"{result.nanoseconds:.3f}",
        f"{gigabytes(result.elements * MOVED, result.step):.1f}",
        place(held, cache),
    )


def tensor_row(result: Tensors) -> tuple[str, ...]:
    return (
        f"{result.tensors:,}",
        f"{result.first:.2f}",
        f"{result.first * 1e3 / result.tensors:.2f}",
        str(result.step),
        f"{result.step.median * 1e3 / result.tensors:.3f}",
    )


def label(size: int) -> str:
    return f"{size // 2**20} M" if size < 2**30 else f"{size // 2**30} G"


def sizes(memory: int) -> list[int]:
    """Return the numbers of elements to step with so many bytes available: powers of two."""
    chosen = []
    size = SMALLEST
    while size <= LARGEST and size * HELD <= ROOM * memory:
        chosen.append(size)
        size *= 2
    return chosen


def available() -> int:
    """Return the bytes that new arrays may take without pushing others out of memory; 0 where not known."""
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else 0


def last_cache(caches: tuple[str, ...]) -> int:
    """Return the bytes of the largest of caches such as "L2 2048K"; 0 where none is known."""
    return max((int(cache.split()[1].rstrip("K")) * 1024 for cache in caches), default=0)


def place(held: int, cache: int) -> str:
    if held <= cache:
        return "cache"
    return "memory" if held >= BEYOND * cache else "partly cache"
