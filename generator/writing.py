"""Bring a package up to date: all its files change, or none."""

import errno
import fcntl
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from stepspec.generator.generate import Changes, compare
from stepspec.generator.project import Project

_STAGE = ".stepspec-stage-"


def update(project: Project) -> Changes:
    """Write what a project's specs generate, and return what has changed.

    A failure or Ctrl-C leaves every file as it was; a second process waits for the first.

    Raises:
        SpecError: if a spec has a mistake.
        ProjectError: if a file is in the way that stepspec did not generate, or there is no spec.
        OSError: if a file cannot be written.
    """
    folder = project.package.path
    with _present(folder), _locked(folder):
        for left in folder.glob(f"{_STAGE}*"):  # of a process that was killed
            shutil.rmtree(left)
        changes = compare(project)
        if changes:
            _apply(changes)
    return changes


def _apply(changes: Changes) -> None:
    folder = changes.folder.path
    with tempfile.TemporaryDirectory(prefix=_STAGE, dir=folder) as stage:
        new, old = Path(stage) / "new", Path(stage) / "old"
        new.mkdir()
        old.mkdir()
        for name, text in changes.written.items():
            (new / name).write_bytes(text.encode())
        # copied now, as a disk may be full later: to restore them is to rename them
        for name in (*changes.written, *changes.removed):
            if (folder / name).exists():
                shutil.copy2(folder / name, old / name)
        with _uninterrupted():
            try:
                for name in changes.written:
                    os.replace(new / name, folder / name)
                for name in changes.removed:
                    (folder / name).unlink()
            except BaseException:
                _restore(changes, old)
                raise


def _restore(changes: Changes, old: Path) -> None:
    for name in (*changes.written, *changes.removed):
        path = changes.folder.path / name
        if (old / name).exists():
            os.rename(old / name, path)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def _present(folder: Path) -> Iterator[None]:
    """Make a folder that is missing; take it away again if the block fails."""
    try:
        folder.mkdir()
    except FileExistsError:
        yield
        return
    try:
        yield
    except BaseException:
        with suppress(OSError):  # another process has begun to write to it
            folder.rmdir()
        raise


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let other processes that do the same wait for the block."""
    number = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX)
        except OSError as error:
            # some network file systems know no locks
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):
                raise
        yield
    finally:
        os.close(number)


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
