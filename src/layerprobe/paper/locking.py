"""One process a folder: a lock that the system itself releases when its holder ends, however it ends."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from layerprobe.errors import LayerprobeError

__all__ = ["BusyError", "is_locked", "locked"]

FILE = "lock"
PATIENCE = 0.5  # seconds: `is_locked` of another process holds the lock for an instant


class BusyError(LayerprobeError, BlockingIOError):
    """Another process is at work in this folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock.

    Raises
    ------
    BusyError
        If another process holds it.
    """
    import fcntl

    descriptor = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        deadline = time.monotonic() + PATIENCE
        while not _try(descriptor, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise BusyError(f"{folder}: another process is at work on this run; wait for it, or stop it.")
            time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Return whether a process holds the folder's lock now."""
    import fcntl

    try:
        descriptor = os.open(folder / FILE, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not _try(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _try(descriptor: int, operation: int) -> bool:
    import fcntl

    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
