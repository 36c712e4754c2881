"""Every figure of the paper and of our own experiments, drawn from rows alone.

A figure is one function under a title and a caption, which registers itself. `layerprobe.figures` draws
panels of lines; `lines.py` turns rows into lines.
"""

from layerprobe.paper.figures import by_condition, over_epochs, over_layers, retrained  # noqa: F401
from layerprobe.paper.figures.spec import FIGURES as _FIGURES
from layerprobe.paper.figures.spec import FigureSpec

__all__ = ["FIGURES", "FigureSpec"]

_NUMBERS = {name: int(spec.name.removeprefix("figure")) for name, spec in _FIGURES.items() if spec.numbered}
FIGURES = {name: _FIGURES[name] for name in sorted(_FIGURES, key=lambda name: _NUMBERS.get(name, 99))}
