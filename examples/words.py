"""Train word embeddings on the Python Language Reference, with gradients of a few rows.

A step of skip-gram with negative sampling sees a few hundred words; in all other rows of the two tables its
gradients are zero. The training runs twice from the same seed: with `RowSparse` gradients, which GroupAdaGrad
applies to the present rows alone, and with the same gradients as dense arrays. Both must end with the same
bits in every weight and state. Run it as `python examples/words.py --epochs 10`.
"""

import argparse
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pydoc_data.topics import topics

import numpy as np

import stepspec
from network import Floats, Labels

try:
    from tqdm import tqdm
except ImportError as error:
    sys.exit(f"{error}: the example needs tqdm: pip install -e '.[examples]'")

LEARNING_RATE = 0.1
WINDOW = 5
# words drawn once for a whole batch; each pair counts them as NEGATIVES of its own
DRAWN, NEGATIVES = 16, 5
# matrix products of these sizes are too small for BLAS to start threads, which would cost more than they gain
BATCH, COLUMNS = 256, 64
# a word that makes up this share of the text, or less, is never left out
RARE = 3e-4
SHOWN = ("tuple", "raise", "except", "async", "global", "bytes", "float", "multiplication")
# nearest words are looked for among so many; the rarest come too seldom to find their place
FREQUENT = 1000


@dataclass(frozen=True)
class Corpus:
    """Distinct words, most frequent first, their shares (n,) of the text; paragraphs as word numbers."""

    words: list[str]
    shares: Floats
    paragraphs: list[Labels]


@dataclass(frozen=True)
class Run:
    """What one training left: `losses` by epoch; `times` in milliseconds and present `rows`, by step."""

    losses: list[float]
    times: list[float]
    rows: list[int]
    arrays: list[Floats]


def load() -> Corpus:
    """Read the chapters of the reference that `help()` shows, which every CPython ships."""
    # paragraphs that several chapters share count once
    texts = dict.fromkeys(text for chapter in topics.values() for text in chapter.split("\n\n"))
    paragraphs = [re.findall(r"[a-z_]{2,}", text.lower()) for text in texts]
    counts = Counter(word for paragraph in paragraphs for word in paragraph)
    words = [word for word, _ in counts.most_common()]
    number = {word: k for k, word in enumerate(words)}
    shares = np.array([counts[word] for word in words], np.float32) / np.float32(counts.total())
    return Corpus(words, shares, [np.array([number[word] for word in p], np.int64) for p in paragraphs])


def pairs(corpus: Corpus, random: np.random.Generator) -> tuple[Labels, Labels]:
    """Return words and a neighbour of each, shuffled; frequent words are left out at random."""
    kept = np.minimum(1, np.sqrt(RARE / corpus.shares))
    centers, neighbours = [], []
    for whole in corpus.paragraphs:
        text = whole[random.random(len(whole)) < kept[whole]]
        for distance in range(1, WINDOW + 1):
            before, after = text[:-distance], text[distance:]
            centers += [before, after]
            neighbours += [after, before]
    order = random.permutation(sum(map(len, centers)))
    return np.concatenate(centers)[order], np.concatenate(neighbours)[order]


def batches(corpus: Corpus, random: np.random.Generator) -> Iterator[tuple[Labels, Labels, Labels]]:
    """Yield words, a neighbour of each, and words drawn at random that are no neighbours."""
    chances = np.cumsum(corpus.shares.astype(np.float64) ** 0.75)
    centers, neighbours = pairs(corpus, random)
    for start in range(0, len(centers), BATCH):
        drawn = np.searchsorted(chances, random.random(DRAWN) * chances[-1], side="right")
        yield centers[start : start + BATCH], neighbours[start : start + BATCH], drawn


def gradients(
    tables: list[Floats], centers: Labels, neighbours: Labels, drawn: Labels
) -> tuple[float, list[stepspec.RowSparse]]:
    """Return the mean loss of a batch and its gradients: of the words' table and of the neighbours'."""
    word, neighbour, other = tables[0][centers], tables[1][neighbours], tables[1][drawn]
    # surprise = -log(probability): of "is a neighbour" for the true ones, of "is none" for the drawn
    true = np.logaddexp(0, -np.einsum("ij,ij->i", word, neighbour))
    false = np.logaddexp(0, word @ other.T)
    share = NEGATIVES / DRAWN
    loss = float(true.mean() + share * false.sum(axis=1).mean())

    pull = np.expm1(-true)[:, None] / len(centers)
    push = -np.expm1(-false) * (share / len(centers))
    of_words = pull * neighbour + push @ other
    of_neighbours = np.concatenate([pull * word, push.T @ word])
    # a word may come more than once in a batch: its gradients are summed
    return loss, [
        stepspec.RowSparse.summed(of_words, centers, tables[0].shape),
        stepspec.RowSparse.summed(of_neighbours, np.concatenate([neighbours, drawn]), tables[1].shape),
    ]


