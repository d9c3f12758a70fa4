"""Specs are held fast: no place of one can be changed without a value, an argument or a state to differ.

Here a sample of the mutants is judged, and all that are listed as equivalent; `make mutation` judges all.
"""

import hashlib

import mutation
import pytest
from mutants import Mutant, mutants

# one mutant in so many is judged here
SAMPLE = 6


@pytest.mark.parametrize("name", mutation.JUDGED)
def test_mutants_are_noticed(name: str) -> None:
    listed = mutation.equivalents(name)
    verdicts = mutation.judge(name, lambda mutant: mutant.change in listed or drawn(mutant))
    assert not verdicts.stale, "listed as equivalent, but noticed or no mutant: see make mutation"
    assert not verdicts.survived, "nothing notices these changes: see make mutation"
    assert len(verdicts.noticed) > 10


def drawn(mutant: Mutant) -> bool:
    """Tell whether a mutant belongs to the sample, which is the same in every run."""
    return hashlib.blake2b(mutant.change.encode(), digest_size=1).digest()[0] % SAMPLE == 0


@pytest.mark.parametrize("name", mutation.JUDGED)
def test_no_two_mutants_are_alike(name: str) -> None:
    found = [*mutants(mutation.SPECS[name])]
    assert len({mutant.change for mutant in found}) == len(found)
    assert all(mutant.spec != mutation.SPECS[name] for mutant in found)


@pytest.mark.parametrize("name", ["Adam", "SGLD"])
def test_what_does_as_the_spec_is_not_noticed(name: str) -> None:
    assert mutation.outcome(mutation.SPECS[name], [*mutation.witnesses(name)]) == "unnoticed"


def test_equivalent_mutants_are_of_judged_specs() -> None:
    listed = {name for entry in mutation.EQUIVALENT for name in entry["mutants"]}
    assert listed <= set(mutation.JUDGED)
    assert all(entry["reason"] for entry in mutation.EQUIVALENT)


def test_a_changed_rule_is_noticed_and_an_impossible_one_refused() -> None:
    """Without this, the judge could call all unnoticed, or all refused."""
    changes = {mutant.change: mutant.spec for mutant in mutants(mutation.SPECS["SGD"])}
    asked = [*mutation.witnesses("SGD")]
    assert mutation.outcome(changes["weight += mom"], asked) == "noticed"
    assert mutation.outcome(changes["without mom = momentum * mom + lr * g"], asked) == "refused"
