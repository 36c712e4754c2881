"""Train runs in their own folders, one at a time or several as one batched model, or resume them."""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layerprobe.data import ImageSet
from layerprobe.data.noise import REGISTRY as NOISES
from layerprobe.data.registry import REGISTRY as SETS
from layerprobe.editing import edit_head
from layerprobe.errors import DataError, InputError, LayerprobeError
from layerprobe.runs.data import data_record, run_data
from layerprobe.runs.folders import (
    CHECKPOINT,
    EPOCH_MODEL,
    MODEL,
    RECORD,
    Run,
    build_network,
    check_weights,
    damage,
    is_done,
    is_marked,
    mark_done,
    read_record,
    read_run,
    run_folder,
    write_history,
    write_record,
)
from layerprobe.runs.leases import Lease, Session, acquire, remove_unfinished
from layerprobe.runs.pairs import PAIRS, pair
from layerprobe.runs.specs import Edit, RunSpec
from layerprobe.runs.states import untrained_network
from layerprobe.training import (
    Epoch,
    Recipe,
    TrainingState,
    chosen_epochs,
    load_checkpoint,
    provenance,
    save_checkpoint,
    save_weights,
    stackable,
    train,
    train_stacked,
)
from layerprobe.training.recipe import NEVER
from layerprobe.utils.distributed import from_first, rank, world_size
from layerprobe.utils.files import Location
from layerprobe.utils.settings import default_settings

BATCH = 512  # samples per forward pass of an edit


@default_settings()
def execute(
    spec: RunSpec,
    root: Location,
    *,
    data_root: Location | None = None,
    device: torch.device | str = "cpu",
    on_epoch: Callable[[Epoch], object] | None = None,
    checkpoints: bool = False,
    session: Session | None = None,
) -> Run:
    """Train a run in its own folder under `root`, or resume it.

    After any interruption the same call resumes after the last complete epoch. In one thread on a CPU the
    result has the same bits as that of an undisturbed run. A run that is done is returned as it is.

    In a job of several processes (`layerprobe.utils.distributed.group`) all of them call this and train
    together, as `train` does. The first one alone holds the lease and writes; the others must see the folder.

    Parameters
    ----------
    spec : RunSpec
    root : path
    data_root : path, optional
    device : torch.device or str
        Where to train. Initial weights and batch orders are drawn on the CPU, the same for every device.
    on_epoch : callable, optional
        Called with each `Epoch` when it is on disk.
    checkpoints : bool
        Keep the weights of those `chosen_epochs` that this call trains.
    session : Session, optional
        The session of the calling command: a run that one of its lost workers holds is taken over.

    Raises
    ------
    BusyError
        If another process trains the run.
    DataError
        If the data set is missing, or the folder was begun with another spec or other data.
    InputError
        If the spec has published weights, which are imported and not trained.
    """
    if spec.weights:
        raise InputError(
            f"{spec.folder_name}: published weights are not trained; import them by "
            "layerprobe.paper.released.import_weights, or by layerprobe reproduce --weights"
        )
    device = torch.device(device)
    with _unfinished(spec, root, session) as lease:
        if lease:
            data = run_data(spec, data_root)
            writer = _RunWriter(spec, lease, data, device, checkpoints)
            history = (partial(_train_edited, spec.edit) if spec.edit else train)(
                writer.model,
                y=writer.y,
                order_seed=spec.order_seed,
                resume=writer.resume,
                save=writer.save,
                on_epoch=on_epoch,
                **common_arguments(spec, data[0], device),
            )
            writer.finish(history)
    return read_run(run_folder(root, spec))


@contextmanager
def _unfinished(spec: RunSpec, root: Location, session: Session | None) -> Iterator[Lease | None]:
    """Hold the folder of a run that is not done, which is made if necessary; yield None if the run is done.

    In a job of several processes the first one holds it for all of them. The errors are those of `execute`.
    """
    folder = run_folder(root, spec)
    if rank() > 0:
        yield Lease(folder, "") if from_first(None) else None
        from_first(None)  # the first process has written everything
        return
    if os.path.lexists(folder / RECORD):
        _check_same("spec", read_run(folder).spec, spec, folder)
    if is_marked(folder):
        check_weights(folder)
        from_first(b"")
        yield None
    else:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise DataError(f"{folder} cannot be made: {error.strerror}.") from error
        with acquire(folder, session) as lease:
            left = not is_marked(folder)  # it may have ended before this process had the lease
            if left:
                remove_unfinished(folder)
                if (folder / RECORD).exists() and not damage(folder):  # the weights are written
                    _seal(folder)
                    left = False
            from_first(b"unfinished" if left else b"")
            yield lease if left else None
    from_first(b"")


def _seal(folder: Path) -> None:
    """Complete a run whose weights are written."""
    write_record(folder, {**read_record(folder), "finished": _now()})
    mark_done(folder)


def common_arguments(spec: RunSpec, images: ImageSet, device: torch.device) -> dict[str, Any]:
    """Return the arguments of `train` that runs of one pair, recipe and subset share.

    They are x, recipe, true_labels, test and inputs.

    Parameters
    ----------
    spec : RunSpec
    images : ImageSet
    device : torch.device
    """
    on_device = partial(torch.tensor, device=device)
    return {
        "x": on_device(images.train_images),
        "recipe": spec.recipe,
        "true_labels": on_device(images.train_labels),
        "test": (on_device(images.test_images), on_device(images.test_labels)),
        "inputs": pair(spec.pair).scale(images.max_value),
    }


