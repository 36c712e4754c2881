"""Train a copy of a network on repaired labels, with early stopping on rows that it is not trained on."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from layerprobe.auditing.dataset.labelled import LabelledDataset
from layerprobe.auditing.findings import RepairedLabels
from layerprobe.auditing.method.policies import Interval, interval, split_test_rows, untrained_copy
from layerprobe.errors import InputError
from layerprobe.layers.batches import inputs_of_forward, map_tensors
from layerprobe.layers.tracing import device_and_dtype
from layerprobe.layerwise.outputs import class_scores, possible_heads
from layerprobe.training import Epoch, Recipe, Seeds, accuracy, early_stopping, train
from layerprobe.training.loop import predict
from layerprobe.training.recipe import NEVER

DEFAULT_RECIPE = Recipe("adam", 1e-3, 128)
MASK = ".attention_mask"
SHARE = 10  # one in ten training rows validates where there are no held-out rows


@dataclass(frozen=True, eq=False, repr=False)
class RetrainedNetwork:
    """A network trained on repaired labels.

    Attributes
    ----------
    model : nn.Module
        With the weights of the best epoch, in evaluation mode.
    best_epoch : int
        0 if no epoch was better than the initial network.
    history : DataFrame
        One row per epoch, the first for the initial network: epoch; loss, the mean over the epoch's batches
        (NaN for the first); accuracy on the validation rows.
    judged_by : str
        Description of the validation rows.
    accuracy : Interval
        Accuracy of `model` with its 95 % interval, on the validation rows, which chose the epoch and so are
        slightly optimistic; for the policy "test_split" on the other four fifths of the test rows.
    """

    model: nn.Module
    best_epoch: int
    history: pd.DataFrame
    judged_by: str
    accuracy: Interval

    def __repr__(self) -> str:
        value, low, high = self.accuracy
        return (
            f"RetrainedNetwork: accuracy {value:.1%} ({low:.1%} to {high:.1%}), epoch {self.best_epoch} of "
            f"{len(self.history) - 1}, chosen by {self.judged_by}"
        )


class ValidationRows(NamedTuple):
    """Held-out rows of an audit, the class indices y (m,) of their labels, and the selection policy."""

    rows: LabelledDataset
    y: Tensor
    policy: str


def retrain(
    model: nn.Module,
    rows: LabelledDataset,
    labels: RepairedLabels,
    held_out: ValidationRows | None,
    *,
    fresh: bool = True,
    recipe: Recipe | None = None,
    max_epochs: int = 30,
    patience: int | None = 3,
    seed: int = 0,
    on_epoch: Callable[[Epoch], object] | None = None,
    head: str | None = None,
    outputs: Sequence[int] | None = None,
) -> RetrainedNetwork:
    """Train a copy of the audited network on repaired labels, with early stopping.

    Early stopping uses the held-out rows of the audit with their own labels: noisy, trusted, or, for
    "test_split", the fifth of the test rows that selected the layer. The policy "unseen_views" has none: a
    tenth of the training rows, chosen by content, is left out and validates with its repaired labels.

    Parameters
    ----------
    model : nn.Module
        The audited network. It is not changed.
    rows : LabelledDataset
        Its training rows.
    labels : RepairedLabels
        Training uses their targets, and only the rows that they keep.
    held_out : ValidationRows or None
    fresh : bool
        Start from new initial weights; otherwise from the network's own, which have memorised wrong labels.
    recipe : Recipe, optional
        Optimiser, batch size and shuffling; by default Adam with learning rate 1e-3 and batches of 128. Its
        `target` and `max_epochs` are ignored. The batch size grows where a single row would remain, which
        batch normalisation refuses.
    max_epochs : int
        Maximum number of epochs.
    patience : int or None
        Stop after so many epochs in a row without improvement. None trains `max_epochs`.
    seed : int
        Of initial weights, order of the rows and dropout. On one CPU thread the same seed gives the same
        network bit for bit.
    on_epoch : callable, optional
        Called with each `Epoch`; its ``test_accuracy`` is that of the validation rows.
    head, outputs : optional
        As in :class:`layerprobe.auditing.features.NetworkReader`.

    Returns
    -------
    RetrainedNetwork

    Raises
    ------
    InputError
        If too few rows remain to train on, no parameter can be trained, or the loss of the first epoch is not
        finite.

    Notes
    -----
    The initial network counts as an epoch, so that training on cannot reduce the validation accuracy. With
    ``fresh=False`` and "unseen_views" it does not count: it has been trained on the validation rows.
    """
    seeds = Seeds.derive(seed)
    recipe = replace(DEFAULT_RECIPE if recipe is None else recipe, max_epochs=max_epochs, target=NEVER)
    stop = None if patience is None else early_stopping(patience)
    split = _split(rows, labels, held_out)
    while len(split.train) % recipe.batch_size == 1 and recipe.batch_size > 1:  # no single row remains
        recipe = replace(recipe, batch_size=recipe.batch_size + 1)
    device, dtype = device_and_dtype(model)
    with torch.inference_mode(False), torch.enable_grad():
        network = untrained_copy(model, seeds.init) if fresh else copy.deepcopy(model)
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise InputError(
                "no parameter of the network can be trained: model.requires_grad_(True) before the audit"
            )

        def inputs(rows: Tensor) -> Any:
            return inputs_of_forward(model, split.data.take(rows, device, dtype))

        called = _LogitsOf(network, head, outputs)
        with torch.no_grad():  # the trained network shows whether one output is a logit or a probability
            trained = _LogitsOf(copy.deepcopy(model).eval(), head, outputs)
            called.probability = trained.is_probability(inputs(split.train[:512]))
        validation = split.validation.to(device), split.validation_y.to(device)
        history = [(0, math.nan, accuracy(called, *validation, inputs=inputs))]
        counts = fresh or held_out is not None
        best, best_weights = (0, history[0][2] if counts else -1.0), copy.deepcopy(network.state_dict())

        def after(epoch: Epoch) -> None:
            nonlocal best, best_weights
            if epoch.epoch == 1 and not math.isfinite(epoch.loss):
                raise InputError(
                    f"the loss of the first epoch is {epoch.loss}: lower the recipe's learning_rate, now "
                    f"{recipe.learning_rate}"
                )
            history.append((epoch.epoch, epoch.loss, epoch.test_accuracy))
            if epoch.test_accuracy > best[1]:
                best, best_weights = (epoch.epoch, epoch.test_accuracy), copy.deepcopy(network.state_dict())
            if on_epoch:
                on_epoch(epoch)

        train(
            called,
            split.train.to(device),
            split.targets.to(device, dtype if split.targets.ndim == 2 else None),
            recipe,
            order_seed=seeds.order,
            test=validation,
            inputs=inputs,
            on_epoch=after,
            stop=stop,
        )
        network.load_state_dict(best_weights)
        predicted = predict(called, split.test.to(device), inputs=inputs).cpu()
    return RetrainedNetwork(
        network.eval(),
        best[0],
        pd.DataFrame(history, columns=["epoch", "loss", "accuracy"]),
        split.judged_by,
        interval((predicted == split.test_y).double()),
    )


class InputStore:
    """The inputs of `n` rows of several datasets in memory on the CPU, one dataset after the other.

    Tokens that were padded batch by batch are padded to the longest row, on the side where their
    ``attention_mask`` is zero. Without a mask rows of different shapes are an error.
    """

    def __init__(self, *parts: LabelledDataset) -> None:
        self.n = sum(part.n for part in parts)
        self._form: Any = None  # the first batch; its tensors without a row axis serve every batch
        pieces: dict[str, list[tuple[Tensor, Tensor]]] = {}
        start = 0
        for part in parts:
            for inputs, positions in part.batches():
                rows = torch.from_numpy(positions) + start
                first = self._form is None

                def keep(name: str, tensor: Tensor, rows: Tensor = rows, first: bool = first) -> Tensor:
                    if name in pieces or (first and tensor.shape[:1] == rows.shape):
                        pieces.setdefault(name, []).append((rows, tensor.cpu()))
                    return tensor

                form = map_tensors(inputs, keep)
                self._form = form if first else self._form
            start += part.n
        masks = [mask for _, mask in pieces.get(MASK, ())]
        left = any((mask[:, 0] == 0).any() for mask in masks)
        self._columns = {
            name: self._column(pieces.pop(name), left, may_pad=bool(masks)) for name in list(pieces)
        }

    def take(self, rows: Tensor, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Any:
        """Return the inputs of some rows.

        Parameters
        ----------
        rows : Tensor of shape (b,), int64
            Row numbers in 0..n-1, on any device.
        device, dtype : optional
            By default the CPU, and for floating-point inputs the type of the data.
        """
        index = rows.cpu()

        def choose(name: str, tensor: Tensor) -> Tensor:
            chosen = self._columns[name][index] if name in self._columns else tensor
            return chosen.to(device, dtype if chosen.is_floating_point() else None)

        return map_tensors(self._form, choose)

    def _column(self, pieces: list[tuple[Tensor, Tensor]], left: bool, may_pad: bool) -> Tensor:
        shapes = {tuple(piece.shape[1:]) for _, piece in pieces}
        if len(shapes) > 1 and not (may_pad and len({shape[1:] for shape in shapes}) == 1):
            raise InputError(
                f"expected rows of one shape, got {', '.join(map(str, sorted(shapes)))} in different "
                "batches, and no attention_mask says which tokens are padding: bring all rows to one shape"
            )
        longest = max(shapes)
        column = pieces[0][1].new_zeros(self.n, *longest)
        for rows, piece in pieces:
            missing = longest[0] - piece.shape[1] if len(shapes) > 1 else 0
            sides = (missing, 0) if left else (0, missing)
            piece = pad(piece, (0, 0) * (piece.ndim - 2) + sides) if missing else piece
            column[rows] = piece.to(column.dtype)
        return column


class _LogitsOf(nn.Module):
    """A network that takes its inputs as one argument and returns only its class scores."""

    def __init__(self, network: nn.Module, head: str | None, outputs: Sequence[int] | None) -> None:
        super().__init__()
        self.network, self.head = network, head
        self.outputs = None if outputs is None else list(outputs)
        self.probability = False

    def forward(self, inputs: Any) -> Tensor:
        scores = class_scores(self.output(inputs), self.probability)
        return scores if self.outputs is None else scores[:, self.outputs]

    def output(self, inputs: Any) -> Tensor:
        """Return the network's head, (b, k)."""
        args, kwargs = ((), inputs) if isinstance(inputs, Mapping) else (inputs, {})
        heads = possible_heads(self.network(*(args if isinstance(args, tuple) else (args,)), **kwargs))
        return heads[self.head] if self.head in heads else next(iter(heads.values()))

    def is_probability(self, inputs: Any) -> bool:
        """Return whether a single output holds probabilities."""
        output = self.output(inputs)
        return output.shape[1] == 1 and bool(((output >= 0) & (output <= 1)).all())


