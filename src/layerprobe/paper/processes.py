"""Work in processes of one thread each, whatever happens to one of them."""

import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, TypeVar

import torch

from layerprobe.errors import LayerprobeError
from layerprobe.paper.locking import BusyError

__all__ = ["KILLED", "failure", "in_processes"]

Unit = TypeVar("Unit")
KILLED = "its process ended abruptly (killed, or out of memory); the same command goes on with this run"


def in_processes(
    work: Callable[[Unit], Any], units: Sequence[Unit], jobs: int
) -> Iterator[tuple[Unit, "Future[Any]"]]:
    """Yield every unit of work and its ended future as they end, `jobs` at a time.

    Each process is a pool of its own. In a shared pool, as joblib's Parallel has it, the death of one process
    ends the work of all.
    """
    from joblib.externals.loky.process_executor import BrokenProcessPool, ProcessPoolExecutor

    def start() -> ProcessPoolExecutor:
        one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        return ProcessPoolExecutor(max_workers=1, initializer=_prepare, env=one_thread)

    waiting = deque(units)
    idle = [start() for _ in range(min(jobs, len(units)))]
    busy: dict[Future[Any], tuple[ProcessPoolExecutor, Unit]] = {}
    try:
        while waiting or busy:
            while waiting and idle:
                process, unit = idle.pop(), waiting.popleft()
                busy[process.submit(work, unit)] = process, unit
            for future in wait(busy, return_when=FIRST_COMPLETED).done:
                process, unit = busy.pop(future)
                idle.append(start() if isinstance(future.exception(), BrokenProcessPool) else process)
                yield unit, future
    finally:
        for process in [*idle, *(process for process, _ in busy.values())]:
            process.shutdown(kill_workers=True)


def _prepare() -> None:
    """Make a fresh process ready: one thread, and Ctrl-C, which reaches all, is for the parent to act on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def failure(end: object) -> tuple[str, str, bool]:
    """Return error, in one line, and traceback, if it is one; and whether others are at this run."""
    if not isinstance(end, Exception):
        return "", "", False
    kind = "" if isinstance(end, LayerprobeError) else f"{type(end).__name__}: "
    trace = "".join(traceback.format_exception(end))
    return kind + " ".join(str(end).split()), trace, isinstance(end, BusyError)
