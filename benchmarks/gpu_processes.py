"""Sections of a run in processes of their own: what breaks, hangs or fills the GPU is lost to one alone."""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sections import Options, Part, Section, Table, Target

POLL = 0.2
# seconds beyond its time that a process has to end its last part
GRACE = 15.0
# what the script returns if it ran to its end
ENDED = (0, 1)


@dataclass(frozen=True)
class Found:
    """What the sections of a process found by now."""

    tables: list[Table]
    targets: list[Target]
    data: object
    failures: list[str]

    @classmethod
    def of(cls, sections: Sequence[Section], failures: Sequence[str]) -> Found:
        return cls(
            [table for section in sections for table in section.tables()],
            [target for section in sections for target in section.targets()],
            {section.name: section.data() for section in sections},
            [*failures],
        )

    @classmethod
    def read(cls, path: Path) -> Found:
        found: Found = pickle.loads(path.read_bytes())
        return found

    def write(self, path: Path) -> None:
        unfinished = path.with_suffix(".tmp")
        unfinished.write_bytes(pickle.dumps(self))
        os.replace(unfinished, path)


class Apart:
    """A section that runs in processes, all of them at once.

    Parameters
    ----------
    name
        The section's.
    commands
        What each process runs; the path of the file that it writes a `Found` to comes last.
    folder
        Where these files are.

    """

    def __init__(self, name: str, commands: Mapping[str, Sequence[str]], folder: Path) -> None:
        self.name, self.commands = name, commands
        self.paths = {title: folder / f"{name}-{title}.pickle" for title in commands}
        self.found: dict[str, Found] = {}
        self.errors: list[str] = []

    def run(self, seconds: float, changed: Callable[[], object]) -> None:
        """Run the processes, kill those that take longer, and say so whenever one has found more."""
        end = time.monotonic() + seconds
        running: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for title, command in self.commands.items():
                # a group of its own: it may have children, which are killed with it
                whole = [*command, str(self.paths[title])]
                running[title] = subprocess.Popen(whole, start_new_session=True)
            while running and time.monotonic() < end:
                time.sleep(POLL)
                for title in [title for title, process in running.items() if process.poll() is not None]:
                    status = running.pop(title).returncode
                    if status not in ENDED:
                        self.errors.append(f"{self.name}, {title}: ended with status {status}")
                if self._read():
                    changed()
        finally:
            for title, process in running.items():
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                self.errors.append(f"{self.name}, {title}: killed after {seconds:.0f} s")
            self._read()

    def _read(self) -> bool:
        new = {title: Found.read(p) for title, p in self.paths.items() if p.exists()}
        is_new, self.found = new != self.found, new
        return is_new

    @property
    def failures(self) -> list[str]:
        return [text for found in self.found.values() for text in found.failures] + self.errors

    def parts(self, options: Options) -> Iterator[Part]:
        return iter(())

    def tables(self) -> Iterator[Table]:
        """Yield the tables of all processes, those of one title as one."""
        tables = sorted((t for found in self.found.values() for t in found.tables), key=lambda t: t.title)
        for title, alike in itertools.groupby(tables, key=lambda table: table.title):
            several = [*alike]
            rows = [row for table in several for row in table.rows]
            notes = dict.fromkeys(table.note for table in several if table.note)
            if rows or notes:
                yield Table(title, several[0].header, rows, "\n".join(notes))

    def targets(self) -> Iterator[Target]:
        return (target for found in self.found.values() for target in found.targets)

    def data(self) -> object:
        found: dict[str, Any] = {title: found.data for title, found in self.found.items()}
        return {"processes": found, "errors": self.errors}
