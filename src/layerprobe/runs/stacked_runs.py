"""Several runs as one batched model, each in its own folder, as if it had been trained alone."""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch

from layerprobe.errors import InputError, LayerprobeError
from layerprobe.runs.execution import Session, common_arguments, is_trained, seal, unfinished
from layerprobe.runs.folders import DONE, Run, read_run, run_folder
from layerprobe.runs.leases import Sweep
from layerprobe.runs.specs import RunSpec, run_data
from layerprobe.runs.states import untrained_network
from layerprobe.training import Epoch, TrainingState, stackable, train_stacked

__all__ = ["execute_together", "groups"]


def execute_together(
    specs: Sequence[RunSpec],
    root: str | os.PathLike[str],
    *,
    data_root: str | os.PathLike[str] | None = None,
    device: torch.device | str = "cpu",
    on_epoch: Callable[[int, Epoch], object] | None = None,
    checkpoints: bool = False,
    sweep: Sweep | None = None,
) -> list[Run | LayerprobeError]:
    """Train runs that differ in corruption, noise and seeds alone as one model, or finish them.

    Their folders are those of `execute`: either function goes on with what the other began. Weights and
    histories are those of separate runs within the tolerance that `train_stacked` states. Runs that stand at
    different epochs first catch up with the furthest, and each is done when it ends, not when the last does.
    The images lie on the device once; each run adds its labels, its weights and what the optimiser keeps.

    Parameters
    ----------
    specs : sequence of RunSpec
        What to train; one of `groups`.
    root, data_root, device, checkpoints, sweep
        As for `execute`.
    on_epoch : callable, optional
        Called with the position in `specs` and each `Epoch`, when every run's epoch is on disk.

    Returns
    -------
    list of Run or LayerprobeError
        For each spec its run or, where it could not begin (a BusyError if another process trains it, a
        DataError if its folder is not its own), the reason; the others are trained nevertheless.

    Raises
    ------
    InputError
        If the runs cannot be one model.
    """
    if len(groups(specs)) > 1 or any(spec.edit for spec in specs):
        raise InputError(
            "runs can be trained as one if they differ in corruption, noise and seeds alone and have no "
            f"dropout and no edit; got {', '.join(spec.folder_name for spec in specs)}. Train the groups "
            "that groups() returns, those of one run with execute()."
        )
    device = torch.device(device)
    refused: dict[int, LayerprobeError] = {}
    sessions: dict[int, Session] = {}
    ys, images = [], None
    with ExitStack() as locks:
        for member, spec in enumerate(specs):
            try:
                claim = locks.enter_context(unfinished(spec, root, sweep))
                if claim and is_trained(claim.folder):
                    seal(claim.folder)
                elif claim:
                    its_images, labels = run_data(spec, data_root)
                    images = images or its_images  # equal, and let go of all but the first
                    sessions[member] = Session.begin(spec, claim, images, labels, device, checkpoints)
                    ys.append(torch.tensor(labels, device=device))
            except LayerprobeError as error:
                refused[member] = error
        if images and sessions:
            _train(sessions, ys, common_arguments(specs[0], images, device), on_epoch)
    return [refused.get(member) or read_run(run_folder(root, spec)) for member, spec in enumerate(specs)]


def _train(
    sessions: dict[int, Session],
    ys: list[torch.Tensor],
    arguments: dict,
    on_epoch: Callable[[int, Epoch], object] | None,
) -> None:
    members, runs = list(sessions), list(sessions.values())

    def save(r: int, state: TrainingState) -> None:
        runs[r].save(state)
        if runs[r].spec.recipe.has_ended(state.history):
            runs[r].finish(state.history)

    histories = train_stacked(
        [run.model for run in runs],
        ys=ys,
        order_seeds=[run.spec.order_seed for run in runs],
        resume=[run.resume for run in runs],
        save=save,
        on_epoch=on_epoch and (lambda r, epoch: on_epoch(members[r], epoch)),
        **arguments,
    )
    for run, history in zip(runs, histories, strict=True):
        if not (run.folder / DONE).exists():  # it had ended before, and was cut off before its last files
            run.finish(history)


def groups(specs: Sequence[RunSpec]) -> list[list[RunSpec]]:
    """Group the runs that `execute_together` takes: alike but for corruption, noise and seeds.

    A run with dropout or an edit is a group of its own, for `execute`.
    """
    alike: dict[RunSpec, list[RunSpec]] = {}
    for spec in specs:
        same = replace(
            spec, corruption=0, noise="published", noise_seed=None, init_seed=0, order_seed=0, seed=None
        )
        separate = spec.edit is not None or not stackable(untrained_network(spec.pair, spec.options))
        alike.setdefault(spec if separate else same, []).append(spec)
    return list(alike.values())
