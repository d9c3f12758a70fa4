"""Files of arrays: read back to the bit, readable by others, refused when damaged, replaced in one go."""

import itertools
import json
import os
import resource
import stat
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from ml_dtypes import bfloat16
from training import Array

from stepspec import archive, atomic

SUFFIXES = pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
CONTENT = {"names": ["Gewicht", "größe", "\x1f"], "numbers": [0.1, -0.0, 2**60, None, True]}


def everything() -> dict[str, Array]:
    """Return arrays of every dtype and of awkward shapes, with every bit pattern of half precision."""
    patterns = np.arange(2**16, dtype=np.uint16)
    grid = np.arange(24.0).reshape(4, 6)
    return {
        "half/float16": patterns.view(np.float16),
        "half/bfloat16": patterns.reshape(256, 256).view(bfloat16),
        "one/scalar": np.array(0.1),
        "one/bfloat16": np.array(1.5, bfloat16),
        "none/rows": np.zeros((0, 3), np.float32),
        "none/bfloat16": np.zeros((3, 0), bfloat16),
        "odd/strides": grid[::-2, 1::3].astype(np.float32, order="K")[:, ::-1],
        "odd/fortran": np.asfortranarray(grid),
        "odd/name.npy/größe %2F": np.array([np.nan, -np.nan, np.inf, -0.0], np.float32),
    }


def small() -> dict[str, Array]:
    return {"a/mom": np.arange(5, dtype=np.float32), "b/mom": np.arange(3.0)}


def assert_same(found: Mapping[str, Array], wanted: Mapping[str, Array]) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name
        assert found[name].flags.writeable


# ---------------------------------------------------------------------- content


