"""Names for what the compiler adds, beside the author's."""

from collections.abc import Callable, Iterable


class FreeNames:
    """Hands out names that are not taken."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)

    def fresh(self, wanted: str, unfit: Callable[[str], bool] = lambda _: False) -> str:
        """Return the name wanted, with a number behind it if it is taken or `unfit`."""
        name, number = wanted, 1
        while name in self._taken or unfit(name):
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name
