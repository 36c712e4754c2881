"""Experiments on finished runs: each run's missing rows are measured once and kept in its folder."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from layerprobe.errors import DataError, ExperimentError, InputError
from layerprobe.paper.experiments import EXPERIMENTS
from layerprobe.paper.rows import COLUMNS, RUN, of_run, read_rows, rows_path, tidy, with_run, write_rows
from layerprobe.paper.run_outputs import FinishedRun
from layerprobe.runs.clusters import Cluster
from layerprobe.runs.folders import DONE, RECORD, Run, read_run, run_folder
from layerprobe.runs.grid import Outcome, jobs_on
from layerprobe.runs.leases import Sweep, is_locked, locked
from layerprobe.runs.processes import failure
from layerprobe.runs.scheduler import Location, Tell, data_for, sweep_through
from layerprobe.runs.specs import RunSpec
from layerprobe.training import Epoch

__all__ = ["analyse", "analyse_grid", "gather", "histories", "missing"]


def missing(spec: RunSpec, root: Location, experiments: Sequence[str]) -> list[str]:
    """Return which of these experiments suit a run and have no rows yet, in the registry's order.

    Raises
    ------
    InputError
        If there is no such experiment.
    """
    if unknown := sorted(set(experiments) - EXPERIMENTS.keys()):
        raise InputError(f"Unknown experiments {', '.join(unknown)}. Available: {', '.join(EXPERIMENTS)}.")
    folder = run_folder(root, spec)
    return [
        name
        for name, experiment in EXPERIMENTS.items()
        if name in experiments and experiment.suits(spec) and not rows_path(folder, name).exists()
    ]


def analyse(
    spec: RunSpec,
    root: Location,
    experiments: Sequence[str],
    *,
    data_root: Location | None = None,
    device: str = "cpu",
    on_experiment: Callable[[str], object] | None = None,
    sweep: Sweep | None = None,
) -> None:
    """Do those experiments on a finished run that suit it and were not done before.

    One capture pass serves all of them. Each experiment's rows are on disk as soon as it ends, with the
    seconds that it took as a row of the metric "experiment_seconds".

    Parameters
    ----------
    spec : RunSpec
        The run.
    root : path
        The folder of all runs.
    experiments : sequence of str
        Names in `EXPERIMENTS`.
    data_root : path, optional
        As in `layerprobe.data.load`.
    device : str
        Where networks run.
    on_experiment : callable, optional
        Called with each experiment's name before it begins.
    sweep : Sweep, optional
        The command that this is part of, whose lost workers' runs are taken over.

    Raises
    ------
    BusyError
        If another process has this run in its hands.
    DataError
        If the run is not done, or its data are not there.
    ExperimentError
        If experiments cannot be done on this run; the others are done and kept.
    """
    folder = run_folder(root, spec)
    if not (folder / DONE).exists():
        raise DataError(f"{folder}: this run is not done, so nothing can be measured on it. Train it first.")
    with locked(folder, sweep) as claim:
        names = missing(spec, root, experiments)
        finished = FinishedRun.of(spec, root, data_root=data_root, device=device) if names else None
        failed: list[Exception] = []
        said: list[str] = []
        for name in names:
            if on_experiment:
                on_experiment(name)
            start = time.perf_counter()
            try:
                rows = EXPERIMENTS[name].measure(finished)  # type: ignore[arg-type]  # there is one for a name
            except Exception as error:  # what is wrong with one experiment must not end the others
                failed.append(error)
                said.append(f"{name}: {failure(error)[0]}")
                continue
            took = {"experiment": name, "metric": "experiment_seconds", "value": time.perf_counter() - start}
            claim.check()
            write_rows(folder, name, pd.concat([rows, tidy([took])], ignore_index=True))
    if failed:
        raise ExperimentError("; ".join(said)) from failed[0]


def analyse_grid(
    work: Mapping[RunSpec, Sequence[str]],
    root: Location,
    *,
    jobs: int | None = None,
    cluster: Cluster | None = None,
    data_root: Location | None = None,
    device: str = "cpu",
    tell: Tell | None = None,
) -> list[Outcome]:
    """Do experiments on many runs, each run in a process of one thread; a failure does not disturb others.

    Parameters
    ----------
    work : mapping of RunSpec to sequence of str
        The experiments to do on each run.
    root, jobs, cluster, data_root, device
        As for `layerprobe.paper.train_grid`.
    tell : Tell, optional
        Called as runs begin, with each experiment's position, and as they end; must be picklable.

    Returns
    -------
    list of Outcome
        One for each run, in order; "kept" where nothing was missing.
    """
    jobs = jobs_on(device, jobs, cluster)
    root = Path(root).absolute() if cluster else root
    outcomes: dict[RunSpec, Outcome] = {}
    left: list[_Missing] = []
    for position, (spec, experiments) in enumerate(work.items()):
        if names := missing(spec, root, experiments):
            left.append(_Missing(position, spec, names))
        else:
            outcomes[spec] = Outcome(spec, "kept")
    of_position = {unit.position: unit for unit in left}
    swept = sweep_through(
        partial(_analyse_one, root=root, data_root=data_for(cluster, data_root), device=device),
        left,
        root,
        jobs=jobs,
        cluster=cluster,
        device=device,
        where=lambda position: _where(root, of_position[position]),
        positions=of_position,
        tell=tell,
    )
    with closing(swept):
        for unit, result, told in swept:
            error, trace, busy = failure(result) if isinstance(result, Exception) else result
            state: Any = "busy" if busy else "failed" if error else "trained"
            outcomes[unit.spec] = Outcome(unit.spec, state, error, trace)
            told(unit.position, "failed" if error else "done", 0, 1.0)
    return [outcomes[spec] for spec in work]


@dataclass(frozen=True)
class _Missing:
    """The experiments that a run lacks."""

    position: int
    spec: RunSpec
    names: list[str]


def _analyse_one(
    unit: _Missing, *, root: Location, data_root: Location | None, device: str, sweep: Sweep, tell: Tell
) -> tuple[str, str, bool]:
    begun = 0

    def on_experiment(_: str) -> None:
        nonlocal begun
        begun += 1
        sweep.check()  # nobody may wait for this run any more
        tell(unit.position, "analysing", begun, (begun - 1) / len(unit.names))

    options = {"data_root": data_root, "device": device, "on_experiment": on_experiment, "sweep": sweep}
    try:
        analyse(unit.spec, root, unit.names, **options)  # type: ignore[arg-type]
    except Exception as error:  # one run's failure must not end the others
        return failure(error)
    return failure(None)


def _where(root: Location, unit: _Missing) -> tuple[str, int, float] | None:
    """Return what a run's folder says of its experiments; None if nobody does them."""
    if not is_locked(run_folder(root, unit.spec)):
        return None
    done = len(unit.names) - len(missing(unit.spec, root, unit.names))
    return "analysing", done + 1, done / len(unit.names)


