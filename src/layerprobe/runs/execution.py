"""One spec, one folder, one network: trained once, and resumed after whatever interrupted it."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from layerprobe.data import ImageSet
from layerprobe.errors import DataError
from layerprobe.runs.folders import (
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
from layerprobe.runs.head_edit import train_edited
from layerprobe.runs.leases import BusyError, Claim, Sweep, locked
from layerprobe.runs.pairs import pair
from layerprobe.runs.specs import RunSpec, run_data
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
from layerprobe.utils.distributed import from_first, rank, world_size

__all__ = ["BusyError", "Run", "RunSpec", "execute", "load_model", "read_run", "run_folder"]

LEFT = b"left to train"


def execute(
    spec: RunSpec,
    root: str | os.PathLike[str],
    *,
    data_root: str | os.PathLike[str] | None = None,
    device: torch.device | str = "cpu",
    on_epoch: Callable[[Epoch], object] | None = None,
    checkpoints: bool = False,
    sweep: Sweep | None = None,
) -> Run:
    """Train what a spec says, or finish it, in its own folder under `root`.

    Whatever interrupts it, the same call goes on after the last complete epoch, and in one thread on a CPU
    ends with the same bits as an undisturbed run. A run that is done is returned as it is.

    In a job of several processes (`layerprobe.utils.distributed.group`) all of them call this and train it
    together, as `train` says; the first alone locks the folder and writes, the others have to see it.

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
    sweep : Sweep, optional
        The command that this is part of, whose lost workers' runs are taken over.

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
    device = torch.device(device)
    with _unfinished_for_all(spec, root, sweep) as claim:
        if claim and is_trained(claim.folder):
            if rank() == 0:
                seal(claim.folder)
        elif claim:
            images, labels = run_data(spec, data_root)
            session = Session.begin(spec, claim, images, labels, device, checkpoints)
            trained = partial(train_edited, spec.edit) if spec.edit else train
            history = trained(
                session.model,
                y=torch.tensor(labels, device=device),
                order_seed=spec.order_seed,
                resume=session.resume,
                save=session.save,
                on_epoch=on_epoch,
                **common_arguments(spec, images, device),
            )
            if rank() == 0:
                session.finish(history)
    return read_run(run_folder(root, spec))


@contextmanager
def _unfinished_for_all(
    spec: RunSpec, root: str | os.PathLike[str], sweep: Sweep | None
) -> Iterator[Claim | None]:
    """Hold the folder as `unfinished` does, in the first process of a job for all of them."""
    if rank():
        held_by_first = Claim(run_folder(root, spec), 0)  # which alone writes, and so asks whether it holds
        yield held_by_first if from_first(None) == LEFT else None
        from_first(None)
        return
    with unfinished(spec, root, sweep) as claim:
        from_first(LEFT if claim else b"")
        yield claim
    from_first(b"")  # now all its files are there


@contextmanager
def unfinished(
    spec: RunSpec, root: str | os.PathLike[str], sweep: Sweep | None = None
) -> Iterator[Claim | None]:
    """Hold the folder of a run that is not done, made if need be and tidied up; None if it is done.

    Raises
    ------
    BusyError
        If another process trains it.
    DataError
        If the folder was begun by another spec.
    """
    folder = run_folder(root, spec)
    if (folder / RECORD).exists():
        _check_same("spec", read_run(folder).spec, spec, folder)
    if (folder / DONE).exists():
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, sweep) as claim:
        if (folder / DONE).exists():  # it may have ended before the folder was ours
            yield None
            return
        for part in folder.rglob(".*.part"):  # of a process that was killed while it wrote
            part.unlink()
        yield claim


def is_trained(folder: Path) -> bool:
    """Return whether only the marker is missing."""
    return (folder / MODEL).exists() and (folder / RECORD).exists()


def seal(folder: Path) -> None:
    """Do what is left to do when the weights are there; the marker comes last."""
    write_record(folder, {**read_record(folder), "finished": _now()})
    (folder / CHECKPOINT).unlink(missing_ok=True)
    write_text(folder / DONE, "")


