"""A reproduction of the paper: train, measure, and write tables, figures and one page."""

import json as jsonlib
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from layerprobe.errors import DataError, InputError, MissingRowsError, unknown_name
from layerprobe.figures import save
from layerprobe.pages import write_html
from layerprobe.paper import published
from layerprobe.paper.analysis import analyse_grid, gather, histories, missing
from layerprobe.paper.claims import VERDICT_RULE, claims_table
from layerprobe.paper.figures import FIGURES, FigureSpec
from layerprobe.paper.plans import ReproductionPlan, seconds_left
from layerprobe.paper.run_outputs import check_network
from layerprobe.paper.selection import direction
from layerprobe.paper.tables import TABLES, Table, caption, readable, verdict_counts, write_table
from layerprobe.report.progress import in_words
from layerprobe.report.run_tables import counts, disk, failures, run_progress
from layerprobe.runs.data import run_data
from layerprobe.runs.folders import is_done, run_folder
from layerprobe.runs.grid import Outcome, remove_all_left, train_grid
from layerprobe.runs.scheduler import Cluster, Jobs, Location, renamed_arguments
from layerprobe.runs.specs import RunSpec
from layerprobe.runs.states import disk_needed, runs_of, status
from layerprobe.training import provenance
from layerprobe.utils.files import replace_file, write_csv
from layerprobe.utils.terminal import say

SUBSETS = (
    "fixed subsets of the training images, fewer seeds, optimiser settings of its own. "
    "These numbers are ours and cannot be compared directly with the published ones. "
)
TOO_FEW = "The effects of the paper need more images per class: run the scale medium or full to see them. "


@dataclass(frozen=True, eq=False)
class Results:
    """Measurements on runs."""

    rows: pd.DataFrame  # rows of all experiments, with the columns `layerprobe.paper.rows.COLUMNS`
    history: pd.DataFrame  # training histories, one row per epoch
    damaged: list[Outcome] = field(default_factory=list)  # runs and rows that cannot be read
    unreadable: list[str] = field(default_factory=list)  # the same for runs without a readable record

    @property
    def pairs(self) -> set[str]:
        """The pairs that were trained or measured."""
        return {*self.rows["pair"], *self.history["pair"]}

    @classmethod
    def of_runs(cls, specs: Sequence[RunSpec], root: Location) -> "Results":
        """Read the rows and histories of runs, as far as they exist.

        Parameters
        ----------
        specs, root
        """
        damaged: list[Outcome] = []
        return cls(gather(specs, root, damaged), histories(specs, root, damaged), damaged)

    @classmethod
    def of_root(cls, root: Location, pairs: Collection[str] = ()) -> "Results":
        """Read every run in a folder.

        Parameters
        ----------
        root : path
        pairs : collection of str
            The pairs to read; by default all.

        Raises
        ------
        InputError
            If there is none, or none of one of the pairs.
        """
        specs, unreadable = runs_of(root, pairs)
        return replace(cls.of_runs(specs, root), unreadable=unreadable)

    @property
    def problems(self) -> list[str]:
        """One line per run or file that cannot be read."""
        return [*self.unreadable, *failures(self.damaged)]

    def only(self, specs: Sequence[RunSpec]) -> "Results":
        """Return the results of these runs."""
        keys = [spec.key[:12] for spec in specs]
        rows, history = (frame[frame["key"].isin(keys)] for frame in (self.rows, self.history))
        return replace(self, rows=rows, history=history)

    def lacks(self, entry: Table | FigureSpec) -> str:
        """Return the reason why a table or a figure cannot be made; empty if it can."""
        if absent := sorted(set(entry.needs) - set(self.rows["experiment"])):
            return f"there are no rows of {', '.join(absent)}"
        return "nothing was trained" if entry.history and self.history.empty else ""


@dataclass(frozen=True)
class Written:
    """Tables or figures by name, and the reasons why others are missing."""

    made: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def update(self, other: "Written") -> None:
        """Add the result of another call."""
        self.made.update(other.made)
        self.left_out.update(other.left_out)


