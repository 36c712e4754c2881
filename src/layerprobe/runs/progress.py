"""Progress of runs, read from their folders, wherever the runs are trained."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import Literal

State = Literal["waiting", "training", "probing", "analysing", "done", "failed", "busy"]
"""The state of a run; "busy" if another process has it."""
INTERVAL = 1.0  # seconds between two looks at the folders


@dataclass(frozen=True)
class Progress:
    """The progress of one run."""

    state: State
    step: int = 0  # the last complete epoch; while analysing, the number of the experiment, from 1
    # accuracy in [0, 1] on the labels trained on; while analysing, the share of experiments done
    share: float = 0.0

    @property
    def ended(self) -> bool:
        """Whether the run ended, well or not, for the command that waits for it."""
        return self.state in ("done", "failed", "busy")


ProgressCallback = Callable[[int, Progress], object]
"""Called with the position of a run and its progress."""


@contextmanager
def follow_progress(
    read: Callable[[int], Progress | None], positions: Collection[int], report: ProgressCallback | None
) -> Iterator[ProgressCallback]:
    """Report the progress of runs in other processes while the block runs.

    Yields a function that reports what the caller knows, such as an end. No progress follows an end.

    Parameters
    ----------
    read : callable
        Return the progress of the run at a position, or None if no process works on it. Called in a thread.
    positions : collection of int
    report : ProgressCallback, optional
        Called with what has changed, from one thread at a time.
    """
    if report is None:
        yield lambda position, progress: None
        return
    lock, over = Lock(), Event()
    latest: dict[int, Progress] = {}

    def update(position: int, progress: Progress) -> None:
        with lock:
            before = latest.get(position)
            if progress != before and not (before and before.ended):
                latest[position] = progress
                report(position, progress)

    def look() -> None:
        for position in positions:
            ended = position in latest and latest[position].ended
            if not ended and (progress := read(position)):
                update(position, progress)

    def watch() -> None:
        while not over.wait(INTERVAL):
            look()

    watcher = Thread(target=watch, name="progress", daemon=True)
    watcher.start()
    try:
        yield update
    finally:
        over.set()
        watcher.join()
        look()
