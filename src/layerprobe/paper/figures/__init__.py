"""Every figure of the paper and of our own experiments, drawn from rows alone.

A figure is one function under a title and a caption, which registers itself. `layerprobe.figures` draws
panels of lines; `lines.py` turns rows into lines.
"""

from layerprobe.paper.figures import by_condition, over_epochs, over_layers, retrained
from layerprobe.paper.figures.spec import FIGURES as _FIGURES
from layerprobe.paper.figures.spec import FigureSpec

__all__ = ["FIGURES", "FigureSpec"]

_MODULES = [module.__name__ for module in (over_layers, retrained, by_condition, over_epochs)]


def _place(name: str) -> tuple[int, int]:
    """Return the number of a figure of the paper; the others follow by their modules."""
    spec = _FIGURES[name]
    number = int(name.removeprefix("figure")) if spec.numbered else 99
    return number, _MODULES.index(spec.plot.__module__)


FIGURES = {name: _FIGURES[name] for name in sorted(_FIGURES, key=_place)}
