"""`layerprobe paper`: train grids of networks, show their states, write tables and figures."""

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from layerprobe.cli.commands import readable_options
from layerprobe.cli.jobs import Workers, one_job
from layerprobe.cli.output import print_error
from layerprobe.errors import InputError
from layerprobe.utils.terminal import say

if TYPE_CHECKING:
    from layerprobe.paper import RunSpec


@readable_options
@dataclass(frozen=True)
class Grid:
    """Runs of the paper: every pair with every corruption degree and every seed.

    Attributes
    ----------
    pair
        Networks and data sets: mlp-mnist, mlp-cifar10, cnn-mnist, cnn-fashion-mnist, cnn-cifar10,
        alexnet-cifar100, alexnet-tiny-imagenet, resnet18-cifar10, or mlp-digits, which takes seconds; one of
        an installed package; or PKG.MOD:NAME of a layerprobe.paper.Pair.
    corruption
        Probabilities, 0 to 1, that a training label is redrawn from all classes.
    seeds
        Each seed gives one network its own noise, initial weights and batch order.
    noise
        Noise other than uniform: pair_flip, a registered noise or PKG.MOD:NAME of one; or human labels, as
        cifar-10n:worst, for which --corruption is not used.
    subset
        Number of training images, balanced over the classes. By default all.
    test_subset
        Number of test images, balanced over the classes. By default all.
    protocol
        published: the published noise draw, shared by all seeds, and batches that are never shuffled.
    max_epochs
        Maximum number of epochs. By default 500.
    target
        Stop when the running training accuracy reaches this. By default the target of the pair.
    optimizer
        By default that of the pair.
    learning_rate
        By default that of the pair.
    batch_size
        By default that of the pair.
    dropout
        Probability with which a CNN drops units; a variant, since the paper's networks have none.
    maxpool
        A ResNet-18 without its max-pooling; a variant.
    edit_epoch
        After this epoch, replace the last layer by the VeLPIC probe of the last hidden layer, and train on.
    root
        Folder of all runs.
    """

    pair: tuple[str, ...] = ()
    corruption: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    noise: str | None = None
    subset: int | None = None
    test_subset: int | None = None
    protocol: Literal["independent", "published"] = "independent"
    max_epochs: int | None = None
    target: float | None = None
    optimizer: Literal["adam", "sgd"] | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    dropout: float | None = None
    maxpool: bool = True
    edit_epoch: int | None = None
    root: Path = Path("runs")

    def specs(self) -> "list[RunSpec]":
        """Return the specs of the runs, each once."""
        from layerprobe.cli.user_code import is_reference, names_in
        from layerprobe.data.noise import REGISTRY
        from layerprobe.paper import PAIRS, Edit, RunSpec

        names = "protocol noise subset test_subset max_epochs target optimizer learning_rate batch_size"
        changes: dict[str, Any] = {name: getattr(self, name) for name in names.split()}
        changes["options"] = {} if self.dropout is None else {"dropout": self.dropout}
        changes["options"] |= {} if self.maxpool else {"maxpool": False}
        changes["edit"] = None if self.edit_epoch is None else Edit(self.edit_epoch)
        if self.noise is not None and is_reference(self.noise):
            (changes["noise"],) = names_in(REGISTRY, [self.noise])
        degrees = (None,) if ":" in (changes["noise"] or "") else self.corruption  # None for human labels
        every = product(names_in(PAIRS, self.pair, call=True), degrees, self.seeds)
        return list(dict.fromkeys(RunSpec.of(*cell, **changes) for cell in every))


