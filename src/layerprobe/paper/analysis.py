"""Experiments on finished runs: missing rows are measured once and kept in the folder of the run."""

import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from layerprobe.errors import DataError, ExperimentError
from layerprobe.paper.experiments import EXPERIMENTS, experiment_of, origin_of
from layerprobe.paper.rows import (
    COLUMNS,
    RUN,
    check_rows,
    kind_of,
    read_rows,
    rows_path,
    tidy,
    with_run,
    write_rows,
)
from layerprobe.paper.run_outputs import FinishedRun
from layerprobe.runs.folders import is_done, is_marked, read_record, read_run, run_folder, write_record
from layerprobe.runs.grid import Outcome, remove_all_left
from layerprobe.runs.leases import Session, acquire, is_leased, remove_unfinished
from layerprobe.runs.progress import Progress, ProgressCallback, follow_progress
from layerprobe.runs.scheduler import Jobs, Location, renamed_arguments, run_tasks
from layerprobe.runs.specs import RunSpec
from layerprobe.training import Epoch


def missing(spec: RunSpec, root: Location, experiments: Sequence[str]) -> list[str]:
    """Return the experiments that apply to a run and have no rows yet, in the order of the registry.

    Parameters
    ----------
    spec : RunSpec
    root : path
    experiments : sequence of str
        Names in `EXPERIMENTS`.

    Raises
    ------
    InputError
        If there is no such experiment.
    """
    wanted = {name: experiment_of(name) for name in dict.fromkeys(experiments)}
    applied = [name for name in _in_order(wanted) if wanted[name].applies(spec)]
    return [name for name in applied if not rows_path(run_folder(root, spec), name).exists()]


def _in_order(experiments: Iterable[str]) -> list[str]:
    """Return names of experiments in the order of the registry, unknown ones at the end."""
    places = {name: place for place, name in enumerate(EXPERIMENTS)}
    return sorted(experiments, key=lambda name: (places.get(name, len(places)), name))


def analyse(
    spec: RunSpec,
    root: Location,
    experiments: Sequence[str],
    *,
    data_root: Location | None = None,
    device: str = "cpu",
    on_experiment: Callable[[str], object] | None = None,
    session: Session | None = None,
) -> None:
    """Do the missing experiments on a finished run.

    One capture pass serves all of them. The rows of an experiment are written when it ends, with its duration
    as a row of the metric "experiment_seconds".

    Parameters
    ----------
    spec : RunSpec
    root : path
    experiments : sequence of str
        Names in `EXPERIMENTS`.
    data_root, device
        As for `layerprobe.paper.train_grid`.
    on_experiment : callable, optional
        Called with the name of each experiment before it starts.
    session : Session, optional
        The command that this is part of; runs of its lost workers are taken over.

    Raises
    ------
    BusyError
        If another process works on this run.
    DataError
        If the run is not done, or its data are missing.
    ExperimentError
        If an experiment failed; the others are done and kept.
    """
    folder = run_folder(root, spec)
    if not is_done(folder):
        raise DataError(f"{folder}: this run is not done, so nothing can be measured on it. Train it first.")
    with acquire(folder, session) as lease:
        remove_unfinished(folder)
        names = missing(spec, root, experiments)
        finished = FinishedRun.of(spec, root, data_root=data_root, device=device) if names else None
        failed: dict[str, Exception] = {}  # by message
        for name in names:
            if on_experiment:
                on_experiment(name)
            start = time.perf_counter()
            try:
                rows = experiment_of(name).measure(finished)  # type: ignore[arg-type]  # read if there are names
                check_rows(rows, name)
            except Exception as error:  # a failed experiment must not end the others
                failed[f"{name}: {Outcome.of(spec, error).error}{_own_line(error, name)}"] = error
                continue
            took = {"metric": "experiment_seconds", "value": time.perf_counter() - start}
            lease.check()
            timed = [rows, tidy([{"experiment": kind_of(name), **took}])]
            write_rows(folder, name, pd.concat(timed, ignore_index=True))
            if origin := origin_of(name):
                record = read_record(folder)
                origins = {**record.get("experiments", {}), name: origin}
                write_record(folder, {**record, "experiments": origins})
    if failed:
        raise ExperimentError("; ".join(failed)) from next(iter(failed.values()))


def _own_line(error: BaseException | None, name: str) -> str:
    """Return the last line that an error passed in the module of an experiment or probe of the user."""
    file = getattr(sys.modules.get(origin_of(name).get("module", "")), "__file__", None)
    while error:
        if lines := [one for one in traceback.extract_tb(error.__traceback__) if one.filename == file]:
            return f" ({Path(lines[-1].filename).name}, line {lines[-1].lineno}, in {lines[-1].name})"
        error = error.__cause__
    return ""