class _Split(NamedTuple):
    """Training, validation and test rows, as positions in `data`."""

    data: InputStore
    train: Tensor  # (n,)
    targets: Tensor  # (n,) class indices or (n, K) probabilities
    validation: Tensor  # (m,)
    validation_y: Tensor
    test: Tensor  # (l,): the validation rows, except for the paper's split
    test_y: Tensor
    judged_by: str


def _split(rows: LabelledDataset, labels: RepairedLabels, held_out: ValidationRows | None) -> _Split:
    targets, kept = torch.from_numpy(labels.targets), torch.from_numpy(labels.kept)
    y = targets.argmax(1)
    if held_out is None:
        # By content, so that duplicates stay together.
        distinct, place = np.unique(rows.fingerprints(), return_inverse=True)
        left_out = torch.from_numpy(place < math.ceil(len(distinct) / SHARE)) & kept
        kept = kept & ~left_out
        data = InputStore(rows)
        validation = test = left_out.nonzero().squeeze(1)
        validation_y = test_y = y[validation]
        judged_by = f"{len(validation)} training rows, left out of training, by their repaired labels"
    else:
        data = InputStore(rows, held_out.rows)
        validation = test = torch.arange(held_out.rows.n)
        if held_out.policy == "test_split":
            validation, test = split_test_rows(held_out.y, held_out.rows.fingerprints())
        validation_y, test_y = held_out.y[validation], held_out.y[test]
        validation, test = validation + rows.n, test + rows.n
        judged_by = f"{len(validation)} rows of the policy {held_out.policy!r}, by their own labels"
    train = kept.nonzero().squeeze(1)
    if len(train) < 2 or not len(validation):
        raise InputError(
            f"expected at least two rows to train on and one to validate, got {len(train)} and "
            f"{len(validation)}"
        )
    hard = bool((targets.amax(1) == 1).all())
    targets = y[train] if hard else targets[train]
    return _Split(data, train, targets, validation, validation_y, test, test_y, judged_by)
