"""The folder of a run.

| file | contents |
| --- | --- |
| run.json | the spec, the fingerprint of the data, and for each session: versions, kind of host, start |
| history.csv | one row per epoch |
| checkpoint.safetensors | during training: weights, optimiser and history after the last epoch |
| checkpoints/epoch-0005.safetensors | optional: weights of chosen epochs; 0 is the initial network |
| model.safetensors | weights after the last epoch |
| done | the checksum of the model as JSON, written last |
| lease | during training: the process that trains the run, see `layerprobe.runs.leases` |

Files are replaced as a whole and are on the disk before `done` is: none is half-written. Nevertheless every
file is checked when it is read, and `damage` says what is wrong with a run that is marked as done.
"""

import hashlib
import io
import json
import os
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors
import torch
from torch import nn

from layerprobe.errors import DataError, LayerprobeError, UnknownNameError
from layerprobe.runs.leases import is_leased
from layerprobe.runs.pairs import pair
from layerprobe.runs.specs import RunSpec
from layerprobe.training import Epoch, load_weights, seeded
from layerprobe.utils.files import Location, read_file, replace_file, sync_folder
from layerprobe.utils.settings import default_settings

RECORD, HISTORY, MODEL, DONE = "run.json", "history.csv", "model.safetensors", "done"
CHECKPOINT, EPOCH_MODEL = "checkpoint.safetensors", "checkpoints/epoch-{:04}.safetensors"
ANEW = "Remove the folder and train anew."


@dataclass(frozen=True, eq=False)
class Run:
    """A run as its folder records it.

    Attributes
    ----------
    folder : Path
    spec : RunSpec
    history : DataFrame
        One row per complete epoch; the columns are the fields of `layerprobe.training.Epoch`.
    done : bool
        Whether training has ended and the weights are whole.
    record : dict
        The contents of run.json.
    """

    folder: Path
    spec: RunSpec
    history: pd.DataFrame
    done: bool
    record: dict[str, Any]

    @property
    def running(self) -> bool:
        """Whether a process, here or on another machine, trains the run at this moment."""
        return is_leased(self.folder)

    @property
    def seconds(self) -> float:
        """Wall time of all epochs, in seconds."""
        return float(self.history["seconds"].sum())

    @property
    def memorised(self) -> bool:
        """Whether the running training accuracy has reached the recipe's target, after the edit if any."""
        final = self.history[self.history["epoch"] > (self.spec.edit.epoch if self.spec.edit else 0)]
        return bool((final["train_accuracy"] >= self.spec.recipe.target).any())


def run_folder(root: Location, spec: RunSpec) -> Path:
    """Return the folder of a run, whether it exists or not.

    Parameters
    ----------
    root : path
    spec : RunSpec
    """
    return Path(root) / spec.pair / spec.folder_name


def is_marked(folder: Path) -> bool:
    """Return whether the training of a run has ended."""
    return os.path.lexists(folder / DONE)


def is_done(folder: Path) -> bool:
    """Return whether the training of a run has ended and its weights are whole."""
    return is_marked(folder) and not damage(folder)


def damage(folder: Path) -> str:
    """Return what is wrong with the weights of a run whose training has ended; empty if nothing is."""
    try:
        if is_marked(folder):
            _recorded_checksum(folder)
        if not (folder / MODEL).is_file():
            return f"{MODEL} is gone"
        with safetensors.safe_open(folder / MODEL, "pt"):  # compares the header with the size of the file
            return ""
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        return _one_line(f"{MODEL} is damaged: {error}")


def check_weights(folder: Path) -> None:
    """Raise DataError if a run is marked as done and its weights are damaged."""
    if is_marked(folder) and (problem := damage(folder)):
        raise DataError(f"{folder}: {problem}. {ANEW}")


def mark_done(folder: Path) -> None:
    """Mark a run as done whose other files are written; the marker comes last."""
    checksum = _checksum(folder / MODEL)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    for place in (folder, folder.parent, folder.parent.parent):
        sync_folder(place)
    replace_file(folder / DONE, json.dumps({"sha256": checksum}).encode())


def _checksum(path: Path) -> str:
    return hashlib.sha256(read_file(path, most=2**40)).hexdigest()


def _recorded_checksum(folder: Path) -> str:
    """Return the SHA-256 of the model that `done` records."""
    marker = read_file(folder / DONE, most=1000)
    try:
        return str(json.loads(marker)["sha256"])
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{folder / DONE} is no record of ours: {error!r}") from error


def build_network(spec: RunSpec) -> nn.Module:
    """Return the initial network of a run, on the CPU."""
    with seeded(spec.init_seed):
        return pair(spec.pair).network(spec.options)


def kept_epochs(folder: Path) -> list[int]:
    """Return the epochs whose weights are in a run's folder, in order; 0 is the initial network."""
    kept = folder.glob("checkpoints/epoch-*.safetensors")
    return sorted(int(path.stem.removeprefix("epoch-")) for path in kept)


