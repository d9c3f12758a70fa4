"""A small check under compute-sanitizer, where there is one: accesses out of bounds, and races."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from sections import Options, Part, Table, Target

TOOLS = ("memcheck", "racecheck", "synccheck")
FOUND = 86
LIMIT = 85  # seconds of one tool
WRONG = re.compile(r"========= (Invalid|Error:|Race|Warning: Race|Barrier|Out-of-range|Address )")
# torch's own allocator hides what lies beyond an array
ENVIRONMENT = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
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
        # all at once: each of them keeps one core busy, and the GPU hardly
        yield Part(", ".join(TOOLS), partial(self._all, program, options.optimizers))

    def _all(self, program: str, optimizers: tuple[str, ...]) -> None:
        self.verdicts = dict.fromkeys(TOOLS, "not done")
        with ThreadPoolExecutor() as pool:
            for future in [pool.submit(self._run, program, tool, optimizers) for tool in TOOLS]:
                future.result()

    def _run(self, program: str, tool: str, optimizers: tuple[str, ...]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            script = [sys.executable, str(SCRIPT), "--only", "check", "--tiny", "--output", folder]
            # what CUDA refuses is raised here, or is asked for: whose memory an address is of
            options = ["--tool", tool, "--report-api-errors", "no", "--error-exitcode", str(FOUND)]
            child = ["--optimizers", *optimizers, "--child", f"{folder}/found"]
            said, status = watched([program, *options, *script, *child], LIMIT)
        lines = [line for line in said.splitlines() if line.startswith("=========")]
        verdict = lines[-1].strip("= ") if lines else "it says nothing"
        wrong = [line.strip("= ") for line in lines if WRONG.search(line)]
        done = f"exit status {status}" if status is not None else f"not done after {LIMIT} s"
        self.verdicts[tool] = "; ".join([verdict, done, *wrong[:1]])
        if status:
            print(said[-3000:], file=sys.stderr)
        if status == FOUND or wrong:
            self.failures.append(f"compute-sanitizer {tool}: {self.verdicts[tool]}")

    def tables(self) -> Iterator[Table]:
        if self.verdicts:
            rows = [*self.verdicts.items()]
            yield Table("compute-sanitizer on small tensors", ("tool", "verdict"), rows)

    def targets(self) -> Iterator[Target]:
        return iter(())

    def data(self) -> object:
        return self.verdicts


def watched(command: Sequence[str], seconds: float) -> tuple[str, int | None]:
    """Return what a command says and its exit status, None if it had to be killed, children and all."""
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        process = subprocess.Popen(
            command,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=os.environ | ENVIRONMENT,
            start_new_session=True,
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        said.seek(0)
        return said.read(), status


def sanitizer() -> str | None:
    """Return the path of compute-sanitizer, None if there is none."""
    home = os.environ.get("CUDA_HOME")
    folders = [os.environ.get("PATH", ""), *([f"{home}/bin"] if home else []), *FOLDERS]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(folders))
