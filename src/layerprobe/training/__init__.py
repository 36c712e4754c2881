"""Training on labels that may be wrong: repeatable from three seeds, resumable after every epoch.

START HERE: `loop.py`, the training loop.
"""

from layerprobe.errors import renamed
from layerprobe.training.checkpoints import (
    TrainingState,
    bytes_needed,
    chosen_epochs,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
)
from layerprobe.training.loop import accuracy, predict, train
from layerprobe.training.recipe import Epoch, Recipe, Scale
from layerprobe.training.reproducibility import Seeds, provenance
from layerprobe.training.retraining import RetrainingEpoch, RetrainingResult, early_stopping, retrain
from layerprobe.training.stacked import stackable, train_stacked
from layerprobe.utils.settings import seeded

__all__ = [
    "Epoch",
    "Recipe",
    "RetrainingEpoch",
    "RetrainingResult",
    "Scale",
    "Seeds",
    "TrainingState",
    "accuracy",
    "bytes_needed",
    "chosen_epochs",
    "early_stopping",
    "load_checkpoint",
    "load_weights",
    "predict",
    "provenance",
    "retrain",
    "save_checkpoint",
    "save_weights",
    "seeded",
    "stackable",
    "train",
    "train_stacked",
]

__getattr__ = renamed(__name__, {"Measured": RetrainingEpoch, "Retrained": RetrainingResult})
