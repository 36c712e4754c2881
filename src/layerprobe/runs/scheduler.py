"""One command's work on many runs: on this machine or a cluster, with progress from the runs' folders."""

import os
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from threading import Event, Lock, Thread
from typing import Any, TypeVar

from layerprobe.data.folders import data_folder
from layerprobe.runs.clusters import Cluster, on_cluster
from layerprobe.runs.leases import Sweep
from layerprobe.runs.processes import in_processes

__all__ = ["Tell", "Where", "data_for", "sweep_through"]

Unit = TypeVar("Unit")
Location = str | os.PathLike[str]
Tell = Callable[[int, str, int, float], object]
"""Called with (position of the run, "training" | "done" | "failed", epoch, accuracy on its labels)."""
Where = Callable[[int], tuple[str, int, float] | None]
"""Returns, for a position, what its run's folder says to `Tell`; None if nobody is at work there."""

LOOK = 5.0  # seconds between two looks at the folders
ENDS = {"done", "failed", "elsewhere"}


def sweep_through(
    work: Callable[..., Any],
    units: Sequence[Unit],
    root: Location,
    *,
    jobs: int,
    cluster: Cluster | None,
    device: str,
    where: Where,
    positions: Collection[int],
    tell: Tell | None,
) -> Generator[tuple[Unit, Any, Tell]]:
    """Yield every unit of work as it ends, what became of it, and whom to tell.

    Parameters
    ----------
    work : callable
        Called with a unit, with `sweep` and with `tell`.
    units : sequence
        What to do, what takes longest first.
    root : path
        The folder of all runs.
    jobs : int
        How many processes at a time, where there is no cluster.
    cluster : Cluster, optional
        Where it is done if not in processes here.
    device : str
        Where runs are trained.
    where : callable
        Progress as the folders show it.
    positions : collection of int
        Of which runs.
    tell : Tell, optional
        Hears of progress: from the processes here, which it must be picklable for, or from the folders.
    """
    if not units:
        return
    with Sweep.begin(root) as sweep:
        if cluster is None:
            told = tell or _tell_nobody
            for unit, result in in_processes(partial(work, sweep=sweep, tell=told), units, jobs):
                yield unit, result, told
            return
        with _following(where, positions, tell or _tell_nobody) as told:
            work = partial(work, sweep=sweep, tell=_tell_nobody)
            for unit, result in on_cluster(work, units, cluster, sweep, device):
                yield unit, result, told


def data_for(cluster: Cluster | None, data_root: Location | None) -> Location | None:
    """Return where workers look for data: on a cluster where this command would, if it was told."""
    if cluster is None or not (data_root or os.environ.get("LAYERPROBE_DATA")):
        return data_root
    return data_folder(data_root).absolute()


def _tell_nobody(*_: object) -> None: ...


@contextmanager
def _following(where: Where, positions: Collection[int], tell: Tell) -> Iterator[Tell]:
    """Tell of runs that others train, until they end; yields whom to tell of their ends."""
    over, one_at_a_time = Event(), Lock()
    ended: set[int] = set()

    def told(position: int, stage: str, epoch: int, accuracy: float) -> None:
        with one_at_a_time:
            if position not in ended:
                ended.update({position} if stage in ENDS else ())
                tell(position, stage, epoch, accuracy)

    def watch() -> None:
        while not over.wait(LOOK):
            for position in set(positions) - ended:
                if state := where(position):
                    told(position, *state)

    watcher = Thread(target=watch, name="following", daemon=True)
    watcher.start()
    try:
        yield told
    finally:
        over.set()
        watcher.join()
