"""From an entry to code for a GPU, without one: numba-cuda, nvJitLink, and the disk cache.

Note [No contraction]
Same bits need a * b + c to round twice. numba-cuda has no switch for that, but it can stop at LTO IR, and
nvJitLink makes PTX of that with `-fma=0`: products and sums become mul.rn and add.rn, which no later step may
contract. So generated functions use ordinary operators. PTX that holds an `fma` all the same is refused.
What is loaded is the machine code that nvJitLink makes of the PTX, as a driver may be older than the PTX.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import llvmlite
import numba
from cuda.bindings import nvjitlink, nvvm
from numba import cuda
from numba.cuda import types

from stepspec import kernel_cache
from stepspec.compilation import compiling, log
from stepspec.cuda.device_code import kernel_form
from stepspec.cuda.driver import missing_extra
from stepspec.cuda.items import THREADS
from stepspec.sources import source_stamp

# blocks that a multiprocessor shall have room for, the best first: a thread gets 64, 80, 128 or 255 registers
BLOCKS = (4, 3, 2, 1)

SIGNATURE = types.void(types.int64, types.int64, types.int64)
# IEEE as written, see Note [No contraction]
_TO_PTX = ("-lto", "-ptx", "-fma=0", "-prec-div=1", "-prec-sqrt=1", "-ftz=0")
_TO_CUBIN = ("-verbose",)


@dataclass(frozen=True)
class Code:
    """An entry compiled for GPUs of one compute capability.

    Parameters
    ----------
    name
        What it is called in the log and in the cache.
    symbol
        The kernel's name in the code, which profilers show.
    ptx
        Its PTX; no driver needs it.
    cubin
        Its machine code, to be loaded.
    registers
        How many 32-bit registers a thread takes.
    shared
        Bytes of shared memory of a block.
    stack, spills
        Bytes of a thread's local memory, and those of them that registers are spilled to (stores and loads).

    """

    name: str
    symbol: str
    ptx: str
    cubin: bytes
    registers: int
    shared: int
    stack: int
    spills: int

    def to_bytes(self) -> bytes:
        """Return it as bytes, a line of JSON first."""
        numbers = [self.registers, self.shared, self.stack, self.spills]
        return json.dumps([self.name, self.symbol, self.ptx, *numbers]).encode() + b"\n" + self.cubin

    @classmethod
    def from_bytes(cls, content: bytes) -> Code:
        """Return what `to_bytes` was called on."""
        head, _, cubin = content.partition(b"\n")
        name, symbol, ptx, *numbers = json.loads(head)
        return cls(name, symbol, ptx, cubin, *numbers)


def compile_entry(
    make: Callable[[], Callable[..., None]], name: str, stamp: str | None, capability: tuple[int, int]
) -> Code:
    """Return the code of a kernel, from the cache if `stamp` is known there.

    Parameters
    ----------
    make
        Returns the kernel's entry, a plain function of three int64 (table, items, count); what it calls gets
        its device form. It is called only if the entry has to be compiled.
    name
        What it is called in the log, in the cache, and (without dots) in profilers.
    stamp
        A hash over the sources that it depends on, None if it is not to be cached.
    capability
        The compute capability of the GPU, such as (9, 0).

    Raises
    ------
    MissingCuda
        If a compiler's library is missing.
    RuntimeError
        If the PTX contracts operations, so that the bits would not be the CPU's.

    """
    major, minor = capability
    with compiling:
        started = time.perf_counter()
        key = repr((stamp, capability, _versions()))
        content = None if stamp is None else kernel_cache.read(f"{name}.sm_{major}{minor}", key)
        if content is not None:
            log.debug("loaded %s from the cache in %.3f s", name, time.perf_counter() - started)
            return Code.from_bytes(content)
        code = _compile(make(), name, capability)
        log.info("compiled %s in %.3f s", name, time.perf_counter() - started)
        if stamp is not None:
            kernel_cache.write(f"{name}.sm_{major}{minor}", key, code.to_bytes())
        return code


@functools.cache
def _versions() -> tuple[object, ...]:
    """Return what the code of an entry depends on, beside its sources."""
    try:
        compilers = nvvm.version(), nvjitlink.version()
    except RuntimeError as error:  # how the bindings tell that there is no library
        raise missing_extra(ImportError(str(error))) from error
    packages = numba.__version__, llvmlite.__version__, importlib.metadata.version("numba-cuda")
    return sys.version, *packages, *compilers, source_stamp(_compile)


def _compile(entry: Callable[..., None], name: str, capability: tuple[int, int]) -> Code:
    symbol = re.sub(r"\W", "_", name, flags=re.ASCII)
    ltoir, _ = cuda.compile(
        kernel_form(entry),
        SIGNATURE,
        device=False,
        abi="numba",
        cc=capability,
        output="ltoir",
        launch_bounds=(THREADS, BLOCKS[-1]),
    )
    architecture = "-arch=sm_{}{}".format(*capability)
    ptx = _link(ltoir, nvjitlink.InputType.LTOIR, (architecture, *_TO_PTX), name)[0].decode().rstrip("\0")
    if re.search(r"\bfma\b", ptx):
        raise RuntimeError(
            f"{name}: nvJitLink {_linker_version()} contracted operations to fma, "
            "so that a step on the GPU would not have the CPU's bits"
        )
    (mangled,) = re.findall(r"\.entry\s+(\S+?)\(", ptx)
    return _assembled(ptx.replace(mangled, symbol), name, symbol, architecture)


def _assembled(ptx: str, name: str, symbol: str, architecture: str) -> Code:
    """Return the code with room for the most blocks that needs no local memory: it hides waiting best."""
    for blocks in BLOCKS:
        bounded = ptx.replace(f".minnctapersm {BLOCKS[-1]}", f".minnctapersm {blocks}")
        kind, options = nvjitlink.InputType.PTX, (architecture, *_TO_CUBIN)
        code = Code(name, symbol, bounded, *_measured(*_link(bounded.encode(), kind, options, name)))
        if not code.stack and not code.spills:
            break
    return code


def _link(content: bytes, kind: Any, options: tuple[str, ...], name: str) -> tuple[bytes, str]:
    """Return what nvJitLink makes of a kernel, and what it says about it."""
    handle = _linker(options, name)
    try:
        nvjitlink.add_data(handle, kind, content, len(content), name)
        nvjitlink.complete(handle)
        found = bytearray(_size(handle, options))
        get = nvjitlink.get_linked_ptx if "-ptx" in options else nvjitlink.get_linked_cubin
        get(handle, found)
        notes = bytearray(nvjitlink.get_info_log_size(handle))
        nvjitlink.get_info_log(handle, notes)
        return bytes(found), notes.decode(errors="replace")
    except nvjitlink.nvJitLinkError as error:
        text = bytearray(nvjitlink.get_error_log_size(handle))
        nvjitlink.get_error_log(handle, text)
        raise RuntimeError(f"{name}: nvJitLink failed: {error}\n{text.decode(errors='replace')}") from error
    finally:
        nvjitlink.destroy(handle)


def _linker(options: tuple[str, ...], name: str) -> int:
    try:
        handle: int = nvjitlink.create(len(options), list(options))
    except nvjitlink.nvJitLinkError as error:  # of an architecture that it does not know
        raise RuntimeError(
            f"{name}: nvJitLink {_linker_version()} takes no {' '.join(options)} ({error}); if the GPU is "
            "newer, pip install --upgrade nvidia-nvjitlink nvidia-nvvm"
        ) from error
    return handle


def _linker_version() -> str:
    return ".".join(map(str, nvjitlink.version()))


def _size(handle: int, options: tuple[str, ...]) -> int:
    of_ptx = "-ptx" in options
    size: int = (nvjitlink.get_linked_ptx_size if of_ptx else nvjitlink.get_linked_cubin_size)(handle)
    return size


def _measured(cubin: bytes, notes: str) -> tuple[bytes, int, int, int, int]:
    """Return machine code with its registers, shared memory, stack and spills.

    The assembler tells them; the linker repeats some.
    """
    (used,) = re.findall(r"ptxas info\s*: Used .*", notes)
    return (
        cubin,
        _total(r"Used (\d+) registers", used),
        _total(r"(\d+) bytes smem", used),
        _total(r"(\d+) bytes stack frame", notes),
        _total(r"(\d+) bytes spill (?:stores|loads)", notes),
    )


def _total(pattern: str, notes: str) -> int:
    return sum(map(int, re.findall(pattern, notes)))
