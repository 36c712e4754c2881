"""A grid of runs on the terminal: names, states, progress, failures."""

import json as jsonlib
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from layerprobe.report.progress import in_words, show_progress
from layerprobe.runs.folders import run_folder
from layerprobe.runs.grid import Outcome
from layerprobe.runs.progress import ProgressCallback
from layerprobe.runs.specs import RunSpec
from layerprobe.utils.terminal import print_table, say


@contextmanager
def run_progress(
    specs: Sequence[RunSpec], root: str | os.PathLike[str], *, training: bool
) -> Iterator[ProgressCallback]:
    """Show the progress of runs on stderr, by a callback; when interrupted, print how to resume.

    Parameters
    ----------
    specs, root, training
        Whether the runs are trained, or analysed.
    """
    last_epochs = [spec.recipe.max_epochs for spec in specs] if training else None
    try:
        with show_progress(list(map(run_name, specs)), last_epochs=last_epochs, training_share=1) as report:
            yield report
    except KeyboardInterrupt:
        kept = f"Complete epochs and results are kept in {root}"
        say(f"{kept}; the same command continues from there.", error=True)
        raise


def run_name(spec: RunSpec) -> str:
    """Return the name of a run in messages."""
    degree = spec.noise if spec.corruption is None else f"p = {spec.corruption:g}"
    seed = "" if spec.seed is None else f", seed {spec.seed}"
    return f"{spec.pair}, {degree}{seed}"


def counts(rows: pd.DataFrame) -> str:
    """Return the number of runs per state, as "3 runs: 1 done, 2 missing"."""
    states = rows["state"].value_counts(sort=False)
    runs = "1 run" if len(rows) == 1 else f"{len(rows)} runs"
    return f"{runs}: {', '.join(f'{number} {state}' for state, number in states.items())}"


def disk(needed: int, root: Path) -> str:
    """Return the bytes that runs need at most, and those that are free, in words.

    Parameters
    ----------
    needed, root
        The folder of all runs may not exist yet.
    """
    place = next(path for path in (root.resolve(), *root.resolve().parents) if path.exists())
    free = shutil.disk_usage(place).free
    warning = ": TOO LITTLE" if free < needed else ""
    return f"at most {needed / 1e9:.2f} GB of disk space; {free / 1e9:.1f} GB are free{warning}"


def print_states(rows: pd.DataFrame) -> None:
    """Print the rows of `layerprobe.runs.states.status`, one table per variant."""
    from rich.box import SIMPLE_HEAD

    columns, numbers = ("pair", "p", "seed", "state"), ("epochs", "train %", "test %", "time")
    look: dict[str, Any] = {"box": SIMPLE_HEAD, "pad_edge": False, "collapse_padding": True}
    for variant, of_variant in rows.fillna({"variant": ""}).groupby("variant", sort=False):
        lines = [_line(row) for row in of_variant.itertuples(index=False)]
        print_table((*columns, *numbers), lines, right=numbers, title=variant, **look)
    for reason in rows["reason"][rows["reason"] != ""]:
        say(f"unreadable: {reason}")


def _line(row: Any) -> list[str]:
    degree = "" if pd.isna(row.corruption) else f"{row.corruption:g}"
    seed = "" if pd.isna(row.seed) else str(row.seed)
    numbers = [""] * 4
    if row.epochs:
        percent = (f"{100 * accuracy:.1f}" for accuracy in (row.train_accuracy, row.test_accuracy))
        numbers = [str(row.epochs), *percent, in_words(row.seconds)]
    return [row.pair, degree, seed, _state(row), *numbers]


def _state(row: Any) -> str:
    if row.state == "resumable":
        return f"resumable, epoch {row.epochs}"
    if row.state == "done" and row.epochs and not math.isfinite(row.loss):
        return "diverged"
    below = row.state == "done" and not pd.isna(row.memorised) and not row.memorised
    return "below target" if below else row.state


def unfinished(rows: pd.DataFrame) -> str:
    """Return in one line which runs are not done, for example since other processes hold them; else empty."""
    left = rows[rows["state"] != "done"]
    if left.empty:
        return ""
    held = " when no other process trains them" if (left["state"] == "running").any() else " them"
    return f"not done: {counts(left)}; the same command continues{held}"


def failures(outcomes: Sequence[Outcome]) -> list[str]:
    """Return one line per error, with the runs that failed by it."""
    failed: dict[str, dict[RunSpec, None]] = {}  # each run once: its training and its rows may both fail
    for outcome in outcomes:
        if outcome.error:
            failed.setdefault(outcome.error, {})[outcome.spec] = None
    return [
        run_name(next(iter(runs))) + (f" and {len(runs) - 1} more" if len(runs) > 1 else "") + f": {error}"
        for error, runs in failed.items()
    ]


def show_grid(root: Path, rows: pd.DataFrame, outcomes: Sequence[Outcome] = (), *, json: bool) -> None:
    """Print the states of a grid's runs, as a table or as JSON.

    Parameters
    ----------
    root, rows, outcomes
        Rows of `layerprobe.runs.states.status`, and the outcomes of some of the runs.
    json : bool
        A failed run then has an error and a traceback.
    """
    if json:
        finite = rows.replace([math.inf, -math.inf], math.nan)  # JSON has no infinity
        runs = finite.astype(object).where(finite.notna(), None).to_dict("records")
        errors = {str(run_folder("", outcome.spec)): outcome for outcome in outcomes if outcome.error}
        for run in runs:
            if run["state"] != "done" and (outcome := errors.get(run["folder"])):
                run |= {"error": outcome.error, "traceback": outcome.traceback}
        say(jsonlib.dumps({"root": str(root), "runs": runs}, indent=2))
    elif rows.empty:
        say(f"No runs in {root}.")
    else:
        print_states(rows)
        say(f"{counts(rows)}.")
