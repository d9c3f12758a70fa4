"""What compiles kernels and what never does: only a new kind of kernel, once for all processes of a cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import stepspec

PROCESS = Path(__file__).with_name("recompiling.py")


def compiled_in_a_process(name: str, cache: Path) -> dict[str, list[str]]:
    """Return what a process with this cache compiles for each change, see recompiling.py."""
    environment = os.environ | {"STEPSPEC_CACHE_DIR": str(cache)}
    found: dict[str, list[str]] = json.loads(
        subprocess.check_output([sys.executable, str(PROCESS), name], env=environment, text=True, timeout=120)
    )
    return found


def test_kernels_are_compiled_once(optimizer_class: type[stepspec.Optimizer], tmp_path: Path) -> None:
    found = compiled_in_a_process(optimizer_class.__name__, tmp_path)
    assert {change for change, names in found.items() if names} == {"first step", "float64"}
    names = found["first step"] + found["float64"]
    assert len(names) == len(set(names))
    kernels = f"stepspec.generated.{optimizer_class.__module__.rpartition('.')[2]}_cpu."
    assert any(name.startswith(kernels) and "float32" in name for name in found["first step"])
    assert any(name.startswith(kernels) and "float64" in name for name in found["float64"])
    # another process finds all of it
    assert not any(compiled_in_a_process(optimizer_class.__name__, tmp_path).values())
