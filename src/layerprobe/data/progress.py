"""Progress of long reads: a bar on stderr, or the caller's own function."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Progress", "reporting"]

Progress = Callable[[int, int], object]
"""Called with (done, in all); in all is 0 where that is not known."""


@contextmanager
def reporting(progress: bool | Progress, title: str) -> Iterator[Progress]:
    """Give a function to report to: the caller's own, one that draws a bar (True), or one without effect."""
    if callable(progress):
        yield progress
    elif not progress:
        yield lambda done, total: None
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Bars(*columns, console=Console(stderr=True)) as bars:
            task = bars.add_task(title, total=None, visible=False)  # nothing to do needs no bar
            yield lambda done, total: bars.update(task, completed=done, total=total or None, visible=True)
