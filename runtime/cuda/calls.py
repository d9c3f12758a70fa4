"""Checked calls of CUDA's driver, in the context of a device.

Note [Contexts]
All work happens in the devices' primary contexts, which PyTorch, CuPy and Numba use too; they are kept until
the process ends. A thread's own context is current again after each call, or after `with current(device)`,
within which calls find the right one there already.

Note [Forks]
CUDA does not survive a fork: calls in the child fail or hang. The child gets an error that says so, and frees
nothing, for what it inherited belongs to its parent.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from typing import Any

log = logging.getLogger("stepspec")


class CudaError(RuntimeError):
    """A call of the CUDA driver failed; after some errors no later call in the process works."""


class Calls:
    """Calls of functions of cuda.bindings.driver; each status is checked.

    Parameters
    ----------
    api
        The module cuda.bindings.driver, initialized.

    """

    def __init__(self, api: Any) -> None:
        self.api = api
        self.contexts: dict[int, Any] = {}
        self._forked = False
        # the device whose context this made the thread's current one
        self.thread = threading.local()
        calls = weakref.ref(self)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=lambda: _forbid(calls()))

    def current(self, device: int) -> Current:
        """Return the context manager that makes a device's context current."""
        return Current(self, device)

    def context(self, device: int) -> Any:
        """Return a device's primary context."""
        if device not in self.contexts:
            self.contexts[device] = self.call("cuDevicePrimaryCtxRetain", device)
        return self.contexts[device]

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the driver; return its result, if it has one."""
        self.refuse_fork(name)
        status, *results = getattr(self.api, name)(*arguments)
        if status:
            self.check_status(name, status)
        return results[0] if results else None

    def check_status(self, name: str, status: Any) -> None:
        """Raise the error that a status stands for."""
        if status != self.api.CUresult.CUDA_SUCCESS:
            known, text = (
                what.decode() if what else "unknown"
                for _, what in (self.api.cuGetErrorName(status), self.api.cuGetErrorString(status))
            )
            raise CudaError(f"{name} failed: {known}, {text}")

    def refuse_fork(self, name: str) -> None:
        """Raise an error in a forked child, see Note [Forks]."""
        if self._forked:
            raise CudaError(
                f"{name} failed: this process was forked from one that uses CUDA, which no child can; start "
                "it by spawn or forkserver, or let the parent use the GPU only after the fork"
            )

    def forbid(self) -> None:
        """Refuse all calls from now on, see Note [Forks]."""
        self._forked = True

    def release(self, name: str, device: int, *handle: Any) -> None:
        """Call what frees something: nothing in a forked child, and in vain after an error."""
        if self._forked:
            return
        try:
            with self.current(device):
                self.call(name, *handle)
        except CudaError as error:
            log.debug("what was in use on a GPU is not freed: %s", error)


class Current:
    """A device's context as the current one for a while: see Note [Contexts]."""

    __slots__ = ("_before", "_calls", "_device")

    def __init__(self, calls: Calls, device: int) -> None:
        self._calls, self._device = calls, device

    def __enter__(self) -> None:
        thread = self._calls.thread
        self._before = getattr(thread, "device", None)
        if self._before != self._device:
            self._calls.call("cuCtxPushCurrent", self._calls.context(self._device))
            thread.device = self._device

    def __exit__(self, *error: object) -> None:
        if self._before != self._device:
            self._calls.thread.device = self._before
            self._calls.call("cuCtxPopCurrent")


def _forbid(calls: Calls | None) -> None:
    if calls is not None:
        calls.forbid()
