"""The paper again, in one go: train, measure, then tables, figures and one page with all of it."""

import json as jsonlib
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from layerprobe.errors import InputError
from layerprobe.figures import save
from layerprobe.pages import write_report
from layerprobe.paper import published
from layerprobe.paper.analysis import analyse_grid, gather, histories, missing
from layerprobe.paper.estimates import seconds_left
from layerprobe.paper.figures import FIGURES, FigureSpec
from layerprobe.paper.plans import Plan
from layerprobe.paper.tables import TABLES, Table, caption, readable, verdict_counts, write_table
from layerprobe.report.progress import in_words
from layerprobe.report.run_tables import counts, disk, run_progress
from layerprobe.runs.clusters import Cluster
from layerprobe.runs.folders import DONE, run_folder
from layerprobe.runs.grid import Outcome, train_grid
from layerprobe.runs.scheduler import Jobs, Location
from layerprobe.runs.specs import RunSpec
from layerprobe.runs.states import disk_needed, runs_in, status
from layerprobe.training import provenance
from layerprobe.utils.files import replace_file

__all__ = [
    "Results",
    "Written",
    "announce",
    "known",
    "reproduce",
    "write_all",
    "write_figures",
    "write_tables",
]

SMALL = (
    "Small scale: fixed subsets of the training images, fewer seeds, optimiser settings of its own. "
    "These numbers are ours and not comparable to the published ones without this in mind. "
)


@dataclass(frozen=True, eq=False)
class Results:
    """What was measured on runs.

    Attributes
    ----------
    rows : DataFrame
        Of all experiments, with the columns `layerprobe.paper.rows.COLUMNS`.
    history : DataFrame
        Of all training, one row an epoch.
    """

    rows: pd.DataFrame
    history: pd.DataFrame

    @property
    def pairs(self) -> set[str]:
        """The pairs of which something was trained or measured."""
        return {*self.rows["pair"], *self.history["pair"]}

    @classmethod
    def of_runs(cls, specs: Sequence[RunSpec], root: Location) -> "Results":
        """Read what is there of these runs."""
        return cls(gather(specs, root), histories(specs, root))

    @classmethod
    def of_root(cls, root: Location) -> "Results":
        """Read every run under a root.

        Raises
        ------
        InputError
            If there is none.
        """
        specs = runs_in(root)
        if not specs:
            raise InputError(f"no runs in {root}; train some, or name another --root")
        return cls.of_runs(specs, root)

    def only(self, specs: Sequence[RunSpec]) -> "Results":
        """Return what was measured on these runs."""
        keys = [spec.key[:12] for spec in specs]
        return Results(*(frame[frame["key"].isin(keys)] for frame in (self.rows, self.history)))

    def lacks(self, entry: Table | FigureSpec) -> str:
        """Return in words what is missing for a table or a figure, or nothing."""
        absent = sorted(set(entry.needs) - set(self.rows["experiment"]))
        if absent:
            return f"there are no rows of {', '.join(absent)}"
        from_history = entry.needs_history if isinstance(entry, Table) else entry.history
        return "nothing was trained" if from_history and self.history.empty else ""


@dataclass(frozen=True)
class Written:
    """What was written, by name, and why the rest was left out."""

    made: dict[str, Any]
    left_out: dict[str, str]

    def add(self, other: "Written") -> None:
        """Take in what another call wrote."""
        self.made.update(other.made)
        self.left_out.update(other.left_out)


def write_tables(
    results: Results, names: Sequence[str] | None, out: Location, pairs: Collection[str] | None = None
) -> Written:
    """Write tables as CSV, Markdown and LaTeX; None means all whose experiments were done.

    A table shows these pairs, with what was published of them; by default those that something was done on.

    Raises
    ------
    InputError
        If there is no such table.
    """
    written = Written({}, {})
    for name in known(names, TABLES, "table"):
        table = TABLES[name]
        if reason := results.lacks(table):
            written.left_out[name] = reason
            continue
        frame = table.build(results.rows, results.history)
        frame = frame[frame["pair"].isin(results.pairs if pairs is None else pairs)].reset_index(drop=True)
        if frame.empty:
            written.left_out[name] = "no run shows it"
            continue
        write_table(name, frame, out)
        written.made[name] = frame
    return written


