"""One spec, one folder, one network: trained once, and resumed after whatever interrupted it."""

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layerprobe.data import ImageSet
from layerprobe.errors import DataError
from layerprobe.paper.folders import (
    CHECKPOINT,
    DONE,
    MODEL,
    RECORD,
    Run,
    build_network,
    epoch_path,
    load_model,
    read_record,
    read_run,
    run_folder,
    write_history,
    write_record,
    write_text,
)
from layerprobe.paper.locking import BusyError, locked
from layerprobe.paper.pairs import pair
from layerprobe.paper.specs import RunSpec, run_data
from layerprobe.training import (
    Epoch,
    TrainingState,
    chosen_epochs,
    load_checkpoint,
    provenance,
    save_checkpoint,
    save_weights,
    train,
)

__all__ = ["BusyError", "Run", "RunSpec", "execute", "load_model", "read_run", "run_folder"]


def execute(
    spec: RunSpec,
    root: str | os.PathLike[str],
    *,
    data_root: str | os.PathLike[str] | None = None,
    device: torch.device | str = "cpu",
    on_epoch: Callable[[Epoch], object] | None = None,
    checkpoints: bool = False,
) -> Run:
    """Train what a spec says, or finish it, in its own folder under `root`.

    Whatever interrupts it, the same call goes on after the last complete epoch, and in one thread on a CPU
    ends with the same bits as an undisturbed run. A run that is done is returned as it is.

    Parameters
    ----------
    spec : RunSpec
        What to train.
    root : path
        The folder of all runs.
    data_root : path, optional
        As in `layerprobe.data.load`.
    device : torch.device or str
        Where to train. Initial weights and batch orders are drawn on the CPU, the same for every device.
    on_epoch : callable, optional
        Called with each `Epoch` when it is on disk.
    checkpoints : bool
        Keep the weights of `chosen_epochs`, of those that this call trains.

    Returns
    -------
    Run

    Raises
    ------
    BusyError
        If another process trains it.
    DataError
        If the data set is missing, or the folder was begun by another spec or with other data.
    """
    folder = run_folder(root, spec)
    if (folder / RECORD).exists():
        _check_same("spec", read_record(folder)["spec"], spec.to_dict(), folder)
    if not (folder / DONE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            if not (folder / DONE).exists():  # it may have ended while we waited for the lock
                _finish(spec, folder, data_root, torch.device(device), on_epoch, checkpoints)
    return read_run(folder)


def _finish(
    spec: RunSpec,
    folder: Path,
    data_root: str | os.PathLike[str] | None,
    device: torch.device,
    on_epoch: Callable[[Epoch], object] | None,
    checkpoints: bool,
) -> None:
    """Do what is left to do, wherever it was cut; the marker comes last."""
    for part in folder.rglob(".*.part"):  # of a process that was killed while it wrote
        part.unlink()
    if not (folder / MODEL).exists():
        _train(spec, folder, data_root, device, on_epoch, checkpoints)
    write_record(folder, {**read_record(folder), "finished": _now()})
    (folder / CHECKPOINT).unlink(missing_ok=True)
    write_text(folder / DONE, "")


def _train(
    spec: RunSpec,
    folder: Path,
    data_root: str | os.PathLike[str] | None,
    device: torch.device,
    on_epoch: Callable[[Epoch], object] | None,
    checkpoints: bool,
) -> None:
    """Train from the last checkpoint, if any, to the end; the weights' file is the last that it writes."""
    images, labels = run_data(spec, data_root)
    resume = load_checkpoint(folder / CHECKPOINT, device) if (folder / CHECKPOINT).exists() else None
    _begin_session(spec, folder, images, device, resume)
    model = build_network(spec).to(device)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stub
    chosen = chosen_epochs(spec.recipe.max_epochs) if checkpoints else []

    def save_epoch(path: Path, weights: Mapping[str, Tensor], epoch: int) -> None:
        save_weights(path, weights, {"spec": spec.to_dict(), "epoch": epoch})

    def keep(weights: Mapping[str, Tensor], epoch: int) -> None:
        if epoch in chosen:
            path = epoch_path(folder, epoch)
            path.parent.mkdir(exist_ok=True)
            save_epoch(path, weights, epoch)

    def save(state: TrainingState) -> None:
        keep(state.model, len(state.history))  # before the checkpoint, after which it would not come again
        save_checkpoint(folder / CHECKPOINT, state)
        write_history(folder, state.history)

    def on_device(array: Any) -> Tensor:
        return torch.tensor(array, device=device)

    if resume is None:
        keep(model.state_dict(), 0)
    history = train(
        model,
        on_device(images.train_images),
        on_device(labels),
        spec.recipe,
        order_seed=spec.order_seed,
        true_labels=on_device(images.train_labels),
        test=(on_device(images.test_images), on_device(images.test_labels)),
        inputs=pair(spec.pair).scale(images.max_value),
        resume=resume,
        save=save,
        on_epoch=on_epoch,
    )
    write_history(folder, history)  # once more: it may have been cut off after the last checkpoint
    save_epoch(folder / MODEL, model.state_dict(), len(history))


def _begin_session(
    spec: RunSpec, folder: Path, images: ImageSet, device: torch.device, resume: TrainingState | None
) -> None:
    """Note in run.json who goes on from where; refuse data other than those that the run began with."""
    data = {"name": images.name, "sha256": images.fingerprint}
    sessions = []
    if (folder / RECORD).exists():
        record = read_record(folder)
        _check_same("data", record["data"], data, folder)
        sessions = record["sessions"]
    session = {
        "started": _now(),
        "epochs_before": len(resume.history) if resume else 0,
        "device": device.type,
        "threads": torch.get_num_threads(),
        **provenance(),
    }
    sessions = [*sessions, session]
    write_record(folder, {"spec": spec.to_dict(), "key": spec.key, "data": data, "sessions": sessions})


def _check_same(what: str, found: Any, expected: Any, folder: Path) -> None:
    if found != expected:
        raise DataError(
            f"{folder}: this run was begun with the {what} {found} and cannot go on with {expected}. "
            "Move the folder away, or name another root."
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
