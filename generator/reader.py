"""A spec file -> a Spec: every key checked, every value with its place, every formula still text.

Reading consumes the document's mappings: what is left over is a typo and is reported with the nearest key.
"""

import keyword
import math
import re
from pathlib import Path

from stepspec.generator import language
from stepspec.generator.document import Entry, Items, Node, Scalar, Table, read
from stepspec.generator.errors import Problem, Problems, Source, Span, SpecError, nearest
from stepspec.generator.ir import Extent
from stepspec.generator.spec import (
    ANY_NUMBER,
    NOT_NEGATIVE,
    Formula,
    Hyperparameter,
    Range,
    Spec,
    State,
    TensorFlag,
    number_text,
)
from stepspec.generator.values import Fields, ValueReader, truth

IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*$")
LARGEST_FILE = 200_000


def load(path: Path, shown: str | None = None) -> Spec:
    """Read the spec at `path`; raise SpecError with every mistake found in its data.

    Args:
        path: a `.yaml` file of UTF-8 text.
        shown: the name that messages give the file; by default the path as it is.
    """
    return read_spec(read_source(path, shown), path.stem)


def read_source(path: Path, shown: str | None = None) -> Source:
    """Return the text of the file at `path`; raise SpecError if it is no text."""
    name = shown or str(path)
    with path.open("rb") as file:
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise SpecError(Source(name, ""), [Problem(Span(1, 1), f"a spec has at most {LARGEST_FILE} bytes")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        problem = Problem(Span(line, column), "not UTF-8 text", "save the file in UTF-8")
        raise SpecError(Source(name, ""), [problem]) from None
    return Source(name, text.replace("\r\n", "\n"))


def read_spec(source: Source, stem: str | None) -> Spec:
    """Return the Spec written in `source`.

    Args:
        source: the text.
        stem: its file's name without ending; None if it is in no file.
    """
    problems = Problems(source)
    spec = read_draft(source, stem, problems)
    problems.raise_any()
    return spec


def read_draft(source: Source, stem: str | None, problems: Problems) -> Spec:
    """Return what can be read of a spec that may have mistakes; they are recorded in `problems`."""
    return _Reader(problems).spec(read(source, problems), stem)


class _Reader(ValueReader):
    def spec(self, table: Table, stem: str | None) -> Spec:
        top = Fields(table, language.KEYS, "a spec", self.problems)
        for key in language.REQUIRED_KEYS:
            if top.take(key) is None:
                self.problems.add(table.span, f"key '{key}' is missing")
        name = self._name(top.take("name"), stem)
        spec = Spec(
            source=self.problems.source,
            stem=file_name(name).removesuffix(".yaml") if stem is None else stem,
            name=name,
            summary=self.text(top.take("summary"), "summary"),
            paper=self._paper(top.take("paper")),
            hyperparameters=tuple(self._hyperparameter(e) for e in self.entries(top.take("hyperparameters"))),
            states=tuple(self._state(e) for e in self.entries(top.take("state"))),
            flags=tuple(self._flag(e) for e in self.entries(top.take("tensors"))),
            requirements=self._requirements(top.take("require")),
            lazy_update=self._lazy_update(top.take("lazy_update")),
            update=self.rule(top.take("update")),
            span=table.span,
        )
        self._check_names(spec, table)
        self._check_laziness(spec, top.take("lazy_update"))
        return spec

    def _name(self, node: Node | None, stem: str | None) -> str:
        name = self.text(node, "name")
        if node is not None and name:
            if not re.match(r"[A-Z][A-Za-z0-9]*$", name) or keyword.iskeyword(name):
                self.problems.add(
                    node.span, f"'{name}' cannot name a class", "write it as NAG or GroupAdaGrad"
                )
            elif name in language.RESERVED:
                self.problems.add(node.span, f"'{name}' cannot name a class: the generated code uses it")
            elif stem is None:
                pass  # nothing to compare it with
            elif name.lower() != stem.replace("_", "").lower():
                hint = f"rename the file to {file_name(name)}"
                self.problems.add(
                    node.span, f"the optimizer '{name}' stands in a file called '{stem}.yaml'", hint
                )
            elif keyword.iskeyword(stem):
                self.problems.add(node.span, f"'{stem}' cannot name a module", "choose another name")
        return name

    def _paper(self, node: Node | None) -> str:
        text = self.text(node, "paper") if node is not None else ""
        if node is not None and text and not re.match(r"https?://\S+$", text):
            self.problems.add(node.span, "paper must be a link, starting with https://")
        return text

    def _check_names(self, spec: Spec, table: Table) -> None:
        if spec.hyperparameters and all(h.name != "learning_rate" for h in spec.hyperparameters):
            span = next(e.value.span for e in table.entries if e.key == "hyperparameters")
            self.problems.add(
                span, "hyperparameter 'learning_rate' is missing", "add learning_rate: {default: 0.1}"
            )
        seen: dict[str, str] = {}
        named: list[tuple[Hyperparameter | State | TensorFlag, str]] = [
            *((h, "hyperparameter") for h in spec.hyperparameters if h.name != "learning_rate"),
            *((s, "state") for s in spec.states),
            *((f, "tensor flag") for f in spec.flags),
        ]
        for item, what in named:
            self._check_name(item.name, item.span, what)
            if item.name in {f"new_{name}" for name in ("weight", *(s.name for s in spec.states))}:
                self.problems.add(
                    item.span, f"'{item.name}' cannot name a {what}: the generated code uses it"
                )
            if item.name in seen:
                self.problems.add(item.span, f"'{item.name}' is a {seen[item.name]} already")
            seen[item.name] = what

    def _check_name(self, name: str, span: Span, what: str) -> None:
        taken = {
            **dict.fromkeys(language.RESERVED, "the generated code"),
            **dict.fromkeys(language.COMMON_ARGUMENTS, "every optimizer"),
            **dict.fromkeys(
                [*language.HOST_NAMES, *language.ARRAY_NAMES, *language.STATIC_NAMES], "every rule"
            ),
            **dict.fromkeys(language.CALLED, "the language"),
        }
        if what == "state":
            taken = {word: by for word, by in taken.items() if word not in language.LENDABLE}
        if not IDENTIFIER.match(name) or keyword.iskeyword(name) or keyword.issoftkeyword(name):
            self.problems.add(span, f"'{name}' cannot name a {what}", "use letters, digits and underscores")
        elif name.startswith("terms_"):
            self.problems.add(span, f"'{name}' cannot name a {what}: the generated code uses it")
        elif name in taken:
            self.problems.add(span, f"'{name}' cannot name a {what}: {taken[name]} uses it")

    def _lazy_update(self, node: Node | None) -> bool:
        if node is None:
            return False
        offered = truth(node)
        if offered is None:
            self.problems.add(node.span, "lazy_update must be true or false")
        return bool(offered)

    def _check_laziness(self, spec: Spec, node: Node | None) -> None:
        """Refuse lazy updates where rows that are left out would still change something."""
        shared = next((s for s in spec.states if s.per not in (Extent.ELEMENT, Extent.ROW)), None)
        if node is not None and spec.lazy_update and shared is not None:
            self.problems.add(
                node.span,
                f"lazy_update has no meaning: state '{shared.name}' has one value per {shared.per.word}, "
                "which rows share",
                "leave it out: rows without gradient then count as zeros",
            )

    def _hyperparameter(self, entry: Entry) -> Hyperparameter:
        own = self.fields(entry, language.HYPERPARAMETER_KEYS, "hyperparameter")
        default_node, range_node = own.take("default"), own.take("range")
        default: float | bool = 0.0
        if default_node is not None:
            default = self._default(entry.key, default_node)
        elif isinstance(entry.value, Table):
            self.problems.add(entry.span, f"hyperparameter '{entry.key}' has no default")
        interval = NOT_NEGATIVE if entry.key == "learning_rate" else ANY_NUMBER
        if range_node is not None:
            interval = self.interval(range_node)
            if isinstance(default, bool):
                self.problems.add(range_node.span, "a switch has no range")
            elif entry.key == "learning_rate":
                self.problems.add(range_node.span, "the range of learning_rate is fixed: [0, inf)")
        if math.isinf(default):
            interval = _closed_at(interval, float(default))
        optional = math.isinf(default) or isinstance(default, bool)
        if default_node is not None and not optional and default not in interval:
            self.problems.add(
                default_node.span, f"default {number_text(default)} is outside the range {interval}"
            )
        return Hyperparameter(entry.key, default, interval, self.doc(own), entry.span)

    def _default(self, key: str, node: Node) -> float | bool:
        if key == "learning_rate":
            return self.number(node, "the default of learning_rate", infinite=False)
        switch = truth(node)
        return self.number(node, "default", infinite=True) if switch is None else switch

    def _state(self, entry: Entry) -> State:
        own = self.fields(entry, language.STATE_KEYS, "state")
        per = self._per(own.take("per"))
        init: float | str = 0.0
        node = own.take("init")
        if isinstance(node, Scalar) and node.text == "weight":
            init = "weight"
            if per is not Extent.ELEMENT:
                self.problems.add(node.span, "only a state per element can start as the weight")
        elif node is not None:
            init = self.number(node, "init", infinite=False)
        node = own.take("when")
        when = self.formula(node, "when") if node is not None else None
        node = own.take("mxnet")
        if node is not None and not (isinstance(node, Scalar) and node.text == "negated"):
            self.problems.add(node.span, "mxnet can only be negated", "leave it out if the signs agree")
        return State(entry.key, per, init, when, node is not None, self.doc(own), entry.span)

    def _per(self, node: Node | None) -> Extent:
        if node is None:
            return Extent.ELEMENT
        word = self.text(node, "per")
        if word in language.STATE_PER:
            return Extent[word.upper()]
        hint = nearest(word, language.STATE_PER) or ", ".join(language.STATE_PER)
        self.problems.add(node.span, f"'{word}' is no extent of a state", hint)
        return Extent.ELEMENT

    def _flag(self, entry: Entry) -> TensorFlag:
        own = self.fields(entry, language.FLAG_KEYS, "tensor flag")
        node = own.take("default")
        default = truth(node) if node is not None else None
        if default is None:
            default = True
            if isinstance(entry.value, Table):
                span = node.span if node is not None else entry.span
                self.problems.add(span, f"tensor flag '{entry.key}' needs a default, true or false")
        endings: list[str] = []
        node = own.take("unless_name_ends")
        if isinstance(node, Items):
            endings = [self.text(value, "a name's ending") for value in node.values]
        elif node is not None:
            self.problems.add(node.span, "unless_name_ends must be a list of words", "write [gamma, beta]")
        return TensorFlag(entry.key, default, tuple(endings), self.doc(own), entry.span)

    def _requirements(self, node: Node | None) -> tuple[Formula, ...]:
        if node is None:
            return ()
        if not isinstance(node, Items):
            self.problems.add(node.span, "require must be a list of conditions", "write [low <= high]")
            return ()
        return tuple(f for value in node.values if (f := self.formula(value, "a requirement")) is not None)


def _closed_at(interval: Range, end: float) -> Range:
    """Return `interval` with its infinite end closed, so that an infinite default lies inside."""
    if end > 0 and interval.high == end:
        return Range(interval.low, end, interval.low_closed, True)
    if end < 0 and interval.low == end:
        return Range(end, interval.high, True, interval.high_closed)
    return interval


def file_name(name: str) -> str:
    """Return what the file of an optimizer is called by custom: `group_ada_grad.yaml` for GroupAdaGrad."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower() + ".yaml"
