"""What a section of the benchmark is: parts to run one after the other, then tables, targets and data."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from environment import Environment


@dataclass(frozen=True)
class Options:
    """What the command line asked for; `sets` from the smallest to the largest."""

    rounds: int
    sets: tuple[str, ...]
    optimizers: tuple[str, ...]
    dtypes: tuple[str, ...]
    output: Path
    environment: Environment


@dataclass(frozen=True)
class Table:
    """Cells of text: the first column names a row, the others hold figures."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


@dataclass(frozen=True)
class Target:
    """A figure that was aimed at.

    `reached` is None where it was not measured; `note` then says why. `at_least` is False for figures that
    are better the smaller they are.
    """

    what: str
    aim: float
    reached: float | None
    at_least: bool = True
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.reached is None:
            return None
        return self.reached >= self.aim if self.at_least else self.reached <= self.aim


class Part(NamedTuple):
    """What the progress bar says, and what to do then."""

    title: str
    action: Callable[[], None]


class Section(Protocol):
    """One question of the benchmark: its parts fill in what its tables and targets then tell."""

    name: str

    def parts(self, options: Options) -> Iterator[Part]: ...

    def tables(self) -> Iterator[Table]: ...

    def targets(self) -> Iterator[Target]: ...

    def data(self) -> object:
        """Return what the JSON file holds of this section."""


def at_least_one(text: str) -> int:
    """Return the number that an option of the command line is, to be at least 1."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return number
