"""Grids of runs trained and analysed, with their progress on stderr."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from layerprobe.paper.analysis import analyse_grid, missing
from layerprobe.report.progress import Board, show_progress
from layerprobe.report.run_tables import run_name
from layerprobe.runs.distributed_runs import train_in_turn
from layerprobe.runs.grid import Outcome, train_grid
from layerprobe.runs.specs import RunSpec
from layerprobe.utils.distributed import world_size

__all__ = ["analyse_with_progress", "train_with_progress"]

Location = str | os.PathLike[str]


def train_with_progress(specs: Sequence[RunSpec], root: Location, **options: Any) -> list[Outcome]:
    """Train runs as `layerprobe.paper.train_grid` does with these options; none of them is done.

    In a job of several processes as `layerprobe.runs.distributed_runs.train_in_turn` does; some may be done.
    """
    last_epochs = [spec.recipe.max_epochs for spec in specs]
    with _board(specs, root, last_epochs=last_epochs) as board:
        train = train_in_turn if world_size() > 1 else train_grid
        return train(specs, root, tell=board.write, **options)


def analyse_with_progress(
    work: Mapping[RunSpec, Sequence[str]], root: Location, **options: Any
) -> list[Outcome]:
    """Do what is missing of the experiments on runs, as `layerprobe.paper.analysis.analyse_grid` does."""
    left = {spec: names for spec, wanted in work.items() if (names := missing(spec, root, wanted))}
    with _board(list(left), root) as board:
        return analyse_grid(left, root, tell=board.write, **options)


@contextmanager
def _board(specs: Sequence[RunSpec], root: Location, **options: Any) -> Iterator[Board]:
    """Show bars for runs; when interrupted, say that nothing is lost."""
    with TemporaryDirectory() as folder:
        board = Board.create(Path(folder, "board"), len(specs))
        try:
            with show_progress(board, [*map(run_name, specs)], training_share=1, **options):
                yield board
        except KeyboardInterrupt:
            print(
                f"What is complete is kept in {root}; the same command goes on from there.", file=sys.stderr
            )
            raise
