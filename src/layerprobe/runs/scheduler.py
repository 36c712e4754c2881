"""Tasks in processes of this machine or on a cluster; a lost process does not disturb the other tasks."""

import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from layerprobe.data.folders import data_folder
from layerprobe.errors import InputError, LayerprobeError
from layerprobe.runs.clusters import ATTEMPTS, Cluster, run_on_cluster
from layerprobe.runs.folders import Location
from layerprobe.runs.leases import AbandonedError, Session
from layerprobe.runs.pairs import PAIRS, Pair

Task = TypeVar("Task")
IDLE = 60  # seconds after which a process without a task ends, also if its parent was killed
Jobs = int | Cluster
"""How many processes of this machine, or a cluster, which has as many as it has workers."""


def jobs_on(device: str, jobs: Jobs | None = None) -> Jobs:
    """Return how many processes train on a device; by default one per usable CPU core, or one on a GPU.

    Parameters
    ----------
    device : str
        As for `torch.device`.
    jobs : int or Cluster, optional
        The caller's choice, which is checked.

    Raises
    ------
    InputError
        If `jobs` is below 1, or this machine does not have the device.
    """
    from loky import cpu_count

    if isinstance(jobs, Cluster):
        return jobs
    if jobs is not None and jobs < 1:
        raise InputError(f"jobs must be at least 1, got {jobs}; leave it out for one per core")
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device!r} needs a GPU that this installation of torch can use; take 'cpu'")
    return jobs or (cpu_count() if device == "cpu" else 1)


def shared_places(jobs: Jobs, root: Location, data_root: Location | None) -> tuple[Location, Location | None]:
    """Return the folders of runs and of data for the workers.

    Parameters
    ----------
    jobs : int or Cluster
        As `jobs_on` returns it. For a cluster both folders are absolute.
    root : path
        The folder of all runs.
    data_root : path, optional
        As for `layerprobe.data.load`. Without it, a cluster gets the folder that LAYERPROBE_DATA names in
        this process.
    """
    if not isinstance(jobs, Cluster):
        return root, data_root
    if data_root or os.environ.get("LAYERPROBE_DATA"):
        data_root = data_folder(data_root).absolute()
    return Path(root).absolute(), data_root


def run_tasks(
    work: Callable[..., Any], tasks: Sequence[Task], root: Location, jobs: Jobs, device: str
) -> Generator[tuple[Task, Any]]:
    """Yield each task with its result or an exception, in the order in which they end.

    A task whose process is killed is tried again, `ATTEMPTS` times in all. Each process of this machine is a
    loky pool of its own: in a shared pool the death of one process ends the tasks of all, and the failing
    task is unknown. Closing the generator kills the processes.

    Parameters
    ----------
    work : callable
        Called in another process with a task and `session`, the `Session` of this call.
    tasks : sequence
        The longest first.
    root : path
        The folder of all runs.
    jobs : int or Cluster
        As `jobs_on` returns it.
    device : str
        Where tasks run.
    """
    if not tasks:
        return
    with Session.begin(root) as session:
        if isinstance(jobs, Cluster):
            yield from run_on_cluster(work, tasks, jobs, session, device)
            return
        from loky import BrokenProcessPool, ProcessPoolExecutor

        one_thread = dict.fromkeys(["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"], "1")
        run = partial(_run_task, work=work, session=session, pairs=dict(PAIRS))
        start = partial(
            ProcessPoolExecutor, max_workers=1, timeout=IDLE, initializer=_prepare, env=one_thread
        )
        waiting, deaths = deque(range(len(tasks))), Counter[int]()
        idle = [start() for _ in range(min(jobs, len(tasks)))]
        busy: dict[Future[Any], tuple[ProcessPoolExecutor, int]] = {}
        try:
            while waiting or busy:
                while waiting and idle:
                    process, position = idle.pop(), waiting.popleft()
                    busy[process.submit(run, tasks[position])] = process, position
                for future in wait(busy, return_when=FIRST_COMPLETED).done:
                    process, position = busy.pop(future)
                    error = future.exception()
                    if not isinstance(error, BrokenProcessPool):
                        idle.append(process)
                        yield tasks[position], error or future.result()
                        continue
                    idle.append(start())
                    deaths[position] += 1
                    if deaths[position] < ATTEMPTS:
                        waiting.appendleft(position)
                        continue
                    killed = f"its process was killed {ATTEMPTS} times, maybe for lack of memory"
                    yield tasks[position], LayerprobeError(f"{killed}; the same command resumes the run")
        finally:
            for process in [*idle, *(process for process, _ in busy.values())]:
                process.shutdown(kill_workers=True)


def _prepare() -> None:
    """Set one thread, and leave Ctrl-C, which reaches all processes, to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def _run_task(task: Any, *, work: Callable[..., Any], session: Session, pairs: dict[str, Pair]) -> Any:
    PAIRS.update(pairs)
    try:
        return work(task, session=session)
    except AbandonedError:
        os._exit(1)  # the command was killed: nothing else ends a process that has lost its parent
