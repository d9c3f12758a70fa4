"""What several test modules share: the specs, and a way to build optimizers from specs of the tests."""

import gc
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sampling import OPTIMIZERS, REPRESENTATIVES, grouped

import stepspec
from stepspec.generator.project import outside_project
from stepspec.generator.writing import update

TESTS = Path(__file__).parent
SPECS = TESTS.parent / "specs"


def pytest_configure() -> None:
    """Collect garbage less often: it takes a sixth of the time of compilers, which leave few cycles."""
    gc.set_threshold(50_000)


@pytest.fixture(params=[grouped(optimizer, optimizer, name=optimizer.__name__) for optimizer in OPTIMIZERS])
def optimizer_class(request: pytest.FixtureRequest) -> type[stepspec.Optimizer]:
    """Every optimizer: a new one gets every test that takes this fixture, see Note [Sampling]."""
    found: type[stepspec.Optimizer] = request.param
    return found


@pytest.fixture(
    params=[grouped(o, o, name=o.__name__) for o in OPTIMIZERS if o in REPRESENTATIVES],
)
def representative(request: pytest.FixtureRequest) -> type[stepspec.Optimizer]:
    """One optimizer of each kind, see Note [Sampling]."""
    found: type[stepspec.Optimizer] = request.param
    return found


@pytest.fixture(scope="session")
def language_package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Build the package of tests/specs: rules that use what the optimizers do not."""
    folder = tmp_path_factory.mktemp("generated") / "language_specs"
    update(outside_project(TESTS / "specs", folder))
    sys.path.insert(0, str(folder.parent))
    try:
        yield importlib.import_module("language_specs")
    finally:
        sys.path.remove(str(folder.parent))
