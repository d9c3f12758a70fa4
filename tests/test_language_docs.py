"""docs/language.md is true: its fragments are compiled, its tables compared, its tutorial followed."""

import functools
import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import stepspec
from stepspec.generator import cli, document, language, reader
from stepspec.generator.emit import emit
from stepspec.generator.errors import Source, SpecError

PAGE = Path(__file__).parent.parent / "docs" / "language.md"
TUTORIAL = "Lion in five minutes"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
GENERATED = re.compile(r"# (\w+\.py)\n")
LEFT_OUT = "# ..."
ALWAYS_SET = "learning_rate"


@dataclass(frozen=True)
class Block:
    """A fenced block of the page; `spec` is the last block of YAML before it, itself if it is YAML."""

    kind: str
    text: str
    line: int
    section: str
    spec: str


@functools.cache
def sections() -> dict[str, tuple[int, str]]:
    """Return each section's title, first line and text; blocks hold no line that looks like a title."""
    parts = re.split(r"^##+ (.*)\n", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found, line = {"": (1, parts[0])}, 1 + parts[0].count("\n")
    for title, text in zip(parts[1::2], parts[2::2], strict=True):
        found[title] = line + 1, text
        line += 1 + text.count("\n")
    return found


def blocks(*kinds: str) -> Iterator[Block]:
    """Yield the page's blocks of some kinds, in order."""
    spec = ""
    for title, (first, text) in sections().items():
        for found in FENCE.finditer(text):
            kind, content = found.groups()
            spec = content if kind == "yaml" else spec
            if kind in kinds:
                yield Block(kind, content, first + text.count("\n", 0, found.start()), title, spec)


def completed(fragment: str) -> str:
    """Return the spec that a fragment stands for; what it leaves out comes behind, so that places stay."""
    if "name:" in fragment:
        return fragment
    rate = f"  {ALWAYS_SET}: {{default: 0.1}}\n"
    declared = re.search(r"^hyperparameters:\n(  .*\n)+", fragment, re.MULTILINE)
    if declared:
        whole = fragment[: declared.end()] + rate + fragment[declared.end() :]
    else:
        whole = f"{fragment}hyperparameters:\n{rate}"
    return f"{whole}name: Example\nsummary: An example.\n"


@functools.cache
def generated(fragment: str) -> dict[str, str]:
    """Return the modules of a fragment's spec: file name -> text."""
    whole = completed(fragment)
    stem = re.findall(r"^name: (\w+)$", whole, re.MULTILINE)[0].lower()
    return emit(reader.read_spec(Source(f"{stem}.yaml", whole), stem))


def stretch(shown: list[str], lines: list[str]) -> tuple[int, list[str]]:
    """Return where the lines most like those shown begin, and these lines, without common indentation."""

    def at(start: int) -> list[str]:
        return textwrap.dedent("\n".join(lines[start : start + len(shown)])).split("\n")

    starts = range(max(1, len(lines) - len(shown) + 1))
    start = max(starts, key=lambda i: sum(a == b for a, b in zip(shown, at(i), strict=False)))
    return start, at(start)


def place(block: Block) -> str:
    return f"line {block.line}"


@pytest.mark.parametrize("block", [b for b in blocks("python") if GENERATED.match(b.text)], ids=place)
def test_fragment_generates_what_stands_below_it(block: Block) -> None:
    name, _, text = block.text.partition("\n")
    lines = generated(block.spec)[name.removeprefix("# ")].split("\n")
    for part in text.rstrip("\n").split(f"{LEFT_OUT}\n"):
        shown = textwrap.dedent(part).rstrip("\n").split("\n")
        start, found = stretch(shown, lines)
        assert shown == found, "the page should say:\n" + "\n".join(found)
        lines = lines[start + len(shown) :]


@pytest.mark.parametrize("block", [*blocks("yaml")], ids=place)
def test_every_fragment_has_a_result(block: Block) -> None:
    results = [b for b in blocks("python", "text") if b.spec == block.text and b.section == block.section]
    assert results
    if results[0].kind == "python":
        assert generated(block.text)


@pytest.mark.parametrize("block", [b for b in blocks("text") if "example.yaml" in b.text], ids=place)
def test_message_is_what_the_page_shows(block: Block) -> None:
    with pytest.raises(SpecError) as caught:
        generated(block.spec)
    assert str(caught.value).split("\n") == block.text.rstrip("\n").split("\n")


# the tutorial, and what else is run


def commands(text: str) -> Iterator[tuple[list[str], re.Pattern[str]]]:
    """Yield the arguments of each command of a terminal's text, and what it prints."""
    for part in re.split(r"^\$ stepspec ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        shown = ".*".join(re.escape(piece) for piece in output.split("...\n"))
        yield shlex.split(command), re.compile(shown, re.DOTALL)


@pytest.mark.parametrize("section", [TUTORIAL, "Specs elsewhere"])
def test_commands_print_what_the_page_shows(
    section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder stands for the clone in the tutorial, for another project behind it."""
    monkeypatch.chdir(tmp_path)
    Path("specs").mkdir()
    if section == TUTORIAL:
        monkeypatch.setattr("stepspec.generator.project.SPECS", tmp_path / "specs")
        monkeypatch.setattr("stepspec.generator.project.GENERATED", tmp_path / "generated")
    for block in blocks("yaml", "console"):
        if block.section == section and block.kind == "yaml":
            Path("specs/lion.yaml").write_text(block.text, encoding="utf-8")
        elif block.section == section:
            for arguments, shown in commands(block.text):
                assert cli.main(arguments) == 0
                assert shown.fullmatch(capsys.readouterr().out), (arguments, shown.pattern)


@pytest.mark.parametrize("block", [b for b in blocks("python") if not GENERATED.match(b.text)], ids=place)
def test_code_runs(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    lion = stepspec.compile(next(b.text for b in blocks("yaml") if b.section == TUTORIAL))
    monkeypatch.setattr(stepspec, "Lion", lion, raising=False)
    monkeypatch.setattr("stepspec.registry._registered", {"lion": lion})
    names: dict[str, Any] = {}
    exec(block.text, names)
    for test in [value for name, value in names.items() if name.startswith("test_")]:
        for fused in (False, True):
            test(fused)


# the tables, in both directions


def rows(title: str, table: int = 0) -> list[list[str]]:
    """Return the cells of the rows of a table of a section, without its head."""
    tables = re.findall(r"(?:^\|.*\|\n)+", sections()[title][1], re.MULTILINE)
    lines = tables[table].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def words(title: str, table: int = 0) -> list[str]:
    """Return the code in the first cells of a table."""
    return [word for row in rows(title, table) for word in re.findall(r"`([^`]*)`", row[0])]


@pytest.mark.parametrize(
    ("title", "table", "known"),
    [
        ("A spec file", 0, language.KEYS),
        ("Hyperparameters", 0, language.HYPERPARAMETER_KEYS),
        ("State", 0, language.STATE_KEYS),
        ("State", 1, language.STATE_PER),
        ("Tensor flags", 0, language.FLAG_KEYS),
        ("Names", 0, (*language.ARRAY_NAMES, *language.HOST_NAMES, *language.STATIC_NAMES)),
        ("Reductions", 1, language.PER),
    ],
)
def test_table_lists_what_the_language_knows(title: str, table: int, known: tuple[str, ...]) -> None:
    assert words(title, table) == list(known)


def test_needed_keys_are_marked() -> None:
    needed = {row[0].strip("`") for row in rows("A spec file") if row[1] == "yes"}
    assert needed == set(language.REQUIRED_KEYS)


def test_functions_have_the_arguments_that_the_table_shows() -> None:
    shown: dict[str, set[int]] = {}
    for call in words("Functions"):
        name, arguments = re.fullmatch(r"(\w+)\((.*)\)", call).groups()  # type: ignore[union-attr]  # fails if not
        shown.setdefault(name, set()).add(arguments.count(",") + 1)
    assert shown == {name: set(function.spelling) for name, function in language.FUNCTIONS.items()}


def test_reductions_are_listed() -> None:
    assert words("Reductions") == [f"{name}(x)" for name in language.REDUCTIONS]
    assert f"`{language.NOISE}()`" in sections()["Noise"][1]


def test_limits_are_the_compilers() -> None:
    costs = {"NOISE_FLOPS"}
    limits = [value for name, value in vars(language).items() if type(value) is int and name not in costs]
    limits += [reader.LARGEST_FILE, document.DEEPEST]
    assert sorted(int(row[0]) for row in rows("Limits")) == sorted(limits)


def test_reserved_names_are_listed() -> None:
    tables = (language.RESERVED, language.COMMON_ARGUMENTS, language.HOST_NAMES, language.ARRAY_NAMES)
    names = {name for table in (*tables, language.STATIC_NAMES, language.CALLED) for name in table}
    names.remove(ALWAYS_SET)
    (listed,) = (b.text for b in blocks("text") if b.section == "Reserved names")
    order = sorted(names, key=lambda name: (name.lower(), name))
    assert listed == textwrap.fill(" ".join(order), 118) + "\n"


def test_links_within_the_page_lead_somewhere() -> None:
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in sections()}
    page = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"\]\(#([^)]*)\)", page)) <= anchors
    for path in re.findall(r"\]\((\.\.[^)#]*)", page):
        assert (PAGE.parent / path).exists(), path


def test_lines_are_short() -> None:
    assert [line for line in PAGE.read_text(encoding="utf-8").splitlines() if len(line) > 120] == []
