"""Work in processes of one thread each on this machine, whatever happens to one of them."""

import os
import signal
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, TypeVar

import torch

from layerprobe.errors import LayerprobeError
from layerprobe.runs.leases import Abandoned, BusyError

__all__ = ["ATTEMPTS", "KILLED", "failure", "in_processes"]

Unit = TypeVar("Unit")
ATTEMPTS = 3
KILLED = (
    f"its process ended abruptly {ATTEMPTS} times (killed, or out of memory); the same command goes on with "
    "this run"
)


def in_processes(work: Callable[[Unit], Any], units: Sequence[Unit], jobs: int) -> Iterator[tuple[Unit, Any]]:
    """Yield every unit of work and what became of it, its result or an exception, `jobs` at a time.

    Each process is a loky pool of its own. In a shared pool, as joblib's Parallel has it, the death of one
    process ends the work of all, and nobody knows whose work was the death of it. Work whose process died is
    tried again at once, `ATTEMPTS` times in all.
    """
    from joblib.externals.loky.process_executor import BrokenProcessPool, ProcessPoolExecutor

    def start() -> ProcessPoolExecutor:
        one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        return ProcessPoolExecutor(max_workers=1, initializer=_prepare, env=one_thread)

    waiting, deaths = deque(range(len(units))), Counter[int]()
    idle = [start() for _ in range(min(jobs, len(units)))]
    busy: dict[Future[Any], tuple[ProcessPoolExecutor, int]] = {}
    try:
        while waiting or busy:
            while waiting and idle:
                process, position = idle.pop(), waiting.popleft()
                busy[process.submit(_do, work, units[position])] = process, position
            for future in wait(busy, return_when=FIRST_COMPLETED).done:
                process, position = busy.pop(future)
                error = future.exception()
                if not isinstance(error, BrokenProcessPool):
                    idle.append(process)
                    yield units[position], error or future.result()
                    continue
                idle.append(start())
                deaths[position] += 1
                if deaths[position] < ATTEMPTS:
                    waiting.appendleft(position)
                else:
                    yield units[position], LayerprobeError(KILLED)
    finally:
        for process in [*idle, *(process for process, _ in busy.values())]:
            process.shutdown(kill_workers=True)


def _prepare() -> None:
    """Make a fresh process ready: one thread, and Ctrl-C, which reaches all, is for the parent to act on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def _do(work: Callable[[Unit], Any], unit: Unit) -> Any:
    try:
        return work(unit)
    except Abandoned:  # the command was killed; nothing else ends a process without its parent
        os._exit(1)


def failure(end: object) -> tuple[str, str, bool]:
    """Return error, in one line, and traceback, if it is one; and whether others are at this run."""
    if not isinstance(end, Exception):
        return "", "", False
    kind = "" if isinstance(end, LayerprobeError) else f"{type(end).__name__}: "
    trace = "".join(traceback.format_exception(end))
    return kind + " ".join(str(end).split()), trace, isinstance(end, BusyError)