def write_figures(results: Results, names: Sequence[str] | None, out: Location) -> Written:
    """Draw figures as PNG, SVG and PDF; None means all whose experiments were done.

    Raises
    ------
    InputError
        If there is no such figure.
    """
    written = Written({}, {})
    for name in known(names, FIGURES, "figure"):
        figure = FIGURES[name]
        if reason := results.lacks(figure):
            written.left_out[name] = reason
            continue
        beside = published.table1() if figure.published else None
        try:
            drawn = figure.draw(results.rows, results.history, published=beside)
        except InputError as error:
            written.left_out[name] = str(error)
            continue
        Path(out).mkdir(parents=True, exist_ok=True)
        save(drawn, Path(out, name), formats=("png", "svg", "pdf"))
        written.made[name] = drawn
    return written


def known(names: Sequence[str] | None, registry: Mapping[str, Any], kind: str) -> list[str]:
    """Return these names, each once, or all; raise InputError if one is not in the registry."""
    if names is None:
        return list(registry)
    if unknown := [name for name in names if name not in registry]:
        raise InputError(f"No {kind} {', '.join(unknown)}. Available: {', '.join(registry)}.")
    return list(dict.fromkeys(names))


def announce(plan: Plan, root: Path, jobs: Jobs) -> str:
    """Return in words what a plan will take here or on a cluster: runs, experiments, time and disk space."""
    specs = list(plan.work)
    left = [spec for spec in specs if not (run_folder(root, spec) / DONE).exists()]
    to_measure = sum(len(missing(spec, root, names)) for spec, names in plan.work.items())
    kept = [spec for spec in left if spec in plan.checkpoints]
    others = [spec for spec in left if spec not in plan.checkpoints]
    cluster = jobs if isinstance(jobs, Cluster) else None
    at_once = len(left) if isinstance(jobs, Cluster) else jobs
    needed = disk_needed(others, jobs=at_once, checkpoints=False) + disk_needed(
        kept, jobs=at_once, checkpoints=True
    )
    seconds = seconds_left(left, root) / (1 if cluster else max(1, min(at_once, len(left))))
    where = "here" if cluster is None else "on one core like this one's"
    training = (
        f"about {in_words(seconds)} of training {where} (a rough guess), experiments beside"
        if left
        else "nothing to train"
    )
    words = f"Scale {plan.scale.name}. {counts(status(root, specs))}. {to_measure} experiments to do. "
    number = f"{jobs} at a time" if cluster is None else f"As many at a time as {cluster} has workers"
    return f"{words}{number}: {training}, {disk(needed, root)}."


def reproduce(
    plan: Plan,
    root: Path,
    out: Path,
    *,
    jobs: Jobs | None = None,
    device: str = "cpu",
    data_root: Location | None = None,
) -> list[Outcome]:
    """Do everything of a plan that is missing, and write its tables, figures and report.

    Whatever interrupts it, the same call goes on where it was. Tables and figures are written at the end,
    from what is there: runs that failed appear as "not run".

    Parameters
    ----------
    plan : Plan
        What to do.
    root : Path
        The folder of all runs.
    out : Path
        Gets tables/, figures/, report.html, rows.csv, history.csv and provenance.json.
    jobs, device, data_root
        As for `layerprobe.paper.train_grid`.

    Returns
    -------
    list of Outcome
        The runs and experiments that failed.
    """
    start = time.perf_counter()
    specs = list(plan.work)
    left = [spec for spec in specs if not (run_folder(root, spec) / DONE).exists()]
    options: dict[str, Any] = {"jobs": jobs, "device": device, "data_root": data_root}
    outcomes: list[Outcome] = []
    if left:
        with run_progress(left, root, training=True) as report:
            outcomes += train_grid(left, root, checkpoints=plan.checkpoints, report=report, **options)
    work = {
        spec: names
        for spec, wanted in plan.work.items()
        if (run_folder(root, spec) / DONE).exists() and (names := missing(spec, root, wanted))
    }
    with run_progress(list(work), root, training=False) as report:
        outcomes += analyse_grid(work, root, report=report, **options)
    write_all(plan, root, out, seconds=time.perf_counter() - start)
    return [outcome for outcome in outcomes if outcome.error]


