"""Train several runs as one batched model, each in its own folder, as if it had been trained alone."""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch

from layerprobe.data import ImageSet
from layerprobe.errors import InputError, LayerprobeError
from layerprobe.runs.execution import RunWriter, common_arguments, unfinished
from layerprobe.runs.folders import DONE, Run, read_run, run_folder
from layerprobe.runs.leases import Session
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
    session: Session | None = None,
) -> list[Run | LayerprobeError]:
    """Train runs that differ only in corruption, noise and seeds as one model, or resume them.

    The folders are those of `execute`: each function resumes runs of the other. Weights and histories equal
    those of separate runs within the tolerance that `train_stacked` states. Runs at different epochs first
    catch up with the furthest. Each run is done when it ends, not when the last one does. The images are on
    the device once; each run adds its labels, its weights and its optimiser state.

    Parameters
    ----------
    specs : sequence of RunSpec
        What to train; one of `groups`.
    root, data_root, device, checkpoints, session
        As for `execute`.
    on_epoch : callable, optional
        Called with the position in `specs` and each `Epoch`, when the epoch of every run is on disk.

    Returns
    -------
    list of Run or LayerprobeError
        For each spec its run or, where it could not begin (BusyError if another process trains it, DataError
        if its folder was begun with another spec), the reason. The other runs are trained nevertheless.

    Raises
    ------
    InputError
        If the runs cannot be one model.
    """
    if len(groups(specs)) > 1 or any(spec.edit for spec in specs):
        raise InputError(
            "runs can be trained as one model if they differ only in corruption, noise and seeds and have no "
            f"dropout and no edit; got {', '.join(spec.folder_name for spec in specs)}. Train the groups "
            "that groups() returns, those of one run with execute()."
        )
    device = torch.device(device)
    refused: dict[int, LayerprobeError] = {}
    writers: dict[int, RunWriter] = {}
    ys: list[torch.Tensor] = []
    images: ImageSet | None = None
    with ExitStack() as leases:
        for member, spec in enumerate(specs):
            try:
                lease = leases.enter_context(unfinished(spec, root, session))
                if lease:
                    own_images, labels = run_data(spec, data_root)
                    images = images or own_images  # they are equal; keep one copy
                    writers[member] = RunWriter.begin(spec, lease, images, labels, device, checkpoints)
                    ys.append(torch.tensor(labels, device=device))
            except LayerprobeError as error:
                refused[member] = error
        if images and writers:
            _train(writers, ys, images, device, on_epoch)
    return [refused.get(member) or read_run(run_folder(root, spec)) for member, spec in enumerate(specs)]


def _train(
    writers: dict[int, RunWriter],
    ys: list[torch.Tensor],
    images: ImageSet,
    device: torch.device,
    on_epoch: Callable[[int, Epoch], object] | None,
) -> None:
    members, runs = list(writers), list(writers.values())

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
        **common_arguments(runs[0].spec, images, device),
    )
    for run, history in zip(runs, histories, strict=True):
        if not (run.lease.folder / DONE).exists():  # interrupted earlier, after its last epoch
            run.finish(history)


def groups(specs: Sequence[RunSpec]) -> list[list[RunSpec]]:
    """Return the groups of runs for `execute_together`: equal but for corruption, noise and seeds.

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
