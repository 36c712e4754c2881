"""Many runs at once, each in a process of one thread or stacked on a GPU, whatever happens to the others."""

from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import torch

from layerprobe.errors import DataError, InputError
from layerprobe.runs.clusters import Cluster
from layerprobe.runs.execution import execute as execute_run
from layerprobe.runs.folders import DONE, MODEL, read_run, run_folder
from layerprobe.runs.leases import Sweep, is_locked
from layerprobe.runs.pairs import pair
from layerprobe.runs.processes import failure
from layerprobe.runs.scheduler import Location, Tell, data_for, sweep_through
from layerprobe.runs.specs import RunSpec
from layerprobe.runs.stacked_runs import execute_together as execute_runs_together
from layerprobe.runs.stacked_runs import groups
from layerprobe.runs.states import so_far, untrained_network
from layerprobe.training import Epoch

__all__ = ["Outcome", "Tell", "cost", "jobs_on", "operations", "train_grid"]

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
    cluster: Cluster | None = None,
    device: str = "cpu",
    data_root: Location | None = None,
    checkpoints: bool | Collection[RunSpec] = False,
    tell: Tell | None = None,
    execute: Callable[..., object] = execute_run,
    stacked: bool | None = None,
    execute_together: Callable[..., Sequence[object]] = execute_runs_together,
) -> list[Outcome]:
    """Train every run of a grid that is not done yet; go on with those that were interrupted.

    A run that fails does not disturb the others; one whose process is killed, or whose machine is lost, is
    tried again. On KeyboardInterrupt all processes are killed, which costs each run at most the epoch it is
    in (runs on a dask cluster end after it), and the exception goes on.

    Parameters
    ----------
    specs : sequence of RunSpec
        What to train.
    root : path
        The folder of all runs; for a cluster, on storage that all its machines see.
    jobs : int, optional
        How many processes, of one thread each; `jobs_on` the device if not given.
    cluster : Cluster, optional
        Train there instead, as many runs at a time as it has workers.
    device : str
        Where to train.
    data_root : path, optional
        As in `layerprobe.data.load`. On a cluster, LAYERPROBE_DATA is that of the calling process if it has
        one.
    checkpoints : bool or collection of RunSpec
        Keep the weights of chosen epochs, of all runs or of these and those stacked with them.
    tell : Tell, optional
        Called as runs begin, after each epoch and as they end; in their processes, so it must be picklable.
        On a cluster it is called here, with what the runs' folders show every few seconds.
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
        If `jobs` is not at least 1, or given for a cluster; if there is no such device; if the cluster does
        not answer or its packages are not installed.
    """
    jobs = jobs_on(device, jobs, cluster)
    root = Path(root).absolute() if cluster else root
    outcomes = {spec: outcome for spec in specs if (outcome := _of_done(root, spec))}
    left = sorted({spec: 0 for spec in specs if spec not in outcomes}, key=cost, reverse=True)
    stacked = torch.device(device).type == "cuda" if stacked is None else stacked
    kept = set(specs if checkpoints is True else checkpoints or ())
    units = [
        _Group([specs.index(spec) for spec in group], group, checkpoints=not kept.isdisjoint(group))
        for group in (groups(left) if stacked else [[spec] for spec in left])
    ]
    work = partial(
        _train_group,
        root=root,
        execute=execute,
        execute_together=execute_together,
        options={"data_root": data_for(cluster, data_root), "device": device},
    )
    swept = sweep_through(
        work,
        units,
        root,
        jobs=jobs,
        cluster=cluster,
        device=device,
        where=lambda position: _where(root, specs[position]),
        positions=[position for unit in units for position in unit.positions],
        tell=tell,
    )
    with closing(swept):
        for group, result, told in swept:
            ended = [failure(result)] * len(group.specs) if isinstance(result, Exception) else result
            for position, spec, (error, trace, busy) in zip(group.positions, group.specs, ended, strict=True):
                if not error or (run_folder(root, spec) / DONE).exists():
                    outcomes[spec] = Outcome(spec, "trained")
                else:
                    outcomes[spec] = Outcome(spec, "busy" if busy else "failed", error, trace)
                stages = {"trained": "done", "busy": "elsewhere", "failed": "failed"}
                told(position, stages[outcomes[spec].state], *so_far(root, spec))
    return [outcomes[spec] for spec in specs]


def jobs_on(device: str, jobs: int | None = None, cluster: Cluster | None = None) -> int:
    """Return how many processes train here: on a CPU one for each usable core, on another device one.

    Where there is a cluster it is 0.

    Raises
    ------
    InputError
        If `jobs` is not at least 1, or is given for a cluster, or there is no such device.
    """
    from joblib import cpu_count

    if cluster and jobs is not None:
        raise InputError("jobs are those of this machine; a cluster trains as many runs as it has workers")
    if cluster:
        return 0

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


@dataclass(frozen=True)
class _Group:
    """Runs that one process trains: one, or several as one model."""

    positions: list[int]
    specs: list[RunSpec]
    checkpoints: bool


def _train_group(
    group: _Group,
    *,
    root: Location,
    execute: Callable[..., object],
    execute_together: Callable[..., Sequence[object]],
    options: dict[str, Any],
    sweep: Sweep,
    tell: Tell,
) -> list[tuple[str, str, bool]]:
    """Train one run, or several as one; return how each ended, as `failure` says it."""

    def on_epoch(member: int, epoch: Epoch) -> None:
        tell(group.positions[member], "training", epoch.epoch, epoch.train_accuracy)
        sweep.check()  # nobody may wait for this run any more; it is on disk

    for position, spec in zip(group.positions, group.specs, strict=True):
        tell(position, "training", *so_far(root, spec))
    options = {**options, "checkpoints": group.checkpoints, "sweep": sweep}
    ended: Sequence[object]
    try:
        if len(group.specs) > 1:
            ended = execute_together(group.specs, root, on_epoch=on_epoch, **options)
        else:
            ended = [execute(group.specs[0], root, on_epoch=partial(on_epoch, 0), **options)]
    except Exception as error:  # one run's failure must not end the others
        ended = [error] * len(group.specs)
    return [failure(end) for end in ended]


def _where(root: Location, spec: RunSpec) -> tuple[str, int, float] | None:
    """Return what a run's folder says of its progress; None if nobody trains it."""
    return ("training", *so_far(root, spec)) if is_locked(run_folder(root, spec)) else None
