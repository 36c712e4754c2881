"""Train many runs: in processes of one thread each, on a cluster, stacked on a GPU, or by a torchrun job."""

import textwrap
import traceback
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal, Self

import torch

from layerprobe.errors import DataError, LayerprobeError
from layerprobe.runs.execution import execute, execute_together, groups
from layerprobe.runs.folders import check_weights, is_done, is_marked, read_run, run_folder
from layerprobe.runs.leases import BusyError, Session, is_leased, remove_left
from layerprobe.runs.pairs import pair
from layerprobe.runs.progress import Progress, ProgressCallback, State, follow_progress
from layerprobe.runs.scheduler import Jobs, renamed_arguments, run_tasks
from layerprobe.runs.specs import RunSpec
from layerprobe.runs.states import so_far
from layerprobe.training import Epoch
from layerprobe.utils.distributed import rank, world_size
from layerprobe.utils.files import Location
from layerprobe.utils.settings import default_settings

# Number of test images and shape of one image: the cost of a run is estimated before images are read.
TEST_SIZES = {
    "digits": (360, (1, 8, 8)),
    "mnist": (10_000, (1, 28, 28)),
    "fashion-mnist": (10_000, (1, 28, 28)),
    "cifar-10": (10_000, (3, 32, 32)),
    "cifar-100": (10_000, (3, 32, 32)),
    "tiny-imagenet": (10_000, (3, 64, 64)),
}


@dataclass(frozen=True)
class Outcome:
    """The outcome of one run of a grid.

    Attributes
    ----------
    spec : RunSpec
    state : {"kept", "trained", "busy", "failed"}
        "kept": done before this call; "trained": done by this call; "busy": another process trains it. A
        failed run resumes after its last complete epoch when the grid is trained again.
    error : str
    traceback : str
    """

    spec: RunSpec
    state: Literal["kept", "trained", "busy", "failed"]
    error: str = ""
    traceback: str = ""

    @classmethod
    def of(cls, spec: RunSpec, result: object) -> Self:
        """Return the outcome of a run from its result.

        Parameters
        ----------
        spec : RunSpec
        result : object
            An exception if the run failed.
        """
        if not isinstance(result, BaseException):  # also SystemExit, of a user's own pair
            return cls(spec, "trained")
        kind = "" if isinstance(result, LayerprobeError) else f"{type(result).__name__}: "
        error = textwrap.shorten(f"{kind}{result}", 1000, placeholder=" ...")
        trace = "".join(traceback.format_exception(result))
        return cls(spec, "busy" if isinstance(result, BusyError) else "failed", error, trace)

    @property
    def progress(self) -> State:
        """The state for a `Progress`."""
        return self.state if self.state in ("busy", "failed") else "done"


@renamed_arguments(tell="report", cluster="jobs")
@default_settings()
def train_grid(
    specs: Sequence[RunSpec],
    root: Location,
    *,
    jobs: Jobs | None = None,
    device: str = "cpu",
    data_root: Location | None = None,
    checkpoints: bool | Collection[RunSpec] = False,
    stacked: bool | None = None,
    report: ProgressCallback | None = None,
) -> list[Outcome]:
    """Train every run of a grid that is not done, and resume those that were interrupted.

    A run that fails does not disturb the others. A run whose process is killed, or whose machine is lost, is
    tried again. On KeyboardInterrupt all processes are killed, which costs each run at most its current
    epoch, and the exception is raised again. On a dask cluster a run stops only after its current epoch.

    In a job of several processes (`layerprobe.utils.distributed.group`) all of them call this with equal
    arguments and train one run after another together. There the first failure ends the job.

    Parameters
    ----------
    specs : sequence of RunSpec
    root : path
        The folder of all runs; for a cluster, on storage that all its machines see.
    jobs : int or Cluster, optional
        The number of processes of one thread each, by default that of `jobs_on`; or the cluster to train on,
        as many runs at a time as it has workers.
    device : str
    data_root : path, optional
        As for `layerprobe.data.load`. On a cluster, the folder of the calling process if it has set one.
    checkpoints : bool or collection of RunSpec
        Keep the weights of chosen epochs: of all runs, or of the runs given here and of runs that are stacked
        with one of them.
    stacked : bool, optional
        Train all runs of a pair that differ only in corruption, noise and seeds as one batched model in one
        process. By default on a GPU only; on a CPU separate processes are faster.
    report : ProgressCallback, optional
        Called in this process while runs are trained and when they end.

    Returns
    -------
    list of Outcome
        One for each spec, in their order.

    Raises
    ------
    InputError
        If `jobs` is below 1, this machine does not have the device, the cluster does not answer, or its
        packages are not installed.
    """
    kept = frozenset(specs if checkpoints is True else checkpoints or ())
    if world_size() > 1:
        return _train_in_turn(specs, root, kept, report, device=device, data_root=data_root)
    remove_all_left(specs, root)
    outcomes = {spec: outcome for spec in specs if (outcome := _finished(root, spec))}
    left = sorted({spec: 0 for spec in specs if spec not in outcomes}, key=_cost, reverse=True)
    stacked = torch.device(device).type == "cuda" if stacked is None else stacked
    tasks = groups(left) if stacked else [[spec] for spec in left]
    results = run_tasks(partial(_train_group, kept=kept), tasks, root, jobs, device, data_root)
    positions = [specs.index(spec) for spec in left]
    with follow_progress(partial(_progress, root, specs), positions, report) as update, closing(results):
        for group, result in results:
            ended = (
                [Outcome.of(spec, result) for spec in group] if isinstance(result, BaseException) else result
            )
            for spec, outcome in zip(group, ended, strict=True):
                outcomes[spec] = Outcome(spec, "trained") if is_done(run_folder(root, spec)) else outcome
                update(specs.index(spec), Progress(outcomes[spec].progress, *so_far(root, spec)))
    return [outcomes[spec] for spec in specs]


