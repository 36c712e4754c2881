"""Pure mathematics on tensors: moments, subspaces, angles. Start with subspaces.py."""

from layerprobe.core.label_sets import fit_label_sets, predict_label_sets
from layerprobe.core.moments import ClassMoments
from layerprobe.core.subspaces import Subspaces, choose_rank, fit_subspaces

__all__ = [
    "ClassMoments",
    "Subspaces",
    "choose_rank",
    "fit_label_sets",
    "fit_subspaces",
    "predict_label_sets",
]
