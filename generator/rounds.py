"""What a row kernel computes, sorted by how many rounds of row reductions must be finished before."""

from collections.abc import Callable, Iterable

from stepspec.generator.ir import Assign, Extent, Name, Reduction, Statements, names
from stepspec.generator.kernel_text import key


class Rounds:
    """Statements of a kernel by round: in each, the reductions along rows end that need earlier ones."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements
        self._behind: dict[tuple[str, int], int] = {}
        for s in statements:
            self._behind[key(s.target)] = self._round(s) + isinstance(s.value, Reduction)

    @property
    def last(self) -> int:
        """Return the number of the last round; 0 if nothing is reduced along rows."""
        return max(self._behind.values(), default=0)

    def collected(self, number: int) -> Statements:
        """Return the row reductions that end in a round, from 1 on."""
        ended = (s for s in self._statements if isinstance(s.value, Reduction))
        return tuple(s for s in ended if self._behind[key(s.target)] == number)

    def row_values(self, number: int) -> Statements:
        """Return what is computed per row as soon as a round is finished; 0 is before all."""
        per_row = (s for s in self._statements if s.target.extent is Extent.ROW)
        arithmetic = (s for s in per_row if not isinstance(s.value, Reduction))
        return tuple(s for s in arithmetic if self._behind[key(s.target)] == number)

    def elementwise(self, roots: Iterable[Name]) -> Statements:
        """Return the statements along columns that `roots` need, in order."""
        return needed(self._statements, roots, lambda s: Extent.COLUMN in s.target.extent)

    def _round(self, statement: Assign) -> int:
        return max((self._behind.get(key(n), 0) for n in names(statement.value)), default=0)


def needed(
    statements: Statements, roots: Iterable[Name], taken: Callable[[Assign], bool] = lambda _: True
) -> Statements:
    """Return the statements that `roots` need, in order; what is not `taken` is known already."""
    produced = {key(s.target): s for s in statements}
    found: set[tuple[str, int]] = set()
    queue = list(roots)
    while queue:
        name = queue.pop()
        s = produced.get(key(name))
        if s is not None and taken(s) and key(name) not in found:
            found.add(key(name))
            queue.extend(names(s.value))
    return tuple(s for s in statements if key(s.target) in found)
