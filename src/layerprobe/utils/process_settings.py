"""Settings of the whole process that are changed for a while, also by several Python threads at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

__all__ = ["Setting"]


class Setting:
    """Changed by the first who needs it, restored after the last one: nobody restores another's change."""

    def __init__(self) -> None:
        self._lock, self._users = Lock(), 0
        self._undo: Callable[[], None] = lambda: None

    @contextmanager
    def changed(self, change: Callable[[], Callable[[], None]]) -> Iterator[None]:
        """Have it changed inside the block; `change` returns what undoes it."""
        with self._lock:
            if not self._users:
                self._undo = change()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._undo()
