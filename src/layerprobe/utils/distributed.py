"""One job on several processes: shares of the rows, and sums over all processes.

Without a process group, every function acts as in a job of one process, at no cost. The processes
are started by torchrun, ``torchrun --standalone --nproc-per-node 2 script.py``, and joined by `group`.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import count

import torch
import torch.distributed as dist
from torch import Tensor

from layerprobe.errors import InputError, ProcessError

TIMEOUT = 1800.0  # seconds; a process may wait while another reads, computes or writes
JOINING = 600.0  # seconds at most until all processes have started
_GROUPS = count()


def rank() -> int:
    """Return this process's number in its job, from 0; 0 where there is no process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes of this job; 1 where there is no process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def shard(n: int) -> range:
    """Return the indices of this process's rows: every world_size()-th from rank() on, possibly none.

    The shards of all processes contain each of the n rows once, without padding, so that sums over processes
    are sums over rows.

    Examples
    --------
    >>> shard(3)
    range(0, 3)
    """
    return range(rank(), n, world_size())


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Return the sum of every process's tensor, the same on all of them; the argument does not change.

    All processes must call it in the same order, with the same shape and type.

    Parameters
    ----------
    tensor : Tensor
        float64 or int64, so that sums for different numbers of processes agree up to float64 rounding.
        Other types are added in their own precision.

    Raises
    ------
    ProcessError
        If another process ended, or did not answer within the group's timeout.
    """
    if world_size() == 1:
        return tensor
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    with _other_processes():
        dist.all_reduce(total)
    return total


def send_to_first(tensor: Tensor) -> None:
    """Send a CPU tensor to the first process, which waits for it by `receive`."""
    with _other_processes():
        dist.send(tensor.contiguous(), 0)


def receive(source: int, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a CPU tensor that another process sends to the first one.

    Parameters
    ----------
    source : int
        Rank of the sender.
    shape, dtype
        Those of the tensor.
    """
    tensor = torch.empty(*shape, dtype=dtype)
    with _other_processes():
        dist.recv(tensor, source)
    return tensor


def from_first(content: bytes | None) -> bytes:
    """Return the bytes that the first process passes, in every process; the others pass None."""
    if world_size() == 1:
        return content or b""
    length = torch.tensor(0 if content is None else len(content))
    with _other_processes():
        dist.broadcast(length, 0)
        buffer = torch.empty(int(length), dtype=torch.uint8)
        if content:
            buffer.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        if len(buffer):
            dist.broadcast(buffer, 0)
    return buffer.numpy().tobytes()


def require_same(what: str, *tensors: Tensor) -> None:
    """Raise unless every process holds equal tensors, such as a network drawn from the same seed.

    Parameters
    ----------
    what : str
        Name of the tensors, for the message.
    *tensors : Tensor

    Raises
    ------
    InputError
        If they differ by one bit, a shape or a type.
    ProcessError
        As for `sum_over_processes`.
    """
    if world_size() == 1:
        return
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    mine = int.from_bytes(digest.digest()[:5])  # so few that sums stay whole numbers
    place = tensors[0].device if tensors else "cpu"
    if sum_over_processes(torch.tensor(mine, device=place)).item() != mine * world_size():
        raise InputError(
            f"expected the same {what} in every process, but they differ; make and read them from the same "
            "seeds and files everywhere, and let `layerprobe` split the rows"
        )


@contextmanager
def group(backend: str | None = None, *, timeout_s: float = TIMEOUT) -> Iterator[None]:
    """Join the processes that torchrun started; leave the group at the end.

    Without torchrun, or in its only process, nothing is joined, and an existing group is used: the same
    script runs with ``python`` and with ``torchrun``.

    Parameters
    ----------
    backend : str, optional
        "gloo" for tensors on the CPU; "cpu:gloo,cuda:nccl" also for those on GPUs, of which each process
        gets the one of its LOCAL_RANK as its current device. Default: the latter where CUDA is available.
    timeout_s : float
        Longest wait for another process in seconds; at most ten minutes for all to start. With CPU tensors,
        the end of a process is noticed at once.

    Raises
    ------
    InputError
        If the environment is not one that torchrun makes, or there are fewer GPUs than processes.
    ProcessError
        If the others cannot be reached in time.

    Examples
    --------
    >>> with group():
    ...     world_size()
    1
    """
    if world_size() > 1 or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise InputError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} says that this is one of several processes, but "
            f"{' and '.join(missing)} are not set; start the job with torchrun, or unset WORLD_SIZE"
        )
    if not timeout_s > 0:
        raise InputError(f"timeout_s must be above 0, got {timeout_s}")
    # The defaults of its functions keep the group of the first import, by an optimizer for example. The
    # threads of that group live until the process ends, which aborted one process in forty.
    import torch.distributed.nn

    chosen = backend or ("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    if "nccl" in chosen:
        local_rank, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local_rank >= gpus:
            raise InputError(
                f"process {local_rank} of this machine needs a GPU of its own, and there are {gpus}; start "
                "at most one process a GPU, or use group('gloo') and compute on the CPU"
            )
        torch.cuda.set_device(local_rank)
    with _other_processes():
        meeting = dist.rendezvous("env://", timeout=timedelta(seconds=min(timeout_s, JOINING)))
        store, number, size = next(iter(meeting))
        # Each group has its own name: a slower process may still read an earlier one.
        store = dist.PrefixStore(f"layerprobe {next(_GROUPS)}", store)
        dist.init_process_group(
            chosen, store=store, rank=number, world_size=size, timeout=timedelta(seconds=timeout_s)
        )
    try:
        # All processes meet first: one that joins after others left would wait for the timeout.
        sum_over_processes(torch.zeros(1, device="cuda" if chosen == "nccl" else "cpu"))
        yield
    finally:
        dist.destroy_process_group()  # after an error, too: it closes connections on which others may wait


@contextmanager
def _other_processes() -> Iterator[None]:
    """Raise a ProcessError for failures of communication with other processes."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessError(
            f"process {os.environ.get('RANK', rank())} waited for the other processes of its job, and one of "
            "them ended or did not answer in time; look for the first error among their outputs "
            f"({str(error).splitlines()[0].split('. ')[0]})"
        ) from error
