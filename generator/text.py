"""Lines of Python that a reader would have broken the same way."""

from collections.abc import Iterable

WIDTH = 110


def indented(lines: Iterable[str], levels: int = 1) -> list[str]:
    """Return the lines moved right by `levels` of four spaces; empty ones stay empty."""
    return ["    " * levels + line if line else line for line in lines]


def quoted(text: str) -> str:
    """Return `text` as a Python string in double quotes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def assignment(target: str, value: str, indent: int) -> list[str]:
    """Return `target = value`, broken in brackets if it is wider than a line at `indent` columns."""
    return formula(f"{target} = ", value, "", indent)


def formula(head: str, value: str, tail: str, indent: int) -> list[str]:
    """Return `head value tail`, the value broken in brackets if the line is too wide at `indent` columns."""
    if indent + len(head) + len(value) + len(tail) <= WIDTH:
        return [f"{head}{value}{tail}"]
    return [f"{head}(", *(f"    {part}" for part in _broken(value, WIDTH - indent - 4)), f"){tail}"]


def call(head: str, arguments: Iterable[str], tail: str, indent: int = 0) -> list[str]:
    """Return `head(arguments)tail`: on one line, or with its arguments on one, or on lines of their own."""
    arguments = list(arguments)
    joined = ", ".join(arguments)
    if "\n" not in joined:
        if indent + len(head) + len(joined) + len(tail) + 2 <= WIDTH:
            return [f"{head}({joined}){tail}"]
        if indent + 4 + len(joined) <= WIDTH:
            return [f"{head}(", f"    {joined}", f"){tail}"]
    lines = (line for argument in arguments for line in f"{argument},".split("\n"))
    return [f"{head}(", *indented(lines), f"){tail}"]


def table(head: str, entries: Iterable[str], indent: int = 0, tail: str = "") -> list[str]:
    """Return `head{entries}tail`: on one line, or with an entry on each."""
    entries = list(entries)
    line = f"{head}{{{', '.join(entries)}}}"
    if indent + len(line) + len(tail) <= WIDTH:
        return [f"{line}{tail}"]
    return [f"{head}{{", *(f"    {entry}," for entry in entries), f"}}{tail}"]


def choice(conditions: Iterable[tuple[str, list[str]]]) -> list[str]:
    """Return an if-elif chain; a branch without condition is the else, or stands alone."""
    lines: list[str] = []
    for number, (condition, body) in enumerate(conditions):
        if condition:
            lines.append(f"{'elif' if number else 'if'} {condition}:")
            lines += indented(body)
        elif number:
            lines.append("else:")
            lines += indented(body)
        else:
            lines += body
    return lines


def _broken(text: str, width: int) -> list[str]:
    """Break what is wider before the loosest operators that stand outside all brackets, then its parts."""
    if len(text) <= width:
        return [text]
    for operators in ((" if ", " else "), (" + ", " - "), (" * ", " / ")):
        places = [i for i in _outside_brackets(text) if text.startswith(operators, i)]
        if places:
            ends = [*places, len(text)]
            parts = (text[start:end].strip() for start, end in zip([0, *places], ends, strict=True))
            return [line for part in parts for line in _broken(part, width)]
    return [text]


def _outside_brackets(text: str) -> Iterable[int]:
    depth = 0
    for i, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            yield i
