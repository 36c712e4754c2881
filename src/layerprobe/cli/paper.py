"""`layerprobe paper`: train grids of networks, see where they stand, make tables and figures of them."""

import sys
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from layerprobe.cli.jobs import one_job
from layerprobe.errors import InputError

if TYPE_CHECKING:
    from tyro.extras import SubcommandApp

    from layerprobe.paper import RunSpec
    from layerprobe.report.reproduction import Written
    from layerprobe.runs.clusters import Cluster

__all__ = ["Grid", "add_paper"]


@dataclass(frozen=True)
class Grid:
    """Which runs of the paper: every pair with every corruption degree and every seed.

    Attributes
    ----------
    pair
        Networks and data sets: mlp-mnist, mlp-cifar10, cnn-mnist, cnn-fashion-mnist, cnn-cifar10,
        alexnet-cifar100, alexnet-tiny-imagenet, resnet18-cifar10, or mlp-digits, which takes seconds.
    corruption
        Probabilities, 0 to 1, that a training label is redrawn from all classes.
    seeds
        Each gives one network its own noise, initial weights and batch order.
    noise
        Labels that people gave, as cifar-10n:worst, instead of drawn ones; --corruption is then not used.
    subset
        Train on so many images, as many of each class, instead of on all.
    test_subset
        Test on so many images, as many of each class, instead of on all.
    protocol
        published: the published noise draw, shared by all seeds, and batches that are never shuffled.
    max_epochs
        Stop here at the latest, instead of at 500.
    target
        Stop when the running training accuracy reaches this, instead of the pair's own target.
    optimizer
        Instead of the pair's own.
    learning_rate
        Instead of the pair's own.
    batch_size
        Instead of the pair's own.
    dropout
        Probability with which a CNN drops units; a variant, as the paper's networks have none.
    maxpool
        A ResNet-18 without its max-pooling; a variant.
    edit_epoch
        After this epoch the last layer becomes the VeLPIC probe of the last hidden one, and training goes on.
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
        """Return the runs, each once."""
        from layerprobe.paper import Edit, RunSpec

        changes: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                "protocol",
                "noise",
                "subset",
                "test_subset",
                "max_epochs",
                "target",
                "optimizer",
                "learning_rate",
                "batch_size",
            )
        }
        changes["options"] = {} if self.dropout is None else {"dropout": self.dropout}
        changes["options"] |= {} if self.maxpool else {"maxpool": False}
        changes["edit"] = None if self.edit_epoch is None else Edit(self.edit_epoch)
        human = self.noise is not None and ":" in self.noise
        every = product(self.pair, (None,) if human else self.corruption, self.seeds)
        return list(dict.fromkeys(RunSpec.of(*cell, **changes) for cell in every))


def add_paper(app: "SubcommandApp") -> None:
    """Add the commands to the application; their signatures and docstrings are their help."""
    from tyro.conf import Positional, arg
    from tyro.extras import SubcommandApp

    paper = SubcommandApp()
    app.command(paper, name="paper", help="Networks, tables and figures of the paper.")

    @paper.command
    def train(
        grid: Annotated[Grid, arg(name="")],
        *,
        jobs: int | None = None,
        backend: Literal["loky", "dask", "ray"] = "loky",
        address: str | None = None,
        device: Literal["cpu", "cuda"] = "cpu",
        stacked: bool = False,
        separate: bool = False,
        data: Annotated[Path | None, arg(metavar="FOLDER")] = None,
        checkpoints: bool = False,
        dry_run: bool = False,
        json: bool = False,
    ) -> None:
        """Train a grid of networks on corrupted labels, several at a time.

        A run that is there already is not repeated, and one that was interrupted goes on after its last
        complete epoch: after Ctrl-C, a crash or a failure, the same command finishes the grid. Exit code 1
        if a run failed; the others are finished nevertheless.

        Started by torchrun, its processes train one run after the other together, each its share of every
        batch: torchrun --standalone --nproc-per-node 2 -m layerprobe paper train ... A run that fails then
        ends all.

        Args:
            grid: Which runs.
            jobs: Processes, of one thread each. Without it, one a usable core, or one on a GPU.
            backend: loky: processes on this machine; dask, ray: a cluster that exists, as many runs at a
                time as it has workers.
            address: Of the cluster: tcp://HOST:8786 of dask's scheduler; auto, HOST:6379 or ray://HOST:10001.
            device: Where to train.
            stacked: Train all runs of a pair as one batched model, as on a GPU by default.
            separate: Train each run by itself, on a GPU too.
            data: Folder of the data sets. Without it, LAYERPROBE_DATA or else the user's cache folder.
            checkpoints: Keep the weights of epochs 0, 1, every 2nd below 20 and every 5th after.
            dry_run: Train nothing; print the runs, which are there, and the disk space that the others need.
            json: Print the outcome as JSON on stdout, and nothing else there.
        """
        from layerprobe.utils.distributed import world_size

        if stacked and separate:
            raise InputError("runs are trained either stacked or separate; leave out one of the two")
        from layerprobe.runs.clusters import Cluster

        cluster = Cluster.of(backend, address)
        with one_job(device):
            stacked = stacked or (device == "cuda" and not separate and world_size() == 1)
            _train(
                grid,
                jobs,
                cluster,
                device,
                stacked,
                data,
                checkpoints=checkpoints,
                dry_run=dry_run,
                json=json,
            )

    @paper.command
    def status(grid: Annotated[Grid, arg(name="")], *, json: bool = False) -> None:
        """Show where runs stand: done, running, resumable or missing, with accuracies and durations.

        Without --pair: every run that is there, and what is missing among each pair's corruption degrees and
        seeds. Train accuracies are against the corrupted labels, test accuracies against true ones.

        Args:
            grid: Which runs.
            json: Print JSON on stdout, and nothing else there.
        """
        from layerprobe.report.run_tables import show_grid
        from layerprobe.runs.states import status

        if not grid.pair and grid != replace(type(grid)(), root=grid.root):
            raise InputError(
                "only runs of named pairs can be chosen; add --pair, or leave out all but --root"
            )
        show_grid(grid.root, status(grid.root, grid.specs() or None), json=json)

    @paper.command
    def tables(
        names: Annotated[tuple[str, ...], Positional, arg(metavar="NAME")] = (),
        *,
        root: Path = Path("runs"),
        out: Path = Path("tables"),
    ) -> None:
        """Write tables of everything that was measured, as CSV, Markdown and LaTeX.

        They are made of the rows that the runs keep; nothing is trained or measured. A table whose
        experiments nobody did is left out, and named.

        Args:
            names: table1, table2, ...; without any, all of them.
            root: Folder of all runs.
            out: Folder for the tables.
        """
        from layerprobe.paper.tables import TABLES
        from layerprobe.report.reproduction import Results, known, write_tables

        known(names, TABLES, "table")
        _show_written(write_tables(Results.of_root(root), names or None, out), out)

    @paper.command
    def figures(
        names: Annotated[tuple[str, ...], Positional, arg(metavar="NAME")] = (),
        *,
        root: Path = Path("runs"),
        out: Path = Path("figures"),
    ) -> None:
        """Draw figures of everything that was measured, as PNG, SVG and PDF.

        They are made of the rows that the runs keep; nothing is trained or measured. A figure whose
        experiments nobody did is left out, and named.

        Args:
            names: figure2, figure3, ...; without any, all of them.
            root: Folder of all runs.
            out: Folder for the figures.
        """
        from layerprobe.paper.figures import FIGURES
        from layerprobe.report.reproduction import Results, known, write_figures

        known(names, FIGURES, "figure")
        _show_written(write_figures(Results.of_root(root), names or None, out), out)


def _show_written(written: "Written", out: Path) -> None:
    """Say what was written and what was not; an exit code of 1 if it was nothing."""
    for name, reason in written.left_out.items():
        print(f"layerprobe: {name} is left out: {reason}", file=sys.stderr)
    if not written.made:
        raise SystemExit(1)
    print(f"{', '.join(written.made)}: in {out}.")


def _train(
    grid: Grid,
    jobs: int | None,
    cluster: "Cluster | None",
    device: str,
    stacked: bool,
    data: Path | None,
    *,
    checkpoints: bool,
    dry_run: bool,
    json: bool,
) -> None:
    """Say what is to be done, train with progress on stderr, and show how it ended and what failed."""
    from layerprobe.report.run_tables import counts, disk, failures, show_grid
    from layerprobe.report.running import train_with_progress
    from layerprobe.runs.grid import jobs_on
    from layerprobe.runs.states import disk_needed, status
    from layerprobe.utils.distributed import world_size

    root, specs = grid.root, grid.specs()
    if not specs:
        raise InputError("no pair is named; name at least one, as in --pair mlp-mnist cnn-mnist")
    together = world_size() > 1
    if together and (jobs is not None or stacked or cluster):
        needless = "--stacked" if stacked else "--backend" if cluster else "--jobs"
        raise InputError(
            f"the {world_size()} processes that torchrun started train one run at a time; leave out "
            f"{needless}, or start the command without torchrun"
        )
    at_once = jobs_on(device, 1 if together else jobs, cluster) or len(specs)
    rows = status(root, specs)
    left = [spec for spec, state in zip(specs, rows["state"], strict=True) if state != "done"]
    needed = disk(disk_needed(left, jobs=len(left) if stacked else at_once, checkpoints=checkpoints), root)
    number = f"{at_once} at a time" if cluster is None else f"as many at a time as {cluster} has workers"
    as_one = "Those of a pair as one, " if stacked else ""
    shared = f" on {world_size()} processes" if together else ""
    words = f"{as_one}{number}{shared}, {needed}."
    print(f"{counts(rows)}. {words[0].upper()}{words[1:]}", file=sys.stderr)
    if dry_run:
        show_grid(root, rows, json=json)
        return
    options: dict[str, Any] = {"device": device, "data_root": data, "checkpoints": checkpoints}
    if not together:
        options |= {"jobs": jobs, "cluster": cluster, "stacked": stacked}
    # Together all of them: the first process tells which are left, as the others may look later than it.
    outcomes = train_with_progress(specs if together else left, root, **options)
    show_grid(root, status(root, specs), outcomes, json=json)
    for line in failures(outcomes):
        print(f"layerprobe: {line}", file=sys.stderr)
    if any(outcome.state == "failed" for outcome in outcomes):
        raise SystemExit(1)
