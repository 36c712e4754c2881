"""Every figure of the paper and of our own experiments, drawn from rows alone.

A figure is one `FigureSpec`: a title and a caption, the experiments whose rows it needs, and a function from
these rows to a figure. `layerprobe.figures` draws panels of lines; `lines.py` turns rows into lines.
"""

from layerprobe.paper.figures.by_condition import CONDITION_FIGURES
from layerprobe.paper.figures.over_epochs import EPOCH_FIGURES
from layerprobe.paper.figures.over_layers import LAYER_FIGURES
from layerprobe.paper.figures.retrained import RETRAINING_FIGURES
from layerprobe.paper.figures.spec import FigureSpec

__all__ = ["FIGURES", "FigureSpec"]

_EVERY = (*LAYER_FIGURES, *RETRAINING_FIGURES, *CONDITION_FIGURES, *EPOCH_FIGURES)
_NUMBERED = [spec for spec in _EVERY if spec.numbered]
_NUMBERED.sort(key=lambda spec: int(spec.name.removeprefix("figure")))
FIGURES: dict[str, FigureSpec] = {
    spec.name: spec for spec in (*_NUMBERED, *(spec for spec in _EVERY if not spec.numbered))
}
