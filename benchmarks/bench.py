"""Measure stepspec's optimizers beside torch's fused SGD and the machine's memory bandwidth.

For some of the sets of shapes only: `python benchmarks/bench.py --sets "MLP" "1000 small"`.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

try:
    from tqdm import tqdm
except ImportError as error:
    sys.exit(f"{error}: the benchmark needs tqdm: pip install -e '.[bench]'")

import numpy as np

import first_call
import memory
import report
import results
import stepspec
from contenders import HAS_TORCH, MOMENTUM, RATE, Model, Stepspec, TorchSGD
from shapes import SETS
from stream import LEAST, Stream
from timing import Contender, Timing, interleave
from traffic import bytes_per_element

# Optimizers besides SGD, with the states they keep in practice.
OTHERS: dict[str, dict[str, float]] = {
    "NAG": {"learning_rate": RATE, "momentum": MOMENTUM},
    "GroupAdaGrad": {"learning_rate": RATE},
    "FTML": {"learning_rate": RATE},
    "LARS": {"learning_rate": RATE, "momentum": MOMENTUM},
}
CHECKED_STEPS = 3


class DisagreementError(Exception):
    """Contenders that should do the same did not."""


def same_update(model: Model, step: Stepspec, fused: Stepspec, peer: TorchSGD | None) -> None:
    """Take some steps with each contender and compare what they did to the weights."""
    alike: list[Contender] = [step, fused, peer] if peer else [step, fused]
    for contender in alike:
        for _ in range(CHECKED_STEPS):
            contender.prepare()
            contender.step()
    for i, (name, start) in enumerate(zip(model.shapes, model.weights, strict=True)):
        moved = fused.weights[i] - start
        if not moved.any():
            raise DisagreementError(f"{name}: fused_step did not move the weight")
        if step.weights[i].tobytes() != fused.weights[i].tobytes():
            raise DisagreementError(f"{name}: step and fused_step differ")
        if peer is None:
            continue
        # Both round the weight at every step; apart from that the displacements agree to float32 precision.
        room = 1e-5 * np.abs(moved).max() + 2 * CHECKED_STEPS * np.finfo(np.float32).eps * np.abs(start).max()
        distance = np.abs(peer.weights[i] - fused.weights[i]).max()
        if not distance <= room:
            raise DisagreementError(f"{name}: torch and fused_step differ by {distance:.2e} > {room:.2e}")


def sgd(name: str, model: Model, threads: int, rounds: int) -> tuple[results.SetResult, list[memory.Peak]]:
    settings = {"learning_rate": RATE, "momentum": MOMENTUM}
    step = Stepspec("SGD", "step", model, **settings)
    fused = Stepspec("SGD", "fused_step", model, **settings)
    peer = TorchSGD(model, threads) if HAS_TORCH else None
    same_update(model, step, fused, peer)
    stream = Stream(model.size, threads) if model.size >= LEAST else None
    rivals: tuple[Contender | None, ...] = (fused, step, peer, stream)
    times = interleave([rival for rival in rivals if rival], rounds)
    result = results.SetResult(
        name=name,
        tensors=len(model.shapes),
        parameters=model.size,
        bytes_per_element=bytes_per_element("SGD"),
        step=times[step.label],
        fused=times[fused.label],
        torch=times[peer.label] if peer else None,
        stream_bandwidth=gigabytes(model, stream.bytes_per_element, times[stream.label]) if stream else None,
    )
    return result, [memory.measure(step), memory.measure(fused)]


def gigabytes(model: Model, bytes_per_element: float, timing: Timing) -> float:
    """Return the bandwidth of a step in GB/s."""
    return model.size * bytes_per_element / timing.median / 1e6


def other(name: str, model: Model, rounds: int) -> results.OptimizerResult:
    settings = OTHERS[name]
    step, fused = (Stepspec(name, path, model, **settings) for path in ("step", "fused_step"))
    times = interleave([fused, step], rounds)
    cost, fast = bytes_per_element(name), times[fused.label]
    return results.OptimizerResult(
        name, settings, cost, times[step.label], fast, bandwidth=gigabytes(model, cost, fast)
    )


def run(names: list[str], rounds: int) -> results.Report:
    threads = stepspec.get_num_threads()
    environment = results.environment(threads)
    # The largest set comes last: its model serves the other optimizers too.
    names = sorted(names, key=lambda name: sum(math.prod(shape) for shape in SETS[name]().values()))
    measured, others, first = [], [], []
    with tqdm(total=1 + len(OTHERS) + len(names) + len(OTHERS), unit="part") as bar:
        for name in ("SGD", *OTHERS):
            bar.set_description(f"first call of {name}")
            first.append(first_call.measure(name))
            bar.update()
        for name in names:
            bar.set_description(name)
            model = Model(SETS[name]())
            result, peaks = sgd(name, model, threads, rounds)
            measured.append(result)
            bar.update()
        for name in OTHERS:
            bar.set_description(f"{name}, {names[-1]}")
            others.append(other(name, model, rounds))
            bar.update()
    return results.Report(environment, measured, names[-1], others, peaks, first)


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description="Measure stepspec beside torch and the memory's bandwidth.")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS), help="default: all")
    rounds = range(1, 1000)
    parser.add_argument("--rounds", type=int, choices=rounds, default=20, metavar="N", help="default: 20")
    parser.add_argument("--output", type=Path, default=here / "output", metavar="DIR", help="for the results")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = options(arguments)
    try:
        chosen.output.mkdir(parents=True, exist_ok=True)
        measured = run(chosen.sets, chosen.rounds)
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
