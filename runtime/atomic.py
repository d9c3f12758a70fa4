"""Writing a file in one go: a process killed at any moment leaves the old file or the new one."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import time
from collections.abc import Iterator

# a temporary file that nobody has written to for so many seconds was left by a killed process
ABANDONED = 3600.0


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[io.BufferedRandom]:
    """Open a new file; once the block has ended without an error, it is on the disk and replaces `path`.

    It is written under a hidden name in the same folder, since renaming within a file system is one action. A
    symbolic link stays, and what it points to is replaced. An error leaves the old file, if any, as it was.
    """
    folder, name = os.path.split(os.path.realpath(path))
    _remove_abandoned(folder, name)
    temporary = os.path.join(folder, f".{name}.{secrets.token_hex(8)}.tmp")
    file = open(temporary, "x+b")  # noqa: SIM115  # closed below, before it is renamed
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, os.path.join(folder, name))
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _flush_folder(folder)


def _flush_folder(folder: str) -> None:
    """Bring a folder's new entry to the disk, so that a loss of power does not bring the old one back."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_abandoned(folder: str, name: str) -> None:
    """Remove the temporary files of this name that killed processes left."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(f".{name}.") and entry.name.endswith(".tmp"):
                with contextlib.suppress(FileNotFoundError):  # another process renamed or removed it
                    if time.time() - entry.stat().st_mtime > ABANDONED:
                        os.unlink(entry.path)
