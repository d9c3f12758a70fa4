"""What compiles kernels and what never does: only a new kind of kernel, once for all processes of a cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import recompiling

import stepspec
from stepspec.compilation import compile_entry

PROCESS = Path(__file__).with_name("recompiling.py")


def compiled_in_a_process(name: str, cache: Path) -> dict[str, list[str]]:
    """Return what a process with this cache compiles for each change, see recompiling.py."""
    environment = os.environ | {"STEPSPEC_CACHE_DIR": str(cache)}
    found: dict[str, list[str]] = json.loads(
        subprocess.check_output([sys.executable, str(PROCESS), name], env=environment, text=True, timeout=120)
    )
    return found


def test_kernels_are_compiled_once(representative: type[stepspec.Optimizer], tmp_path: Path) -> None:
    found = compiled_in_a_process(representative.__name__, tmp_path)
    assert {change for change, names in found.items() if names} == {"first step", "float64"}
    names = found["first step"] + found["float64"]
    assert len(names) == len(set(names))
    kernels = f"stepspec.generated.{representative.__module__.rpartition('.')[2]}_cpu."
    assert any(name.startswith(kernels) and "float32" in name for name in found["first step"])
    assert any(name.startswith(kernels) and "float64" in name for name in found["float64"])
    # another process finds all of it
    assert not any(compiled_in_a_process(representative.__name__, tmp_path).values())


def test_changes_take_no_other_kernels(
    optimizer_class: type[stepspec.Optimizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def watch(entry: Any, signature: Any, name: str, stamp: str | None) -> int:
        asked.append(name)
        return compile_entry(entry, signature, name, stamp)

    def asked_by(step: Callable[[], None]) -> list[str]:
        before = len(asked)
        step()
        return asked[before:]

    monkeypatch.setattr("stepspec.cpu.compile_entry", watch)
    monkeypatch.setattr(recompiling, "compiled_by", asked_by)
    found = recompiling.changes(optimizer_class.__name__)
    assert {change for change, names in found.items() if names} <= {"first step", "float64"}
