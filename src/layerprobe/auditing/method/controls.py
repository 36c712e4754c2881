"""What an audit has to beat: the head, alone and over views, raw input, an untrained copy, early stopping."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from layerprobe.auditing.method.candidates import families, try_all
from layerprobe.auditing.method.intervals import Interval, interval
from layerprobe.auditing.method.policies import Jury
from layerprobe.errors import InputError
from layerprobe.training import seeded

__all__ = [
    "Control",
    "best_of_history",
    "controls_of",
    "most_frequent",
    "untrained_control",
    "untrained_copy",
]


AVERAGED = "head, averaged over views"
FREQUENT = "most frequent label"


@dataclass(frozen=True, eq=False)
class Control:
    """Something cheap that a decoder must beat.

    Attributes
    ----------
    name : str
    criterion : Interval
        By the same rows and labels as the decoder's; of "early stopping" by the history's.
    correct : Tensor (m,) or None
        Row by row, for a paired comparison; None where only the accuracy is known.
    comparable : bool
        False for the head averaged over views that judge: together they tell the network which row it is, and
        so the label that it knows by heart.
    """

    name: str
    criterion: Interval
    correct: Tensor | None
    comparable: bool = True


def controls_of(jury: Jury, inputs: Tensor | None) -> list[Control]:
    """Return the head, the head averaged over the views and the raw input, as far as there are such.

    `inputs` is what the best candidate of the layer "input" gets right, row by row.
    """
    found = []
    if jury.logits:
        found.append(("head", jury.correct(jury.logits)))
    if jury.averaged is not None:
        found.append((AVERAGED, jury.correct([jury.averaged])))
    if inputs is not None:
        found.append(("raw input", inputs.double()))
    return [
        Control(name, interval(correct), correct, comparable=not (jury.of_views and name == AVERAGED))
        for name, correct in found
    ]


def most_frequent(jury: Jury, codes: Tensor) -> Control:
    """Return what needs no features at all: the most frequent given label for every row."""
    shares = codes.bincount().double()
    correct = jury.correct([shares.expand(len(jury.labels), -1)])
    return Control(FREQUENT, interval(correct), correct)


def untrained_control(jury: Jury, codes: Tensor) -> Control:
    """Return the best ridge probe of an untrained network, whose jury this is."""
    tried = try_all(families(["ridge"]), jury.fitted_on, codes, jury.copies, jury.correct)
    best = max(tried, key=lambda one: one.criterion)
    return Control("untrained copy", interval(best.correct), best.correct.double())


def untrained_copy(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy of a network with new initial weights, drawn as its modules draw them.

    Parameters that no module's ``reset_parameters`` reaches, such as parametrised ones, keep their values in
    a new random order: what they have learnt is gone and their sizes are right. The model stays as it is.
    """
    fresh = copy.deepcopy(model)
    with seeded(seed), torch.no_grad():
        for module in fresh.modules():
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset):
                reset()
        for learnt, parameter in zip(model.parameters(), fresh.parameters(), strict=True):
            if torch.equal(learnt, parameter):
                order = torch.randperm(parameter.numel(), device="cpu").to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return fresh


def best_of_history(history: Sequence[float], judges: int, *, comparable: bool = True) -> Control:
    """Return early stopping: the best epoch by its accuracy on a noisy hold-out.

    Parameters
    ----------
    history : sequence of float
        The network's accuracy on the hold-out after every epoch.
    judges : int
        Rows of that hold-out.
    comparable : bool
        Whether it is the hold-out that judges the decoder.

    Raises
    ------
    InputError
        If it is empty, or holds something that is no share.
    """
    values = [float(value) for value in history]
    if not values or not all(0 <= value <= 1 for value in values):
        raise InputError(
            "expected as history= the network's accuracy on the noisy hold-out after every epoch, numbers "
            f"in [0, 1], got {values[:5]}"
        )
    best = max(values)
    half = 1.96 * (best * (1 - best) / max(judges, 1)) ** 0.5
    criterion = Interval(best, max(0.0, best - half), min(1.0, best + half))
    return Control("early stopping", criterion, None, comparable)
