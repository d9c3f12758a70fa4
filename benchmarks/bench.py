"""Measure stepspec's optimizers beside those of torch, optax and MXNet, and beside the memory's bandwidth.

For a part only: `python benchmarks/bench.py --sections peers --sets MLP "1000 small" --optimizers SGD`.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

try:
    from tqdm import tqdm
except ImportError as error:
    sys.exit(f"{error}: the benchmark needs tqdm and matplotlib: pip install -e '.[bench]'")

import chart
import report
import stepspec
from agreement import DisagreementError
from cases import DTYPES, OPTIMIZERS
from comparison import Comparison
from environment import environment
from first_call import FirstCalls
from memory import Memory
from neighbours import Neighbours
from persistent import PersistentGradients
from row_sparse import RowSparseGradients
from scaling import Scaling
from sections import Options, Section, at_least_one
from shapes import SETS, size
from storage import HalfPrecision
from thread_scaling import ThreadScaling

SECTIONS = {
    section.name: section
    for section in (
        Comparison,
        PersistentGradients,
        RowSparseGradients,
        HalfPrecision,
        Memory,
        ThreadScaling,
        Neighbours,
        Scaling,
        FirstCalls,
    )
}


def run(options: Options, sections: Sequence[Section]) -> None:
    """Run all parts, and write what there is after each."""
    parts = [part for section in sections for part in section.parts(options)]
    with tqdm(parts, unit="part") as bar:
        for title, action in bar:
            bar.set_description(title)
            action()
            report.write(options.environment, sections, options.output)


def parsed(arguments: Sequence[str] | None) -> tuple[Options, list[Section]]:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")

    def choice(name: str, known: Iterable[str], chosen: Sequence[str]) -> None:
        parser.add_argument(name, nargs="+", choices=list(known), default=chosen, help=f"default: {chosen}")

    choice("--sections", SECTIONS, list(SECTIONS))
    choice("--sets", SETS, list(SETS))
    choice("--optimizers", OPTIMIZERS, list(OPTIMIZERS))
    choice("--dtypes", DTYPES, ["float32", "bfloat16"])
    parser.add_argument("--rounds", type=at_least_one, default=12, metavar="N", help="default: 12")
    here = Path(__file__).parent
    parser.add_argument("--output", type=Path, default=here / "output", metavar="DIR", help="for the results")
    chosen = parser.parse_args(arguments)
    options = Options(
        chosen.rounds,
        tuple(sorted(set(chosen.sets), key=size)),
        tuple(name for name in OPTIMIZERS if name in chosen.optimizers),
        tuple(name for name in DTYPES if name in chosen.dtypes),
        chosen.output,
        environment(stepspec.get_num_threads()),
    )
    return options, [SECTIONS[name]() for name in SECTIONS if name in chosen.sections]


def main(arguments: Sequence[str] | None = None) -> int:
    options, sections = parsed(arguments)
    status = 0
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        run(options, sections)
    except (OSError, DisagreementError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what follows was measured before", file=sys.stderr)
        status = 130
    written = [
        *report.write(options.environment, sections, options.output),
        *chart.draw(sections, options.output),
    ]
    print(report.markdown(options.environment, sections))
    print("Written:", ", ".join(str(path) for path in written))
    return status


if __name__ == "__main__":
    sys.exit(main())
