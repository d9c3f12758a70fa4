"""Packages generated from a user's own specs: `stepspec generate --specs DIR --out PACKAGE_DIR`."""

import fcntl
import importlib
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import stepspec
from stepspec.generator import cli
from stepspec.generator.errors import SpecError
from stepspec.generator.generate import compare
from stepspec.generator.project import ProjectError, outside_project
from stepspec.generator.writing import update

SPEC = """\
name: {name}
summary: Sign descent.
hyperparameters:
  learning_rate: {{default: 0.1}}
update: |
  weight -= lr * sign(grad)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand in a project with one spec, which can be imported from, and leave no optimizer behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("stepspec.registry._registered", {})
    write("Steep")
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] in ("company", "mine", "yours")]:
        del sys.modules[name]


def write(name: str, file: str = "", text: str = SPEC) -> None:
    Path("specs").mkdir(exist_ok=True)
    Path("specs", file or f"{name.lower()}.yaml").write_text(text.format(name=name))


def generate(package: str = "mine", *more: str) -> int:
    return cli.main(["generate", "--specs", "specs", "--out", package, *more])


def contents(folder: str = "mine") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).glob("*")}


@pytest.mark.usefixtures("folder")
def test_a_package_inside_another_one() -> None:
    Path("company/training").mkdir(parents=True)
    assert generate("company/training/optimizers") == 0
    package = importlib.import_module("company.training.optimizers")
    optimizer = stepspec.create("STEEP", learning_rate=0.5)
    assert type(optimizer) is package.Steep
    assert package.__all__ == ["Steep"]
    weight = np.ones(3, np.float32)
    optimizer.update([0], [weight], [np.array([2, 0, -2], np.float32)], [{}])
    assert weight.tolist() == [0.5, 1.0, 1.5]


@pytest.mark.usefixtures("folder")
def test_warnings_blame_the_caller() -> None:
    assert generate() == 0
    optimizer = importlib.import_module("mine").Steep()
    with pytest.warns(UserWarning, match="no master") as caught:
        optimizer.create_state(0, np.ones(3, np.float16))
    assert caught[0].filename == __file__


@pytest.mark.usefixtures("folder")
def test_the_package_says_how_it_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert generate("mine") == 0
    first = Path("mine/steep.py").read_text().splitlines()[0]
    command = "stepspec generate --specs ../specs --out ."
    assert first == f'# Generated from ../specs/steep.yaml by stepspec. Do not edit: run "{command}".'
    before = contents()
    monkeypatch.chdir("mine")
    assert cli.main([*shlex.split(command)[1:], "--check"]) == 0
    monkeypatch.chdir("..")
    Path("moved").mkdir()
    os.rename("specs", "moved/specs")
    os.rename("mine", "moved/mine")
    monkeypatch.chdir("moved")
    assert generate() == 0
    assert contents() == before, "where a project stands is not in its files"


@pytest.mark.usefixtures("folder")
def test_check_shows_the_difference_and_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate("mine", "--check") == 1
    assert not Path("mine").exists()
    assert generate() == 0
    write("Steep", text=SPEC.replace("lr * sign", "2 * lr * sign"))
    capsys.readouterr()
    assert generate("mine", "--check") == 1
    shown = capsys.readouterr()
    assert "--- mine/steep.py\n" in shown.out
    assert "+            weight = weight - 2 * lr * sign(grad)\n" in shown.out
    assert shown.err == "mine/ differs from specs/; run: stepspec generate --specs specs --out mine\n"


@pytest.mark.parametrize(
    ("damage", "shown"),
    [
        (lambda text: text + b"\xff", "-\N{REPLACEMENT CHARACTER}"),
        (lambda text: text.replace(b"\n", b"\r\n"), "-class Steep(Optimizer):\r\n"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_check_shows_damage_of_any_kind(
    damage: Callable[[bytes], bytes], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate() == 0
    before = contents()
    Path("mine/steep.py").write_bytes(damage(before["steep.py"]))
    capsys.readouterr()
    assert generate("mine", "--check") == 1
    assert shown in capsys.readouterr().out
    assert generate() == 0
    assert contents() == before


@pytest.mark.usefixtures("folder")
def test_check_passes_over_what_editors_hide() -> None:
    Path("specs/.#steep.yaml").symlink_to("an editor's lock")
    assert cli.main(["check", "specs"]) == 0


@pytest.mark.usefixtures("folder")
def test_what_belongs_to_others_stays(capsys: pytest.CaptureFixture[str]) -> None:
    write("Other")
    assert generate() == 0
    Path("mine/other_things.py").write_text("# Generated from a schema by protobuf.\n")
    Path("specs/other.yaml").unlink()
    Path("specs/.#steep.yaml").symlink_to("an editor's lock")
    capsys.readouterr()
    assert generate() == 0
    assert "removed mine/other_cuda.py: its spec is gone\n" in capsys.readouterr().out
    assert sorted(contents()) == [
        "__init__.py",
        "other_things.py",
        "steep.py",
        "steep_cpu.py",
        "steep_cuda.py",
    ]


def specs_is_missing() -> None:
    os.rename("specs", "elsewhere")


def specs_is_a_file() -> None:
    specs_is_missing()
    Path("specs").write_text("")


def no_specs() -> None:
    os.rename("specs/steep.yaml", "specs/steep.yml")


def link_out() -> None:
    Path("secret.yaml").write_text(SPEC.format(name="Secret"))
    Path("specs/secret.yaml").symlink_to("../secret.yaml")


def link_to_itself() -> None:
    Path("specs/loop.yaml").symlink_to("loop.yaml")


def specs_is_a_loop() -> None:
    specs_is_missing()
    Path("specs").symlink_to("specs")


def package_is_a_loop() -> None:
    Path("mine").symlink_to("mine")


def spec_is_a_pipe() -> None:
    os.mkfifo("specs/pipe.yaml")


def package_is_a_file() -> None:
    Path("mine").write_text("")


def own_module() -> None:
    Path("mine").mkdir()
    Path("mine/steep.py").write_text("print('by hand')\n")


def own_index() -> None:
    Path("mine").mkdir()
    Path("mine/__init__.py").write_text("from .training import train\n")


def own_subpackage() -> None:
    Path("mine/steep").mkdir(parents=True)
    Path("mine/steep/__init__.py").write_text("")


def link_in_the_way() -> None:
    Path("mine").mkdir()
    Path("mine/steep.py").symlink_to("/dev/null")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (specs_is_missing, "there is no folder specs"),
        (specs_is_a_file, "specs is a file: name the folder of the specs"),
        (no_specs, "there is no spec in specs: their files end in .yaml"),
        (link_out, "specs/secret.yaml is a link that leads out of the folder"),
        (link_to_itself, "specs/loop.yaml is no file"),
        (specs_is_a_loop, "there is no folder specs"),
        (package_is_a_loop, "Too many levels of symbolic links: 'mine'"),
        (spec_is_a_pipe, "specs/pipe.yaml is no file"),
        (package_is_a_file, "mine is a file: name the folder of the package"),
        (own_module, "mine/steep.py was not generated by stepspec, and stays as it is"),
        (own_index, "mine/__init__.py was not generated by stepspec, and stays as it is"),
        (own_subpackage, "the package mine/steep would hide steep.py"),
        (link_in_the_way, "mine/steep.py is in the way"),
        (
            lambda: write("Nag"),
            "specs/nag.yaml:1:1: the name 'Nag' belongs to one of stepspec's",
        ),
        (lambda: write("Updater"), "specs/updater.yaml:1:1: the name 'Updater' belongs to stepspec itself"),
        (lambda: write("Import"), "specs/import.yaml:1:7: 'import' cannot name a module"),
        (lambda: write("STEEP", "s_teep.yaml"), "'Steep' stands in specs/s_teep.yaml already"),
        (lambda: write("Steep", "Steep.yaml"), "'Steep' stands in specs/Steep.yaml already"),
        (lambda: write("SteepCpu", "Steep_CPU.yaml"), "another spec generates steep_cpu.py too"),
        (lambda: write("Init", "__init__.yaml"), "another spec generates __init__.py too"),
        (lambda: write("Kelvin", "\N{KELVIN SIGN}elvin.yaml"), "'\N{KELVIN SIGN}elvin' cannot name a module"),
        (lambda: write("Odd", "odd\n.yaml"), "has a name that cannot stand in a comment"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_refused_projects(
    prepare: Callable[[], None], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare()
    before = {path: path.is_file() and path.read_bytes() for path in Path().rglob("*") if not path.is_fifo()}
    assert generate() == 1
    assert message in capsys.readouterr().err
    after = {path: path.is_file() and path.read_bytes() for path in Path().rglob("*") if not path.is_fifo()}
    assert after == before


@pytest.mark.parametrize(
    ("package", "message"),
    [
        ("nowhere/mine", "there is no folder"),
        ("my-optimizers", "'my-optimizers' cannot name a package"),
        ("import", "'import' cannot name a package"),
        ("größe", "'größe' cannot name a package"),
        ("/", "'' cannot name a package"),
        ("stepspec", "would hide stepspec"),
        (str(Path(cli.__file__).parents[1] / "generated"), "belongs to stepspec itself"),
        (str(Path(cli.__file__).parents[1] / "specs" / "mine"), "belongs to stepspec itself"),
        ("/proc/mine", "No such file or directory: '/proc/mine'"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_refused_packages(package: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(package) == 1
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_unsafe_names_of_folders() -> None:
    specs = Path("a\nimport os")
    os.rename("specs", specs)
    with pytest.raises(ProjectError, match="cannot stand in a comment"):
        outside_project(specs, Path("mine"))
    # a quote would be harmless there
    os.rename(specs, 'say """ twice')
    project = outside_project(Path('say """ twice'), Path("mine"))
    update(project)
    compile(Path("mine/__init__.py").read_text(), "mine", "exec")
    assert not compare(project)


