"""Tasks in processes of this machine or on a dask or Ray cluster that exists already.

A lost process does not disturb the other tasks.
"""

import functools
import logging
import os
import signal
import socket
import textwrap
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import torch

from layerprobe.data.folders import data_folder
from layerprobe.errors import InputError, LayerprobeError
from layerprobe.runs.leases import AbandonedError, Session
from layerprobe.utils.files import Location
from layerprobe.utils.registry import Registrations
from layerprobe.utils.settings import one_thread

Task = TypeVar("Task")
Function = TypeVar("Function", bound=Callable[..., Any])
Results = Generator[tuple[Task, Any]]
IDLE = 60  # seconds after which a process without a task ends, also if its parent was killed
TIMEOUT = 10  # seconds until an address counts as wrong
ATTEMPTS = 3  # of a task whose process is lost; dask has `distributed.scheduler.allowed-failures` for them
_ONE_TASK = Lock()  # a training run sets threads and draws random numbers for its whole process


@dataclass(frozen=True)
class Cluster:
    """A running cluster."""

    backend: Literal["dask", "ray"]
    # of dask's scheduler, as tcp://host:8786; for Ray "auto" on one of its machines, host:6379, or
    # ray://host:10001 from elsewhere
    address: str

    def __str__(self) -> str:
        """Return the cluster's name in messages."""
        return f"the {self.backend} cluster at {self.address}"


Jobs = int | Cluster
"""How many processes of this machine, or a cluster, which has as many as it has workers."""


def renamed_arguments(**names: str) -> Callable[[Function], Function]:
    """Return a decorator of functions whose keyword arguments were renamed; old ones give a warning.

    >>> renamed_arguments(tell="report")(lambda *, report: report)(report=1)
    1
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if old := {name: kwargs.pop(name) for name in names if name in kwargs}:
                use = ", ".join(f"{names[name]}= instead of {name}=" for name in old)
                warnings.warn(f"{function.__name__}: use {use}", DeprecationWarning, stacklevel=2)
                kwargs |= {names[name]: value for name, value in old.items() if value is not None}
            return function(*args, **kwargs)

        return call  # type: ignore[return-value]

    return decorate


def jobs_on(device: str, jobs: Jobs | None = None) -> Jobs:
    """Return how many processes train on a device: by default one per usable CPU core, or one on a GPU.

    Raises InputError if `jobs` is below 1, or this machine does not have the device.

    Parameters
    ----------
    device : str
    jobs : int or Cluster, optional
        The caller's choice.
    """
    from loky import cpu_count

    if isinstance(jobs, Cluster):
        return jobs
    if jobs is not None and jobs < 1:
        raise InputError(f"jobs must be at least 1, got {jobs}; leave it out for one per core")
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device!r} needs a GPU that this installation of torch can use; take 'cpu'")
    return jobs or (cpu_count() if device == "cpu" else 1)


def run_tasks(
    work: Callable[..., Any],
    tasks: Sequence[Task],
    root: Location,
    jobs: Jobs | None,
    device: str,
    data_root: Location | None,
) -> Results[Task]:
    """Yield each task with its result or an exception, in the order in which they end.

    A task whose process is lost is tried again, `ATTEMPTS` times in all. Closing the generator kills the
    processes. Raises InputError as `jobs_on`, and if the packages of the cluster are not installed or none
    answers.

    Parameters
    ----------
    work : callable
        Called in another process with a task, and by keyword with root, device, data_root and session, the
        `Session` of this call.
    tasks : sequence
        Picklable, the longest first.
    root, jobs, device, data_root
        As for `train_grid`. On a GPU, Ray gives each task one of its own; each dask worker must have one.
    """
    jobs = jobs_on(device, jobs)
    if not tasks:
        return
    with Session.begin(root) as session:
        if isinstance(jobs, Cluster):  # its workers may work in other folders and have other variables
            root = Path(root).absolute()
            if data_root or os.environ.get("LAYERPROBE_DATA"):
                data_root = data_folder(data_root).absolute()
        work = partial(work, root=root, device=device, data_root=data_root, session=session)
        registered = Registrations.here()
        if isinstance(jobs, Cluster):
            run_on = {"dask": _run_on_dask, "ray": _run_on_ray}[jobs.backend]
            run = partial(_run_on_worker, work=work, registered=registered, session=session)
            yield from run_on(run, tasks, jobs.address, device)
        else:
            run = partial(_run_in_process, work=work, registered=registered)
            yield from _run_here(run, tasks, jobs)


def _run_here(run: Callable[[Task], Any], tasks: Sequence[Task], jobs: int) -> Results[Task]:
    """Run tasks in processes of this machine.

    Each process is a loky pool of its own: in a shared pool the death of one process ends the tasks of all,
    and the failing task is unknown.
    """
    from loky import BrokenProcessPool, ProcessPoolExecutor

    one_thread = dict.fromkeys(["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"], "1")
    start = partial(ProcessPoolExecutor, max_workers=1, timeout=IDLE, initializer=_prepare, env=one_thread)
    waiting, deaths = deque(range(len(tasks))), Counter[int]()
    idle = [start() for _ in range(min(jobs, len(tasks)))]
    busy: dict[Future[Any], tuple[ProcessPoolExecutor, int]] = {}
    # Ctrl-C interrupts the main thread only: another one starts processes, so that none is left half started
    starter = ThreadPoolExecutor(1)
    try:
        while waiting or busy:
            while waiting and idle:
                process, position = idle[-1], waiting[0]
                busy[starter.submit(process.submit, run, tasks[position]).result()] = process, position
                del idle[-1], waiting[0]
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
        starter.shutdown()
        for process in [*idle, *(process for process, _ in busy.values())]:
            process.shutdown(kill_workers=True)


def _prepare() -> None:
    """Set one thread, and leave Ctrl-C, which reaches all processes, to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def _run_in_process(task: Any, work: Callable[[Any], Any], registered: Registrations) -> Any:
    registered.apply()
    try:
        return work(task)
    except AbandonedError:
        os._exit(1)  # the command was killed: nothing else ends a process that has lost its parent


