"""Ratios of the fused steps in under a minute, for a look before and after a change.

`make bench-quick`, change something, `make bench-quick`: each run stands beside the one before. To keep one
for longer: `python benchmarks/quick.py --save old`, and later `--against old`.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

import stepspec
import torch_peer
from cases import OPTIMIZERS, Case, Model, Reason
from contest import moved
from ours import PATHS, Stepspec
from report import table
from shapes import Shapes, mlp, thousand_small
from stream import LEAST, Stream
from timing import Contender, Timing, interleave

REPEATS = 4
ROUNDS = 2
LAST = "last"
# Runs of the same code differ by so much beside what the repeats of each show; those of `step`, which
# allocates memory all the time, by a factor of two: its ratio is no measure of a change.
DRIFT = 0.05
ERRATIC = "step"


def twenty_million() -> Shapes:
    return {f"tensor{i}_weight": (1000, 1000) for i in range(20)}


SETS = {"MLP": mlp, "1000 small": thousand_small, "20 of 1 M": twenty_million}


class Ratio(NamedTuple):
    """How many times as long as the fused step something takes: median of some repeats, half their range."""

    median: float
    spread: float


# by a line's name, such as "SGD, MLP", and what is compared with the fused step
Ratios: TypeAlias = dict[str, dict[str, Ratio]]


def measure(case: Case) -> dict[str, Ratio]:
    """Return the ratios to the fused step of plain loops over as many arrays, torch's fused step, and `step`.

    For models that may stay in a cache the loops have one thread: waking others takes too long there.
    """
    with ExitStack() as stack:
        enter = stack.enter_context
        fused, step = (enter(closing(Stepspec(case, path))) for path in PATHS)
        peer = torch_peer.contender(case, "fused")
        fused.prepare()
        threads = case.threads if case.model.size >= LEAST else 1
        streams = [enter(closing(Stream(kind, case.model.size, threads))) for kind in moved(fused.plan())]
        contenders: list[Contender] = [fused, step, *streams]
        if not isinstance(peer, Reason):
            contenders.append(enter(closing(peer)))
        found: dict[str, list[float]] = {}
        for _ in range(REPEATS):
            times = interleave(contenders, ROUNDS)
            for label, ratio in ratios(times, {stream.label for stream in streams}):
                found.setdefault(label, []).append(ratio)
    return {label: Ratio(statistics.median(r), (max(r) - min(r)) / 2) for label, r in found.items()}


def ratios(times: Mapping[str, Timing], streams: set[str]) -> Iterator[tuple[str, float]]:
    fused = times["fused_step"].median
    yield "streams", sum(times[label].median for label in streams) / fused
    for label, timing in times.items():
        if label != "fused_step" and label not in streams:
            yield label, timing.median / fused


def compared(now: Ratios, before: Ratios) -> Iterator[str]:
    """Return a table: each ratio, its spread, and what it was; a change beyond the noise has a word."""
    header = ("fused step of", "beside", "ratio", "before", "")
    rows = []
    for name, found in now.items():
        for label, ratio in found.items():
            old = before.get(name, {}).get(label)
            rows.append(
                (
                    name,
                    label,
                    shown(ratio),
                    shown(old) if old else "-",
                    "" if label == ERRATIC else verdict(ratio, old),
                )
            )
    yield from table(header, rows)


def shown(ratio: Ratio) -> str:
    return f"{ratio.median:.3g} ± {ratio.spread:.2g}"


def verdict(now: Ratio, before: Ratio | None) -> str:
    """Name a change that is no noise: the larger the ratio, the faster the fused step."""
    if before is None:
        return ""
    if abs(now.median - before.median) <= now.spread + before.spread + DRIFT * before.median:
        return ""
    change = now.median / before.median
    return f"{change:.2f}x as fast" if change > 1 else f"{1 / change:.2f}x as slow"


def load(path: Path) -> Ratios:
    """Return the ratios of a file, none if there is no such file."""
    if not path.exists():
        return {}
    lines = json.loads(path.read_text(encoding="utf-8"))
    return {name: {label: Ratio(*pair) for label, pair in found.items()} for name, found in lines.items()}


def run(optimizers: Sequence[str], sets: Sequence[str]) -> Ratios:
    found = {}
    for name in sets:
        model = Model.random(SETS[name]())
        for optimizer in optimizers:
            case = Case(optimizer, OPTIMIZERS[optimizer], model, stepspec.get_num_threads())
            print(f"\r{optimizer}, {name} ...", end="\033[K", file=sys.stderr, flush=True)
            found[f"{optimizer}, {name}"] = measure(case)
    print("\r", end="\033[K", file=sys.stderr)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = partial(parser.add_argument, nargs="+")
    add("--optimizers", choices=list(OPTIMIZERS), default=list(OPTIMIZERS))
    add("--sets", choices=list(SETS), default=list(SETS))
    parser.add_argument("--against", default=LAST, metavar="NAME", help="a saved run; default: the last one")
    parser.add_argument("--save", default=LAST, metavar="NAME", help="keep this run under another name too")
    folder = Path(__file__).parent / "output"
    parser.add_argument("--output", type=Path, default=folder, metavar="DIR", help="for the runs")
    chosen = parser.parse_args(arguments)
    before = load(chosen.output / f"quick-{chosen.against}.json")
    if not before and chosen.against != LAST:
        parser.error(f"there is no run {chosen.against!r} in {chosen.output}")
    try:
        chosen.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(str(error))
    now = run(chosen.optimizers, chosen.sets)
    for name in {LAST, chosen.save}:
        path = chosen.output / f"quick-{name}.json"
        path.write_text(json.dumps(load(path) | now, indent=2) + "\n", encoding="utf-8")
    print("\n".join(compared(now, before)))
    print("\nRatio: how many times as long as the fused step, the larger the better; ± half its range.")
    print(f"Changes beyond both and {DRIFT:.0%} have a word; those within are noise, and those of `step`.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nstopped")
