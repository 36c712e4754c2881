"""Mathematics on tensors: moments, subspaces, angles. Start with subspaces.py."""

from layerprobe.core.moments import ClassMoments
from layerprobe.core.subspaces import Subspaces, choose_rank, fit_subspaces

__all__ = ["ClassMoments", "Subspaces", "choose_rank", "fit_subspaces"]