def remove_all_left(specs: Iterable[RunSpec], root: Location) -> None:
    """Remove what killed processes of this machine left in the folders of runs.

    Parameters
    ----------
    specs : iterable of RunSpec
    root : path
    """
    for spec in specs:
        remove_left(run_folder(root, spec))


def _train_group(
    group: list[RunSpec], *, root: Location, kept: Collection[RunSpec], session: Session, **options: Any
) -> list[Outcome]:
    """Train one run, or several as one model."""
    options |= {"checkpoints": any(spec in kept for spec in group), "session": session}
    options["on_epoch"] = lambda *_: session.check()
    results: Sequence[object]
    try:
        if len(group) > 1:
            results = execute_together(group, root, **options)
        else:
            results = [execute(group[0], root, **options)]
    except Exception as error:
        results = [error] * len(group)
    return [Outcome.of(spec, result) for spec, result in zip(group, results, strict=True)]


def _train_in_turn(
    specs: Sequence[RunSpec],
    root: Location,
    kept: Collection[RunSpec],
    report: ProgressCallback | None,
    **options: Any,
) -> list[Outcome]:
    """Train one run after another by all processes of a job; the first process reports."""

    def update(position: int, state: State, epoch: int, accuracy: float) -> None:
        if report and rank() == 0:
            report(position, Progress(state, epoch, accuracy))

    def on_epoch(position: int, epoch: Epoch) -> None:
        update(position, "training", epoch.epoch, epoch.train_accuracy)

    outcomes = []
    for position, spec in enumerate(specs):
        done = is_done(run_folder(root, spec))
        update(position, "training", *so_far(root, spec))
        execute(spec, root, on_epoch=partial(on_epoch, position), checkpoints=spec in kept, **options)
        update(position, "done", *so_far(root, spec))
        outcomes.append(Outcome(spec, "kept" if done else "trained"))
    return outcomes


def _progress(root: Location, specs: Sequence[RunSpec], position: int) -> Progress | None:
    spec = specs[position]
    return Progress("training", *so_far(root, spec)) if is_leased(run_folder(root, spec)) else None


def _finished(root: Location, spec: RunSpec) -> Outcome | None:
    """Return the outcome of a run that is done, "kept" if all of it can be read; None if it is not done."""
    folder = run_folder(root, spec)
    if not is_marked(folder):
        return None
    try:
        read_run(folder)
        check_weights(folder)
    except DataError as error:
        return Outcome(spec, "failed", str(error))
    return Outcome(spec, "kept")


def _cost(spec: RunSpec) -> float:
    """Return a sort key for durations: the operations of an epoch, more for more wrong labels."""
    return operations(spec) * (1 + (spec.corruption or 0))


def operations(spec: RunSpec) -> float:
    """Return the floating point operations of one epoch; infinite for a data set of unknown size."""
    one = pair(spec.pair)
    if one.dataset not in TEST_SIZES:
        return float("inf")
    test_size, _ = TEST_SIZES[one.dataset]
    # A backward pass costs two forward passes.
    passes = 3 * (spec.subset or one.train_size) + (spec.test_subset or test_size)
    return _forward_operations(spec.pair, spec.options) * passes


@cache
def _forward_operations(pair_name: str, options: tuple[tuple[str, Any], ...]) -> float:
    """Return the floating point operations of one forward pass of one image."""
    from torch.utils.flop_counter import FlopCounterMode

    _, shape = TEST_SIZES[pair(pair_name).dataset]
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        pair(pair_name).network(options).eval()(torch.empty(1, *shape))
    return counter.get_total_flops()
