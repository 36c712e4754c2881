"""Many runs at once, each in a process of one thread or stacked on a GPU, whatever happens to the others."""

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import torch

from layerprobe.errors import DataError, InputError
from layerprobe.paper.folders import DONE, MODEL, read_run, run_folder
from layerprobe.paper.overview import so_far, untrained_network
from layerprobe.paper.pairs import pair
from layerprobe.paper.processes import KILLED, failure, in_processes
from layerprobe.paper.runs import execute as execute_run
from layerprobe.paper.specs import RunSpec
from layerprobe.paper.together import execute_together as execute_runs_together
from layerprobe.paper.together import groups
from layerprobe.training import Epoch

__all__ = ["Outcome", "Tell", "cost", "jobs_on", "operations", "train_grid"]

Location = str | os.PathLike[str]
Tell = Callable[[int, str, int, float], object]
"""Called with (position of the run, "training" | "done" | "failed", epoch, accuracy on its labels)."""

# Training images, test images and shape of one, to judge how long a run takes before any image is read.
SIZES = {
    "digits": (1_437, 360, (1, 8, 8)),
    "mnist": (60_000, 10_000, (1, 28, 28)),
    "fashion-mnist": (60_000, 10_000, (1, 28, 28)),
    "cifar-10": (50_000, 10_000, (3, 32, 32)),
    "cifar-100": (50_000, 10_000, (3, 32, 32)),
    "tiny-imagenet": (100_000, 10_000, (3, 64, 64)),
}


@dataclass(frozen=True)
class Outcome:
    """How one run of a grid ended.

    Attributes
    ----------
    spec : RunSpec
        The run.
    state : {"kept", "trained", "busy", "failed"}
        Done before, done now, in the hands of another process, or failed. A failed run goes on after its last
        complete epoch when the grid is trained again.
    error : str
        What is wrong, in one line.
    traceback : str
        Where in the code it went wrong, if it was an exception.
    """

    spec: RunSpec
    state: Literal["kept", "trained", "busy", "failed"]
    error: str = ""
    traceback: str = ""


def train_grid(
    specs: Sequence[RunSpec],
    root: Location,
    *,
    jobs: int | None = None,
    device: str = "cpu",
    data_root: Location | None = None,
    checkpoints: bool | Collection[RunSpec] = False,
    tell: Tell | None = None,
    execute: Callable[..., object] = execute_run,
    stacked: bool | None = None,
    execute_together: Callable[..., Sequence[object]] = execute_runs_together,
) -> list[Outcome]:
    """Train every run of a grid that is not done yet; go on with those that were interrupted.

    A run that fails, or whose process is killed, does not disturb the others. On KeyboardInterrupt all
    processes are killed, which costs each run at most the epoch it is in, and the exception goes on.

    Parameters
    ----------
    specs : sequence of RunSpec
        What to train.
    root : path
        The folder of all runs.
    jobs : int, optional
        How many processes, of one thread each; `jobs_on` the device if not given.
    device : str
        Where to train.
    data_root : path, optional
        As in `layerprobe.data.load`.
    checkpoints : bool or collection of RunSpec
        Keep the weights of chosen epochs, of all runs or of these and those stacked with them.
    tell : Tell, optional
        Called as runs begin, after each epoch and as they end; in their processes, so it must be picklable.
    execute : callable
        Trains one run, as `layerprobe.paper.execute` does.
    stacked : bool, optional
        Train all runs of a pair that differ in corruption, noise and seeds alone as one batched model in one
        process. If not given: on a GPU, where it is meant for; on a CPU separate processes are faster.
    execute_together : callable
        Trains such runs, as `layerprobe.paper.execute_together` does.

    Returns
    -------
    list of Outcome
        One for each spec, in their order.

    Raises
    ------
    InputError
        If `jobs` is not at least 1, or there is no such device.
    """
    jobs = jobs_on(device, jobs)
    outcomes = {spec: outcome for spec in specs if (outcome := _of_done(root, spec))}
    left = sorted({spec: 0 for spec in specs if spec not in outcomes}, key=cost, reverse=True)
    stacked = torch.device(device).type == "cuda" if stacked is None else stacked
    units = groups(left) if stacked else [[spec] for spec in left]
    work = partial(
        _train_group,
        root=root,
        execute=execute,
        execute_together=execute_together,
        options={"data_root": data_root, "device": device},
        checkpoints=checkpoints,
        positions={spec: specs.index(spec) for spec in left},
        tell=tell or _tell_nobody,
        parent=os.getpid(),
    )
    for group, future in in_processes(work, units, jobs):
        ended = [(KILLED, "", False)] * len(group) if future.exception() else future.result()
        for spec, (error, trace, busy) in zip(group, ended, strict=True):
            if not error or (run_folder(root, spec) / DONE).exists():
                outcomes[spec] = Outcome(spec, "trained")
            else:
                outcomes[spec] = Outcome(spec, "busy" if busy else "failed", error, trace)
            if tell:
                stages = {"trained": "done", "busy": "elsewhere", "failed": "failed"}
                tell(specs.index(spec), stages[outcomes[spec].state], *so_far(root, spec))
    return [outcomes[spec] for spec in specs]


