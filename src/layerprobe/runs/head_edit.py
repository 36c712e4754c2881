"""Training with an edit of the last layer after some epochs (arXiv 2603.19865)."""

import math
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

from torch import Tensor, nn

from layerprobe.editing import Bias, check_bias, edit_head, linear_probe
from layerprobe.errors import InputError
from layerprobe.training import Epoch, Recipe, TrainingState, train
from layerprobe.training.loop import Inputs

BATCH = 512  # samples per forward pass of the edit
NEVER = 2.0  # a training accuracy that is not reached


@dataclass(frozen=True)
class Edit:
    """An edit of a network's last layer during training, which continues with a fresh optimiser.

    Attributes
    ----------
    epoch : int
        The edit follows this epoch, from 1 on. The target of the recipe applies to later epochs only.
    probe, bias : str
        As for `layerprobe.edit_head`. The probe is fitted on the labels that the network is trained on.
    """

    epoch: int
    probe: str = "velpic"
    bias: Bias = "probe"

    def __post_init__(self) -> None:
        if not isinstance(self.epoch, Integral) or self.epoch < 1:
            raise InputError(f"an edit's epoch must be a whole number of at least 1, got {self.epoch!r}")
        object.__setattr__(self, "epoch", int(self.epoch))
        linear_probe(self.probe)
        check_bias(self.bias)


def train_edited(
    edit: Edit,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    recipe: Recipe,
    *,
    inputs: Inputs,
    resume: TrainingState | None = None,
    **arguments: Any,
) -> list[Epoch]:
    """Train as `train` does, with an edit of the last layer after some epochs.

    A state of at most `edit.epoch` epochs is that of the network before the edit, one of more epochs that of
    the edited network. So the network is edited once, however often training is interrupted.

    Parameters
    ----------
    edit : Edit
        The edit.
    model, x, y, recipe, inputs, resume, **arguments
        As for `layerprobe.training.train`.

    Returns
    -------
    list of Epoch
        The whole history. Where the loss is not finite before the edit, training ends there.
    """
    arguments |= {"inputs": inputs}
    if resume and len(resume.history) > edit.epoch:
        earlier = list(resume.history[: edit.epoch])
    else:
        before = replace(recipe, max_epochs=edit.epoch, target=NEVER)
        earlier = train(model, x, y, before, resume=resume, **arguments)
        if not math.isfinite(earlier[-1].loss):
            return earlier
        parts = zip(x.split(BATCH), y.split(BATCH), strict=True)
        edited = edit_head(model, ((inputs(rows), labels) for rows, labels in parts), edit.probe, edit.bias)
        model.load_state_dict(edited.state_dict())
        resume = None
    return train(model, x, y, recipe, earlier=earlier, resume=resume, **arguments)
