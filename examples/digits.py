"""Train a small network on scikit-learn's handwritten digits, once with each generated optimizer.

SGD trains weights in half precision too: float16 with float32 masters, and bfloat16 rounded stochastically.
Every training runs twice from the same seed: with `step`, the readable NumPy reference, and with
`fused_step`, the compiled kernels. Both must end with the same bits in every weight and state, and with
at least 95% test accuracy; 90% if the optimizer is made for another task. Run it as `make train` or
`python examples/digits.py --epochs 20`; `--optimizers SGD Adam` trains with these only.
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import stepspec
from network import Floats, Labels, Network
from stepspec import generated
from trainings import Training, trainings

try:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
    from sklearn.datasets import load_digits
    from tqdm import tqdm
except ImportError as error:
    sys.exit(f"{error}: the example needs more packages: pip install -e '.[examples]'")

BATCH = 32
TEST_IMAGES = 360
CHART = "loss_curves.png"

Array = NDArray[Any]


@dataclass(frozen=True)
class Digits:
    """Standardised images (n, 64) and labels (n,), split into a training and a test part."""

    images: Floats
    labels: Labels
    test_images: Floats
    test_labels: Labels


@dataclass(frozen=True)
class Run:
    """What one training run left behind: `losses` by epoch, `times` in milliseconds by step."""

    losses: list[float]
    times: list[float]
    accuracy: float
    arrays: list[Array]


@dataclass(frozen=True)
class Result:
    """A training's run through each path."""

    training: Training
    step: Run
    fused: Run

    @property
    def accuracy(self) -> float:
        return min(self.step.accuracy, self.fused.accuracy)

    @property
    def has_same_bits(self) -> bool:
        """Whether both runs ended with the same weights and states, to the bit."""
        pairs = zip(self.step.arrays, self.fused.arrays, strict=True)
        return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)


def load(seed: int) -> Digits:
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    images, labels = images[order].astype(np.float32), labels[order].astype(np.int64)
    train, test = images[TEST_IMAGES:], images[:TEST_IMAGES]
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    deviation[deviation == 0] = 1  # some pixels at the border are blank in every image
    return Digits(
        (train - mean) / deviation, labels[TEST_IMAGES:], (test - mean) / deviation, labels[:TEST_IMAGES]
    )


def train(training: Training, path: str, digits: Digits, seed: int, epochs: int, bar: "tqdm[None]") -> Run:
    """Train a fresh network with one method of the optimizer: "step" or "fused_step"."""
    network = Network(seed)
    weights = [weight.astype(training.dtype) for weight in network.weights]
    network.take(weights)
    indices = list(range(len(weights)))
    # Names let an optimizer treat tensors by kind: LARS leaves the rate of biases alone.
    names = dict(enumerate(network.names))
    optimizer = stepspec.create(training.optimizer, param_idx2name=names, **training.arguments)
    states = [optimizer.create_state_multi_precision(i, weights[i]) for i in indices]
    update = getattr(optimizer, path)

    random = np.random.default_rng(seed)
    losses, times = [], []
    for _ in range(epochs):
        order = random.permutation(len(digits.labels))
        total = 0.0
        for batch in np.array_split(order, len(order) // BATCH):
            loss, gradients = network.gradients(digits.images[batch], digits.labels[batch])
            stored = [gradient.astype(training.dtype, copy=False) for gradient in gradients]
            start = time.perf_counter()
            update(indices, weights, stored, states)
            times.append((time.perf_counter() - start) * 1e3)
            network.take(weights)
            total += loss * len(batch)
        losses.append(total / len(order))
        bar.set_postfix_str(f"{training.name} {path}: loss {losses[-1]:.4f}", refresh=False)
        bar.update()
    arrays = weights + [state[key] for state in states for key in sorted(state)]
    return Run(losses, times, network.accuracy(digits.test_images, digits.test_labels), arrays)


def table(results: Sequence[Result]) -> str:
    rows = [
        "| training | test accuracy | final loss | `step` ms | `fused_step` ms | same bits |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for result in results:
        milliseconds = [f"{statistics.median(run.times):.3f}" for run in (result.step, result.fused)]
        bits = "yes" if result.has_same_bits else "NO"
        loss = f"{result.fused.losses[-1]:.4f}"
        cells = [result.training.name, f"{result.accuracy:.2%}", loss, *milliseconds, bits]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def draw(results: Sequence[Result], path: Path) -> None:
    """Write the loss curves of the fused runs as a PNG."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.subplots()
    looks = itertools.product(("-", "--", ":", "-."), (f"C{i}" for i in range(10)))
    for result, (style, color) in zip(results, itertools.cycle(looks)):
        losses = result.fused.losses
        epochs = range(1, len(losses) + 1)
        label = f"{result.training.name} ({result.fused.accuracy:.1%})"
        axes.plot(epochs, losses, style, color=color, marker="o", markersize=3, label=label)
    axes.set_title("Handwritten digits: training loss by optimizer")
    axes.set_xlabel("epoch")
    axes.set_ylabel("mean cross-entropy (log scale)")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(which="both", alpha=0.25)
    figure.legend(loc="outside right upper", title="training (test accuracy)", fontsize="small")
    figure.savefig(path, dpi=120)


def failures(results: Sequence[Result]) -> list[str]:
    """Return one sentence for each promise that was not kept."""
    found = []
    for result in results:
        name, required = result.training.name, result.training.required
        if not result.has_same_bits:
            found.append(f"{name}: step and fused_step ended with different bits")
        if not result.accuracy >= required:
            found.append(f"{name}: test accuracy {result.accuracy:.2%} is below {required:.0%}")
    return found


def at_least(least: int) -> Callable[[str], int]:
    """Return a reader of integers from `least` on, for the command line."""

    def integer(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return int(text)

    return integer


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description="Train on handwritten digits with each generated optimizer.")
    known = sorted(generated.__all__, key=str.lower)
    parser.add_argument("--optimizers", nargs="+", choices=known, default=known, help="default: all")
    parser.add_argument("--epochs", type=at_least(1), default=20, help="passes over the data (default: 20)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of split, weights, batches (default: 0)")
    parser.add_argument("--output", type=Path, default=here / "output", metavar="DIR", help="for the chart")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = options(arguments)
    try:
        chosen.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"cannot write to {chosen.output}: {error.strerror}", file=sys.stderr)
        return 2
    digits = load(chosen.seed)
    asked = trainings(chosen.optimizers)
    results = []
    with tqdm(total=2 * len(asked) * chosen.epochs, unit="epoch") as bar:
        for training in asked:
            step = train(training, "step", digits, chosen.seed, chosen.epochs, bar)
            fused = train(training, "fused_step", digits, chosen.seed, chosen.epochs, bar)
            results.append(Result(training, step, fused))

    sizes = f"{len(digits.labels)} training and {len(digits.test_labels)} test images"
    print(f"\n{sizes}, {chosen.epochs} epochs\n\n{table(results)}")
    draw(results, chosen.output / CHART)
    print(f"\nLoss curves: {chosen.output / CHART}")
    broken = failures(results)
    for sentence in broken:
        print(sentence, file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nstopped")