def gather(specs: Sequence[RunSpec], root: Location) -> pd.DataFrame:
    """Return the rows of all experiments done on these runs, with all of `layerprobe.paper.rows.COLUMNS`."""
    frames = []
    for spec in specs:
        folder = run_folder(root, spec)
        names = [name for name in EXPERIMENTS if rows_path(folder, name).exists()]
        if names and (run := _readable(folder)):
            frames += [of_run(run, read_rows(folder, name)) for name in names]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=COLUMNS)


def _readable(folder: Path) -> Run | None:
    """Return a run; None if its files are damaged, which `layerprobe.paper.status` shows."""
    try:
        return read_run(folder)
    except DataError:
        return None


def histories(specs: Sequence[RunSpec], root: Location) -> pd.DataFrame:
    """Return the training histories of those of these runs that are done, one row an epoch.

    The last epoch so far of a run that goes on is nobody's result.

    Columns: those that say which run it is, those of `layerprobe.training.Epoch`, and target, the running
    training accuracy at which the run was to stop.
    """
    frames = []
    for spec in specs:
        folder = run_folder(root, spec)
        if (folder / RECORD).exists() and (run := _readable(folder)) and run.done:
            frames.append(with_run(run.spec, run.history).assign(target=spec.recipe.target))
    columns = [*RUN, *(field.name for field in fields(Epoch)), "target"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)