def test_specs_and_out_go_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", "--specs", "specs"]) == 1
    assert "--specs and --out go together" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_a_failure_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        update(outside_project(Path("specs"), Path("mine")))
    assert not Path("mine").exists()
    monkeypatch.undo()


@pytest.mark.usefixtures("folder")
def test_a_bad_spec_makes_no_package() -> None:
    write("Bad", text=SPEC.replace("sign(grad)", "sign(gard)"))
    with pytest.raises(SpecError, match=r"specs/bad.yaml:6:23: unknown name 'gard'"):
        update(outside_project(Path("specs"), Path("mine")))
    assert not Path("mine").exists()


@pytest.mark.usefixtures("folder")
def test_what_a_killed_run_left_is_removed() -> None:
    assert generate() == 0
    before = contents()
    Path("mine/.stepspec-stage-x/new").mkdir(parents=True)
    assert generate() == 0
    assert contents() == before


@pytest.mark.usefixtures("folder")
def test_runs_take_turns() -> None:
    Path("mine").mkdir()
    held = os.open("mine", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    waiting = threading.Thread(target=update, args=[outside_project(Path("specs"), Path("mine"))])
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    assert contents() == {}
    write("Other")  # by whoever has the turn
    os.close(held)
    waiting.join(60)
    assert "other.py" in contents()


@pytest.mark.usefixtures("folder")
def test_concurrent_runs() -> None:
    command = [sys.executable, "-c", "from stepspec.generator.cli import main; raise SystemExit(main())"]
    command += ["generate", "--specs", "specs", "--out", "mine"]
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert generate("mine", "--check") == 0


@pytest.mark.usefixtures("folder")
def test_two_packages_with_one_name() -> None:
    for package in ("mine", "yours"):
        assert generate(package) == 0
    importlib.import_module("mine")
    with pytest.raises(ValueError, match=r"steep.Steep in .*yours/steep.py: .* taken .*mine/steep.py"):
        importlib.import_module("yours")


@pytest.mark.usefixtures("folder")
def test_a_reloaded_package_replaces_its_classes() -> None:
    assert generate() == 0
    package = importlib.import_module("mine")
    first = package.Steep
    importlib.reload(sys.modules["mine.steep"])
    importlib.reload(package)
    assert type(stepspec.create("steep")) is package.Steep is not first


@pytest.mark.usefixtures("folder")
def test_line_ends_make_no_difference() -> None:
    assert generate() == 0
    before = contents()
    Path("specs/steep.yaml").write_bytes(SPEC.format(name="Steep").replace("\n", "\r\n").encode("utf-8-sig"))
    assert generate() == 0
    assert contents() == before
