"""The command `layerprobe`. Nothing heavy is imported before a command runs, so that help is quick."""

import json as jsonlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

from layerprobe.errors import InputError, LayerprobeError

if TYPE_CHECKING:
    from tyro.extras import SubcommandApp

    from layerprobe.paper import RunSpec

__all__ = ["main"]

DESCRIPTION = """Find the layer of a trained network that knows better than its head.

layerprobe COMMAND --help explains a command; layerprobe --version prints the version."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0: done; 1: part of it failed, and stderr says which; 2: something is not as expected, and one message on
    stderr says what; 130: interrupted.
    """
    import tyro

    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--version"]:
        print(f"layerprobe {version('layerprobe')}")
        return 0
    try:
        _commands().cli(
            prog="layerprobe",
            description=DESCRIPTION,
            args=arguments or ["--help"],
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except SystemExit as end:  # help has been printed, or what is wrong with the arguments
        return end.code if isinstance(end.code, int) else 2
    except (LayerprobeError, OSError) as error:
        print(f"layerprobe: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("layerprobe: interrupted", file=sys.stderr)
        return 130
    return 0


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
    root
        Folder of all runs.
    """

    pair: tuple[str, ...] = ()
    corruption: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    seeds: tuple[int, ...] = (0, 1, 2)
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
    root: Path = Path("runs")

    def specs(self) -> "list[RunSpec]":
        """Return the runs, each once."""
        from layerprobe.paper import RunSpec

        changes: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                "protocol",
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
        every = product(self.pair, self.corruption, self.seeds)
        return list(dict.fromkeys(RunSpec.of(*cell, **changes) for cell in every))


def _commands() -> "SubcommandApp":
    """Return every command; their signatures and docstrings are their help."""
    from tyro.conf import Positional, arg
    from tyro.extras import SubcommandApp

    app, data, paper = SubcommandApp(), SubcommandApp(), SubcommandApp()

    @app.command
    def demo(
        *,
        corruption: float = 0.6,
        seeds: int = 3,
        variance: float = 0.99,
        out: Path = Path("demo"),
        json: bool = False,
    ) -> None:
        """Train networks on shuffled labels, then decode them layer by layer.

        MLPs learn handwritten digits, with part of the training labels redrawn at random, by heart. Then MASC
        and every other probe read each layer, fitted on the noisy and on the true labels. Nothing is
        downloaded, and it takes less than a minute on two cores. Writes rows.csv, history.csv, figure.png,
        figure.svg, report.html and run.json.

        Args:
            corruption: Probability, 0 to 1, that a training label is redrawn from all ten classes.
            seeds: How many networks, each with its own noise, initial weights and batch order.
            variance: Share of each class's variance, above 0 and up to 1, that MASC's subspaces keep.
            out: Folder for the results. If it exists, only the files named above are replaced.
            json: Print the results as JSON on stdout, and nothing else there.
        """
        from layerprobe.demo import Spec, run_demo, show

        result = run_demo(Spec(corruption, seeds, variance), out)
        if json:
            print(jsonlib.dumps(result.summary(), indent=2))
        else:
            show(result, out)

    app.command(data, name="data", help="Download data sets.")

    @data.command
    def fetch(
        name: Annotated[str, Positional, arg(metavar="NAME")],
        root: Annotated[Path | None, arg(metavar="FOLDER")] = None,
    ) -> None:
        """Download a data set and check it against its publisher's checksums. Right files are kept.

        Args:
            name: mnist, fashion-mnist, cifar-10, cifar-100 or tiny-imagenet.
            root: Gets the data set's own folder. Without it, LAYERPROBE_DATA or else the user's cache folder.
        """
        from layerprobe.data import fetch

        print(fetch(name, root, progress=True))

    app.command(paper, name="paper", help="Train the networks of the paper.")

    @paper.command
    def train(
        grid: Annotated[Grid, arg(name="")],
        *,
        jobs: int | None = None,
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

        Args:
            grid: Which runs.
            jobs: Processes, of one thread each. Without it, one a usable core, or one on a GPU.
            device: Where to train.
            stacked: Train all runs of a pair as one batched model, as on a GPU by default.
            separate: Train each run by itself, on a GPU too.
            data: Folder of the data sets. Without it, LAYERPROBE_DATA or else the user's cache folder.
            checkpoints: Keep the weights of epochs 0, 1, every 2nd below 20 and every 5th after.
            dry_run: Train nothing; print the runs, which are there, and the disk space that the others need.
            json: Print the outcome as JSON on stdout, and nothing else there.
        """
        if stacked and separate:
            raise InputError("runs are trained either stacked or separate; leave out one of the two")
        stacked = stacked or (device == "cuda" and not separate)
        _train(grid, jobs, device, stacked, data, checkpoints=checkpoints, dry_run=dry_run, json=json)

    @paper.command
    def status(grid: Annotated[Grid, arg(name="")], *, json: bool = False) -> None:
        """Show where runs stand: done, running, resumable or missing, with accuracies and durations.

        Without --pair: every run that is there, and what is missing among each pair's corruption degrees and
        seeds. Train accuracies are against the corrupted labels, test accuracies against true ones.

        Args:
            grid: Which runs.
            json: Print JSON on stdout, and nothing else there.
        """
        from layerprobe.paper.overview import status
        from layerprobe.report.grids import show_grid

        if not grid.pair and grid != replace(type(grid)(), root=grid.root):
            raise InputError(
                "only runs of named pairs can be chosen; add --pair, or leave out all but --root"
            )
        show_grid(grid.root, status(grid.root, grid.specs() or None), json=json)

    return app


def _train(
    grid: Grid,
    jobs: int | None,
    device: str,
    stacked: bool,
    data: Path | None,
    *,
    checkpoints: bool,
    dry_run: bool,
    json: bool,
) -> None:
    """Say what is to be done, train with progress on stderr, and show how it ended and what failed."""
    from layerprobe.paper.grid import jobs_on, train_grid
    from layerprobe.paper.overview import disk_needed, status
    from layerprobe.report.grids import counts, disk, failures, run_name, show_grid
    from layerprobe.report.progress import Board, show_progress

    root, specs = grid.root, grid.specs()
    if not specs:
        raise InputError("no pair is named; name at least one, as in --pair mlp-mnist cnn-mnist")
    jobs = jobs_on(device, jobs)
    rows = status(root, specs)
    left = [spec for spec, state in zip(specs, rows["state"], strict=True) if state != "done"]
    needed = disk(disk_needed(left, jobs=len(left) if stacked else jobs, checkpoints=checkpoints), root)
    at_a_time = f"Those of a pair as one, {jobs} such" if stacked else f"{jobs}"
    print(f"{counts(rows)}. {at_a_time} at a time, {needed}.", file=sys.stderr)
    if dry_run:
        show_grid(root, rows, json=json)
        return
    with TemporaryDirectory() as folder:
        board = Board.create(Path(folder, "board"), len(left))
        last_epochs = [spec.recipe.max_epochs for spec in left]
        try:
            with show_progress(board, [*map(run_name, left)], last_epochs=last_epochs, training_share=1):
                outcomes = train_grid(
                    left,
                    root,
                    jobs=jobs,
                    device=device,
                    stacked=stacked,
                    data_root=data,
                    checkpoints=checkpoints,
                    tell=board.write,
                )
        except KeyboardInterrupt:
            print(
                f"Every complete epoch is kept in {root}; the same command goes on from there.",
                file=sys.stderr,
            )
            raise
    show_grid(root, status(root, specs), outcomes, json=json)
    for line in failures(outcomes):
        print(f"layerprobe: {line}", file=sys.stderr)
    if any(outcome.state == "failed" for outcome in outcomes):
        raise SystemExit(1)
