"""Good and bad specs: what is read, what is refused with which words at which place; the JSON Schema."""

import inspect
import json
import keyword
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from fragments import spec

import stepspec
from stepspec.generator import language
from stepspec.generator.document import Items, Node, Scalar, Table, read
from stepspec.generator.emit import check, emit
from stepspec.generator.errors import Problems, Source, SpecError
from stepspec.generator.ir import Extent
from stepspec.generator.parse import parse
from stepspec.generator.reader import load, read_spec
from stepspec.generator.values import INFINITY, NUMBER

TESTS = Path(__file__).parent
SPECS = TESTS.parent / "specs"
GOOD = sorted([*SPECS.glob("*.yaml"), *(TESTS / "specs").glob("*.yaml")])
BAD = sorted((TESTS / "bad_specs").glob("*.yaml"))

# mistakes that relate two places of a file, or its text, which a schema does not see
BEYOND_SCHEMA = {
    "backslash_in_rule": "the formulas",
    "control_character": "the text",
    "default_outside": "a default and its range",
    "duplicate_hyperparameter": "a key given twice",
    "duplicate_key": "a key given twice",
    "empty_range": "the two ends of a range",
    "hyperparameter_like_new_weight": "two names",
    "import": "the file's name",
    "newline_in_requirement": "the formulas",
    "quotes_in_comment": "the formulas",
    "quotes_in_condition": "the formulas",
    "rate_infinite": "that a number is finite",
    "state_name_clash": "two names",
    "tab_in_rule": "the formulas",
    "update_folded": "how the text is written",
    "wrong_file": "the file's name",
}


def _stem(path: Path) -> str:
    return path.stem


def expected(path: Path) -> list[str]:
    """Return the messages that the first lines of a bad spec announce."""
    lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")
    return [line.removeprefix("# ") for line in lines if line.startswith(("# hint: ", "# "))]


@pytest.mark.parametrize("path", GOOD, ids=_stem)
def test_good_spec_compiles(path: Path) -> None:
    texts = emit(load(path))
    for name, text in texts.items():
        compile(text, name, "exec")


