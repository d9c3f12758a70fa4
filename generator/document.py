"""YAML text -> a tree in which every key and value knows its place; strict where YAML is lax.

Built from PyYAML's events instead of its loader, which drops repeated keys, expands aliases and resolves
`no` and `1e-8` to a bool and a string. Nothing in a document is ever executed.
"""

import re
from dataclasses import dataclass
from typing import TypeAlias

import yaml

from stepspec.generator.errors import Problem, Problems, Source, Span, SpecError

DEEPEST = 12
# what ends a line for YAML alone: places behind it would be wrong
LINE_BREAKS = re.compile("[\r\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Scalar:
    """A value that is not a collection; `style` is 'plain', 'quoted' or 'block'."""

    text: str
    style: str
    span: Span
    indent: int = 0


@dataclass(frozen=True, slots=True)
class Items:
    """A sequence."""

    values: "tuple[Node, ...]"
    span: Span


@dataclass(frozen=True, slots=True)
class Entry:
    """A key of a mapping with its value."""

    key: str
    span: Span
    value: "Node"


@dataclass(frozen=True, slots=True)
class Table:
    """A mapping, in the order of the file; `flow` if it is written in braces."""

    entries: tuple[Entry, ...]
    span: Span
    flow: bool


Node: TypeAlias = Scalar | Items | Table


def read(source: Source, problems: Problems) -> Table:
    """Return the document of `source`, which must be one mapping; raise SpecError where it cannot be read."""
    if found := LINE_BREAKS.search(source.text):
        hint = "end lines with a newline"
        raise _refusal(source, _place_of(source, found.start()), "an unusual line break", hint)
    builder = _Builder(source, problems)
    try:
        # one by one: YAML takes minutes for a text that is nested deeply, the builder stops it early
        for event in yaml.parse(source.text, Loader=yaml.SafeLoader):
            builder.take(event)
    except yaml.reader.ReaderError as error:
        raise _refusal(
            source, _place_of(source, error.position), "a character that YAML does not allow"
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        span = Span(mark.line + 1, mark.column + 1) if mark else Span(1, 1)
        hint = _remedy(source.line(span.line))
        raise _refusal(source, span, f"not valid YAML: {error.problem}", hint) from None
    root = builder.root
    if root is None or (isinstance(root, Scalar) and not root.text):
        raise _refusal(source, Span(1, 1), "the spec is empty", "start with 'name:'")
    if not isinstance(root, Table):
        raise _refusal(source, root.span, "a spec is a mapping of keys such as 'name:' and 'update:'")
    return root


def _refusal(source: Source, span: Span, message: str, hint: str = "") -> SpecError:
    return SpecError(source, [Problem(span, message, hint)])


def _remedy(line: str) -> str:
    """Return what to do about a line that is not YAML; empty if there is no common reason."""
    if "\t" in line:
        return "indent with spaces"
    return 'quote a range: "[0, 1)"' if re.search(r"range:\s*[\[(]", line) else ""


def _place_of(source: Source, position: int) -> Span:
    before = source.text[:position]
    return Span(before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1)


class _Builder:
    """Puts events together to nodes; a stack instead of recursion, so that depth cannot crash it."""

    def __init__(self, source: Source, problems: Problems) -> None:
        self.source = source
        self.problems = problems
        self.root: Node | None = None
        self._open: list[tuple[yaml.Event, list[Node]]] = []
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        span = self._span(event)
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise _refusal(
                    self.source, span, "a spec is one YAML document", "put each optimizer in its own file"
                )
        elif isinstance(event, yaml.AliasEvent):
            raise _refusal(self.source, span, "YAML aliases are not allowed in a spec", "write the value out")
        elif isinstance(event, yaml.CollectionStartEvent | yaml.ScalarEvent):
            self._refuse_decorations(event, span)
            if isinstance(event, yaml.ScalarEvent):
                self._place(self._scalar(event))
            else:
                self._open.append((event, []))
                if len(self._open) > DEEPEST:
                    raise _refusal(self.source, span, f"nested deeper than {DEEPEST} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            start, nodes = self._open.pop()
            if isinstance(start, yaml.MappingStartEvent):
                self._place(self._table(start, nodes))
            else:
                self._place(Items(tuple(nodes), self._span(start)))

    def _refuse_decorations(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, span: Span) -> None:
        if event.anchor is not None:
            raise _refusal(self.source, span, "YAML anchors are not allowed in a spec", "write the value out")
        if event.tag is not None:
            raise _refusal(self.source, span, f"YAML tags such as '{event.tag}' are not allowed in a spec")

    def _place(self, node: Node) -> None:
        if self._open:
            self._open[-1][1].append(node)
        else:
            self.root = node

    def _span(self, event: yaml.Event) -> Span:
        start, end = event.start_mark, event.end_mark
        assert start is not None, "an event of a parsed text has marks"
        assert end is not None, "an event of a parsed text has marks"
        length = end.column - start.column if end.line == start.line else 1
        return Span(start.line + 1, start.column + 1, max(1, length))

    def _scalar(self, event: yaml.ScalarEvent) -> Scalar:
        span = self._span(event)
        if event.style not in ("|", ">"):
            return Scalar(event.value, "quoted" if event.style else "plain", span)
        style = "block" if event.style == "|" else "folded"
        for number, line in enumerate(event.value.split("\n"), span.line + 1):
            if line.strip():
                return Scalar(event.value, style, span, max(0, self.source.line(number).find(line)))
        return Scalar(event.value, style, span)

    def _table(self, start: yaml.MappingStartEvent, nodes: list[Node]) -> Table:
        entries: dict[str, Entry] = {}
        for key, value in zip(nodes[::2], nodes[1::2], strict=True):
            if not isinstance(key, Scalar):
                self.problems.add(key.span, "a key must be a plain word")
            elif key.text in entries:
                first = entries[key.text].span.line
                self.problems.add(
                    key.span, f"key '{key.text}' is given twice", f"it stands on line {first} already"
                )
            else:
                entries[key.text] = Entry(key.text, key.span, value)
        return Table(tuple(entries.values()), self._span(start), bool(start.flow_style))