def write_all(plan: Plan, root: Path, out: Path, *, seconds: float = 0.0) -> bool:
    """Write tables, figures and report of a plan from what is there; return whether there was anything."""
    results = Results.of_runs(list(plan.work), root)
    tables, figures = Written({}, {}), Written({}, {})
    pairs = {spec.pair for spec in plan.work}
    for name in plan.targets:
        own = results.only(plan.shown[name])
        if name in TABLES:
            tables.add(write_tables(own, [name], out / "tables", pairs))
        if name in FIGURES:
            figures.add(write_figures(own, [name], out / "figures"))
    for name, reason in {**tables.left_out, **figures.left_out}.items():
        print(f"{name} is left out: {reason}", file=sys.stderr)
    if not tables.made and not figures.made:
        return False
    out.mkdir(parents=True, exist_ok=True)
    for name, frame in (("rows", results.rows), ("history", results.history)):
        replace_file(out / f"{name}.csv", frame.to_csv(index=False).encode())
    how = record(plan, root, results.rows) | {"seconds_of_this_call": round(seconds)}
    replace_file(out / "provenance.json", (jsonlib.dumps(how, indent=1) + "\n").encode())
    small = SMALL if plan.scale.name == "small" else ""
    write_report(
        out / "report.html",
        title=f"Decoding generalization from memorization, {plan.scale.name} scale",
        finding=small + finding(tables.made),
        figures={
            f"{FIGURES[name].title}. {FIGURES[name].caption}": drawn for name, drawn in figures.made.items()
        },
        tables={
            "Beside the published numbers": comparisons(tables.made),
            **{caption(name, frame): readable(frame) for name, frame in tables.made.items()},
        },
        provenance={name: value for name, value in how.items() if name != "runs"},
        appendix={"Runs": status(root, list(plan.work)).drop(columns="folder")},
    )
    return True


def finding(tables: Mapping[str, pd.DataFrame]) -> str:
    """Say in a sentence or two how MASC stands beside the network itself, whatever it is."""
    said = []
    for name, labels in (("table1", "the noisy labels"), ("table5", "the true labels")):
        if name in tables:
            cells = tables[name].dropna(subset="ours")
            cells = cells[(cells["corruption"] > 0) & (cells["corruption"] < 1)]
            wide = cells.pivot_table("ours", ["pair", "corruption", "variant"], "quantity")
            best, hidden = ((wide[which] > wide["network"]).sum() for which in ("masc", "masc_hidden"))
            said.append(
                f"MASC fitted on {labels} is right more often than the network itself in {best} of "
                f"{len(wide)} cells with noise below 100 %; in {hidden} of them on a hidden layer too, the "
                "raw input left out."
            )
    return " ".join(said) or "Every table and figure that was asked for."


def comparisons(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return how the comparisons with published numbers end, table by table."""
    said = {name: verdict_counts(frame) for name, frame in tables.items()}
    rows = [
        {"table": TABLES[name].title, "verdicts": part}
        for name, words in said.items()
        for part in filter(None, words.split("; "))
    ]
    return pd.DataFrame(rows, columns=["table", "verdicts"])


def record(plan: Plan, root: Path, measured: pd.DataFrame) -> dict[str, Any]:
    """Return how the results of a plan came about, JSON-able; `measured` are its rows."""
    rows = status(root, list(plan.work))
    took = measured.loc[measured["metric"] == "experiment_seconds", "value"]
    return {
        "scale": plan.scale.name,
        "targets": list(plan.targets),
        "runs": [
            {"pair": spec.pair, "key": spec.key, "state": state, "spec": spec.to_dict()}
            for spec, state in zip(plan.work, rows["state"], strict=True)
        ],
        "training_seconds": round(float(rows["seconds"].sum())),
        "experiment_seconds": round(float(took.sum())),
        **provenance(),
    }