def _run_on_worker(task: Any, work: Callable[[Any], Any], registered: Registrations, session: Session) -> Any:
    """Run a task on a worker of a cluster; return an exception instead of raising it."""
    try:
        if not session.folder.exists():
            raise InputError(
                f"{socket.gethostname()} does not see {session.folder.parent.parent} as the command that "
                "sent this work does; name a --root on storage that all workers share"
            )
        with _ONE_TASK, one_thread():
            registered.apply()
            return work(task)
    except (Exception, AbandonedError) as error:
        return error


def _run_on_dask(
    work: Callable[[Task], Any], tasks: Sequence[Task], address: str, device: str
) -> Results[Task]:
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise _no_extra("dask", error) from error
    _connect(address, 8786)
    try:
        client = Client(address, timeout=TIMEOUT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise _wrong_address("dask scheduler", address, error) from error
    with client:
        pending = {client.submit(work, task, pure=False): task for task in tasks}
        try:
            for future in as_completed(list(pending), loop=client.loop):
                lost = future.exception()  # such as KilledWorker; other exceptions are results
                yield pending.pop(future), _lost(lost) if lost else future.result()
        finally:
            client.cancel(list(pending))


def _run_on_ray(
    work: Callable[[Task], Any], tasks: Sequence[Task], address: str, device: str
) -> Results[Task]:
    try:
        import ray
    except ImportError as error:
        raise _no_extra("ray", error) from error
    if address != "auto":
        _connect(address, 6379)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of many kinds
        raise _wrong_address("Ray cluster", address, error) from error
    try:
        remote: Any = ray.remote  # whose type stub does not know these arguments
        needs = {"num_cpus": 1, "num_gpus": 0 if device == "cpu" else 1, "max_retries": ATTEMPTS - 1}
        function = remote(**needs)(lambda task: work(task))
        pending = {function.remote(task): task for task in tasks}
        try:
            while pending:
                (ended,), _ = ray.wait(list(pending))
                try:
                    result = ray.get(ended)
                except Exception as error:  # other exceptions are results
                    result = _lost(error)
                yield pending.pop(ended), result
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)
    finally:
        ray.shutdown()


def _lost(error: BaseException) -> LayerprobeError:
    reason = textwrap.shorten(f"{type(error).__name__}: {error}", 300)
    return LayerprobeError(f"the cluster gave the run up ({reason}); the same command resumes it")


def _connect(address: str, port: int) -> None:
    """Raise InputError unless a server listens at an address; the clients wait much longer."""
    try:
        parts = urlsplit(address if "//" in address else f"//{address}")
        if not parts.hostname:
            raise ValueError("the address names no host")
        socket.create_connection((parts.hostname, parts.port or port), timeout=TIMEOUT).close()
    except (OSError, ValueError) as error:
        raise _wrong_address("cluster", address, error) from error


def _no_extra(backend: str, error: ImportError) -> InputError:
    return InputError(f"--backend {backend} needs more packages ({error}): pip install 'layerprobe[cluster]'")


def _wrong_address(what: str, address: str, error: Exception) -> InputError:
    reason = textwrap.shorten(str(error), 300)
    return InputError(f"no {what} answers at {address!r} ({reason}); start one, or correct --address")
