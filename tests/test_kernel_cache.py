"""The files of the kernel cache: where they lie, and how long."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from stepspec import kernel_cache


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("STEPSPEC_CACHE_DIR", str(folder))
    return folder


def make_older(path: Path, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(path, (then, then))


def test_the_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernel_cache.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("STEPSPEC_CACHE_DIR")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert kernel_cache.cache_folder() == tmp_path / "x" / "stepspec"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert kernel_cache.cache_folder() == Path.home() / ".cache" / "stepspec"


def test_what_was_written_is_read(cache: Path) -> None:
    assert kernel_cache.read("kernel", "key") is None
    kernel_cache.write("kernel", "key", b"content")
    kernel_cache.write("kernel", "another key", b"")
    assert kernel_cache.read("kernel", "key") == b"content"
    assert kernel_cache.read("kernel", "another key") == b""
    assert kernel_cache.read("another kernel", "key") is None
    assert len(list(cache.iterdir())) == 2


def test_what_nobody_uses_is_deleted(cache: Path) -> None:
    for name in ("used", "unused", "young"):
        kernel_cache.write(name, "key", b"content")
    paths = {path.name.partition("-")[0]: path for path in cache.iterdir()}
    for name in ("used", "unused"):
        make_older(paths[name], kernel_cache.KEPT_DAYS + 1)
    assert kernel_cache.read("used", "key") == b"content"
    kernel_cache.write("new", "key", b"content")
    left = {path.name.partition("-")[0] for path in cache.iterdir()}
    assert left == {"used", "young", "new"}


def test_only_files_of_the_cache_are_deleted(cache: Path) -> None:
    cache.mkdir()
    for name in ("notes.txt", "killed.kernel.0123.tmp", "writing.kernel.4567.tmp"):
        (cache / name).touch()
    make_older(cache / "notes.txt", 1000)
    make_older(cache / "killed.kernel.0123.tmp", 2)
    kernel_cache.write("new", "key", b"content")
    left = {path.name for path in cache.iterdir() if not path.name.startswith("new-")}
    assert left == {"notes.txt", "writing.kernel.4567.tmp"}


def test_a_file_that_vanishes_is_no_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may delete the same files at the same time."""
    kernel_cache.write("old", "key", b"content")
    (old,) = cache.iterdir()
    make_older(old, kernel_cache.KEPT_DAYS + 1)
    unlink = Path.unlink

    def unlink_twice(path: Path, missing_ok: bool = False) -> None:
        unlink(path)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink_twice)
    kernel_cache.write("new", "key", b"content")
    assert not old.exists()
    assert kernel_cache.read("new", "key") == b"content"
