"""Training on labels that may be wrong: repeatable from three seeds, resumable after every epoch."""

from layerprobe.training.checkpoints import (
    bytes_needed,
    chosen_epochs,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
)
from layerprobe.training.loop import accuracy, train
from layerprobe.training.provenance import provenance
from layerprobe.training.recipe import Recipe
from layerprobe.training.retrain import Measured, Retrained, early_stopping, retrain
from layerprobe.training.scaling import Scale
from layerprobe.training.seeds import Seeds, seeded
from layerprobe.training.stacked import train_stacked
from layerprobe.training.state import Epoch, TrainingState

__all__ = [
    "Epoch",
    "Measured",
    "Recipe",
    "Retrained",
    "Scale",
    "Seeds",
    "TrainingState",
    "accuracy",
    "bytes_needed",
    "chosen_epochs",
    "early_stopping",
    "load_checkpoint",
    "load_weights",
    "provenance",
    "retrain",
    "save_checkpoint",
    "save_weights",
    "seeded",
    "train",
    "train_stacked",
]