class _RunWriter:
    """Begin or resume a run in its folder, and write the folder while the run is trained."""

    def __init__(
        self,
        spec: RunSpec,
        lease: Lease,
        data: tuple[ImageSet, np.ndarray],
        device: torch.device,
        checkpoints: bool,
    ) -> None:
        """Build the network, read the checkpoint, and record this session of training in run.json."""
        self.spec, self.lease = spec, lease
        self.chosen = chosen_epochs(spec.recipe.max_epochs) if checkpoints else []  # whose weights are kept
        self.y = torch.tensor(data[1], device=device)
        self.resume: TrainingState | None = None  # on the CPU: it is held as long as the run is trained
        checkpoint = lease.folder / CHECKPOINT
        if checkpoint.exists():
            try:
                self.resume = load_checkpoint(checkpoint)
            except DataError as error:
                raise DataError(f"{error} Remove this file to begin the run anew.") from error
        if rank() == 0:
            self._record_session(data_record(*data), device)
        model = build_network(spec).to(device)
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its stub
        if self.resume is None and rank() == 0:
            self._keep(self.model.state_dict(), 0)

    def save(self, state: TrainingState) -> None:
        """Write an epoch, if this process still holds the lease; raise BusyError otherwise."""
        self.lease.check()
        # Weights first: training resumes after the epoch of the checkpoint and would not write them again.
        self._keep(state.model, len(state.history))
        save_checkpoint(self.lease.folder / CHECKPOINT, state)
        write_history(self.lease.folder, state.history)

    def finish(self, history: Sequence[Epoch]) -> None:
        """Write the trained network, if this process still holds the lease; raise BusyError otherwise."""
        if rank() > 0:
            return
        self.lease.check()
        folder = self.lease.folder
        write_history(folder, history)  # the last call may have been interrupted after its last checkpoint
        self._write_weights(folder / MODEL, self.model.state_dict(), len(history))
        _seal(folder)

    def _record_session(self, data: dict[str, Any], device: torch.device) -> None:
        """Add this session of training to run.json; raise DataError if the run was begun with other data."""
        spec, folder = self.spec, self.lease.folder
        record = read_record(folder) if (folder / RECORD).exists() else {"data": data}
        _check_same("data", record.get("data"), data, folder)
        origins = {
            "pair": PAIRS.origin(spec.pair),
            "dataset": SETS.origin(pair(spec.pair).dataset),
            "noise": NOISES.origin(spec.noise),
        }
        outside = {kind: origin for kind, origin in origins.items() if origin}
        session = {
            "started": _now(),
            "epochs_before": len(self.resume.history) if self.resume else 0,
            "device": device.type,
            "processes": world_size(),
            "threads": torch.get_num_threads(),
            **provenance(),
            **({"origins": outside} if outside else {}),
        }
        sessions = [*record.get("sessions", []), session]
        write_record(folder, {"spec": spec.to_dict(), "key": spec.key, "data": data, "sessions": sessions})

    def _keep(self, weights: Mapping[str, Tensor], epoch: int) -> None:
        if epoch in self.chosen:
            path = self.lease.folder / EPOCH_MODEL.format(epoch)
            path.parent.mkdir(exist_ok=True)
            self._write_weights(path, weights, epoch)

    def _write_weights(self, path: Path, weights: Mapping[str, Tensor], epoch: int) -> None:
        save_weights(path, weights, {"spec": self.spec.to_dict(), "epoch": epoch})


def _check_same(what: str, found: Any, expected: Any, folder: Path) -> None:
    if found != expected:
        raise DataError(
            f"{folder}: this run was begun with the {what} {found} and cannot go on with {expected}. "
            "Move the folder away, or name another root."
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _train_edited(
    edit: Edit,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    recipe: Recipe,
    *,
    inputs: Callable[[Tensor], Tensor],
    resume: TrainingState | None = None,
    **arguments: Any,
) -> list[Epoch]:
    """Train as `train` does, with an edit of the last layer after some epochs (arXiv 2603.19865).

    A state of at most `edit.epoch` epochs is that of the network before the edit, one of more epochs that of
    the edited network. So the network is edited once, however often training is interrupted. Training
    ends before the edit where the loss is not finite.
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


@default_settings()
def execute_together(
    specs: Sequence[RunSpec],
    root: Location,
    *,
    data_root: Location | None = None,
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
    writers: dict[int, _RunWriter] = {}
    images: ImageSet | None = None
    with ExitStack() as leases:
        for member, spec in enumerate(specs):
            try:
                lease = leases.enter_context(_unfinished(spec, root, session))
                if lease:
                    own_images, labels = run_data(spec, data_root)
                    images = images or own_images  # they are equal; keep one copy
                    writers[member] = _RunWriter(spec, lease, (images, labels), device, checkpoints)
            except LayerprobeError as error:
                refused[member] = error
        if images and writers:
            _train_together(writers, common_arguments(specs[0], images, device), on_epoch)
    return [refused.get(member) or read_run(run_folder(root, spec)) for member, spec in enumerate(specs)]


def _train_together(
    writers: dict[int, _RunWriter],
    common: dict[str, Any],
    on_epoch: Callable[[int, Epoch], object] | None,
) -> None:
    members, runs = list(writers), list(writers.values())

    def save(r: int, state: TrainingState) -> None:
        runs[r].save(state)
        if runs[r].spec.recipe.has_ended(state.history):
            runs[r].finish(state.history)

    histories = train_stacked(
        [run.model for run in runs],
        ys=[run.y for run in runs],
        order_seeds=[run.spec.order_seed for run in runs],
        resume=[run.resume for run in runs],
        save=save,
        on_epoch=on_epoch and (lambda r, epoch: on_epoch(members[r], epoch)),
        **common,
    )
    for run, history in zip(runs, histories, strict=True):
        if not is_done(run.lease.folder):  # interrupted earlier, after its last epoch
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
        separate = spec.edit is not None or not stackable(untrained_network(spec))
        alike.setdefault(spec if separate else same, []).append(spec)
    return list(alike.values())
