"""A GPU's memory as its driver counts it, beyond what a bare CUDA context takes."""

from __future__ import annotations

import ctypes
import threading
from types import TracebackType
from typing import Any

_INTERVAL_S = 0.004


def driver() -> ctypes.CDLL | None:
    """NVIDIA's driver, or None where there is none or it finds no GPU."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count = ctypes.c_int()
    if library.cuInit(0) or library.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None
    return library


class Meter:
    """Watches the first GPU while a block runs; nobody else may use it meanwhile.

    The context that it makes is the one that PyTorch and ONNX Runtime then use, so what is counted
    is all that they add to it: weights, buffers, workspaces, kernels. Without a GPU all is 0.
    """

    def __init__(self) -> None:
        self._driver = driver()
        self._context = ctypes.c_void_p()
        self._base = self._least = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.context_bytes = 0

    def __enter__(self) -> Meter:
        if self._driver is None:
            return self
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self._call("cuCtxSetCurrent", self._context)
        self._base = self._least = self._free()
        self.context_bytes = self._total - self._base
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        if self._driver is not None:
            self._thread.join()

    @property
    def peak_mb(self) -> float:
        """The most that was held beyond the context, in MB."""
        if self._driver is not None:
            self._least = min(self._least, self._free())
        return (self._base - self._least) / 1e6

    def _watch(self) -> None:
        self._call("cuCtxSetCurrent", self._context)
        while not self._done.wait(_INTERVAL_S):
            self._least = min(self._least, self._free())

    def _free(self) -> int:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        self._total = total.value
        return free.value

    def _call(self, name: str, *given: Any) -> None:
        code = getattr(self._driver, name)(*given)
        if code:
            raise RuntimeError(f"{name} of NVIDIA's driver failed with code {code}.")