@readable_options
def train(
    grid: Annotated[Grid, arg(name="")],
    workers: Annotated[Workers, arg(name="")],
    *,
    stacked: bool = False,
    separate: bool = False,
    checkpoints: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Train networks on corrupted labels, several at a time.

    A run that is done is not repeated. A run that was interrupted resumes after its last complete epoch:
    after Ctrl-C, a crash or a failure, the same command finishes the grid. Exit code 1 if a run failed or
    another process holds it; the others are finished nevertheless.

    Started by torchrun, its processes train one run after another together, each with its share of every
    batch: torchrun --standalone --nproc-per-node 2 -m layerprobe paper train ... There the first failure ends
    the command.

    Args:
        grid: The runs.
        workers: Where they are trained.
        stacked: Train all runs of a pair as one batched model, the default on a GPU.
        separate: Train each run by itself, also on a GPU.
        checkpoints: Keep the weights of epochs 0, 1, every 2nd below 20 and every 5th from 20 on.
        dry_run: Train nothing; print the runs, their states, and the disk space that the rest needs.
        json: Print the outcome as JSON on stdout, and nothing else there.
    """
    if stacked and separate:
        raise InputError("runs are trained either stacked or separate; leave out one of the two")
    with one_job(workers.device):
        from layerprobe.report.reproduction import check_data
        from layerprobe.report.run_tables import (
            counts,
            disk,
            failures,
            run_progress,
            show_grid,
            unfinished,
        )
        from layerprobe.runs.grid import remove_all_left, train_grid
        from layerprobe.runs.scheduler import Cluster
        from layerprobe.runs.states import disk_needed, status
        from layerprobe.utils.distributed import world_size
        from layerprobe.utils.files import require_folder

        require_folder(grid.root)
        root, specs, several = grid.root, grid.specs(), world_size() > 1
        if not specs:
            raise InputError("no pair is named; name at least one, as in --pair mlp-mnist cnn-mnist")
        given = {"--stacked": stacked, "--backend": workers.address, "--jobs": workers.jobs is not None}
        if several and any(given.values()):
            raise InputError(
                f"the {world_size()} processes that torchrun started train one run at a time; leave out "
                f"{next(name for name in given if given[name])}, or start the command without torchrun"
            )
        jobs = 1 if several else workers.resolve()
        stacked = stacked or (workers.device == "cuda" and not separate and not several)
        rows = status(root, specs)
        left = [spec for spec, state in zip(specs, rows["state"], strict=True) if state != "done"]
        if isinstance(jobs, Cluster):
            at_once, number = len(left), f"as many at a time as {jobs} has workers"
        else:
            at_once, number = jobs, f"{jobs} at a time"
        needed = disk_needed(left, jobs=len(left) if stacked else at_once, checkpoints=checkpoints)
        number = f"Those of a pair as one, {number}" if stacked else number[0].upper() + number[1:]
        shared = f" on {world_size()} processes" if several else ""
        say(f"{counts(rows)}. {number}{shared}, {disk(needed, root)}.", error=True)
        if dry_run:
            show_grid(root, rows, json=json)
            return
        if not isinstance(jobs, Cluster):  # whose workers read the data
            check_data(left, workers.data)
        if not several:
            remove_all_left(specs, root)
        # A torchrun job gets all runs: another process may see a run end later than the first.
        todo = specs if several else left
        with run_progress(todo, root, training=True) as report:
            outcomes = train_grid(
                todo,
                root,
                jobs=jobs,
                device=workers.device,
                data_root=workers.data,
                checkpoints=checkpoints,
                stacked=stacked,
                report=report,
            )
        rows = status(root, specs)
        show_grid(root, rows, outcomes, json=json)
        for line in filter(None, [unfinished(rows), *failures(outcomes)]):
            print_error(line)
        if unfinished(rows):
            raise SystemExit(1)


@readable_options
def status(grid: Annotated[Grid, arg(name="")], *, json: bool = False) -> None:
    """Show the states, accuracies and durations of runs.

    A run is done, running, resumable, missing or unreadable. Without --pair: every run in the folder, and
    those that are missing among each pair's corruption degrees and seeds. Train accuracies refer to the
    corrupted labels, test accuracies to true ones.

    Args:
        grid: The runs.
        json: Print JSON on stdout, and nothing else there.
    """
    from layerprobe.report.run_tables import show_grid
    from layerprobe.runs.states import status

    if not grid.pair and grid != replace(type(grid)(), root=grid.root):
        raise InputError("options choose runs of named pairs only; add --pair, or leave out all but --root")
    show_grid(grid.root, status(grid.root, grid.specs() or None), json=json)


@readable_options
def analyse(
    names: Annotated[tuple[str, ...], Positional, arg(metavar="EXPERIMENT")],
    workers: Annotated[Workers, arg(name="")],
    *,
    pair: tuple[str, ...] = (),
    noise: tuple[str, ...] = (),
    probes: tuple[str, ...] = (),
    root: Path = Path("runs"),
) -> None:
    """Measure experiments on the finished runs in a folder.

    Rows that exist are kept. An experiment is left out on runs that it does not apply to. The rows are
    written into the folders of the runs; `paper tables` and `paper figures` show them. Exit code 1 if a run
    failed; the others are measured nevertheless.

    Args:
        names: noisy_subspaces, true_subspaces, latent_memorisation, controls, probes, retraining,
            flipped_rows, weight_edit, similarity, dynamics, corrected_subspaces, corrected_retraining or
            cost; one of an installed package; or PKG.MOD:NAME of your own.
        workers: Where the runs are measured.
        pair: Networks and data sets; by default all in the folder. PKG.MOD:NAME makes one of your own known.
        noise: Noise of your own that runs have, as PKG.MOD:NAME.
        probes: Further probes, by name or as PKG.MOD:NAME. Only the experiment named probes takes --probes.
            It always fits masc, ncm, logistic, lda, qda, knn, velpic; --probes adds others of
            layerprobe.probes.available(). Every other experiment has fixed probes.
        root: Folder of all runs.
    """
    from layerprobe.cli.user_code import names_in
    from layerprobe.paper.analysis import analyse_grid, missing
    from layerprobe.paper.experiments import EXPERIMENTS, experiment_of, further
    from layerprobe.probes import REGISTRY
    from layerprobe.report.reproduction import check_data
    from layerprobe.report.run_tables import failures, run_progress
    from layerprobe.runs.scheduler import Cluster
    from layerprobe.runs.states import runs_of

    if not names:
        raise InputError(f"name at least one experiment: {', '.join(EXPERIMENTS)}, or PKG.MOD:NAME")
    pair = _known_pairs(pair, noise)
    names = names_in(EXPERIMENTS, names)
    names += further(names_in(REGISTRY, probes), names)
    done, unreadable = runs_of(root, pair, finished=True)
    work = {spec: left for spec in done if (left := missing(spec, root, names))}
    jobs = workers.resolve()
    if not isinstance(jobs, Cluster):
        check_data(work, workers.data)
    with run_progress(list(work), root, training=False) as report:
        outcomes = analyse_grid(
            work, root, jobs=jobs, data_root=workers.data, device=workers.device, report=report
        )
    failed = failures(outcomes)
    say(f"{len(work) - sum(bool(one.error) for one in outcomes)} of {len(done)} finished runs measured.")
    for name in names:
        if done and not any(experiment_of(name).applies(spec) for spec in done):
            say(f"{name} applies to none of these runs.")
    for line in [*unreadable, *failed]:
        print_error(line)
    if unreadable or failed:
        raise SystemExit(1)


@readable_options
def tables(
    names: Annotated[tuple[str, ...], Positional, arg(metavar="NAME")] = (),
    *,
    pair: tuple[str, ...] = (),
    noise: tuple[str, ...] = (),
    root: Path = Path("runs"),
    out: Path = Path("tables"),
) -> None:
    """Write the tables, as CSV, Markdown and LaTeX.

    Tables are made from the rows in the folders of the runs; nothing is trained or measured. A table without
    the rows of its experiments is left out, and named on stderr.

    Args:
        names: table1, table2, ...; by default all.
        pair: Networks and data sets; by default all in the folder. PKG.MOD:NAME makes one of your own known.
        noise: Noise of your own that runs have, as PKG.MOD:NAME.
        root: Folder of all runs.
        out: Folder for the tables.
    """
    _write_from_rows("table", names, pair, noise, root, out)


@readable_options
def figures(
    names: Annotated[tuple[str, ...], Positional, arg(metavar="NAME")] = (),
    *,
    pair: tuple[str, ...] = (),
    noise: tuple[str, ...] = (),
    root: Path = Path("runs"),
    out: Path = Path("figures"),
) -> None:
    """Draw the figures, as PNG, SVG and PDF.

    Figures are made from the rows in the folders of the runs; nothing is trained or measured. A figure
    without the rows of its experiments is left out, and named on stderr.

    Args:
        names: figure2, figure3, ...; by default all.
        pair: Networks and data sets; by default all in the folder. PKG.MOD:NAME makes one of your own known.
        noise: Noise of your own that runs have, as PKG.MOD:NAME.
        root: Folder of all runs.
        out: Folder for the figures.
    """
    _write_from_rows("figure", names, pair, noise, root, out)


def _known_pairs(pairs: tuple[str, ...], noises: tuple[str, ...]) -> tuple[str, ...]:
    """Register pairs and noise of the user, and return the names of the pairs."""
    from layerprobe.cli.user_code import is_reference, names_in
    from layerprobe.data.noise import REGISTRY
    from layerprobe.paper import PAIRS

    for noise in noises:
        if not is_reference(noise):
            raise InputError(
                f"expected PKG.MOD:NAME for --noise, which names noise of your own and selects no runs; "
                f"got {noise!r}"
            )
    names_in(REGISTRY, noises)
    return names_in(PAIRS, pairs, call=True)


def _write_from_rows(
    kind: Literal["table", "figure"],
    names: tuple[str, ...],
    pairs: tuple[str, ...],
    noises: tuple[str, ...],
    root: Path,
    out: Path,
) -> None:
    """Write tables or figures, and print which; exit with code 1 for damaged files or no result."""
    from layerprobe.paper import PAIRS
    from layerprobe.paper.figures import FIGURES
    from layerprobe.paper.tables import TABLES
    from layerprobe.report.reproduction import Results, known, write_figures, write_tables
    from layerprobe.utils.files import require_folder

    every = TABLES if kind == "table" else FIGURES
    chosen = known(names or every, every, kind)
    require_folder(out)
    results = Results.of_root(root, known(_known_pairs(pairs, noises), PAIRS, "pair"))
    written = (write_tables if kind == "table" else write_figures)(results, chosen, out)
    left_out = [f"{name} is left out: {reason}" for name, reason in written.left_out.items()]
    for line in [*results.problems, *left_out]:
        print_error(line)
    if written.made:
        say(f"{', '.join(written.made)}: in {out}.")
    if results.problems or not written.made:
        raise SystemExit(1)