@pytest.mark.parametrize("path", BAD, ids=_stem)
def test_bad_spec_is_refused_with_all_its_mistakes(path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        emit(load(path, path.name))
    found = []
    for problem in caught.value.problems:
        found.append(f"{problem.span.line}:{problem.span.column}: {problem.message}")
        found += [f"hint: {problem.hint}"] if problem.hint else []
    assert found == expected(path)


@pytest.mark.parametrize("path", BAD, ids=_stem)
def test_check_shows_at_least_as_much(path: Path) -> None:
    with pytest.raises(SpecError) as first:
        emit(load(path))
    with pytest.raises(SpecError) as checked:
        check(path)
    assert set(first.value.problems) <= set(checked.value.problems)


def test_check_shows_mistakes_of_data_and_formulas(tmp_path: Path) -> None:
    path = tmp_path / "nag.yaml"
    text = (SPECS / "nag.yaml").read_text().replace("range:", "rnage:").replace("lr * g)", "lrr * gg)")
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        check(path)
    assert [problem.message for problem in caught.value.problems] == [
        "unknown key 'rnage' in hyperparameter",
        "unknown name 'lrr'",
        "unknown name 'gg'",
    ]


def test_there_are_enough_bad_specs() -> None:
    assert len(BAD) >= 40


def test_message_shows_the_line_and_a_caret() -> None:
    text = (SPECS / "lars.yaml").read_text().replace("eta * w_norm /", "eta * w_nrom /")
    with pytest.raises(SpecError) as caught:
        emit(read_spec(Source("specs/lars.yaml", text), "lars"))
    line = next(number for number, line in enumerate(text.split("\n"), 1) if "w_nrom" in line)
    assert str(caught.value).split("\n") == [
        f"specs/lars.yaml:{line}:17: unknown name 'w_nrom'",
        f"    {text.splitlines()[line - 1].strip()}",
        "                  ^^^^^^",
        "hint: did you mean 'w_norm'?",
    ]


def test_nothing_of_a_spec_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for expression in (
        "__import__('os').mkdir('made')",
        "open('made', 'w')",
        "(lambda: 1)()",
        "[x for x in 'ab']",
    ):
        text = (SPECS / "sgd.yaml").read_text().replace("weight -= mom", f"weight -= mom * {expression}")
        with pytest.raises(SpecError):
            emit(read_spec(Source("sgd.yaml", text), "sgd"))
    assert list(tmp_path.iterdir()) == []


def test_numbers_yaml_would_misread() -> None:
    spec = load(SPECS / "ftml.yaml")
    assert {h.name: h.default for h in spec.hyperparameters}["epsilon"] == 1e-8
    assert yaml.safe_load("1e-8") == "1e-8", "YAML 1.1 reads a text; the spec must not"
    spec = load(TESTS / "specs" / "lamb_like.yaml")
    bound = next(h for h in spec.hyperparameters if h.name == "upper_bound")
    assert bound.default == math.inf
    assert math.inf in bound.range


def test_an_infinite_default_may_lie_outside_of_the_range() -> None:
    bounds = "low: {default: -.inf, range: '[0, 2]'}\nhigh: {default: .inf, range: '(0, 1)'}"
    low, high = spec("weight -= clip(grad, low, high)", bounds).own_hyperparameters
    assert (low.off, str(low.values), str(low.range)) == (-math.inf, "[-inf, 2]", "[0, 2]")
    assert (high.off, str(high.values), str(high.range)) == (math.inf, "(0, inf]", "(0, 1)")
    (other,) = spec("weight -= minimum(grad, cap)", "cap: {default: .inf}").own_hyperparameters
    assert (other.off, str(other.values)) == (None, "(-inf, inf]")


def test_a_state_may_be_called_like_a_reduction_that_is_not_used() -> None:
    found = spec("mean += grad\nnorm = mean\nweight -= norm", state="mean: {}\nnorm: {}")
    assert [state.name for state in found.states] == ["mean", "norm"]
    parse(found)


def test_state_defaults() -> None:
    state = load(TESTS / "specs" / "lamb_like.yaml").states[0]
    assert (state.per, state.init, state.when) == (Extent.ELEMENT, 0.0, None)


# the schema


def _plain(node: Node) -> Any:
    """Return the data an editor sees: YAML 1.2, where 1e-8 is a number and no is a text."""
    match node:
        case Table(entries=entries):
            return {entry.key: _plain(entry.value) for entry in entries}
        case Items(values=values):
            return [_plain(value) for value in values]
        case Scalar(text=text, style="plain"):
            if text in ("true", "false"):
                return text == "true"
            if text in ("", "~", "null"):
                return None
            if NUMBER.match(text) or INFINITY.match(text):
                return float(text.replace(".inf", "inf"))
            return text
        case Scalar(text=text):
            return text


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    content = json.loads((SPECS / "schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(content)
    return jsonschema.Draft202012Validator(content)


@pytest.mark.parametrize("path", GOOD + BAD, ids=_stem)
def test_schema_and_reader_give_the_same_verdict(path: Path, schema: jsonschema.Draft202012Validator) -> None:
    try:
        source = Source(path.name, path.read_text(encoding="utf-8"))
        data = _plain(read(source, Problems(source)))
    except (UnicodeDecodeError, SpecError):
        assert path in BAD, "not YAML: there is no data to judge"
        return
    try:
        read_spec(source, path.stem)
        accepted = True
    except SpecError:
        accepted = False
    by_schema = schema.is_valid(data)
    if path.stem in BEYOND_SCHEMA:
        assert (accepted, by_schema) == (False, True), f"the schema now sees {BEYOND_SCHEMA[path.stem]}"
    else:
        errors = [error.message for error in schema.iter_errors(data)]
        assert accepted == by_schema, errors


def test_schema_knows_the_reserved_names(schema: jsonschema.Draft202012Validator) -> None:
    assert isinstance(schema.schema, dict)
    listed = set(schema.schema["$defs"]["unreserved"]["not"]["enum"])
    tables = (language.RESERVED, language.COMMON_ARGUMENTS, language.HOST_NAMES, language.ARRAY_NAMES)
    functions = (language.STATIC_NAMES, language.CALLED)
    words = {word for table in (*tables, *functions, keyword.kwlist) for word in table} - {"learning_rate"}
    assert words <= listed


def test_nothing_of_an_optimizer_can_be_shadowed() -> None:
    taken = language.RESERVED | language.COMMON_ARGUMENTS | set(language.HOST_NAMES)
    public = {name for name in dir(stepspec.Optimizer) if not name.startswith("_")}
    assert public <= taken
    parameters = inspect.signature(stepspec.Optimizer.__init__).parameters.values()
    assert {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} <= taken


def test_specs_stay_short() -> None:
    for path in SPECS.glob("*.yaml"):
        assert sum(map(bool, path.read_text().splitlines())) <= 30, path.name
