"""Peak memory of a function call, as the kernel counts it."""

import contextlib
import ctypes
import re
from collections.abc import Callable
from pathlib import Path

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_bytes(work: Callable[[], object]) -> int | None:
    """Call a function; return the largest resident memory of this process meanwhile, less that before.

    Returns None where the kernel does not report it: on other systems than Linux, or without permission.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # release free memory; its reuse would not be counted
    try:
        RESET.write_text("5")  # reset the high-water mark
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
