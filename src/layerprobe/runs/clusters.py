"""Work on a cluster that exists already, sent through joblib's backends for dask and Ray."""

import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from layerprobe.errors import InputError, LayerprobeError
from layerprobe.runs.leases import Sweep
from layerprobe.runs.processes import ATTEMPTS
from layerprobe.utils.threads import one_thread

__all__ = ["Cluster", "on_cluster"]

Unit = TypeVar("Unit")
PATIENCE = 10  # seconds until an address counts as wrong
_ALONE = Lock()  # a training run draws random numbers and sets threads for its whole process
FEWEST = 2  # workers, as joblib is told: with one it would do the work here, in the command's own process


@dataclass(frozen=True)
class Cluster:
    """A cluster, and where it is.

    Attributes
    ----------
    backend : {"dask", "ray"}
        Which kind.
    address : str
        Of dask's scheduler, as tcp://host:8786; of Ray, "auto" on one of its machines, host:6379, or
        ray://host:10001 from elsewhere.
    """

    backend: Literal["dask", "ray"]
    address: str

    @classmethod
    def of(cls, backend: str, address: str | None) -> Self | None:
        """Return the cluster that command line flags name; None for the backend "loky", this machine.

        Raises
        ------
        InputError
            If one of the two flags is there without the other.
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
        """Return what it is called in one line."""
        return f"the {self.backend} cluster at {self.address}"


def on_cluster(
    work: Callable[[Unit], Any], units: Sequence[Unit], cluster: Cluster, sweep: Sweep, device: str
) -> Iterator[tuple[Unit, Any]]:
    """Yield every unit of work and what became of it, its result or an exception, as they end.

    Dask and Ray decide where and when each is done, in the order given, on workers that are there now or come
    later, and try again elsewhere what was lost with a worker. On a GPU Ray gives each unit one of its own;
    each worker of dask has to have one.

    Parameters
    ----------
    work : callable
        Done on the workers, which have this package and see the sweep's folder; it must be picklable.
    units : sequence
        What to do; picklable.
    cluster : Cluster
        Where.
    sweep : Sweep
        The command that waits for it.
    device : str
        Where each worker does it.

    Raises
    ------
    InputError
        If the extra is not installed, or no cluster answers at this address.
    """
    from joblib import Parallel, delayed

    connect = {"dask": _dask, "ray": _ray}[cluster.backend]
    with connect(cluster.address, device) as backend:
        # All at once, one a task: their scheduler sees what is to be done and can call for more workers.
        parallel = Parallel(
            backend=backend, batch_size=1, pre_dispatch="all", return_as="generator_unordered"
        )
        tasks = [delayed(_on_worker)(position, unit, work, sweep) for position, unit in enumerate(units)]
        for position, result in parallel(tasks):
            yield units[position], result


def _on_worker(position: int, unit: Unit, work: Callable[[Unit], Any], sweep: Sweep) -> tuple[int, Any]:
    root = sweep.folder.parent.parent
    try:
        if not sweep.folder.exists():
            raise InputError(
                f"{socket.gethostname()} does not see {root} as the command that sent this work does; "
                "name a --root on storage that all workers share"
            )
        with _ALONE, one_thread():
            return position, work(unit)
    except Exception as error:  # joblib would end everything
        return position, error


def _given_up(func: Any, error: BaseException) -> list[tuple[int, Any]]:
    """Return, in the form of its result, that a task was lost, so that joblib goes on with the others."""
    (_, (position, *_), _), *_ = func.items
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return [(position, LayerprobeError(f"the cluster gave it up ({said}); the same command goes on with it"))]


@contextmanager
def _dask(address: str, device: str) -> Iterator[Any]:
    try:
        from distributed import Client
        from joblib._dask import DaskDistributedBackend
    except ImportError as error:
        raise _no_extra("dask", error) from error

    class Backend(DaskDistributedBackend):
        """joblib's own, but for two things.

        That waits for ever for a task that the scheduler has given up, and does not wait for workers.
        """

        def submit(self, func: Any, callback: Any = None) -> Any:
            def told(out: Any) -> None:
                callback(_given_up(func, out) if isinstance(out, BaseException) else out)

            future = super().submit(func, told)
            future.add_done_callback(lambda ended: told(ended.exception()) if ended.exception() else None)
            return future

        def effective_n_jobs(self, n_jobs: int) -> int:
            return max(FEWEST, sum(self.client.ncores().values()))

    _reach(address, 8786)
    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise _wrong_address("dask scheduler", address, error) from error
    with client:
        yield Backend(client=client)


@contextmanager
def _ray(address: str, device: str) -> Iterator[Any]:
    try:
        import ray
    except ImportError as error:
        raise _no_extra("ray", error) from error
    from joblib._parallel_backends import ParallelBackendBase

    needs = {"num_cpus": 1, "num_gpus": 0 if device == "cpu" else 1, "max_retries": ATTEMPTS - 1}
    remote: Any = ray.remote  # whose types know single arguments alone
    task = remote(**needs)(lambda func: func())

    class Backend(ParallelBackendBase):
        """Each unit a task of Ray's own scheduler.

        Ray's backend for joblib sends work to its processes in turn, whether they are at work or not, so that
        short runs wait behind a long one while others idle; and the death of one process ends the work of
        all.
        """

        supports_retrieve_callback = True

        def configure(self, n_jobs: int = 1, parallel: Any = None, **_: Any) -> int:
            self.parallel, self.sent = parallel, list[Any]()
            return self.effective_n_jobs(n_jobs)

        def effective_n_jobs(self, n_jobs: int) -> int:
            return max(FEWEST, int(ray.cluster_resources().get("CPU", 1)))

        def submit(self, func: Any, callback: Any = None) -> Any:
            def told(ended: Any) -> None:
                error = ended.exception()
                callback(_given_up(func, error) if error else ended.result())

            sent = task.remote(func)
            self.sent.append(sent)
            future = sent.future()
            future.add_done_callback(told)
            return future

        def retrieve_result_callback(self, out: Any) -> Any:
            return out

        def abort_everything(self, ensure_ready: bool = True) -> None:
            for sent in self.sent:
                ray.cancel(sent, force=True)

    if address != "auto":
        _reach(address, 6379)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of many kinds
        raise _wrong_address("Ray cluster", address, error) from error
    try:
        yield Backend()
    finally:
        ray.shutdown()


def _reach(address: str, port: int) -> None:
    """Raise InputError unless somebody listens at an address; clients wait much longer."""
    try:
        parts = urlsplit(address if "//" in address else f"//{address}")
        if not parts.hostname:
            raise ValueError("it names no host")
        socket.create_connection((parts.hostname, parts.port or port), timeout=PATIENCE).close()
    except (OSError, ValueError) as error:
        raise _wrong_address("cluster", address, error) from error


def _no_extra(backend: str, error: ImportError) -> InputError:
    return InputError(f"--backend {backend} needs more packages ({error}): pip install 'layerprobe[cluster]'")


def _wrong_address(what: str, address: str, error: Exception) -> InputError:
    said = " ".join(str(error).split())[:300]
    return InputError(f"no {what} answers at {address!r} ({said}); start one, or mend --address")
