"""retrain(): a network learns repaired labels, until rows that it does not train on say that it is enough."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from layerprobe.auditing.dataset.inputs import InputStore
from layerprobe.auditing.method.controls import untrained_copy
from layerprobe.auditing.method.intervals import Interval, interval
from layerprobe.auditing.method.policies import halves_for_testing
from layerprobe.auditing.relabelling import Relabelled
from layerprobe.errors import InputError
from layerprobe.layers.batches import named_tensors
from layerprobe.layers.tracing import device_and_dtype
from layerprobe.training import Epoch, Recipe, Seeds, accuracy, early_stopping, train
from layerprobe.training.loop import predict

if TYPE_CHECKING:
    from layerprobe.auditing.result import Audit

__all__ = ["DEFAULT_RECIPE", "Repaired", "retrain"]

DEFAULT_RECIPE = Recipe("adam", 1e-3, 128)
NEVER = 2.0  # a training accuracy that is not reached
SHARE = 10  # one in so many rows judges where there are no others


@dataclass(frozen=True, eq=False)
class Repaired:
    """A network that was trained on repaired labels.

    Attributes
    ----------
    model : nn.Module
        With the weights of the best epoch, in evaluation mode.
    best_epoch : int
        0 where no epoch was better than the network as it began.
    history : DataFrame
        One row an epoch, the first for the network as it began: epoch; loss, the mean over the epoch's
        batches (NaN for the first); accuracy on the rows that judge.
    judged_by : str
        Which rows these are.
    accuracy : Interval
        The accuracy of `model` with its 95 % interval: on the rows that judge, which chose the epoch and so
        flatter it a little; for the policy "test_split" on the other four fifths of the test rows.
    """

    model: nn.Module
    best_epoch: int
    history: pd.DataFrame
    judged_by: str
    accuracy: Interval


def retrain(
    audit: "Audit",
    labels: Relabelled,
    *,
    fresh: bool = True,
    recipe: Recipe | None = None,
    max_epochs: int = 30,
    patience: int | None = 3,
    seed: int = 0,
    on_epoch: Callable[[Epoch], object] | None = None,
) -> Repaired:
    """Train a copy of the audited network on repaired labels, with early stopping.

    The rows that judge an epoch are those of the audit's policy, by their own labels: held out and noisy,
    trusted, or, of "test_split", the fifth of the test rows that chose the layer. "unseen_views" has none;
    there a tenth of the training rows is left out, chosen by its content, and judges by its repaired labels.

    Parameters
    ----------
    audit : Audit
        Of a network, not loaded from a file.
    labels : Relabelled
        What :meth:`Audit.relabel` returned: its targets are trained on, rows that it does not keep are not.
    fresh : bool
        Begin with new initial weights (:func:`controls.untrained_copy`); or go on from the network's own,
        which still know the wrong labels.
    recipe : Recipe, optional
        Optimiser, batch size and whether batches are shuffled, by default Adam with 1e-3 and batches of 128.
        Its own ends, `target` and `max_epochs`, do not count here. The batch is made larger by a row or more
        where a single row would be left over, which batch normalisation refuses.
    max_epochs : int
        Training ends after so many epochs at the latest.
    patience : int or None
        It ends when so many epochs in a row were no better than the best. None trains all `max_epochs`.
    seed : int
        Draws initial weights, the order of the rows in every epoch, and dropout. On one thread of a CPU the
        same seed gives the same network bit for bit.
    on_epoch : callable, optional
        Called with each `Epoch` as it ends; its ``test_accuracy`` is that on the rows that judge.

    Returns
    -------
    Repaired
        The user's network stays as it is.

    Raises
    ------
    InputError
        If nothing was repaired (the verdict is "keep"), the labels are of other rows, the audit holds no
        network, nothing is left to train on, no parameter can be trained, or the first epoch's loss is no
        finite number.

    Notes
    -----
    The network as it began counts as an epoch, so that going on can do no harm by the rows that judge. With
    ``fresh=False`` and "unseen_views" it does not count: it has been trained on those very rows.
    """
    model, _ = audit.training_rows()
    _check_labels(audit, labels)
    seeds = Seeds.derive(seed)
    recipe = replace(DEFAULT_RECIPE if recipe is None else recipe, max_epochs=max_epochs, target=NEVER)
    stop = None if patience is None else early_stopping(patience)
    split = _split(audit, labels)
    batch_size = _batch_size(len(split.train), recipe.batch_size)
    device, dtype = device_and_dtype(model)
    with torch.inference_mode(False), torch.enable_grad():
        network = untrained_copy(model, seeds.init) if fresh else copy.deepcopy(model)
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise InputError(
                "no parameter of the network can be trained: model.requires_grad_(True) before the audit"
            )

        def inputs(rows: Tensor) -> Any:
            return split.data.take(rows, device, dtype)

        called = _Called(network)
        judges = split.judges.to(device), split.judge_codes.to(device)
        history = [(0, math.nan, accuracy(called, *judges, inputs=inputs))]
        counts = fresh or audit.jury_rows is not None
        best, best_weights = (0, history[0][2] if counts else -1.0), copy.deepcopy(network.state_dict())

        def after(epoch: Epoch) -> None:
            nonlocal best, best_weights
            history.append((epoch.epoch, epoch.loss, epoch.test_accuracy))
            if epoch.test_accuracy > best[1]:
                best, best_weights = (epoch.epoch, epoch.test_accuracy), copy.deepcopy(network.state_dict())
            if on_epoch:
                on_epoch(epoch)

        train(
            called,
            split.train.to(device),
            split.targets.to(device, dtype if split.targets.ndim == 2 else None),
            replace(recipe, batch_size=batch_size),
            order_seed=seeds.order,
            test=judges,
            inputs=inputs,
            on_epoch=after,
            stop=stop,
        )
        if not math.isfinite(history[1][1]):
            raise InputError(
                f"the loss of the first epoch is {history[1][1]}: lower the recipe's learning_rate, now "
                f"{recipe.learning_rate}"
            )
        network.load_state_dict(best_weights)
        measure = predict(called, split.measures.to(device), inputs=inputs).cpu()
    return Repaired(
        network.eval(),
        best[0],
        pd.DataFrame(history, columns=["epoch", "loss", "accuracy"]),
        split.judged_by,
        interval((measure == split.measure_codes).double()),
    )


class _Called(nn.Module):
    """A network that takes its inputs in one piece and returns its logits alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Any) -> Tensor:
        if isinstance(inputs, Mapping):
            result = self.network(**inputs)
        else:
            result = self.network(*inputs) if isinstance(inputs, tuple) else self.network(inputs)
        return named_tensors(result)[0][1]


