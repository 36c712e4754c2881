"""Progress of several runs on stderr: bars on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from layerprobe.runs.progress import Progress, ProgressCallback
from layerprobe.utils.terminal import say

TRAINING_SHARE = 0.4  # rough share of a run's time that training takes in the demo; it only moves the bars
INTERVAL = 60  # seconds after which a run that goes on gets another line, where there is no terminal


def describe(progress: Progress) -> str:
    """Return the progress of one run in words."""
    if progress.state == "waiting" or not progress.step:
        return progress.state
    if progress.state == "analysing":
        return f"experiment {progress.step}"
    return f"{progress.state}, epoch {progress.step}, {100 * progress.share:.1f} % of its labels learnt"


def done_share(progress: Progress, *, training_share: float = TRAINING_SHARE) -> float:
    """Return roughly how much of a run is done, in [0, 1]; its number of epochs is not known in advance.

    Parameters
    ----------
    progress, training_share
        The share of the run's time that training takes, roughly.
    """
    if progress.state == "training":
        return training_share * progress.share**2  # the last labels take longest
    shares = {"waiting": 0.0, "probing": training_share, "analysing": progress.share}
    return shares.get(progress.state, 1.0)


class TimeLeft:
    """Estimate the time that is left from the pace since the first estimate."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None  # time and share when the share was first known

    def in_words(self, share: float, now: float) -> str:
        """Return the time left in words; empty while there is no estimate.

        Parameters
        ----------
        share, now
            The share that is done, in [0, 1], and the time.
        """
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
    names: Sequence[str],
    *,
    last_epochs: Sequence[int] | None = None,
    training_share: float = TRAINING_SHARE,
) -> Iterator[ProgressCallback]:
    """Show the progress of runs on stderr: bars on a terminal, otherwise a line when a run ends.

    The callback takes the position of a run in `names` and its progress.

    Parameters
    ----------
    names : sequence of str
    last_epochs : sequence of int, optional
        The maximum number of epochs of each run.
    training_share : float
        Share of a run's time that training takes, roughly.
    """
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.fields[state]}"))
    bars = Bars(*columns, console=console, disable=not console.is_terminal)
    all_fit = len(names) + 2 < console.height
    tasks = [bars.add_task(name, total=1, state="waiting", visible=all_fit) for name in names]
    total = bars.add_task("all", total=len(names), state="")
    shares, left = [0.0] * len(names), [TimeLeft() for _ in range(len(names) + 1)]
    last_line = [time.monotonic()] * len(names)

    def report(run: int, progress: Progress) -> None:
        now = time.monotonic()
        shares[run] = done_share(progress, training_share=training_share)
        if last_epochs and progress.state == "training":
            shares[run] = max(shares[run], training_share * progress.step / last_epochs[run])
        state = ", ".join(filter(None, (describe(progress), left[run].in_words(shares[run], now))))
        running = not progress.ended and progress.state != "waiting"
        bars.update(tasks[run], completed=shares[run], state=state, visible=all_fit or running)
        mean = sum(shares) / len(shares)
        bars.update(total, completed=sum(shares), state=left[-1].in_words(mean, now))
        due = running and progress.step and now >= last_line[run] + INTERVAL
        if (progress.ended or due) and not (console.is_terminal and all_fit):
            last_line[run] = now
            say(f"{names[run]}: {state}", error=True)

    with bars:
        yield report