def common_arguments(spec: RunSpec, images: ImageSet, device: torch.device) -> dict[str, Any]:
    """Return those arguments of `train` that runs of one pair, recipe and subset share."""

    def on_device(array: Any) -> Tensor:
        return torch.tensor(array, device=device)

    return {
        "x": on_device(images.train_images),
        "recipe": spec.recipe,
        "true_labels": on_device(images.train_labels),
        "test": (on_device(images.test_images), on_device(images.test_labels)),
        "inputs": pair(spec.pair).scale(images.max_value),
    }


@dataclass
class Session:
    """One stretch of a run's training, from its last checkpoint, if any, until it ends or is cut off."""

    spec: RunSpec
    claim: Claim
    model: nn.Module
    resume: TrainingState | None
    chosen: list[int]

    @classmethod
    def begin(
        cls,
        spec: RunSpec,
        claim: Claim,
        images: ImageSet,
        labels: np.ndarray,
        device: torch.device,
        checkpoints: bool,
    ) -> Self:
        """Build the network and read the checkpoint; note in run.json who goes on from where.

        Raises
        ------
        DataError
            If the run was begun with other data, or its checkpoint is damaged.
        """
        folder = claim.folder
        checkpoint = folder / CHECKPOINT
        # It is held as long as the session: better in the host's memory than in the device's.
        try:
            resume = load_checkpoint(checkpoint) if checkpoint.exists() else None
        except DataError as error:
            raise DataError(f"{error} Remove this file to begin the run anew.") from error
        data = {
            "name": images.name,
            "sha256": images.fingerprint,
            "labels_sha256": hashlib.sha256(labels.tobytes()).hexdigest(),
            "train_images": len(images.train_images),
            "test_images": len(images.test_images),
        }
        if rank() == 0:
            _note_session(spec, folder, data, device, resume)
        model = build_network(spec).to(device)
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its stub
        chosen = chosen_epochs(spec.recipe.max_epochs) if checkpoints else []
        session = cls(spec, claim, model, resume, chosen)
        if resume is None:
            session._keep(model.state_dict(), 0)
        return session

    @property
    def folder(self) -> Path:
        """Where it is written."""
        return self.claim.folder

    def save(self, state: TrainingState) -> None:
        """Write all that an epoch leaves, if the folder is still ours."""
        self.claim.check()
        # The chosen epochs' weights before the checkpoint, after which they would not come again.
        self._keep(state.model, len(state.history))
        save_checkpoint(self.folder / CHECKPOINT, state)
        write_history(self.folder, state.history)

    def finish(self, history: Sequence[Epoch]) -> None:
        """Write what remains when training has ended, if the folder is still ours."""
        self.claim.check()
        write_history(self.folder, history)  # once more: it may have been cut off after the last checkpoint
        self._write_weights(self.folder / MODEL, self.model.state_dict(), len(history))
        seal(self.folder)

    def _keep(self, weights: Mapping[str, Tensor], epoch: int) -> None:
        if epoch in self.chosen and rank() == 0:
            path = epoch_path(self.folder, epoch)
            path.parent.mkdir(exist_ok=True)
            self._write_weights(path, weights, epoch)

    def _write_weights(self, path: Path, weights: Mapping[str, Tensor], epoch: int) -> None:
        save_weights(path, weights, {"spec": self.spec.to_dict(), "epoch": epoch})


def _note_session(
    spec: RunSpec, folder: Path, data: dict[str, Any], device: torch.device, resume: TrainingState | None
) -> None:
    """Note in run.json who goes on from where; refuse data other than those that the run began with."""
    sessions = []
    if (folder / RECORD).exists():
        record = read_record(folder)
        _check_same("data", record["data"], data, folder)
        sessions = record["sessions"]
    session = {
        "started": _now(),
        "epochs_before": len(resume.history) if resume else 0,
        "device": device.type,
        "processes": world_size(),
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
