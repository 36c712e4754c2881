"""The runs of a grid one after the other, each trained by all processes of a job."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from layerprobe.runs.execution import execute
from layerprobe.runs.folders import DONE, run_folder
from layerprobe.runs.grid import Outcome, Tell
from layerprobe.runs.specs import RunSpec
from layerprobe.runs.states import so_far
from layerprobe.training import Epoch
from layerprobe.utils.distributed import rank

__all__ = ["train_in_turn"]


def train_in_turn(
    specs: Sequence[RunSpec], root: str | os.PathLike[str], *, tell: Tell | None = None, **options: Any
) -> list[Outcome]:
    """Train every run that is not done yet, or go on with it.

    A run that fails ends the job: the processes would no longer be at the same step. Then, as after any
    interruption, the same call goes on after the last complete epoch.

    Parameters
    ----------
    specs, root, tell
        As for `layerprobe.paper.train_grid`; equal in all processes, but for `tell`.
    **options
        As for `layerprobe.paper.execute`.

    Returns
    -------
    list of Outcome
        One for each spec, in their order: kept or trained.
    """
    outcomes = []
    for position, spec in enumerate(specs):
        done = (run_folder(root, spec) / DONE).exists()
        say = partial(tell, position) if tell and rank() == 0 else _say_nothing
        say("training", *so_far(root, spec))
        execute(spec, root, on_epoch=partial(_on_epoch, say), **options)
        say("done", *so_far(root, spec))
        outcomes.append(Outcome(spec, "kept" if done else "trained"))
    return outcomes


def _on_epoch(say: Callable[[str, int, float], object], epoch: Epoch) -> None:
    say("training", epoch.epoch, epoch.train_accuracy)


def _say_nothing(*_: object) -> None: ...
