"""What the README says of every optimizer is what the compiler says of its spec."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from stepspec.generator.analysis import compile_variants, cost
from stepspec.generator.parse import parse
from stepspec.generator.reader import load

ROOT = Path(__file__).parent.parent
ROW = re.compile(r"^\| \[(\w+)\]\((specs/\w+\.yaml)\) \|.*$", re.MULTILINE)
ROWS = [*ROW.finditer((ROOT / "README.md").read_text())]


def test_first_spec_is_printed_whole() -> None:
    text = (ROOT / "specs" / "nag.yaml").read_text().partition("\n")[2]
    assert text.strip() in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1])
def test_row_of_an_optimizer(row: re.Match[str]) -> None:
    path = ROOT / row[2]
    spec = load(path)
    costs = [cost(variant) for variant in compile_variants(parse(spec))]
    cells = [
        f"[{spec.name}]({row[2]})",
        spec.summary.removesuffix("."),
        str(sum(bool(line.strip()) for line in path.read_text().splitlines())),
        span(c.passes for c in costs),
        span(c.bytes() for c in costs),
    ]
    assert row[0] == f"| {' | '.join(cells)} |"


def span(numbers: Iterable[int]) -> str:
    """Return the numbers' least and greatest."""
    several = sorted({*numbers})
    return str(several[0]) if len(several) == 1 else f"{several[0]} to {several[-1]}"
