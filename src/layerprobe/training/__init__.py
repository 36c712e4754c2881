"""Training on labels that may be wrong, repeatable from three seeds."""

from layerprobe.training.loop import Epoch, Recipe, accuracy, train
from layerprobe.training.provenance import provenance
from layerprobe.training.seeds import Seeds, seeded

__all__ = ["Epoch", "Recipe", "Seeds", "accuracy", "provenance", "seeded", "train"]
