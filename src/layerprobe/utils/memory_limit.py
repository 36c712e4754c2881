"""Free memory, and a check of a memory limit before work starts."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from math import inf
from pathlib import Path

from layerprobe.errors import InputError

SHARE = 0.8  # of the free memory: allocators, threads and the network itself need some
UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4} | {
    "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40
}  # fmt: skip
MEMINFO, CGROUPS, OWN_CGROUPS = Path("/proc/meminfo"), Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def as_bytes(memory: int | float | str) -> int:
    """Return bytes of an amount of memory: a number, or text such as "8GiB" or "500 MB"."""
    if isinstance(memory, int | float) and not isinstance(memory, bool) and 0 < memory < inf:
        return int(memory)
    text = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", str(memory), re.IGNORECASE)
    if not isinstance(memory, str) or not text or text[2].lower() not in UNITS or not float(text[1]):
        raise InputError(f'expected memory in bytes or as text such as "8GiB" or "500 MB", got {memory!r}')
    return int(float(text[1]) * UNITS[text[2].lower()])


def readable(amount: float) -> str:
    """Return an amount of memory in bytes as text, in units of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:,.1f} TiB"


def free_memory() -> int:
    """Return the bytes that this process can still allocate, within its cgroups."""
    return min([_machine(), *_cgroup_limits()])


def require_memory(
    needed: int, what: str, alternatives: str, memory: int | float | str | None = None
) -> None:
    """Raise InputError if work needs more memory than is allowed, or than is free.

    Parameters
    ----------
    needed : int
        Bytes.
    what, alternatives : str
        Subject of the message, in the plural or with an auxiliary verb; and advice, the end of the message.
    memory : int or str, optional
        Limit in bytes or as text such as "8GiB". Default: 80 % of the free memory.
    """
    limit = int(SHARE * free_memory()) if memory is None else as_bytes(memory)
    if needed > limit:
        source = f"{SHARE:.0%} of the free memory" if memory is None else "the budget"
        raise InputError(
            f"{what} need {readable(needed)} of memory, {source} is {readable(limit)}: {alternatives}"
        )


def _machine() -> int:
    with contextlib.suppress(OSError):  # not Linux
        for kilobytes in re.findall(r"^MemAvailable:\s+(\d+) kB", MEMINFO.read_text(), re.MULTILINE):
            return 1024 * int(kilobytes)
    with contextlib.suppress(AttributeError, OSError, ValueError):  # not known on this system
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return sys.maxsize


def _cgroup_limits() -> Iterator[int]:
    """Yield the bytes left under each limit of the cgroups of this process, version 2 or 1."""
    lines = OWN_CGROUPS.read_text().splitlines() if OWN_CGROUPS.exists() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = CGROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = CGROUPS / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = root / path.lstrip("/")
        for place in (folder, *folder.parents):
            if place.is_relative_to(root):
                yield from _left(place, *names)


def _left(folder: Path, limit: str, usage: str, cache: str) -> Iterator[int]:
    with contextlib.suppress(OSError, ValueError):  # no limit here; ValueError for "max"
        left = int((folder / limit).read_text()) - int((folder / usage).read_text())
        # The system frees inactive pages of files when memory is short.
        for inactive in re.findall(rf"^{cache} (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE):
            left += int(inactive)
        yield max(0, left)
