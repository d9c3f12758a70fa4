"""The wheel: what it holds, and that it works from an empty folder without the source tree."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "runtime": "stepspec",
    "specs": "stepspec/specs",
    "generator": "stepspec/generator",
    "generated": "stepspec/generated",
}
# One worker builds the wheel once for all tests of this module.
pytestmark = pytest.mark.xdist_group("packaging")

STEP = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import stepspec
assert stepspec.__file__.startswith(sys.argv[1]), stepspec.__file__
results = []
for path in ("step", "fused_step"):
    optimizer = stepspec.create("sgd", learning_rate=0.5, momentum=0.9)
    weight, grad = np.ones((3, 5), np.float32), np.full((3, 5), 2, np.float32)
    getattr(optimizer, path)([0], [weight], [grad], [optimizer.create_state(0, weight)])
    results.append(weight.tobytes())
assert results[0] == results[1] == np.zeros((3, 5), np.float32).tobytes(), results
loaded = {name: module.__file__ for name, module in sys.modules.items() if name.startswith("stepspec")}
assert "stepspec.generated.sgd_cpu" in loaded, loaded
assert all(file.startswith(sys.argv[1]) for file in loaded.values()), loaded
"""


def run(command: Sequence[str | Path], folder: Path, status: int = 0, **environment: str) -> str:
    """Run a command in `folder` and return what it printed on both streams, its exit status checked."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        command,
        cwd=folder,
        env=inherited | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == status, f"{command} exited with {done.returncode}\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the sources: nothing is left in the tree, nothing old gets in."""
    source = tmp_path_factory.mktemp("source")
    for folder in PACKAGES:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist"], source)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel, without its dependencies, into a folder of its own."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    run([*pip, "--no-deps", "--no-index", "--target", target, wheel], target)
    return target


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """Return an empty folder to work in."""
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def test_contents(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    # What the folders hold is what the wheel holds: every module, spec and template, and nothing else.
    kept = {".py", ".yaml", ".json", ".j2", ".typed"}
    expected = set()
    for folder, package in PACKAGES.items():
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in kept and "__pycache__" not in path.parts:
                expected.add(f"{package}/{path.relative_to(ROOT / folder).as_posix()}")
    assert names == expected
    assert {"stepspec/py.typed", "stepspec/specs/sgd.yaml", "stepspec/generated/sgd_cpu.py"} <= names
    assert {"stepspec/cuda/plan.py", "stepspec/generated/sgd_cuda.py"} <= names
    assert any(name.startswith("stepspec/generator/templates/") for name in names)
    assert not any("test" in name for name in names)


def test_metadata(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (entry_points,) = (name for name in archive.namelist() if name.endswith("/entry_points.txt"))
    assert b"stepspec = stepspec.generator.cli:main" in archive.read(entry_points)
    assert any(name.endswith("/licenses/LICENSE") for name in archive.namelist())


def test_fused_step(installed: Path, empty: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    run([sys.executable, "-I", "-c", STEP, str(installed)], empty, STEPSPEC_CACHE_DIR=cache)
    assert list(empty.iterdir()) == []


def test_command(installed: Path, empty: Path) -> None:
    # The script that pip wrote; PYTHONPATH puts the wheel's copy of stepspec before any other.
    command = installed / "bin" / "stepspec"
    listed = run([sys.executable, command, "list"], empty, PYTHONPATH=str(installed))
    for name in ("SGD", "NAG", "GroupAdaGrad", "FTML", "LARS"):
        assert name in listed
    run([sys.executable, command, "generate", "--check"], empty, PYTHONPATH=str(installed))
    assert list(empty.iterdir()) == []


def test_check_reads_the_installed_copy(installed: Path, empty: Path, tmp_path: Path) -> None:
    """The drift check of a wheel looks at the wheel's own files: a change there is found."""
    changed = tmp_path / "changed"
    shutil.copytree(installed, changed)
    generated = changed / "stepspec" / "generated" / "sgd.py"
    generated.write_text(generated.read_text(encoding="utf-8") + "# drift\n", encoding="utf-8")
    command = [sys.executable, str(changed / "bin" / "stepspec"), "generate", "--check"]
    assert "# drift" in run(command, empty, status=1, PYTHONPATH=str(changed))
