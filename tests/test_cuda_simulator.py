"""The functions of CUDA kernels in numba-cuda's simulator, one thread per element: the bits of `step`."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from conftest import SPECS, TESTS


def test_every_rule_has_the_bits_of_step(language_package: Any) -> None:
    own = [f"stepspec.generated.{path.stem}" for path in sorted(SPECS.glob("*.yaml"))]
    others = [f"language_specs.{path.stem}" for path in sorted((TESTS / "specs").glob("*.yaml"))]
    folders = (TESTS, Path(language_package.__file__).parents[1])
    environment = {
        **os.environ,
        "NUMBA_ENABLE_CUDASIM": "1",
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
    }
    command = [sys.executable, str(TESTS / "cuda_simulated.py"), *own, *others]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [*own, *others]