class _Split(NamedTuple):
    """What is trained on and what judges, as numbers of the rows in `data`."""

    data: InputStore
    train: Tensor  # (n,)
    targets: Tensor  # (n,) codes or (n, K) probabilities
    judges: Tensor  # (m,)
    judge_codes: Tensor
    measures: Tensor  # (l,): the judges themselves but for the paper's split
    measure_codes: Tensor
    judged_by: str


def _split(audit: "Audit", labels: Relabelled) -> _Split:
    _, rows = audit.training_rows()
    targets = torch.from_numpy(labels.targets)
    codes = targets.argmax(1)
    kept = torch.from_numpy(labels.kept)
    held = audit.jury_rows
    if held is None:
        apart = _tenth(rows.fingerprints()) & kept
        train = (kept & ~apart).nonzero().squeeze(1)
        judges = apart.nonzero().squeeze(1)
        data = InputStore(rows)
        judge_codes = codes[judges]
        measures, measure_codes = judges, judge_codes
        judged_by = f"{len(judges)} training rows, left out of training, by their repaired labels"
    else:
        train = kept.nonzero().squeeze(1)
        data = InputStore(rows, held)
        held_codes = audit.named.indices(held.labels, "labels of the rows that judge")
        chooses = measured = torch.arange(held.n)
        if audit.policy == "test_split":
            chooses, measured = halves_for_testing(held_codes, held.fingerprints())
        judges, judge_codes = chooses + rows.n, held_codes[chooses]
        measures, measure_codes = measured + rows.n, held_codes[measured]
        judged_by = f"{len(judges)} rows of the policy {audit.policy!r}, by their own labels"
    if len(train) < 2 or not len(judges):
        raise InputError(
            f"expected at least two rows to train on and one to judge by, got {len(train)} and {len(judges)}"
        )
    hard = bool((targets.amax(1) == 1).all())
    return _Split(
        data,
        train,
        codes[train] if hard else targets[train],
        judges,
        judge_codes,
        measures,
        measure_codes,
        judged_by,
    )


def _check_labels(audit: "Audit", labels: Relabelled) -> None:
    if labels.policy == "keep":
        raise InputError(
            f"nothing was repaired, since the audit says: keep your labels ({audit.why}). To train on "
            "repaired labels all the same pass audit.relabel(..., force=True)"
        )
    if labels.targets.shape != (audit.n, len(audit.classes)):
        raise InputError(
            f"expected labels of the {audit.n} rows and {len(audit.classes)} classes that were audited, got "
            f"targets of the shape {labels.targets.shape}"
        )


def _tenth(fingerprints: np.ndarray) -> Tensor:
    """Choose a tenth of the distinct rows, (n,) bool, by what they hold; doubled rows stay together."""
    distinct, place = np.unique(fingerprints, return_inverse=True)
    return torch.from_numpy(place < math.ceil(len(distinct) / SHARE))


def _batch_size(n: int, batch_size: int) -> int:
    """Return the least batch size from this one on that leaves no single row over."""
    while n % batch_size == 1 and batch_size > 1:
        batch_size += 1
    return batch_size
