"""Tasks on a dask or Ray cluster that exists already."""

import logging
import socket
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from layerprobe.errors import InputError, LayerprobeError
from layerprobe.runs.leases import AbandonedError, Session
from layerprobe.runs.pairs import PAIRS, Pair
from layerprobe.utils.threads import one_thread

Task = TypeVar("Task")
TIMEOUT = 10  # seconds until an address counts as wrong
ATTEMPTS = 3  # of a task on Ray; dask has its own setting, `distributed.scheduler.allowed-failures`
_ONE_TASK = Lock()  # a training run sets threads and draws random numbers for its whole process


@dataclass(frozen=True)
class Cluster:
    """A cluster and its address.

    Attributes
    ----------
    backend : {"dask", "ray"}
        The kind of cluster.
    address : str
        The address of dask's scheduler, as tcp://host:8786. For Ray: "auto" on one of its machines,
        host:6379, or ray://host:10001 from elsewhere.
    """

    backend: Literal["dask", "ray"]
    address: str

    @classmethod
    def of(cls, backend: str, address: str | None) -> Self | None:
        """Return the cluster of command line flags; None for the backend "loky", this machine.

        Parameters
        ----------
        backend : {"loky", "dask", "ray"}
            The flag --backend.
        address : str, optional
            The flag --address.

        Raises
        ------
        InputError
            If one of the two flags is given without the other.
        """
        if backend == "loky":
            if address is not None:
                raise InputError(f"--address {address} is for a cluster; add --backend dask or --backend ray")
            return None
        if not address:
            example = {"dask": "tcp://HOST:8786, its scheduler", "ray": "auto, or ray://HOST:10001"}
            raise InputError(f"--backend {backend} needs --address, as {example[backend]}")
        return cls(backend, address)  # type: ignore[arg-type]

    def __str__(self) -> str:
        """Return the cluster's name in messages."""
        return f"the {self.backend} cluster at {self.address}"


def run_on_cluster(
    work: Callable[..., Any], tasks: Sequence[Task], cluster: Cluster, session: Session, device: str
) -> Generator[tuple[Task, Any]]:
    """Yield each task with its result or an exception, in the order in which they end.

    The cluster's scheduler gives the tasks, in their order, to workers that are there or join later. It tries
    a task again if its worker is lost. On a GPU, Ray gives each task one of its own; each dask worker must
    have one.

    Parameters
    ----------
    work : callable
        Called on a worker, which must have this package installed, with a task and `session`.
    tasks : sequence
        Picklable.
    cluster : Cluster
        The cluster.
    session : Session
        The session of the command, whose folder every worker must see.
    device : str
        Where each worker trains.

    Raises
    ------
    InputError
        If the extra is not installed, or no cluster answers at this address.
    """
    run = {"dask": _run_on_dask, "ray": _run_on_ray}[cluster.backend]
    yield from run(_WorkerTask(work, session, dict(PAIRS)), tasks, cluster.address, device)


@dataclass(frozen=True)
class _WorkerTask:
    """Do a task on a worker; return an exception instead of raising it."""

    work: Callable[..., Any]
    session: Session
    pairs: dict[str, Pair]

    def __call__(self, task: Any) -> Any:
        root = self.session.folder.parent.parent
        try:
            if not self.session.folder.exists():
                raise InputError(
                    f"{socket.gethostname()} does not see {root} as the command that sent this work does; "
                    "name a --root on storage that all workers share"
                )
            with _ONE_TASK, one_thread():
                PAIRS.update(self.pairs)
                return self.work(task, session=self.session)
        except (Exception, AbandonedError) as error:
            return error


def _run_on_dask(
    work: Callable[[Task], Any], tasks: Sequence[Task], address: str, device: str
) -> Generator[tuple[Task, Any]]:
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
) -> Generator[tuple[Task, Any]]:
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
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
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
    reason = " ".join(str(error).split())[:300]
    return InputError(f"no {what} answers at {address!r} ({reason}); start one, or correct --address")