def train(corpus: Corpus, dense: bool, seed: int, epochs: int) -> Run:
    """Train fresh tables, with row-sparse gradients or the same ones as dense arrays."""
    random = np.random.default_rng(seed)
    words = random.standard_normal((len(corpus.words), COLUMNS), np.float32) * np.float32(1 / COLUMNS)
    tables = [words, np.zeros_like(words)]
    optimizer = stepspec.GroupAdaGrad(learning_rate=LEARNING_RATE)
    states = [optimizer.create_state(i, table) for i, table in enumerate(tables)]
    losses, times, rows = [], [], []
    for _ in tqdm(range(epochs), "dense" if dense else "row-sparse", unit="epoch"):
        seen = []
        for batch in batches(corpus, random):
            loss, sparse = gradients(tables, *batch)
            given: Sequence[Floats | stepspec.RowSparse] = sparse
            if dense:
                given = [grad.to_dense() for grad in sparse]
            start = time.perf_counter()
            optimizer.update([0, 1], tables, given, states)
            times.append((time.perf_counter() - start) * 1e3)
            rows.append(sum(len(grad.rows) for grad in sparse))
            seen.append(loss)
        losses.append(statistics.fmean(seen))
    return Run(losses, times, rows, tables + [array for state in states for array in state.values()])


def nearest(corpus: Corpus, table: Floats, word: str, count: int = 6) -> list[str]:
    """Return the frequent words whose rows point most in the direction of this word's, by their cosine."""
    table = table[:FREQUENT] / np.linalg.norm(table[:FREQUENT], axis=1, keepdims=True)
    cosines = table @ table[corpus.words.index(word)]
    return [corpus.words[k] for k in np.argsort(-cosines)[1 : count + 1]]


def table(corpus: Corpus, sparse: Run, dense: Run) -> str:
    rows = 2 * len(corpus.words)
    lines = ["| gradients | rows per step | final loss | optimizer step ms |", "|---|---:|---:|---:|"]
    for name, run, moved in (("row-sparse", sparse, statistics.mean(sparse.rows)), ("dense", dense, rows)):
        step = statistics.median(run.times)
        lines.append(f"| {name} | {moved:.0f} of {rows} | {run.losses[-1]:.4f} | {step:.3f} |")
    return "\n".join(lines)


def failures(sparse: Run, dense: Run) -> list[str]:
    """Return one sentence for each promise that was not kept."""
    found = []
    pairs = zip(sparse.arrays, dense.arrays, strict=True)
    if not all(one.tobytes() == two.tobytes() for one, two in pairs):
        found.append("row-sparse and dense gradients ended with different bits")
    untrained = (1 + NEGATIVES) * np.log(2)
    if not sparse.losses[-1] < untrained:
        found.append(f"the loss {sparse.losses[-1]:.4f} is not below that of empty tables, {untrained:.4f}")
    return found


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train word embeddings with row-sparse gradients.")
    parser.add_argument("--epochs", type=int, default=5, help="passes over the text (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of tables, pairs, drawn words (default: 0)")
    chosen = parser.parse_args(arguments)
    if chosen.epochs < 1 or chosen.seed < 0:
        parser.error("--epochs must be at least 1, --seed at least 0")
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = options(arguments)
    corpus = load()
    sparse, dense = (train(corpus, dense, chosen.seed, chosen.epochs) for dense in (False, True))

    size = f"{sum(map(len, corpus.paragraphs))} words of text, {len(corpus.words)} distinct"
    print(f"\n{size}, {chosen.epochs} epochs\n\n{table(corpus, sparse, dense)}\n\nNearest words:")
    for word in (word for word in SHOWN if word in corpus.words[:FREQUENT]):
        print(f"  {word}: {', '.join(nearest(corpus, sparse.arrays[0], word))}")
    broken = failures(sparse, dense)
    for sentence in broken:
        print(sentence, file=sys.stderr)
    if not broken:
        print("\nBoth trainings ended with the same bits in every weight and state.")
    return 1 if broken else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nstopped")