@renamed_arguments(tell="report", cluster="jobs")
def analyse_grid(
    work: Mapping[RunSpec, Sequence[str]],
    root: Location,
    *,
    jobs: Jobs | None = None,
    data_root: Location | None = None,
    device: str = "cpu",
    report: ProgressCallback | None = None,
) -> list[Outcome]:
    """Do experiments on many runs, each run in a process of one thread; a failure does not end the others.

    Parameters
    ----------
    work : mapping of RunSpec to sequence of str
        The experiments to do on each run.
    root, jobs, data_root, device
        As for `layerprobe.paper.train_grid`.
    report : ProgressCallback, optional
        Called in this process while runs are analysed and when they end.

    Returns
    -------
    list of Outcome
        One for each run, in order; "kept" where nothing was missing.
    """
    specs = list(work)
    remove_all_left(specs, root)
    wanted = {spec: names for spec in specs if (names := missing(spec, root, work[spec]))}
    outcomes = {spec: Outcome(spec, "kept") for spec in specs if spec not in wanted}
    results = run_tasks(_analyse_one, list(wanted.items()), root, jobs, device, data_root)
    positions = [specs.index(spec) for spec in wanted]
    read = partial(_progress, root, specs, wanted)
    with follow_progress(read, positions, report) as update, closing(results):
        for (spec, _), result in results:
            outcomes[spec] = Outcome.of(spec, result) if isinstance(result, BaseException) else result
            update(specs.index(spec), Progress("failed" if outcomes[spec].error else "done", share=1.0))
    return [outcomes[spec] for spec in specs]


def _analyse_one(
    task: tuple[RunSpec, Sequence[str]], *, root: Location, session: Session, **options: Any
) -> Outcome:
    spec, names = task
    try:
        analyse(spec, root, names, on_experiment=lambda _: session.check(), session=session, **options)
    except Exception as error:  # a failed run must not end the others
        return Outcome.of(spec, error)
    return Outcome(spec, "trained")


def _progress(
    root: Location, specs: Sequence[RunSpec], wanted: Mapping[RunSpec, Sequence[str]], position: int
) -> Progress | None:
    spec = specs[position]
    if not is_leased(run_folder(root, spec)):
        return None
    done = len(wanted[spec]) - len(missing(spec, root, wanted[spec]))
    return Progress("analysing", done + 1, done / len(wanted[spec]))


def gather(specs: Sequence[RunSpec], root: Location, damaged: list[Outcome] | None = None) -> pd.DataFrame:
    """Return the rows of all experiments on runs, with the columns `layerprobe.paper.rows.COLUMNS`.

    Parameters
    ----------
    specs : sequence of RunSpec
        The runs; those without rows are left out.
    root : path
    damaged : list of Outcome, optional
        Gets an outcome for each run and each file of rows that cannot be read.
    """
    frames, bad = [], list[Outcome]() if damaged is None else damaged
    for spec in specs:
        folder = run_folder(root, spec)
        if not (names := _in_order(path.stem for path in folder.glob("rows/*.csv"))):
            continue
        try:
            run = read_run(folder)
        except DataError as error:
            bad.append(Outcome.of(spec, error))
            continue
        for name in names:
            try:
                frames.append(with_run(run.spec, read_rows(folder, name))[COLUMNS])
            except DataError as error:
                bad.append(Outcome.of(spec, error))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=COLUMNS)


def histories(specs: Sequence[RunSpec], root: Location, damaged: list[Outcome] | None = None) -> pd.DataFrame:
    """Return the training histories of the finished runs among these, one row per epoch.

    Parameters
    ----------
    specs : sequence of RunSpec
        The runs; unfinished and damaged ones are left out.
    root : path
    damaged : list of Outcome, optional
        Gets an outcome for each run that cannot be read.

    Returns
    -------
    DataFrame
        The columns of `RUN`, those of `layerprobe.training.Epoch`, and target, the running training accuracy
        at which training stops.
    """
    frames, bad = [], list[Outcome]() if damaged is None else damaged
    for spec in specs:
        try:
            if is_marked(run_folder(root, spec)):
                run = read_run(run_folder(root, spec))
                frames.append(with_run(run.spec, run.history).assign(target=spec.recipe.target))
        except DataError as error:
            bad.append(Outcome.of(spec, error))
    columns = [*RUN, *(field.name for field in fields(Epoch)), "target"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)