def write_tables(
    results: Results, names: Sequence[str], out: Location, pairs: Collection[str] | None = None
) -> Written:
    """Write tables as CSV, Markdown and LaTeX.

    Parameters
    ----------
    results : Results
    names : sequence of str
        Names of tables; those whose experiments were not done are left out.
    out : path
    pairs : collection of str, optional
        Pairs to show, with their published numbers; by default those of the results.

    Raises
    ------
    InputError
        If there is no such table, or one cannot be made for another reason than missing rows.
    """
    shown = results.pairs if pairs is None else pairs

    def write(name: str) -> pd.DataFrame:
        frame = TABLES[name].build(results.rows, results.history)
        frame = frame[frame["pair"].isin(shown)].reset_index(drop=True)
        if frame.empty:
            raise MissingRowsError(f"no rows to show from runs of {', '.join(sorted(shown)) or 'any pair'}")
        write_table(name, frame, out)
        return frame

    return _write(results, known(names, TABLES, "table"), TABLES, write)


def write_figures(results: Results, names: Sequence[str], out: Location) -> Written:
    """Draw figures as PNG, SVG and PDF, as `write_tables` writes tables.

    Parameters
    ----------
    results, names, out
    """

    def write(name: str) -> Any:
        beside = published.table1() if FIGURES[name].published else None
        figure = FIGURES[name].draw(results.rows, results.history, published=beside)
        Path(out).mkdir(parents=True, exist_ok=True)
        save(figure, Path(out, name), formats=("png", "svg", "pdf"))
        return figure

    return _write(results, known(names, FIGURES, "figure"), FIGURES, write)


def known(names: Collection[str], registry: Mapping[str, Any], kind: str) -> list[str]:
    """Return names of a registry without repeats.

    Parameters
    ----------
    names, registry
    kind : str
        Noun for the error message.

    Raises
    ------
    InputError
        If a name is not in the registry.
    """
    for name in names:
        if name not in registry:
            raise unknown_name(kind, name, registry)
    return list(dict.fromkeys(names))


def announce(plan: ReproductionPlan, root: Path, jobs: Jobs) -> str:
    """Return one line on the runs, experiments, time and disk space of a plan.

    Parameters
    ----------
    plan, root
    jobs : int or Cluster
        Runs at a time here, or the cluster that runs them.
    """
    left = _untrained(plan, root)
    to_measure = sum(len(missing(spec, root, names)) for spec, names in plan.work.items())
    if isinstance(jobs, Cluster):
        number, where = f"As many at a time as {jobs} has workers", "on one core like this one's"
        at_once, shared = len(left), 1
    else:
        number, where = f"{jobs} at a time", "here"
        at_once, shared = jobs, max(1, min(jobs, len(left)))
    needed = 0
    for checkpoints in (False, True):
        specs = [spec for spec in left if (spec in plan.checkpoints) == checkpoints]
        needed += disk_needed(specs, jobs=at_once, checkpoints=checkpoints)
    training = "nothing to train"
    if left and not plan.scale.released:
        seconds = seconds_left(left, root) / shared
        training = "an unknown time of training"
        if math.isfinite(seconds):
            training = f"about {in_words(seconds)} of training {where} (a rough guess)"
        training += ", experiments not included"
    state = f"Scale {_scale(plan)}. {counts(status(root, list(plan.work)))}."
    if _scale(plan) == "small":
        state += " The effects of the paper need --scale medium or full."
    return f"{state} {to_measure} experiments to do. {number}: {training}, {disk(needed, root)}."


