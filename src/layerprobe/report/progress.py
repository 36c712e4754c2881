"""Progress of runs in other processes: numbers on a shared board, bars on the terminal."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from threading import Event, Thread

import numpy as np

__all__ = ["Board", "Stage", "show_progress"]

# Share of a demo's run that training takes, roughly; it only moves the bars.
TRAINING_SHARE = 0.4


class Stage(StrEnum):
    """Where a run is."""

    WAITING = "waiting"
    TRAINING = "training"
    PROBING = "probing"
    ANALYSING = (
        "analysing"  # its "epoch" is the number of the experiment, its "accuracy" the share that is done
    )
    DONE = "done"
    FAILED = "failed"
    ELSEWHERE = "elsewhere"  # another process trains it


STAGES = list(Stage)


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

    def write(self, run: int, stage: str, epoch: int, accuracy: float) -> None:
        """Set the row of a run: a `Stage` or its name, and the accuracy, in [0, 1], on its own labels."""
        row = STAGES.index(Stage(stage)), epoch, accuracy
        np.memmap(self.path, np.float64, "r+", shape=(self.runs, 3))[run] = row

    def read(self) -> list[tuple[Stage, int, float]]:
        """Return stage, epoch and accuracy of every run."""
        return [(STAGES[int(row[0])], int(row[1]), row[2]) for row in np.fromfile(self.path).reshape(-1, 3)]


def describe(stage: Stage, epoch: int, accuracy: float) -> str:
    """Return one run's state in words."""
    if stage is Stage.WAITING or not epoch:
        return str(stage)
    if stage is Stage.ANALYSING:
        return f"experiment {epoch}"
    return f"{stage}, epoch {epoch}, {100 * accuracy:.1f} % of its labels learnt"


def done_share(stage: Stage, accuracy: float, *, training_share: float = TRAINING_SHARE) -> float:
    """Return roughly how much of a run is done, in [0, 1]; nobody knows how many epochs it will take."""
    if stage is Stage.TRAINING:
        return training_share * accuracy**2  # the last labels take longest
    return {Stage.WAITING: 0.0, Stage.PROBING: training_share, Stage.ANALYSING: accuracy}.get(stage, 1.0)


class Clock:
    """How long something will still take, judged by the time that its share so far took."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None  # time and share when the share was first known

    def left(self, share: float, now: float) -> str:
        """Return the time left in words, or nothing while there is nothing to judge by."""
        if self._first is None and share > 0:
            self._first = now, share
        if self._first is None or share <= self._first[1] or share >= 1:
            return ""
        seconds = (1 - share) * (now - self._first[0]) / (share - self._first[1])
        return f"about {in_words(seconds)} left"


def in_words(seconds: float) -> str:
    """Return a duration in its two largest units, as "3 h 20 min"."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


@contextmanager
def show_progress(
    board: Board,
    names: Sequence[str],
    *,
    last_epochs: Sequence[int] | None = None,
    training_share: float = TRAINING_SHARE,
    every: float = 60,
) -> Iterator[None]:
    """Show a bar for each run and one for all on stderr; where that is no terminal, sparse plain lines.

    Parameters
    ----------
    board : Board
        What the runs write to.
    names : sequence of str
        What each is called.
    last_epochs : sequence of int, optional
        The epoch at which each run ends at the latest.
    training_share : float
        Share of a run's time that training takes, roughly.
    every : float
        Without a terminal a run gets a line when it ends, and one in so many seconds as long as it trains.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.fields[state]}"))
    progress = Progress(*columns, console=console, disable=not console.is_terminal)
    all_fit = len(names) + 2 < console.height
    tasks = [progress.add_task(name, total=1, state="", visible=all_fit) for name in names]
    everything = progress.add_task("all", total=len(names), state="")
    clocks = [Clock() for _ in range(len(names) + 1)]
    told = [(time.monotonic(), 0)] * len(names)  # when each run got its last plain line, for which epoch
    ended: set[int] = set()

    def update() -> None:
        now, shares = time.monotonic(), []
        for run, (stage, epoch, accuracy) in enumerate(board.read()):
            share = done_share(stage, accuracy, training_share=training_share)
            if last_epochs and stage is Stage.TRAINING:
                share = max(share, training_share * epoch / last_epochs[run])
            shares.append(share)
            left = clocks[run].left(share, now)
            state = ", ".join(filter(None, (describe(stage, epoch, accuracy), left)))
            is_running = stage in (Stage.TRAINING, Stage.PROBING, Stage.ANALYSING)
            progress.update(tasks[run], completed=share, state=state, visible=all_fit or is_running)
            just_ended = run not in ended and stage in (Stage.DONE, Stage.FAILED, Stage.ELSEWHERE)
            due = is_running and epoch > told[run][1] and now >= told[run][0] + every
            if just_ended or due:
                told[run] = now, epoch
                if not (console.is_terminal and all_fit):
                    console.print(f"{names[run]}: {state}", soft_wrap=True)
            if just_ended:
                ended.add(run)
        mean_share = sum(shares) / max(1, len(shares))
        progress.update(everything, completed=sum(shares), state=clocks[-1].left(mean_share, now))

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
