"""Progress of long operations: a bar on stderr, or a callback."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Progress", "reporting"]

Progress = Callable[[int, int], object]
"""Called with (done, total); the total is 0 if it is unknown."""


@contextmanager
def reporting(progress: bool | Progress, title: str) -> Iterator[Progress]:
    """Yield the callback, a function that draws a bar (for True), or a function without effect."""
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
            task = bars.add_task(title, total=None, visible=False)  # no bar if there is nothing to do
            yield lambda done, total: bars.update(task, completed=done, total=total or None, visible=True)
