"""`stepspec new`: a spec to start from, and the schema beside it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from fragments import optimizer_class

from stepspec.generator import cli, new, project
from stepspec.generator.emit import emit
from stepspec.generator.reader import load


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_a_new_spec_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["new", "AdaSteep"]) == 0
    path = Path("specs/ada_steep.yaml")
    assert capsys.readouterr().out == (
        f"wrote {path}: write your update into it, and run\n"
        "    stepspec generate --specs specs --out PACKAGE_DIR\n"
    )
    assert cli.main(["check", str(path)]) == 0
    schema = json.loads(Path("specs/schema.json").read_text())
    jsonschema.validate(yaml.safe_load(path.read_text()), schema)
    assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")
    module = emit(load(path))["ada_steep.py"]
    optimizer = optimizer_class(module, "AdaSteep")(learning_rate=0.5, momentum=0.5)
    weight = np.ones(2, np.float32)
    state = optimizer.create_state(0, weight)
    for _ in range(2):
        optimizer.step([0], [weight], [np.ones(2, np.float32)], [state])
    assert weight.tolist() == [-0.25, -0.25]


def test_in_a_clone_it_stands_with_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(project, "SPECS", tmp_path / "specs")
    (tmp_path / "specs").mkdir()
    (tmp_path / "tests").mkdir()
    monkeypatch.chdir(tmp_path / "tests")
    assert cli.main(["new", "Steep"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "    make generate"
    assert (tmp_path / "specs" / "steep.yaml").exists()
    # in a folder that is named, names that stepspec has are taken
    monkeypatch.chdir("/")
    assert cli.main(["new", "Steep", "--specs", str(tmp_path)]) == 1
    assert "one of stepspec's own optimizers" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_a_schema_that_is_there_stays(capsys: pytest.CaptureFixture[str]) -> None:
    Path("specs").mkdir()
    Path("specs/schema.json").write_text("{}")
    assert cli.main(["new", "Steep"]) == 0
    assert Path("specs/schema.json").read_text() == "{}"
    capsys.readouterr()
    assert cli.main(["schema"]) == 0
    assert capsys.readouterr().out == new.SCHEMA.read_text()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("steep", "'steep' cannot name a class\nhint: write it as NAG or GroupAdaGrad"),
        ("../Steep", "'../Steep' cannot name an optimizer"),
        ("Steep\nsummary: x", "cannot name an optimizer"),
        ("", "'' cannot name an optimizer"),
        ("Stéep", "'Stéep' cannot name a class"),
        ("Sequence", "'Sequence' cannot name a class: the generated code uses it\nhint: choose another name"),
        ("Import", "'import' cannot name a module"),
        ("Trainer", "the name 'Trainer' belongs to stepspec itself"),
        ("Nag", "the name 'Nag' belongs to one of stepspec's own optimizers"),
        ("Taken", "the name 'Taken' belongs to specs/TAKEN.YAML"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_refused_names(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("specs").mkdir()
    Path("specs/TAKEN.YAML").write_text("")
    assert cli.main(["new", name]) == 1
    assert message in capsys.readouterr().err
    assert [path.name for path in Path("specs").iterdir()] == ["TAKEN.YAML"]


def a_file() -> None:
    Path("specs").write_text("")


def a_dangling_link() -> None:
    Path("specs").mkdir()
    Path("specs/schema.json").symlink_to("nowhere/schema.json")


@pytest.mark.parametrize(
    ("prepare", "specs", "message"),
    [
        (a_file, "specs", "there is no folder specs"),
        (lambda: None, "no/specs", "there is no folder no/specs, and none to make it in"),
        (a_dangling_link, "specs", "File exists: 'specs/schema.json'"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_refused_folders(
    prepare: Callable[[], Any], specs: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare()
    assert cli.main(["new", "Steep", "--specs", specs]) == 1
    assert message in capsys.readouterr().err
    assert not list(Path().rglob("*.yaml"))