@renamed_arguments(cluster="jobs")
def reproduce(plan: ReproductionPlan, root: Path, out: Path, **options: Any) -> list[Outcome]:
    """Do everything of a plan that is missing, and write its tables, figures and report.

    An interrupted reproduction continues when called again. Tables and figures are written at the end from
    the runs that exist; failed runs appear as "not run".

    Parameters
    ----------
    plan : ReproductionPlan
    root : Path
    out : Path
        Folder for tables/, figures/, report.html, rows.csv, history.csv and provenance.json.
    **options
        jobs, device and data_root, as for `layerprobe.paper.train_grid`.

    Returns
    -------
    list of Outcome
        The runs and experiments that failed.

    Raises
    ------
    DataError
        If data of a run are missing; nothing is trained then.
    """
    start = time.perf_counter()
    outcomes: list[Outcome] = []
    remove_all_left(plan.work, root)
    if not isinstance(options.get("jobs"), Cluster):  # whose workers read the data
        unmeasured = [spec for spec, names in plan.work.items() if missing(spec, root, names)]
        check_data([*_untrained(plan, root), *unmeasured], options.get("data_root"))
    if left := _untrained(plan, root):
        with run_progress(left, root, training=True) as report:
            outcomes += train_grid(left, root, checkpoints=plan.checkpoints, report=report, **options)
    untrained = set(_untrained(plan, root))
    trained = {spec: wanted for spec, wanted in plan.work.items() if spec not in untrained}
    work = {spec: names for spec, wanted in trained.items() if (names := missing(spec, root, wanted))}
    with run_progress(list(work), root, training=False) as report:
        outcomes += analyse_grid(work, root, report=report, **options)
    results = write_all(plan, root, out, seconds=time.perf_counter() - start)
    return [*(outcome for outcome in outcomes if outcome.error), *(results.damaged if results else ())]


def check_data(specs: Iterable[RunSpec], data_root: Location | None = None) -> None:
    """Read the data of all runs, and try each network on two images, before the first run is started.

    Parameters
    ----------
    specs, data_root

    Raises
    ------
    DataError
        If data are missing or damaged, or a network does not fit them; the message names all of them.
    """
    tried: set[tuple] = set()
    cells = {
        (one.pair, one.options, one.noise, one.noise_seed is None, one.subset, one.test_subset): one
        for one in specs
    }
    faults: dict[str, None] = {}
    for spec in cells.values():
        try:
            images, _ = run_data(spec, data_root)
            if (network := (spec.pair, spec.options)) not in tried:
                tried.add(network)
                check_network(spec, images)
        except (DataError, InputError) as error:
            faults[str(error)] = None
    if faults:
        raise DataError(f"Nothing was started. {' '.join(faults)}")


def write_all(plan: ReproductionPlan, root: Path, out: Path, *, seconds: float = 0.0) -> Results | None:
    """Write the tables, figures and report of a plan from the runs that exist, or nothing if there is none.

    Parameters
    ----------
    plan, root, out
        As for `reproduce`.
    seconds : float
        Duration of the reproduction, for its provenance.
    """
    results = Results.of_runs(list(plan.work), root)
    if plan.work and not (results.pairs or results.damaged):
        return None
    tables, figures = Written(left_out=dict(plan.left_out)), Written()
    for name in (name for name in plan.targets if name not in plan.left_out):
        own = results.only(plan.shown[name])
        if name in TABLES:
            tables.update(write_tables(own, [name], out / "tables", plan.pairs))
        if name in FIGURES:
            figures.update(write_figures(own, [name], out / "figures"))
    for name, reason in {**tables.left_out, **figures.left_out}.items():
        say(f"{name} is left out: {reason}", error=True)
    if not tables.made and not figures.made:
        return results if results.damaged else None
    out.mkdir(parents=True, exist_ok=True)
    for name, frame in (("rows", results.rows), ("history", results.history)):
        write_csv(frame, out / f"{name}.csv")
    how = record(plan, root, results.rows) | {"seconds_of_this_call": round(seconds)}
    replace_file(out / "provenance.json", (jsonlib.dumps(how, indent=1) + "\n").encode())
    scale = _scale(plan)
    note = "" if scale == "full" else f"{scale.capitalize()} scale: {SUBSETS}"
    note += TOO_FEW if scale == "small" else ""
    shown = {caption(name, frame): readable(frame, name) for name, frame in tables.made.items()}
    leading = {text: frame for text, frame in shown.items() if text.startswith("Table 1:")}
    beside = _comparisons(tables.made)
    write_html(
        out / "report.html",
        "report.html.j2",
        title=f"Decoding generalization from memorization, {scale} scale",
        finding=note + finding(tables.made),
        figures={
            f"{FIGURES[name].title}. {FIGURES[name].caption}": figures.made[name]
            for name in FIGURES  # the figures of the paper first
            if name in figures.made
        },
        tables={
            **({"Beside the published numbers": beside} if len(beside) else {}),
            f"Claims of the paper, of its follow-up study and our own. {VERDICT_RULE}": claims_table(
                results.rows
            ),
            **{text: frame for text, frame in shown.items() if text not in leading},
        },
        leading=leading,
        provenance={name: value for name, value in how.items() if name != "runs"},
        appendix={"Runs": status(root, list(plan.work)).drop(columns="folder")},
    )
    say(f"All results are in {out}; start with {out / 'report.html'}.", error=True)
    return results


