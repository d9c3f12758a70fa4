"""Are the specs held fast? Change each in one place at a time and see whether `step` still does as recorded.

`make mutation` judges all mutants of MXNet's optimizers and prints how many are noticed; test_mutations.py
judges a sample. A mutant is judged by its class with `step`, and no kernels, against three witnesses, each of
which is a test of the spec itself: what users meet besides arithmetic (interface.py), MXNet's recorded runs
(golden_records.py, and golden_drift.py where there is noise), and rules in plain floats where the records
leave them free (by_hand.py). One that the compiler refuses counts apart. Those that do the same as the spec
stand in equivalent_mutants.yaml, with the reason; whatever else goes unnoticed is a hole to be closed by
another recorded or worked out value.
"""

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias
from unittest import mock

import by_hand
import fragments
import interface
import yaml
from golden_drift import drift_complaints
from golden_records import OPTIMIZERS, Case, build, complaints, load, paths, replay
from mutants import Mutant, mutants

import stepspec
from stepspec.generator import classes, emit, reader
from stepspec.generator.errors import SpecError
from stepspec.generator.lazy import NEVER
from stepspec.generator.spec import Spec

Class: TypeAlias = type[stepspec.Optimizer]
# Yields what is wrong with a class.
Witness: TypeAlias = Callable[[Class], Iterator[str]]

TESTS = Path(__file__).parent
SPECS = {spec.name: spec for spec in map(reader.load, sorted((TESTS.parent / "specs").glob("*.yaml")))}
JUDGED = (*OPTIMIZERS, "SGLD")
EQUIVALENT = yaml.safe_load((TESTS / "equivalent_mutants.yaml").read_text(encoding="utf-8"))

# what a call of a mutant may raise; anything else is a mistake of the compiler
RAISED = (ArithmeticError, AssertionError, LookupError, TypeError, ValueError)


@dataclass(frozen=True)
class Verdicts:
    """What became of the mutants of one spec: their changes, by outcome."""

    optimizer: str
    refused: tuple[str, ...]
    noticed: tuple[str, ...]
    unnoticed: tuple[str, ...]

    @property
    def survived(self) -> tuple[str, ...]:
        """Return the changes that something should have noticed."""
        listed = equivalents(self.optimizer)
        return tuple(change for change in self.unnoticed if change not in listed)

    @property
    def stale(self) -> set[str]:
        """Return what is listed as equivalent, but is noticed or no mutant at all."""
        return equivalents(self.optimizer) - set(self.unnoticed)


def equivalents(optimizer: str) -> set[str]:
    """Return the changes of a spec that are listed as changing nothing."""
    return {change for entry in EQUIVALENT for change in entry["mutants"].get(optimizer, ())}


def judge(optimizer: str, chosen: Callable[[Mutant], bool] = lambda _: True) -> Verdicts:
    """Judge those mutants of a spec that are `chosen`."""
    asked = [*witnesses(optimizer)]
    found: dict[str, list[str]] = {"refused": [], "noticed": [], "unnoticed": []}
    for mutant in filter(chosen, mutants(SPECS[optimizer])):
        found[outcome(mutant.spec, asked)].append(mutant.change)
    return Verdicts(optimizer, **{kind: tuple(changes) for kind, changes in found.items()})


def outcome(spec: Spec, asked: list[Witness]) -> str:
    """Return 'refused', 'noticed' or 'unnoticed'; who notices it is asked first the next time."""
    try:
        kind = class_of(spec)
    except SpecError:
        return "refused"
    with warnings.catch_warnings(action="ignore"):
        for place, witness in enumerate(asked):
            if notices(witness, kind):
                asked.insert(0, asked.pop(place))
                return "noticed"
    return "unnoticed"


def class_of(spec: Spec) -> Class:
    """Return the class of a spec, with `step` alone: kernels and what rows may be left out take most time."""
    exact = mock.patch.object(classes, "lazy_is_exact", return_value=NEVER)
    with mock.patch.object(emit, "TARGETS", {}), exact:
        text = fragments.module(spec)
    kind: Class = fragments.optimizer_class(text, spec.name)
    return kind


# ---- witnesses


def witnesses(optimizer: str) -> Iterator[Witness]:
    """Return who is asked about the mutants of a spec."""
    yield interface.differences
    for case in load(optimizer):
        if "step" in paths(case):
            yield partial(_deviations, case)
    yield by_hand.mistakes


def notices(witness: Witness, kind: Class) -> bool:
    try:
        return any(witness(kind))
    except RAISED:
        return True


def _deviations(case: Case, kind: Class) -> Iterator[str]:
    """Yield how a recorded run comes out otherwise with the class `kind`."""
    with mock.patch.object(stepspec, "create", lambda _, **arguments: kind(**arguments)):
        if case.expect["compare"] == "raises":
            yield from _lacking_refusal(case)
        elif case.expect.get("how") == "drift":
            yield from drift_complaints(case, "step")
        else:
            for entry in [case.expect, *case.expect.get("also", [])]:
                got = replay(case, "step", entry["feed"])
                yield from complaints(case, got, case.reference(entry["compare"]), entry["tol"])


def _lacking_refusal(case: Case) -> Iterator[str]:
    try:
        build(case, "step")
        if case.expect["at"] != "construct":
            replay(case, "step", case.expect["feed"])
    except ValueError:
        return
    yield "not refused"


# ---- the table

COLUMNS = ("mutants", "refused", "equivalent", "noticed", "survived", "noticed %", "or refused %")


def table(verdicts: Sequence[Verdicts]) -> Iterator[str]:
    """Return its lines; shares are of what is not equivalent."""
    yield f"{'spec':14}" + "".join(f"{title:>14}" for title in COLUMNS)
    rows = [tuple(map(len, (v.refused, v.noticed, v.unnoticed, v.survived))) for v in verdicts]
    for name, (refused, noticed, unnoticed, survived) in [
        *zip((v.optimizer for v in verdicts), rows, strict=True),
        ("total", tuple(map(sum, zip(*rows, strict=True)))),
    ]:
        told = noticed + refused
        counts = (told + unnoticed, refused, unnoticed - survived, noticed, survived)
        shares = (100 * noticed / (noticed + survived), 100 * told / (told + survived))
        yield f"{name:14}" + "".join(f"{n:14}" for n in counts) + "".join(f"{s:14.1f}" for s in shares)


def main() -> int:
    """Judge every mutant, print the table and what went unnoticed; return 1 if anything did."""
    with ProcessPoolExecutor() as pool:
        verdicts = [*pool.map(judge, JUDGED)]
    print(*table(verdicts), sep="\n")
    for v in verdicts:
        for change in v.survived:
            print(f"{v.optimizer}: nothing notices: {change}")
        for change in sorted(v.stale):
            print(f"{v.optimizer}: listed as equivalent, but noticed or no mutant: {change}")
    return int(any(v.survived or v.stale for v in verdicts))


if __name__ == "__main__":
    sys.exit(main())
