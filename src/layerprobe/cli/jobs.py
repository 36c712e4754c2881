"""Options of worker processes and clusters, and commands that torchrun starts."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from layerprobe.cli.commands import readable_options
from layerprobe.errors import InputError

if TYPE_CHECKING:
    from layerprobe.runs.scheduler import Jobs

JOBS = (("audit",), ("probe",), ("paper", "train"))
"""Commands that the processes of a torchrun job share."""
TIMEOUT = 24 * 3600.0  # seconds; a process that ends is noticed at once, this is for one that hangs


@readable_options
@dataclass(frozen=True)
class Workers:
    """Worker processes or a cluster that train and measure runs.

    Attributes
    ----------
    jobs
        Number of processes, of one thread each. By default one per usable core, or one on a GPU.
    backend
        loky: processes on this machine; dask, ray: a running cluster, as many runs at a time as it has
        workers.
    address
        Address of the cluster: tcp://HOST:8786 of dask's scheduler; auto, HOST:6379 or ray://HOST:10001.
    device
        Device for training and measurements.
    data
        Folder of the data sets. By default LAYERPROBE_DATA, or else the user's cache folder.
    """

    jobs: int | None = None
    backend: Literal["loky", "dask", "ray"] = "loky"
    address: str | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    data: Path | None = None

    def resolve(self) -> "Jobs":
        """Return the number of processes or the cluster; raise an InputError for options that do not fit."""
        from layerprobe.runs.scheduler import Cluster, jobs_on

        if self.backend == "loky":
            if self.address is not None:
                raise InputError(
                    f"--address {self.address} is for a cluster; add --backend dask or --backend ray"
                )
            if self.data is not None and not self.data.is_dir():
                raise InputError(f"--data must be the folder of the data sets, got {self.data}")
            return jobs_on(self.device, self.jobs)
        if not self.address:
            example = {"dask": "tcp://HOST:8786, its scheduler", "ray": "auto, or ray://HOST:10001"}
            raise InputError(f"--backend {self.backend} needs --address, as {example[self.backend]}")
        cluster = Cluster(self.backend, self.address)
        if self.jobs is not None:
            raise InputError(
                f"--jobs counts processes of this machine, but {cluster} trains as many runs at a time as it "
                "has workers; leave out --jobs"
            )
        return cluster


@contextmanager
def one_job(device: str | None) -> Iterator[bool]:
    """Join the processes that torchrun started, if any, and yield whether this is the one that writes.

    The others print nothing. `device` is that of the command.
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
    """Return why torchrun cannot start a command; empty if it can, or did not start this process."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if not several or any(tuple(arguments[: len(job)]) == job for job in JOBS):
        return ""
    *others, last = (" ".join(job) for job in JOBS)
    jobs = f"{', '.join(others)} and {last}"
    return f"several processes started by torchrun can share {jobs}; start other commands without torchrun"
