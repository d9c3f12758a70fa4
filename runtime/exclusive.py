"""One step at a time per optimizer, and writes that Ctrl-C cannot split."""

from __future__ import annotations

import operator
import threading
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial


class Exclusive:
    """Lets one thread at a time step an optimizer; another one gets a RuntimeError.

    A step of the same thread that never ended (an exception of its loop holds it suspended) is taken over.
    """

    def __init__(self) -> None:
        # at most one entry; not a lock, which Ctrl-C at the wrong moment would leave locked
        self._turns: dict[str, tuple[int, object]] = {}

    def take(self, owner: str) -> object:
        """Take the turn for a step of the optimizer called `owner`; return what gives it back."""
        turn = (threading.get_ident(), object())
        holder = self._turns.setdefault("turn", turn)
        if holder[0] != turn[0]:
            raise RuntimeError(
                f"{owner}: another thread is in the middle of an update of this optimizer; "
                "give each thread an optimizer of its own, or take turns with a lock"
            )
        self._turns["turn"] = turn
        return turn

    def give_back(self, turn: object) -> None:
        """End a turn, unless it has been taken over."""
        if self._turns.get("turn") is turn:
            self._turns.clear()


def uninterrupted(actions: Iterable[Callable[[], object]]) -> None:
    """Run functions written in C in one go.

    Python delivers signals between bytecodes only. Here the loop and the calls are one bytecode, so Ctrl-C
    comes before all of them or after all of them.
    """
    joined(actions)()


def undisturbed(actions: Iterable[Callable[[], object]]) -> None:
    """Run functions in one go, such as those written in Python that copy to a device.

    Signals are the main thread's, so Ctrl-C does not come between them in another one, which is waited for.
    """
    from concurrent.futures import ThreadPoolExecutor  # late: it takes longer to import than all of this

    with ThreadPoolExecutor(1) as pool:
        pool.submit(joined(actions)).result()


def joined(actions: Iterable[Callable[[], object]]) -> Callable[[], object]:
    """Return a function written in C that calls others in order; it does so once."""
    return partial(deque, map(operator.call, list(actions)), 0)
