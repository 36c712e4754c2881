"""Progress of long operations: a bar on stderr, or a callback."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int], object]
"""Called with (done, total); the total is 0 if it is unknown."""


@contextmanager
def reporting(progress: bool | Progress, title: str, *, in_bytes: bool = False) -> Iterator[Progress]:
    """Yield the function that reports progress.

    Parameters
    ----------
    progress : bool or callable
        A callback of (done, total); True for a bar on stderr, False for no report.
    title : str
        The bar's title.
    in_bytes : bool
        Show bytes and their rate instead of counts and the remaining time.
    """
    if callable(progress):
        yield progress
    elif not progress:
        yield lambda done, total: None
    else:
        import rich.progress as bars
        from rich.console import Console

        counts: tuple = (bars.DownloadColumn(), bars.TransferSpeedColumn())
        if not in_bytes:
            counts = (bars.MofNCompleteColumn(), bars.TimeRemainingColumn())
        columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), *counts)
        with bars.Progress(*columns, console=Console(stderr=True)) as shown:
            task = shown.add_task(title, total=None, visible=False)  # no bar if there is nothing to do
            yield lambda done, total: shown.update(task, completed=done, total=total or None, visible=True)
