"""The peak memory of a piece of work, as the kernel counts it."""

import contextlib
import ctypes
import re
from collections.abc import Callable
from pathlib import Path

__all__ = ["peak_bytes"]

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_bytes(work: Callable[[], object]) -> int | None:
    """Do some work; return the largest resident memory of this process meanwhile, less what it had before.

    None where the kernel does not tell: elsewhere than on Linux, or where it may not be asked.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # give back what is free, or it would be used again uncounted
    try:
        RESET.write_text("5")  # the high-water mark begins anew
        before = _status("VmRSS")
    except (OSError, LookupError):
        work()
        return None
    work()
    return max(0, _status("VmHWM") - before)


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    if not found:
        raise LookupError(f"{STATUS} has no {name}")
    return 1024 * int(found[1])
