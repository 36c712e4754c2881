"""Callbacks that record a `History` in the trainers of transformers and Lightning."""

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from layerprobe.errors import InputError
from layerprobe.layers.batches import is_whole

if TYPE_CHECKING:
    from layerprobe.recording.history import History


def trainer_callback(history: "History") -> Any:
    """Return a ``TrainerCallback`` that ends an epoch of the history with each epoch of the trainer.

    Without `data` the rows are those of the trainer's data set, in its order, and each epoch ends with a pass
    over them. To record the training steps instead, call ``history.update(index, logits)`` in
    ``Trainer.compute_loss`` where ``model.training`` is true: evaluation calls it, too.

    Raises
    ------
    InputError
        If transformers is not installed.
    """
    base = _callback_class(["transformers"], "TrainerCallback")

    class HistoryCallback(base):  # type: ignore[misc, valid-type]
        def on_train_begin(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
            _take_data(history, objects.get("train_dataloader"), args.per_device_eval_batch_size)

        def on_epoch_end(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
            history.epoch(objects["model"])

    return HistoryCallback()


def lightning_callback(history: "History") -> Any:
    """Return a ``Callback`` of Lightning that ends an epoch of the history with each training epoch.

    A ``training_step`` that returns a dictionary with "index" and "logits" beside "loss" is recorded step by
    step. Otherwise, without `data`, the rows are those of the trainer's data loader, in the order of its data
    set, and each epoch ends with a pass over them. The module's ``forward`` must return logits.

    Raises
    ------
    InputError
        If Lightning is not installed.
    """
    places = ["lightning.pytorch", "pytorch_lightning"]  # two packages with the same content
    places.sort(key=lambda place: place not in sys.modules)
    base = _callback_class(places, "Callback")

    class HistoryCallback(base):  # type: ignore[misc, valid-type]
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            _take_data(history, trainer.train_dataloader)

        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            if (
                isinstance(outputs, Mapping)
                and "index" in outputs
                and isinstance(outputs.get("logits"), Tensor)
            ):
                history.update(outputs["index"], outputs["logits"])

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            history.epoch(pl_module)

    return HistoryCallback()


def _callback_class(modules: list[str], name: str) -> Any:
    """Return the class of this name from the first module that is installed."""
    for module in modules:
        try:
            return getattr(import_module(module), name)
        except ImportError:
            continue
    package = modules[0].split(".")[0]
    raise InputError(
        f"this callback needs the package {package}, which is not installed: pip install {package}"
    )


def _take_data(history: "History", loader: Any, batch_size: int | None = None) -> None:
    """Let a history read the data of a trainer, and collate the hold-out as the trainer does."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return
    if history.data is None:
        history.data = loader
    held = history.holdout
    if held is None or isinstance(held, DataLoader) or is_whole(held) or not hasattr(held, "__getitem__"):
        return
    if hasattr(held, "select_columns") and hasattr(loader.dataset, "column_names"):
        held = held.select_columns(loader.dataset.column_names)  # of Hugging Face: without unused columns
    size = batch_size or loader.batch_size or history.batch_size
    history.holdout = DataLoader(held, size, collate_fn=loader.collate_fn)
