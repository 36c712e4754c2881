"""A grid of runs in words: what is to be done, where it stands, what failed."""

import json as jsonlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from layerprobe.report.progress import in_words
from layerprobe.runs.folders import run_folder
from layerprobe.runs.grid import Outcome
from layerprobe.runs.specs import RunSpec

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["counts", "disk", "document", "failures", "run_name", "show_grid", "tables"]


def run_name(spec: RunSpec) -> str:
    """Return what a run is called in one line."""
    degree = spec.noise if spec.corruption is None else f"p = {spec.corruption:g}"
    seed = "" if spec.seed is None else f", seed {spec.seed}"
    return f"{spec.pair}, {degree}{seed}"


def counts(rows: pd.DataFrame) -> str:
    """Return how many runs are in which state, as "3 runs: 1 done, 2 missing"."""
    states = rows["state"].value_counts(sort=False)
    runs = "1 run" if len(rows) == 1 else f"{len(rows)} runs"
    return f"{runs}: {', '.join(f'{number} {state}' for state, number in states.items())}"


def disk(needed: int, root: Path) -> str:
    """Return the disk space that runs need beside what is free where they will be."""
    import shutil

    place = next(path for path in (root.resolve(), *root.resolve().parents) if path.exists())
    free = shutil.disk_usage(place).free
    warning = ": TOO LITTLE" if free < needed else ""
    return f"at most {needed / 1e9:.2f} GB of disk space; {free / 1e9:.1f} GB are free{warning}"


def tables(rows: pd.DataFrame) -> "list[Table]":
    """Return the rows of `layerprobe.runs.states.status` for a terminal, one table a variant."""
    return [_table(of_variant, variant) for variant, of_variant in rows.groupby("variant", sort=False)]


def _table(rows: pd.DataFrame, title: Any) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    result = Table(
        title=title or None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    for name in ("pair", "p", "seed", "state"):
        result.add_column(name)
    for name in ("epochs", "train %", "test %", "time"):
        result.add_column(name, justify="right")
    row: Any
    for row in rows.itertuples(index=False):
        degree = "" if pd.isna(row.corruption) else f"{row.corruption:g}"
        seed = "" if pd.isna(row.seed) else str(row.seed)
        numbers = []
        if row.epochs:
            percent = (f"{100 * accuracy:.1f}" for accuracy in (row.train_accuracy, row.test_accuracy))
            numbers = [str(row.epochs), *percent, in_words(row.seconds)]
        result.add_row(row.pair, degree, seed, _state(row), *numbers)
    return result


def _state(row: Any) -> str:
    if row.state == "resumable":
        return f"resumable, epoch {row.epochs}"
    return "below target" if row.state == "done" and not row.memorised else row.state


def failures(outcomes: Sequence[Outcome]) -> list[str]:
    """Return one line for each error, with the runs that it befell."""
    befell: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.error:
            befell.setdefault(outcome.error, []).append(outcome)
    return [
        run_name(runs[0].spec) + (f" and {len(runs) - 1} more: " if len(runs) > 1 else ": ") + error
        for error, runs in befell.items()
    ]


def document(root: Path, rows: pd.DataFrame, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return a grid for a machine, JSON-able: its rows; a failed run also has an error and a traceback."""
    runs = rows.astype(object).where(rows.notna(), None).to_dict("records")
    went_wrong = {str(run_folder("", outcome.spec)): outcome for outcome in outcomes if outcome.error}
    for run in runs:
        if run["state"] != "done" and (outcome := went_wrong.get(run["folder"])):
            run |= {"error": outcome.error, "traceback": outcome.traceback}
    return {"root": str(root), "runs": runs}


def show_grid(root: Path, rows: pd.DataFrame, outcomes: Sequence[Outcome] = (), *, json: bool) -> None:
    """Print where a grid stands, as a table or as JSON."""
    if json:
        print(jsonlib.dumps(document(root, rows, outcomes), indent=2))
    elif rows.empty:
        print(f"No runs in {root}.")
    else:
        from rich.console import Console

        Console().print(*tables(rows))
        print(f"{counts(rows)}.")
