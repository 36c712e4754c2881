"""The folder of a run.

| file | contents |
| --- | --- |
| run.json | the spec, the fingerprint of the data, and for each session: versions, kind of host, start |
| history.csv | one row per epoch |
| checkpoint.safetensors | during training: weights, optimiser and history after the last epoch |
| checkpoints/epoch-0005.safetensors | optional: weights of chosen epochs; 0 is the initial network |
| model.safetensors | weights after the last epoch |
| done | empty, written last |
| lease | during training: the process that trains the run, see `layerprobe.runs.leases` |

Files are replaced as a whole, so none is ever half-written.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from layerprobe.errors import DataError
from layerprobe.runs.leases import is_leased
from layerprobe.runs.pairs import pair
from layerprobe.runs.specs import RunSpec
from layerprobe.training import Epoch, load_weights, seeded
from layerprobe.utils.files import replace_file
from layerprobe.utils.settings import default_settings

RECORD = "run.json"
HISTORY = "history.csv"
CHECKPOINT = "checkpoint.safetensors"
MODEL = "model.safetensors"
DONE = "done"

Location = str | os.PathLike[str]


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
        Whether training has ended.
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


def is_done(folder: Path) -> bool:
    """Return whether the training of a run has ended and all its files are written."""
    return (folder / DONE).exists()


def epoch_path(folder: Path, epoch: int) -> Path:
    """Return the path of the weights of a chosen epoch.

    Parameters
    ----------
    folder : Path
    epoch : int
    """
    return folder / "checkpoints" / f"epoch-{epoch:04}.safetensors"


def kept_epochs(folder: Path) -> list[int]:
    """Return the epochs whose weights are in a run's folder, in order; 0 is the initial network."""
    kept = folder.glob("checkpoints/epoch-*.safetensors")
    return sorted(int(path.stem.removeprefix("epoch-")) for path in kept)


def build_network(spec: RunSpec) -> nn.Module:
    """Return the initial network of a run, on the CPU."""
    with seeded(spec.init_seed):
        return pair(spec.pair).network(spec.options)


def read_run(folder: Location) -> Run:
    """Read a run that is done, running or interrupted.

    Raises
    ------
    DataError
        If there is no run in this folder, or its files cannot be read.
    """
    folder = Path(folder)
    record = read_record(folder)
    try:
        spec, history = RunSpec.from_dict(record["spec"]), _read_history(folder)
    except (KeyError, TypeError, ValueError) as error:  # our own InputError is a ValueError
        raise _damaged(folder, error) from error
    return Run(folder, spec, history, is_done(folder), record)


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
    path = run.folder / MODEL if epoch is None else epoch_path(run.folder, epoch)
    if not path.exists():
        what, how = f"epoch {epoch}", "Train it with checkpoints, which keep chosen epochs"
        if epoch is None:
            what = "its last epoch"
            how = "They are gone: remove the folder and train anew" if run.done else "Finish it"
        raise DataError(f"{run.folder}: this run has no weights of {what} ({path.name}). {how}.")
    model = build_network(run.spec)
    model.load_state_dict(load_weights(path)[0])
    return model.to(device).eval()


def read_record(folder: Path) -> dict[str, Any]:
    """Return the contents of run.json, or raise DataError."""
    try:
        return json.loads((folder / RECORD).read_text("utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{folder}: no run here, expected {RECORD}.") from error
    except ValueError as error:  # no JSON, or no text
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> DataError:
    reason = f"{type(error).__name__}: {error}"
    return DataError(f"{folder}: the run's files are damaged ({reason}). Remove the folder and train anew.")


def _read_history(folder: Path) -> pd.DataFrame:
    columns = [field.name for field in fields(Epoch)]
    try:
        history = pd.read_csv(
            folder / HISTORY, dtype=str
        )  # pandas' own parser of floats can err in the last bit
    except FileNotFoundError:  # no epoch yet
        history = pd.DataFrame(columns=columns)
    return history.astype(dict.fromkeys(columns, float) | {"epoch": int})


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Replace run.json.

    Parameters
    ----------
    folder : Path
    record : dict
    """
    replace_file(folder / RECORD, (json.dumps(record, indent=2) + "\n").encode())


def write_history(folder: Path, history: Iterable[Epoch]) -> None:
    """Replace history.csv; its numbers have all their digits.

    Parameters
    ----------
    folder : Path
    history : iterable of Epoch
    """
    replace_file(folder / HISTORY, pd.DataFrame(map(asdict, history)).to_csv(index=False).encode())
