"""Progress of runs in other processes: numbers on a shared board, bars on the terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from threading import Event, Thread

import numpy as np

__all__ = ["Board", "Stage", "show_progress"]

# Share of a run's time that training takes, roughly; it only moves the bars.
TRAINING_SHARE = 0.4


class Stage(IntEnum):
    """Where a run is."""

    WAITING = 0
    TRAINING = 1
    PROBING = 2
    DONE = 3


@dataclass(frozen=True)
class Board:
    """A file that holds a stage, an epoch and an accuracy for each run; each process writes its own row.

    Attributes
    ----------
    path : Path
        The file, made by `create`.
    runs : int
        How many runs it has room for.
    """

    path: Path
    runs: int

    @classmethod
    def create(cls, path: Path, runs: int) -> "Board":
        """Make the file, every run waiting."""
        np.zeros((runs, 3)).tofile(path)
        return cls(path, runs)

    def write(self, run: int, stage: Stage, epoch: int, accuracy: float) -> None:
        """Set the row of a run; `accuracy` is that on the labels it trains on, in [0, 1]."""
        np.memmap(self.path, np.float64, "r+", shape=(self.runs, 3))[run] = stage, epoch, accuracy

    def read(self) -> list[tuple[Stage, int, float]]:
        """Return stage, epoch and accuracy of every run."""
        return [(Stage(int(row[0])), int(row[1]), row[2]) for row in np.fromfile(self.path).reshape(-1, 3)]


def describe(stage: Stage, epoch: int, accuracy: float) -> str:
    """Return one run's state in words."""
    if stage is Stage.WAITING:
        return "waiting"
    doing = {Stage.TRAINING: "training", Stage.PROBING: "probing", Stage.DONE: "done"}[stage]
    return f"{doing}, epoch {epoch}, {100 * accuracy:.1f} % of its labels learnt"


def done_share(stage: Stage, accuracy: float) -> float:
    """Return roughly how much of a run is done, in [0, 1]; nobody knows how many epochs it will take."""
    if stage is Stage.TRAINING:
        return TRAINING_SHARE * accuracy**2  # the last labels take longest
    return {Stage.WAITING: 0.0, Stage.PROBING: TRAINING_SHARE, Stage.DONE: 1.0}[stage]


@contextmanager
def show_progress(board: Board, names: list[str]) -> Iterator[None]:
    """Show a bar for each run and one for all on stderr; where that is no terminal, a line as a run ends."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.fields[state]}"))
    progress = Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)
    tasks = [progress.add_task(name, total=1, state="") for name in names]
    everything = progress.add_task("all", total=len(names), state="time left")
    finished: set[int] = set()

    def update() -> None:
        shares = []
        for run, (stage, epoch, accuracy) in enumerate(board.read()):
            shares.append(done_share(stage, accuracy))
            state = describe(stage, epoch, accuracy)
            progress.update(tasks[run], completed=shares[-1], state=state)
            if stage is Stage.DONE and run not in finished:
                finished.add(run)
                if not console.is_terminal:
                    console.print(f"{names[run]}: {state}")
        progress.update(everything, completed=sum(shares))

    over = Event()

    def watch() -> None:
        while not over.wait(0.2):
            update()

    watcher = Thread(target=watch, name="progress", daemon=True)
    with progress:
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
            update()
