"""Write what the specs generate, or say how the files differ from it. All files change, or none."""

import difflib
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from stepspec.generator.emit import HEADER, emit, emit_index
from stepspec.generator.errors import Problem, Problems, SpecError
from stepspec.generator.reader import load
from stepspec.generator.spec import Spec

MARK = HEADER.split("{", maxsplit=1)[0]


@dataclass(frozen=True)
class Changes:
    """How a folder of generated modules differs from its specs.

    Attributes:
        written: file name -> new text, for files that are missing or differ.
        removed: generated files that belong to no spec any more.
    """

    folder: Path
    written: dict[str, str]
    removed: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.written or self.removed)

    def diff(self) -> str:
        """Return the unified diff from the files to what the specs generate."""
        parts: list[str] = []
        for name in sorted({*self.written, *self.removed}):
            path = self.folder / name
            old = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
            new = self.written.get(name, "").splitlines(keepends=True)
            parts += difflib.unified_diff(
                old, new, f"{self.folder.name}/{name}", f"{self.folder.name}/{name} (from specs)"
            )
        return "".join(parts)


def load_all(folder: Path) -> tuple[Spec, ...]:
    """Return the specs of a folder, by file name; raise SpecError if two define the same optimizer."""
    specs = tuple(load(path, f"{folder.name}/{path.name}") for path in sorted(folder.glob("*.yaml")))
    seen: dict[str, Spec] = {}
    for spec in specs:
        other = seen.setdefault(spec.name.lower(), spec)
        if other is not spec:
            problems = Problems(spec.source)
            problems.add(spec.span, f"'{spec.name}' stands in {other.source.name} already")
            problems.raise_any()
    return specs


def generated_texts(specs: tuple[Spec, ...]) -> dict[str, str]:
    """Return every module that `specs` generate: file name -> text. A pure function of the specs."""
    texts = {"__init__.py": emit_index(specs)}
    for spec in specs:
        for name, text in emit(spec).items():
            if name in texts:
                problem = Problem(spec.span, f"two specs generate {name}", "rename one of them")
                raise SpecError(spec.source, [problem])
            texts[name] = text
    return texts


def compare(specs: Path, folder: Path) -> Changes:
    """Return how `folder` differs from what the specs in `specs` generate. Nothing is written.

    Raises:
        SpecError: if a spec has a mistake.
        OSError: if a file cannot be read.
    """
    texts = generated_texts(load_all(specs))
    written = {name: text for name, text in texts.items() if _read(folder / name) != text}
    present = sorted(path.name for path in folder.glob("*.py"))
    removed = tuple(n for n in present if n not in texts and (_read(folder / n) or "").startswith(MARK))
    return Changes(folder, written, removed)


def apply(changes: Changes) -> None:
    """Make the changes. A failure or Ctrl-C leaves every file as it was.

    Raises:
        OSError: if a file cannot be written; all files are restored before.
    """
    folder = changes.folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".stepspec-", dir=folder) as stage:
        for name, text in changes.written.items():
            (Path(stage) / name).write_bytes(text.encode())
        old = {name: _bytes(folder / name) for name in (*changes.written, *changes.removed)}
        with _uninterrupted():
            try:
                for name in changes.written:
                    os.replace(Path(stage) / name, folder / name)
                for name in changes.removed:
                    (folder / name).unlink()
            except OSError:
                _restore(folder, old)
                raise


def _restore(folder: Path, old: dict[str, bytes | None]) -> None:
    for name, content in old.items():
        if content is None:
            (folder / name).unlink(missing_ok=True)
        elif _bytes(folder / name) != content:
            (folder / name).write_bytes(content)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the block is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[tuple[int, FrameType | None]] = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: pressed.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if pressed and callable(previous):
        previous(*pressed[0])


def _read(path: Path) -> str | None:
    content = _bytes(path)
    return None if content is None else content.decode("utf-8", errors="replace")


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
