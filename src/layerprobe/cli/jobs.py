"""Commands as one job of several processes, which torchrun starts."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout

__all__ = ["JOBS", "one_job", "refuse_alone"]

JOBS = (("audit",), ("probe",), ("paper", "train"))
"""Commands that several processes do together."""
TIMEOUT = 24 * 3600.0  # seconds; a process that ends is noticed at once, this is for one that hangs


@contextmanager
def one_job(device: str | None) -> Iterator[bool]:
    """Join the processes that torchrun started, if any did; all but the first keep quiet.

    Yields
    ------
    bool
        Whether this is the process that writes.
    """
    from layerprobe.utils.distributed import group, rank

    gpu = device is not None and device.startswith("cuda")
    with group(None if gpu else "gloo", timeout_s=TIMEOUT):
        if rank() == 0:
            yield True
            return
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield False


def refuse_alone(arguments: Sequence[str]) -> str:
    """Say why a command is none for torchrun; nothing if it is, or torchrun did not start it."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if not several or any(tuple(arguments[: len(job)]) == job for job in JOBS):
        return ""
    *others, last = (" ".join(job) for job in JOBS)
    jobs = f"{', '.join(others)} and {last}"
    return f"several processes started by torchrun can share {jobs}; start other commands without torchrun"
