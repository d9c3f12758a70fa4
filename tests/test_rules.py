"""What recorded runs of MXNet leave open: rules worked out by hand, and what is no arithmetic."""

import by_hand
import interface
import pytest

import stepspec


@pytest.mark.parametrize("name", interface.ARGUMENTS)
def test_users_meet_what_they_know(name: str) -> None:
    assert list(interface.differences(getattr(stepspec, name))) == []


@pytest.mark.parametrize("name", by_hand.WRITTEN)
def test_rules_do_as_worked_out_by_hand(name: str) -> None:
    assert list(by_hand.mistakes(getattr(stepspec, name))) == []
