"""A small check under compute-sanitizer, where there is one: accesses out of bounds, and races."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from sections import Options, Part, Table, Target

TOOLS = ("memcheck", "racecheck", "synccheck")
FOUND = 86
LIMIT = 240  # seconds of one tool
FOLDERS = ("/usr/local/cuda/bin", "/opt/cuda/bin")
SCRIPT = Path(__file__).with_name("gpu.py")


class Tools:
    """What each of the tools said."""

    name = "tools"

    def __init__(self) -> None:
        self.verdicts: dict[str, str] = {}
        self.failures: list[str] = []

    def parts(self, options: Options) -> Iterator[Part]:
        program = sanitizer()
        if program is None:
            self.verdicts = dict.fromkeys(TOOLS, "no compute-sanitizer was found")
            return
        for tool in TOOLS:
            yield Part(tool, partial(self._run, program, tool, options.optimizers))

    def _run(self, program: str, tool: str, optimizers: tuple[str, ...]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            script = [sys.executable, str(SCRIPT), "--only", "check", "--tiny", "--output", folder]
            command = [program, "--tool", tool, "--error-exitcode", str(FOUND), *script]
            try:
                done = subprocess.run(
                    [*command, "--optimizers", *optimizers],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    timeout=LIMIT,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                self.verdicts[tool] = f"not done after {LIMIT} s"
                return
        said = [line for line in done.stdout.splitlines() if line.startswith("=========")]
        self.verdicts[tool] = said[-1].strip("= ") if said else f"exit status {done.returncode}"
        if done.returncode:
            print(done.stdout[-6000:], file=sys.stderr)
            if done.returncode == FOUND:
                self.failures.append(f"compute-sanitizer {tool}: {self.verdicts[tool]}")

    def tables(self) -> Iterator[Table]:
        if self.verdicts:
            rows = [*self.verdicts.items()]
            yield Table("compute-sanitizer on small tensors", ("tool", "verdict"), rows)

    def targets(self) -> Iterator[Target]:
        return iter(())

    def data(self) -> object:
        return self.verdicts


def sanitizer() -> str | None:
    """Return the path of compute-sanitizer, None if there is none."""
    home = os.environ.get("CUDA_HOME")
    folders = [os.environ.get("PATH", ""), *([f"{home}/bin"] if home else []), *FOLDERS]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(folders))