@SUFFIXES
def test_everything_comes_back(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"all{suffix}"
    archive.save(path, everything(), CONTENT)
    arrays, content = archive.load(path)
    assert_same(arrays, everything())
    assert content == CONTENT
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@SUFFIXES
def test_nothing_comes_back(suffix: str, tmp_path: Path) -> None:
    archive.save(tmp_path / f"none{suffix}", {}, None)
    assert archive.load(tmp_path / f"none{suffix}") == ({}, None)


def test_bytes_are_those_of_the_npz(tmp_path: Path) -> None:
    data = archive.dumps(everything(), CONTENT)
    archive.save(str(tmp_path / "states"), everything(), CONTENT)
    assert (tmp_path / "states").read_bytes() == data
    arrays, content = archive.loads(data)
    assert_same(arrays, everything())
    assert content == CONTENT


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    archive.save(tmp_path / "a.safetensors", small(), CONTENT)
    (tmp_path / "a.safetensors").rename(tmp_path / "b.npz")
    assert_same(archive.load(tmp_path / "b.npz")[0], small())


@SUFFIXES
def test_the_same_content_gives_the_same_bytes(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.save(tmp_path / f"a{suffix}", everything(), CONTENT)
    monkeypatch.setattr(time, "localtime", lambda *_: time.gmtime(2**30))
    archive.save(tmp_path / f"b{suffix}", everything(), CONTENT)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_numpy_reads_the_npz(tmp_path: Path) -> None:
    archive.save(tmp_path / "all.npz", everything(), CONTENT)
    with np.load(tmp_path / "all.npz", allow_pickle=False) as file:
        stored = {name: file[name] for name in file.files if name != "checkpoint.json"}
        assert json.loads(file["checkpoint.json"])["content"] == CONTENT
    for name, array in everything().items():
        assert stored[name].dtype == (np.uint16 if array.dtype == bfloat16 else array.dtype)
        assert stored[name].tobytes() == array.tobytes()
    with zipfile.ZipFile(tmp_path / "all.npz") as file:
        assert file.testzip() is None


def test_safetensors_reads_the_other(tmp_path: Path) -> None:
    path = tmp_path / "all.safetensors"
    wanted = {name: array for name, array in everything().items() if array.dtype != bfloat16}
    archive.save(path, wanted, CONTENT)
    found = safetensors.numpy.load_file(path)
    assert found.keys() - wanted.keys() == {"seal"}
    for name, array in wanted.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()
    with safetensors.safe_open(path, framework="np") as file:
        assert json.loads(file.metadata()["checkpoint.json"])["content"] == CONTENT
    archive.save(path, everything(), CONTENT)
    with safetensors.safe_open(path, framework="np") as file:
        assert file.get_slice("half/bfloat16").get_dtype() == "BF16"


def test_tensors_are_aligned(tmp_path: Path) -> None:
    for extent in range(8):
        archive.save(tmp_path / "a.safetensors", everything(), "x" * extent)
        data = (tmp_path / "a.safetensors").read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        for name, array in everything().items():
            assert (8 + length + header[name]["data_offsets"][0]) % array.itemsize == 0


# ---------------------------------------------------------------------- damage


def written(suffix: str, folder: Path) -> bytes:
    archive.save(folder / f"a{suffix}", small(), CONTENT)
    return (folder / f"a{suffix}").read_bytes()


@SUFFIXES
def test_every_flipped_bit_is_refused(suffix: str, tmp_path: Path) -> None:
    data = bytearray(written(suffix, tmp_path))
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match=r"checkpoint in these \d+ bytes is (damaged|cut off)"):
            archive.loads(bytes(data))
        data[bit // 8] ^= 1 << bit % 8
    assert_same(archive.loads(bytes(data))[0], small())


@SUFFIXES
def test_every_cut_and_every_addition_is_refused(suffix: str, tmp_path: Path) -> None:
    data = written(suffix, tmp_path)
    for size in range(len(data)):
        with pytest.raises(ValueError, match="cut off, or none that stepspec wrote; take another copy"):
            archive.loads(data[:size])
    for more in (b"\0", b" ", b"\n", bytes(100)):
        with pytest.raises(ValueError, match="cut off"):
            archive.loads(data + more)


def test_refusals_name_the_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", mom=np.zeros(3))
    safetensors.numpy.save_file({"mom": np.zeros(3)}, tmp_path / "a.safetensors")
    (tmp_path / "a.txt").write_text("learning_rate: 0.1\n")
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match=f"checkpoint '{path}' is cut off, or none that stepspec wrote"):
            archive.load(path)
    archive.save(tmp_path / "a.npz", small(), CONTENT)
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(ValueError, match=f"checkpoint '{tmp_path / 'a.npz'}' is damaged"):
        archive.load(tmp_path / "a.npz")
    with pytest.raises(FileNotFoundError, match=r"b\.npz"):
        archive.load(tmp_path / "b.npz")


@SUFFIXES
def test_a_later_version_is_refused(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(archive, "VERSION", 2)
        written(suffix, tmp_path)
    with pytest.raises(ValueError, match="has version 2 of the format, and this stepspec reads 1"):
        archive.load(tmp_path / f"a{suffix}")


def test_infinity_is_no_json() -> None:
    with pytest.raises(ValueError, match="JSON"):
        archive.dumps({}, float("inf"))


def test_bfloat16_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    data = archive.dumps({"a/mom": np.ones(3, bfloat16)}, None)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match="holds bfloat16 arrays: install the package ml_dtypes"):
        archive.loads(data)


# ---------------------------------------------------------------------- replacing


def test_the_disk_has_it_before_the_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order that a loss of power cannot spoil: content, new name, folder."""
    path = tmp_path / "a.npz"
    events: list[Any] = []

    def flushed(handle: int) -> None:
        target = os.readlink(f"/proc/self/fd/{handle}")
        events.append("folder" if target == str(tmp_path) else Path(target).read_bytes())

    def renamed(source: str, target: str, replace: Any = os.replace) -> None:
        assert os.path.dirname(source) == str(tmp_path)
        events.append(f"rename to {os.path.basename(target)}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    archive.save(path, small(), CONTENT)
    assert events == [path.read_bytes(), "rename to a.npz", "folder"]


@SUFFIXES
def test_a_full_disk_leaves_the_old_file(suffix: str, tmp_path: Path) -> None:
    old = written(suffix, tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            archive.save(tmp_path / f"a{suffix}", {"a/mom": np.zeros(50_000)}, None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [old]


def test_an_interruption_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = written(".npz", tmp_path)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        archive.save(tmp_path / "a.npz", {}, None)
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [old]


# Python closes what was being opened, and tells of it
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@SUFFIXES
def test_an_interruption_anywhere(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C before any line of what saves: it arrives, and leaves one file, the old or the new one."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    path, old = tmp_path / f"a{suffix}", written(suffix, tmp_path)
    array = {"a/mom": np.zeros(1)}
    archive.save(path, array, None)
    new, seen = path.read_bytes(), set()
    for patience in itertools.count(1):
        path.write_bytes(old)
        interrupted = interrupt_after(patience, lambda: archive.save(path, array, None))
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name], patience
        assert path.read_bytes() in (old, new)
        seen.add(path.read_bytes())
        if not interrupted:
            break
    assert seen == {old, new}
    assert patience > 100


def interrupt_after(lines: int, action: Callable[[], None]) -> bool:
    """Run a function; raise KeyboardInterrupt before one of its lines, and tell whether there was one."""
    left = lines

    def count(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        left -= event == "line" and frame.f_code is not action.__code__
        if left == 0:
            left = -1
            raise KeyboardInterrupt
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        action()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_an_interruption_while_an_entry_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The zip's end would refuse to be written after an entry without one, and hide what happened."""

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(zipfile._ZipWriteFile, "close", interrupted)  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        archive.dumps(small(), CONTENT)


@pytest.mark.parametrize("name", ["", ".", "..", "a/", "a/.", "new/", "b/.."])
def test_names_of_folders(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    for given in (name, name.encode()):
        with pytest.raises(IsADirectoryError):
            archive.save(given, small(), CONTENT)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "loop").symlink_to("loop")
    entries = sorted(tmp_path.iterdir())
    for path in entries:
        with pytest.raises(OSError, match=f"{path.name}'"):
            archive.save(path, small(), CONTENT)
    assert sorted(tmp_path.iterdir()) == entries
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    with pytest.raises(OSError, match=r"no regular file, so it cannot be replaced: '.*/pipe'"):
        archive.save(tmp_path / "pipe", small(), CONTENT)


@pytest.mark.parametrize("size", [233, 234, 255])
def test_long_file_names(size: int, tmp_path: Path) -> None:
    for name in ("a" * size, "a" * (size % 2) + "ß" * (size // 2)):
        archive.save(tmp_path / name, small(), CONTENT)
        assert_same(archive.load(tmp_path / name)[0], small())
    assert len(list(tmp_path.iterdir())) == 2


@SUFFIXES
def test_paths_of_bytes(suffix: str, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9" + suffix.encode()
    archive.save(path, small(), CONTENT)
    assert_same(archive.load(path)[0], small())
    with open(path, "rb") as file:
        assert (file.read(2) == b"PK") == (suffix == ".npz")


def test_no_folder_and_a_folder_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        archive.save(tmp_path / "nowhere" / "a.npz", {}, None)
    (tmp_path / "a.npz").mkdir()
    with pytest.raises(OSError, match=r"a\.npz"):
        archive.save(tmp_path / "a.npz", {}, None)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npz"]


def test_a_link_stays_and_permissions_are_those_of_a_new_file(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "latest.npz").symlink_to(tmp_path / "real" / "a.npz")
    archive.save(tmp_path / "latest.npz", small(), CONTENT)
    assert (tmp_path / "latest.npz").is_symlink()
    assert_same(archive.load(tmp_path / "real" / "a.npz")[0], small())
    (tmp_path / "new").touch()
    assert (tmp_path / "real" / "a.npz").stat().st_mode == (tmp_path / "new").stat().st_mode


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    long_ago = time.time() - atomic.ABANDONED - 1
    old, new = "0123456789abcdef", "00000000000000aa"
    kept = {f".a.npz.{new}.tmp", f".b.npz.{old}.tmp", f"a.npz.{old}.tmp", f".a.npz.{old}.txt"}
    kept |= {".a.npz.1.tmp", f".a.npz.{old}0.tmp", ".a.npz.my own notes, of.tmp", f".a.npz.x.{old}.tmp"}
    for name in {*kept, f".a.npz.{old}.tmp"}:
        (tmp_path / name).touch()
        if new not in name:
            os.utime(tmp_path / name, (long_ago, long_ago))
    archive.save(tmp_path / "a.npz", small(), CONTENT)
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.npz", *kept}


def test_what_cannot_be_removed_stops_no_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others' files in a shared folder, folders and links of such a name, a folder that cannot be listed."""
    monkeypatch.setattr(atomic, "ABANDONED", -1.0)
    folder, link, other = (tmp_path / f".a.npz.{digit * 16}.tmp" for digit in "012")
    folder.mkdir()
    other.touch()
    link.symlink_to(other)
    unlink = os.unlink

    def refused(path: Any) -> None:
        if Path(path) == other:
            raise PermissionError(1, "Operation not permitted", path)
        unlink(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refused)
        archive.save(tmp_path / "a.npz", small(), CONTENT)
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.npz", folder.name, link.name, other.name}

    def hidden(path: Any) -> Any:
        raise PermissionError(13, "Permission denied", path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", hidden)
        archive.save(tmp_path / "a.npz", {}, CONTENT)
    assert archive.load(tmp_path / "a.npz") == ({}, CONTENT)


def test_a_folder_that_cannot_be_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise OSError(22, "Invalid argument")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        archive.save(tmp_path / "a.npz", small(), CONTENT)
    assert_same(archive.load(tmp_path / "a.npz")[0], small())


def test_a_file_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    archive.save("a.npz", small(), CONTENT)
    assert_same(archive.load("a.npz")[0], small())


def test_arrays_are_not_copied_while_they_are_written(tmp_path: Path) -> None:
    """Saving 128 MiB takes less than half of that in memory."""
    script = (
        "import resource, sys, numpy as np; from stepspec import archive\n"
        "array = np.ones(1 << 24)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "archive.save(sys.argv[1], {'a/b': array}, None)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    for name in ("a.npz", "a.safetensors"):
        command = [sys.executable, "-c", script, str(tmp_path / name)]
        assert int(subprocess.check_output(command, text=True, timeout=60)) < 64
        (tmp_path / name).unlink()
