"""Progress of `audit()` and `probe()`: one line on a terminal or in a notebook, or a callback.

Any function reports by `report_step` and `report_count`. They do nothing outside of functions that are
decorated with `shows_progress`.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from html import escape
from typing import Any, TypeVar

from layerprobe.errors import InputError
from layerprobe.utils.distributed import rank

Show = Callable[[str, float | None], object]
"""Called with a text, and the share of the step that is done, or None if it is unknown."""
Function = TypeVar("Function", bound=Callable[..., Any])

REDRAW_SECONDS = 0.2  # between two changes of the line on a terminal
CALLBACK_SECONDS = 5.0  # between two counts of one step that a callback gets


class _Progress:
    """The step that runs, and where it is shown."""

    def __init__(self, show: Show, every: float) -> None:
        self.show, self.every = show, every
        self.step, self.since, self.shown = "", 0.0, 0.0

    def start(self, step: str) -> None:
        self.step, self.since = step, time.perf_counter()
        self.shown = self.since
        self.show(step, None)

    def count(self, step: str, done: int, total: int | None) -> None:
        if step != self.step:
            self.start(step)
        now = time.perf_counter()
        if not done or now - self.shown < self.every:
            return
        self.shown = now
        if not total:
            self.show(f"{step}: {done:,}", None)
            return
        left = (now - self.since) / done * (total - done)
        self.show(f"{step}: {done:,} of {total:,}, about {left:.0f} s left", done / total)


_CURRENT: ContextVar[_Progress | None] = ContextVar("progress", default=None)


def report_step(step: str) -> None:
    """Report that a step begins."""
    if progress := _CURRENT.get():
        progress.start(step)


def report_count(step: str, done: int, total: int | None) -> None:
    """Report how much of a step is done; the remaining time is estimated.

    Parameters
    ----------
    step : str
    done, total : int
        Counts; the total is None if it is unknown.
    """
    if progress := _CURRENT.get():
        progress.count(step, done, total)


def shows_progress(function: Function) -> Function:
    """Decorate a function with the keyword argument ``progress``: True, False or a callback of one text.

    True shows a line with an estimate on a terminal or in a notebook, and nothing where stderr is a file.
    The function itself does not need the argument. Inside another decorated function nothing changes.
    """

    @wraps(function)
    def call(*args: Any, progress: bool | Callable[[str], object] | None = True, **kwargs: Any) -> Any:
        if not (progress is None or isinstance(progress, bool) or callable(progress)):
            got = type(progress).__name__
            raise InputError(f"expected progress= as True, False or a function, got {got}")
        visible = callable(progress) or (progress and (_in_notebook() or sys.stderr.isatty()))
        if _CURRENT.get() or not visible or rank():
            return function(*args, **kwargs)
        with _display(progress) as current:
            token = _CURRENT.set(current)
            try:
                return function(*args, **kwargs)
            finally:
                _CURRENT.reset(token)

    return call  # type: ignore[return-value]


@contextmanager
def _display(progress: Any) -> Iterator[_Progress]:
    """Yield where steps are shown: by a callback, in a notebook or on a terminal."""
    if callable(progress):
        yield _Progress(lambda text, share: progress(text), CALLBACK_SECONDS)
    elif _in_notebook():
        from IPython.display import HTML, display

        line = display(HTML(""), display_id=True)
        yield _Progress(lambda text, share: line.update(HTML(_bar(text, share))), REDRAW_SECONDS)
        line.update(HTML(""))
    else:
        import rich.progress as bars
        from rich.console import Console

        text_column = bars.TextColumn("{task.description}", markup=False)
        columns = bars.SpinnerColumn(), text_column, bars.BarColumn(20)
        with bars.Progress(*columns, console=Console(stderr=True), transient=True) as shown:
            task = shown.add_task("", total=None)

            def update(text: str, share: float | None) -> None:
                total = None if share is None else 1.0
                shown.update(task, description=text, completed=share or 0, total=total)

            yield _Progress(update, REDRAW_SECONDS)


def _in_notebook() -> bool:
    """Return whether the code runs in a notebook, whose kernel is IPython's for notebooks."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and type(ipython.get_ipython()).__name__ == "ZMQInteractiveShell"


def _bar(text: str, share: float | None) -> str:
    value = "" if share is None else f' value="{share:.3f}"'
    return f"<progress{value}></progress> {escape(text)}"
