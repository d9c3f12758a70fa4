"""Writing generated/: no drift, all or nothing, leftovers; and the command line around it."""

import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stepspec.generator import cli
from stepspec.generator import project as project_folders
from stepspec.generator.emit import OWN, TARGETS
from stepspec.generator.errors import SpecError
from stepspec.generator.generate import compare
from stepspec.generator.project import own_project
from stepspec.generator.writing import update

ROOT = Path(__file__).parent.parent


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy specs/ and generated/ for the command line to work on."""
    for name in ("specs", "generated"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(project_folders, "SPECS", tmp_path / "specs")
    monkeypatch.setattr(project_folders, "GENERATED", tmp_path / "generated")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_generated_code_has_not_drifted() -> None:
    changes = compare(own_project())
    assert not changes, f"run: make generate\n{changes.diff()}"


def test_every_spec_has_its_class_and_kernels() -> None:
    stems = {path.stem for path in (ROOT / "specs").glob("*.yaml")}
    files = {path.stem for path in (ROOT / "generated").glob("*.py")}
    assert files == {"__init__", *stems, *(f"{stem}_{target}" for stem in stems for target in TARGETS)}


def test_check_shows_the_difference_and_the_command(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project / "generated" / "nag.py"
    path.write_text(path.read_text().replace("lr * g", "lr * g * 2", 1))
    assert cli.main(["generate", "--check"]) == 1
    shown = capsys.readouterr()
    assert "--- generated/nag.py" in shown.out
    assert "lr * g * 2" in shown.out
    assert "stepspec generate" in shown.err
    assert "lr * g * 2" in path.read_text()
    assert cli.main(["generate"]) == 0
    assert cli.main(["generate", "--check"]) == 0


def test_new_spec_and_deleted_spec(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (project / "specs" / "sgd.yaml").read_text().replace("name: SGD", "name: Plain")
    (project / "specs" / "plain.yaml").write_text(text)
    (project / "generated" / "by_hand.py").write_text("# mine\n")
    assert cli.main(["generate"]) == 0
    assert "class Plain(Optimizer)" in (project / "generated" / "plain.py").read_text()
    assert '"Plain"' in (project / "generated" / "__init__.py").read_text()
    (project / "specs" / "plain.yaml").unlink()
    assert cli.main(["generate", "--check"]) == 1
    capsys.readouterr()
    assert cli.main(["generate"]) == 0
    assert "removed generated/plain.py: its spec is gone" in capsys.readouterr().out
    assert not (project / "generated" / "plain.py").exists()
    assert not list((project / "generated").glob("plain_*.py"))
    assert (project / "generated" / "by_hand.py").exists(), "only generated files are removed"


def test_a_bad_spec_changes_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(project / "generated")
    for name, old, new in (("nag", "lr * g", "lr * h"), ("sgd", "momentum > 0", "momentum >> 0")):
        path = project / "specs" / f"{name}.yaml"
        path.write_text(path.read_text().replace(old, new))
    (project / "specs" / "lars.yaml").unlink()
    assert cli.main(["generate"]) == 1
    assert "specs/nag.yaml:" in capsys.readouterr().err
    assert contents(project / "generated") == before


def test_a_failing_write_changes_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (project / "generated").glob("*.py"):
        path.write_text(f"{OWN.header()} long ago\n")
    before = contents(project / "generated")
    replace = os.replace
    done: list[Any] = []

    def fail_late(source: Any, target: Any) -> None:
        if len(done) == 4:
            raise OSError("disk full")
        done.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_late)
    with pytest.raises(OSError, match="disk full"):
        update(own_project())
    assert contents(project / "generated") == before
    assert [path for path in (project / "generated").iterdir() if path.name.startswith(".stepspec")] == []


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt, also in the background, where a shell has it ignored."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_changes_all_or_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (project / "generated").glob("*.py"):
        path.write_text(f"{OWN.header()} long ago\n")
    replace = os.replace

    def interrupt(source: Any, target: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        update(own_project())
    assert not compare(own_project()), "all files were written"


def test_two_specs_of_one_name(project: Path) -> None:
    (project / "specs" / "n_ag.yaml").write_text((project / "specs" / "nag.yaml").read_text())
    with pytest.raises(SpecError, match=r"'NAG' stands in specs/n_ag.yaml already"):
        compare(own_project())


def test_generation_needs_no_generated_code(tmp_path: Path) -> None:
    """A broken generated/ can be mended with the command itself."""
    for name in ("specs", "generator", "runtime"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    package = tmp_path / "site" / "stepspec"
    shutil.copytree(ROOT / "runtime", package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("specs", "generator"):
        shutil.copytree(ROOT / name, package / name, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "generated").mkdir()
    (package / "generated" / "__init__.py").write_text(f"{OWN.header()}\nthis is not Python\n")
    program = "from stepspec.generator.cli import main; raise SystemExit(main(['generate']))"
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    command = [sys.executable, "-c", program]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    generated = contents(package / "generated")
    assert generated == {p.name: p.read_bytes() for p in (ROOT / "generated").glob("*.py")}


# the command line


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "NAG           Nesterov accelerated gradient." in lines
    assert len(lines) == len(list((ROOT / "specs").glob("*.yaml")))


def test_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", "lars"]) == 0
    shown = capsys.readouterr().out
    for words in (
        "LARS: Layer-wise adaptive rate scaling.",
        "w_norm = norm(weight)",
        "REDUCE   w_norm, g_norm",
        "momentum > 0, adapt            28, 56, 14, 26  14     2       4, 8, 2, 8",
        "lazy_update: offered, off by default",
        "not (momentum > 0), not adapt:  wd == 0",
        "not (momentum > 0), adapt:      never",
        "p.store(weight=weight, mom=mom)",
    ):
        assert words in shown
    assert cli.main(["show", str(ROOT / "specs" / "nag.yaml")]) == 0
    assert capsys.readouterr().out.startswith("NAG: ")


def test_show_of_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", "nga"]) == 1
    assert "hint: did you mean 'NAG'?" in capsys.readouterr().err


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = ROOT / "specs" / "nag.yaml", tmp_path / "lars.yaml"
    bad.write_text(
        (ROOT / "specs" / "lars.yaml")
        .read_text()
        .replace("w_norm > 0", "w_nrom > 0")
        .replace("range", "rnage")
    )
    assert cli.main(["check", str(good), str(bad)]) == 1
    shown = capsys.readouterr()
    assert shown.out == f"{good}: ok\n"
    assert shown.err.count("unknown key 'rnage'") == 3
    assert cli.main(["check", str(ROOT / "specs")]) == 0


def test_check_of_a_missing_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "nowhere.yaml"]) == 1
    assert "nowhere.yaml" in capsys.readouterr().err


def test_output_that_its_encoding_lacks_is_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "nag.yaml"
    path.write_text((ROOT / "specs" / "nag.yaml").read_text().replace("summary: ", "summary: \N{EM DASH} "))
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "latin-1"))
    assert cli.main(["show", str(path)]) == 0
    assert written.getvalue().startswith(rb"NAG: \u2014 Nesterov")


def test_output_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)  # as Python starts with ">&-"
    assert cli.main(["schema"]) == 0
