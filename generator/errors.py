"""What an author of a spec sees when something is wrong: a place, the line, a caret, a hint."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

WIDEST_LINE = 110


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of one line of a source; line and column count from 1, in characters."""

    line: int
    column: int
    length: int = 1


NOWHERE = Span(0, 0)


@dataclass(frozen=True, slots=True)
class Source:
    """A spec's text under the name that messages show for it."""

    name: str
    text: str

    def line(self, number: int) -> str:
        """Return line `number`, counted from 1, or '' behind the end."""
        lines = self.text.split("\n")
        return lines[number - 1].rstrip("\r") if 0 < number <= len(lines) else ""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake of an author."""

    span: Span
    message: str
    hint: str = ""

    def render(self, source: Source) -> str:
        """Return the message with its place, the line it stands on and a caret below."""
        parts = [f"{source.name}:{self.span.line}:{self.span.column}: {self.message}"]
        line = source.line(self.span.line).expandtabs(1)
        indent = len(line) - len(line.lstrip())
        # a long line is shown from a little before the place
        start = indent if self.span.column - indent < WIDEST_LINE else self.span.column - WIDEST_LINE // 2
        shown = line[start:][:WIDEST_LINE].rstrip()
        offset = self.span.column - 1 - start
        if shown and 0 <= offset <= len(shown):
            carets = "^" * max(1, min(self.span.length, len(shown) - offset))
            parts += [f"    {shown}", " " * (4 + offset) + carets]
        if self.hint:
            parts.append(f"hint: {self.hint}")
        return "\n".join(parts)


class SpecError(ValueError):
    """All mistakes found in one spec, in the order of their places.

    Attributes:
        source: the spec that was read.
        problems: the mistakes, at least one.
    """

    def __init__(self, source: Source, problems: Iterable[Problem]) -> None:
        self.source = source
        self.problems = tuple(sorted(problems, key=lambda p: (p.span.line, p.span.column)))
        super().__init__("\n\n".join(p.render(source) for p in self.problems))


class Problems:
    """Collects the mistakes of one source, so that an author sees all of them in one run."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._found: list[Problem] = []

    def add(self, span: Span, message: str, hint: str = "") -> None:
        """Record a mistake; the same words at the same place count once."""
        problem = Problem(span, message, hint)
        if problem not in self._found:
            self._found.append(problem)

    def raise_any(self) -> None:
        """Raise SpecError if a mistake was recorded."""
        if self._found:
            raise SpecError(self.source, self._found)


def closest(word: str, candidates: Iterable[str]) -> str:
    """Return the candidate most like `word`, whatever its case; empty if none is."""
    by_lower = {candidate.lower(): candidate for candidate in sorted(candidates)}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else ""


def nearest(word: str, candidates: Iterable[str]) -> str:
    """Return the hint that names the candidate most like `word`, whatever its case; empty if none is."""
    found = closest(word, candidates)
    return f"did you mean '{found}'?" if found else ""