def jobs_on(device: str, jobs: int | None = None) -> int:
    """Return how many processes train at a time: on a CPU one for each usable core, on another device one.

    Raises
    ------
    InputError
        If `jobs` is not at least 1, or there is no such device.
    """
    from joblib import cpu_count

    if jobs is not None and jobs < 1:
        raise InputError(f"jobs must be at least 1, got {jobs}; leave it out for one a core")
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device!r} needs a GPU that this installation of torch can use; take 'cpu'")
    return jobs or (cpu_count() if device == "cpu" else 1)


def _of_done(root: Location, spec: RunSpec) -> Outcome | None:
    """Return the outcome of a run that is done, kept if all of it can be read; None if it is not done."""
    folder = run_folder(root, spec)
    if not (folder / DONE).exists():
        return None
    try:
        read_run(folder)
    except DataError as error:
        return Outcome(spec, "failed", str(error))
    if not (folder / MODEL).exists():
        return Outcome(spec, "failed", f"{folder}: {MODEL} is gone. Remove the folder and train anew.")
    return Outcome(spec, "kept")


def _tell_nobody(*_: object) -> None: ...


@cache
def _operations(pair_name: str, options: tuple[tuple[str, Any], ...]) -> float:
    """Return the floating point operations of one forward pass of one image."""
    from torch.utils.flop_counter import FlopCounterMode

    *_, shape = SIZES[pair(pair_name).dataset]
    network = untrained_network(pair_name, options).eval()
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        network(torch.empty(1, *shape))
    return counter.get_total_flops()


def cost(spec: RunSpec) -> float:
    """Return what orders runs by how long they take: the operations of an epoch, more for more false labels.

    A run on a data set of unknown size counts as the largest.
    """
    return operations(spec) * (1 + (spec.corruption or 0))


def operations(spec: RunSpec) -> float:
    """Return the floating point operations of one epoch; infinite for a data set of unknown size."""
    if pair(spec.pair).dataset not in SIZES:
        return float("inf")
    n, m, _ = SIZES[pair(spec.pair).dataset]
    passes = 3 * (spec.subset or n) + (spec.test_subset or m)  # a backward pass is two forward passes
    return _operations(spec.pair, spec.options) * passes


def _train_group(
    group: list[RunSpec],
    *,
    root: Location,
    execute: Callable[..., object],
    execute_together: Callable[..., Sequence[object]],
    options: dict[str, Any],
    checkpoints: bool | Collection[RunSpec],
    positions: dict[RunSpec, int],
    tell: Tell,
    parent: int,
) -> list[tuple[str, str, bool]]:
    """Train one run, or several as one; return how each ended, as `failure` says it."""

    def on_epoch(member: int, epoch: Epoch) -> None:
        tell(positions[group[member]], "training", epoch.epoch, epoch.train_accuracy)
        if os.getppid() != parent:  # the grid was killed, and nobody waits for this run; it is on disk
            os._exit(1)

    for spec in group:
        tell(positions[spec], "training", *so_far(root, spec))
    keep = checkpoints if isinstance(checkpoints, bool) else not set(checkpoints).isdisjoint(group)
    options = {**options, "checkpoints": keep}
    ended: Sequence[object]
    try:
        if len(group) > 1:
            ended = execute_together(group, root, on_epoch=on_epoch, **options)
        else:
            ended = [execute(group[0], root, on_epoch=partial(on_epoch, 0), **options)]
    except Exception as error:  # one run's failure must not end the others
        ended = [error] * len(group)
    return [failure(end) for end in ended]
