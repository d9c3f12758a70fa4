"""Measure stepspec's optimizers beside torch's SGD and the machine's memory bandwidth.

For a part only: `python benchmarks/bench.py --sections float32 --sets "MLP" "1000 small"`.
"""

import argparse
import functools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

try:
    from tqdm import tqdm
except ImportError as error:
    sys.exit(f"{error}: the benchmark needs tqdm: pip install -e '.[bench]'")

import first_call
import memory
import report
import results
import row_sparse
import stepspec
import storage
from agreement import DisagreementError, same_update
from contenders import HAS_TORCH, MOMENTUM, RATE, Model, Stepspec, TorchSGD
from shapes import SETS
from stream import LEAST, Stream
from timing import Contender, interleave

# Optimizers besides SGD, with the states they keep in practice.
OTHERS: dict[str, dict[str, Any]] = {
    "NAG": {"learning_rate": RATE, "momentum": MOMENTUM},
    "GroupAdaGrad": {"learning_rate": RATE},
    "FTML": {"learning_rate": RATE},
    "LARS": {"learning_rate": RATE, "momentum": MOMENTUM},
}

# what the progress bar says, and what to do then
Part: TypeAlias = tuple[str, Callable[[], None]]


@functools.lru_cache(maxsize=1)  # the largest comes last and serves several parts
def model(name: str) -> Model:
    return Model.random(SETS[name]())


def one_set(report: results.Report, name: str, rounds: int) -> None:
    settings: dict[str, Any] = {"learning_rate": RATE, "momentum": MOMENTUM}
    drawn, threads = model(name), report.environment.threads
    step = Stepspec("SGD", "step", drawn, **settings)
    fused = Stepspec("SGD", "fused_step", drawn, **settings)
    peer = TorchSGD(drawn, threads) if HAS_TORCH else None
    same_update(drawn, [fused, step], peer)
    stream = Stream(drawn.size, threads) if drawn.size >= LEAST else None
    rivals: tuple[Contender | None, ...] = (fused, step, peer, stream)
    times = interleave([rival for rival in rivals if rival], rounds)
    result = results.SetResult(
        name=name,
        tensors=len(drawn.shapes),
        parameters=drawn.size,
        bytes=fused.plan().bytes,
        step=times[step.label],
        fused=times[fused.label],
        torch=times[peer.label] if peer else None,
        stream_bandwidth=stream.bandwidth(times[stream.label]) if stream else None,
    )
    report.sets.append(result)
    report.peaks = [memory.measure(step), memory.measure(fused)]


def other(report: results.Report, name: str, rounds: int) -> None:
    settings, drawn = OTHERS[name], model(report.largest)
    step, fused = (Stepspec(name, path, drawn, **settings) for path in ("step", "fused_step"))
    times = interleave([fused, step], rounds)
    report.optimizers.append(
        results.OptimizerResult(
            name, settings, drawn.size, fused.plan().bytes, times[step.label], times[fused.label]
        )
    )


def float32(report: results.Report, sets: list[str], rounds: int) -> Iterator[Part]:
    def first(name: str) -> None:
        report.first_calls.append(first_call.measure(name))

    for name in ("SGD", *OTHERS):
        yield f"first call of {name}", partial(first, name)
    for name in sets:
        yield name, partial(one_set, report, name, rounds)
    for name in OTHERS:
        yield f"{name}, {report.largest}", partial(other, report, name, rounds)


def half_precision(report: results.Report, sets: list[str], rounds: int) -> Iterator[Part]:
    def measure() -> None:
        report.storages = storage.measure(SETS[report.largest](), report.environment.threads, rounds)

    yield f"storage, {report.largest}", measure


def rows(report: results.Report, sets: list[str], rounds: int) -> Iterator[Part]:
    threads = report.environment.threads
    drawn = functools.cache(partial(row_sparse.Table, report.rows))

    def measure(case: row_sparse.Case) -> None:
        report.sparse.append(row_sparse.measure(drawn(), case, threads, rounds))

    yield "row-sparse, check", partial(row_sparse.check, threads)
    for case in row_sparse.CASES:
        yield f"row-sparse, {case.label}", partial(measure, case)


SECTIONS = {"float32": float32, "storage": half_precision, "row-sparse": rows}


def run(chosen: argparse.Namespace) -> results.Report:
    sets = sorted(chosen.sets, key=lambda name: sum(math.prod(shape) for shape in SETS[name]().values()))
    environment = results.environment(stepspec.get_num_threads())
    measured = results.Report(environment, sets[-1], chosen.rows)
    parts = [part for name in chosen.sections for part in SECTIONS[name](measured, sets, chosen.rounds)]
    with tqdm(parts, unit="part") as bar:
        for title, action in bar:
            bar.set_description(title)
            action()
    return measured


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description="Measure stepspec beside torch and the memory's bandwidth.")
    for name, known in {"--sections": list(SECTIONS), "--sets": list(SETS)}.items():
        parser.add_argument(name, nargs="+", choices=known, default=known, help="default: all")
    rounds = range(1, 1000)
    parser.add_argument("--rounds", type=int, choices=rounds, default=20, metavar="N", help="default: 20")
    parser.add_argument("--rows", type=int, default=1_000_000, metavar="N", help="of the row-sparse table")
    parser.add_argument("--output", type=Path, default=here / "output", metavar="DIR", help="for the results")
    chosen = parser.parse_args(arguments)
    if chosen.rows < row_sparse.PRESENT:
        parser.error(f"--rows must be at least {row_sparse.PRESENT}, not {chosen.rows}")
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = options(arguments)
    try:
        chosen.output.mkdir(parents=True, exist_ok=True)
        measured = run(chosen)
        written = report.write(measured, chosen.output)
    except (OSError, DisagreementError) as error:
        print(error, file=sys.stderr)
        return 1
    print(report.markdown(measured))
    print("Written:", ", ".join(str(path) for path in written))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nstopped")