@default_settings()
def load_model(folder: Location, epoch: int | None = None, device: torch.device | str = "cpu") -> nn.Module:
    """Return a run's network in evaluation mode.

    Parameters
    ----------
    folder : path
    epoch : int, optional
        One of `kept_epochs`; 0 is the initial network. By default the last epoch of a run that is done.
    device : torch.device or str

    Raises
    ------
    DataError
        If there is no run in this folder, or it does not have these weights.
    """
    run = read_run(folder)
    path = run.folder / (MODEL if epoch is None else EPOCH_MODEL.format(epoch))
    if not path.exists():
        what, how = f"epoch {epoch}", "Train it with checkpoints, which keep chosen epochs"
        if epoch is None:
            what = "its last epoch"
            how = "They are gone: remove the folder and train anew" if is_marked(run.folder) else "Finish it"
        raise DataError(f"{run.folder}: this run has no weights of {what} ({path.name}). {how}.")
    if epoch is None and run.done and _recorded_checksum(run.folder) != _checksum(path):
        raise DataError(f"{path} is damaged: it is not the file that training wrote. {ANEW}")
    model = build_network(run.spec)
    with _reported(run.folder):
        model.load_state_dict(load_weights(path)[0])
    return model.to(device).eval()


def read_run(folder: Location) -> Run:
    """Read a run that is done, running or interrupted.

    Raises
    ------
    DataError
        If there is no run in this folder, or its files cannot be read.
    """
    folder = Path(folder)
    record = read_record(folder)
    with _reported(folder, record):
        spec, history = RunSpec.from_dict(record["spec"]), _read_history(folder)
        hash(spec)  # an option may be of a type that has no hash
        if is_marked(folder) and history.empty and spec.weights is None:
            raise ValueError(f"{HISTORY} has no epoch")
    return Run(folder, spec, history, is_done(folder), record)


def read_record(folder: Path) -> dict[str, Any]:
    """Return the contents of run.json, or raise DataError."""
    if not os.path.lexists(folder / RECORD):
        raise DataError(f"{folder}: no run here, expected {RECORD}.")
    with _reported(folder):
        record = json.loads(read_file(folder / RECORD, most=10**7).decode("utf-8"))
        for name, kind in {"spec": dict, "data": dict, "sessions": list}.items():
            if not isinstance(record.get(name, None if name == "spec" else kind()), kind):
                raise TypeError(f"{RECORD}: {name} is no {kind.__name__}")
        return record


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Replace run.json.

    Parameters
    ----------
    folder : Path
    record : dict
    """
    replace_file(folder / RECORD, (json.dumps(record, indent=2) + "\n").encode())


def _read_history(folder: Path) -> pd.DataFrame:
    columns = [field.name for field in fields(Epoch)]
    types = dict.fromkeys(columns, float) | {"epoch": int}
    if not os.path.lexists(folder / HISTORY):  # no epoch yet
        return pd.DataFrame(columns=columns).astype(types)
    # As text: pandas' own parser of floats can err in the last bit.
    history = pd.read_csv(io.BytesIO(read_file(folder / HISTORY)), dtype=str)[columns].astype(types)
    if history["epoch"].tolist() != list(range(1, len(history) + 1)):
        raise ValueError(f"the epochs of {HISTORY} are not 1, 2, 3, ...")
    shares = history[["train_accuracy", "true_accuracy", "test_accuracy"]]
    if not (shares.isna() | ((shares >= 0) & (shares <= 1))).all(axis=None):
        raise ValueError(f"{HISTORY} has an accuracy that is no share")
    if not history["seconds"].between(0, 1e12).all():
        raise ValueError(f"{HISTORY} has a duration that is no number of seconds")
    return history


def write_history(folder: Path, history: Iterable[Epoch]) -> None:
    """Replace history.csv; its numbers have all their digits.

    Parameters
    ----------
    folder : Path
    history : iterable of Epoch
    """
    replace_file(folder / HISTORY, pd.DataFrame(map(asdict, history)).to_csv(index=False).encode())


@contextmanager
def _reported(folder: Path, record: dict[str, Any] | None = None) -> Iterator[None]:
    """Report every error of reading a run as a DataError: files on a disk can hold anything."""
    try:
        yield
    except UnknownNameError as error:  # not imported from the record: no file that we read can run code
        origins = [session.get("origins") for session in (record or {}).get("sessions", [])]
        came = f" The run was made with {_one_line(json.dumps(origins[-1]))}." if any(origins) else ""
        raise DataError(
            f"{folder}: the run is not damaged, but needs a name that is not registered here. "
            f"{str(error).rstrip('.')}.{came} Name the object, as in --pair or --noise PKG.MOD:NAME, "
            "or import the module that registers it."
        ) from error
    except Exception as error:
        kind = "" if isinstance(error, LayerprobeError) else f"{type(error).__name__}: "
        reason = _one_line(f"{kind}{error}").rstrip(".")
        raise DataError(f"{folder}: the run's files are damaged ({reason}). {ANEW}") from error


def _one_line(text: str) -> str:
    return textwrap.shorten(text, 300, placeholder=" ...")