def finding(tables: Mapping[str, pd.DataFrame]) -> str:
    """Return a sentence on how often MASC is better than the network, from Tables 1 and 5 by name."""
    sentences = []
    for name, labels in (("table1", "the noisy labels"), ("table5", "the true labels")):
        if name in tables:
            cells = tables[name].dropna(subset="masc")
            cells = cells[(cells["corruption"] > 0) & (cells["corruption"] < 1)]
            best, hidden = (
                (direction(cells[which] - cells["network"]) > 0).sum() for which in ("masc", "masc_hidden")
            )
            sentences.append(
                f"MASC fitted on {labels} is better than the network itself, by more than 2 points, in "
                f"{best} of {len(cells)} cells with noise below 100 %; in {hidden} of them on a hidden layer "
                "too, the raw input left out."
            )
    return " ".join(sentences) or "The tables and figures of this reproduction."


def record(plan: ReproductionPlan, root: Path, rows: pd.DataFrame) -> dict[str, Any]:
    """Return the provenance of the results of a plan, JSON-able.

    Parameters
    ----------
    plan, root, rows
        The rows are those measured on its runs.
    """
    states = status(root, list(plan.work))
    seconds = rows.loc[rows["metric"] == "experiment_seconds", "value"]
    return {
        "scale": _scale(plan),
        "targets": list(plan.targets),
        "runs": [
            {"pair": spec.pair, "key": spec.key, "state": state, "spec": spec.to_dict()}
            for spec, state in zip(plan.work, states["state"], strict=True)
        ],
        "training_seconds": round(float(states["seconds"].sum())),
        "experiment_seconds": round(float(seconds.sum())),
        **provenance(),
    }


def _scale(plan: ReproductionPlan) -> str:
    """Return the scale of the runs: full if no pair has settings at the scale of the plan."""
    return plan.scale.name if plan.scale.settings.keys() & set(plan.pairs) else "full"


def _untrained(plan: ReproductionPlan, root: Path) -> list[RunSpec]:
    return [spec for spec in plan.work if not is_done(run_folder(root, spec))]


def _write(
    results: Results,
    names: Iterable[str],
    registry: Mapping[str, Table | FigureSpec],
    write: Callable[[str], Any],
) -> Written:
    """Write tables or figures; those without rows are left out, with the reason."""
    written = Written()
    for name in names:
        try:
            if reason := results.lacks(registry[name]):
                raise MissingRowsError(reason)
            written.made[name] = write(name)
        except MissingRowsError as error:
            written.left_out[name] = str(error)
        except InputError as error:
            raise InputError(f"{name} cannot be made: {error}") from error
    return written


def _comparisons(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the counts of verdicts table by table."""
    rows = [
        (TABLES[name].title, part)
        for name, frame in tables.items()
        for part in filter(None, verdict_counts(frame).split("; "))
    ]
    return pd.DataFrame(rows, columns=["table", "verdicts"])
