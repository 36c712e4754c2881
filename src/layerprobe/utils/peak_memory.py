"""Peak memory of a function call, as the kernel counts it."""

import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_bytes(work: Callable[[], object]) -> int | None:
    """Call a function; return the largest resident memory of this process meanwhile, less that before.

    Returns None where the kernel does not report it: on other systems than Linux, or without permission.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # release free memory; its reuse would not be counted
    before = None
    with contextlib.suppress(OSError, LookupError):
        RESET.write_text("5")  # reset the high-water mark
        before = _status("VmRSS")
    work()
    return None if before is None else max(0, _status("VmHWM") - before)


def _status(name: str) -> int:
    fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return 1024 * int(fields[name].split()[0])
