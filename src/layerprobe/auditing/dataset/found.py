"""What reading a file, a folder or a data set of the hub finds."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Found"]


class Found(NamedTuple):
    """Pixels (n, h, w[, 3]) uint8, texts (n,) or numbers (n, ...); their labels, and the rows' names."""

    content: np.ndarray
    labels: Sequence[Any] | np.ndarray
    names: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
