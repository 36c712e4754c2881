"""History: record training rows and accuracies of each epoch while a network is trained; START HERE.

`update` takes the logits of the training steps, or `epoch` runs the network over the training rows. Per row
and quantity a running mean is kept, not the values of all epochs.
"""

import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from math import isnan, nan
from os import PathLike
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
import torch
from sklearn.base import ClassifierMixin, clone
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Subset

from layerprobe.core.checks import check_count
from layerprobe.errors import DataError, InputError
from layerprobe.figures import RANGE, STYLES, Line, Panel, draw_panels, headline
from layerprobe.layers.batches import check_same_index, count_rows, is_whole, read_batches, row_index
from layerprobe.layers.tracing import device_and_dtype
from layerprobe.layerwise.outputs import OUTPUT, Extractor, LayerBatch, class_scores
from layerprobe.probes import named_probes
from layerprobe.probes.base import label_array
from layerprobe.recording.callbacks import lightning_callback, trainer_callback
from layerprobe.recording.memorisation import Onset, memorisation_onset
from layerprobe.recording.rows import QUANTITIES, RowMeans
from layerprobe.utils.distributed import rank, sum_over_processes
from layerprobe.utils.files import read_tensors, write_tensors
from layerprobe.utils.settings import seeded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KIND = "training history 1"
CURVES = ("rows", "train_fit", "holdout_accuracy", "probe_accuracy")


@dataclass(frozen=True)
class HistoryEpoch:
    """Measurements of one epoch; NaN for those that were not possible.

    Attributes
    ----------
    epoch : int
        Number of the epoch, from 1.
    rows : int
        Number of training rows that were recorded.
    train_fit : float
        Share of these rows whose given label was predicted.
    holdout_accuracy : float
        Accuracy of the network on the hold-out.
    probe_accuracy : float
        Accuracy of the probe on the hold-out.
    memorises : bool
        Whether memorisation has begun, see `History.onset`.
    """

    epoch: int
    rows: int
    train_fit: float
    holdout_accuracy: float
    probe_accuracy: float
    memorises: bool


@dataclass(eq=False, repr=False)
class History:
    """Recorder of a training on labels that may be wrong.

    Call :meth:`update` with the logits of each training step and :meth:`epoch` at the end of each epoch. With
    `data`, `update` is not needed: an epoch without it runs the network over these rows in eval mode. The
    network, its gradients and all random generators stay as they are. The one output of a binary network is
    a logit, or a probability if it lies in [0, 1] for all rows.

    The margin of a row is the logit of its given label less the largest other logit. Its mean over the epochs
    is the area under the margin (Pleiss et al., NeurIPS 2020). Mean and standard deviation of the
    probability of the given label are the coordinates of a data map (Swayamdipta et al., EMNLP 2020). A row
    that occurs several times in an epoch counts with its mean there, and a row that does not occur is left
    out of that epoch.

    In a job of several processes each one calls :meth:`update` with its own rows and :meth:`epoch` with the
    same arguments; all get the same history.

    Parameters
    ----------
    labels : sequence of n int
        Given labels of the training rows, as positions 0..K-1 of the network's outputs.
    holdout : (x, y), Dataset, DataLoader, optional
        Labelled rows that are not trained on. Their labels may be as noisy as the rest.
    data : arrays, (x, y), Dataset, DataLoader, optional
        Inputs of the training rows in the order of `labels`, in any form that :func:`layerprobe.capture`
        reads. A DataLoader is read in the order of its data set.
    layer : str, optional
        Layer that a probe reads in each epoch; needs `holdout` and `data`.
    probe : str or probe
        It is fitted to the layer's outputs for a fixed random part of the training rows with their given
        labels, and scored on the hold-out.
    probe_rows : int
        Size of this part.
    inputs : callable, optional
        From a batch of inputs as stored to inputs of the network.
    full : bool
        Keep all margins and probabilities, (epochs, n) each; by default memory does not depend on the number
        of epochs.
    progress : bool or callable
        Whether to write one line per epoch to stderr; a callable gets the line instead.
    batch_size : int
        Rows of a batch cut from whole arrays.
    seed : int
        Seed of the part of the rows, and of random numbers in the passes of `epoch`.

    Examples
    --------
    >>> history = History([0, 1, 1], progress=False)
    >>> history.update([2, 0], torch.tensor([[1.0, 4.0], [2.0, 0.0]]))
    >>> history.epoch().train_fit
    1.0
    >>> history.aum
    array([ 2., nan,  3.])
    """

    labels: Any
    _: KW_ONLY
    holdout: Any = None
    data: Any = None
    layer: str | None = None
    probe: str | ClassifierMixin = "ncm"
    probe_rows: int = 2000
    inputs: Callable[[Any], Any] | None = None
    full: bool = False
    progress: bool | Callable[[str], object] = True
    batch_size: int = 512
    seed: int = 0
    holdout_rows: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        check_same_index((*(self.data if isinstance(self.data, tuple) else (self.data,)), self.labels))
        labels = label_array(self.labels)
        if not len(labels) or labels.dtype.kind not in "iu" or labels.min() < 0:
            raise InputError(
                "expected labels as whole numbers from 0 on, the positions of the network's outputs; encode "
                "names by np.unique(labels, return_inverse=True)[1]; got "
                f"{len(labels)} of the kind {labels.dtype}"
            )
        self.labels = labels.astype(np.int64)
        for name in ("holdout", "data"):
            if isinstance(getattr(self, name), Iterator):
                raise InputError(f"expected {name}= as data that can be read in every epoch, got an iterator")
        check_count("probe_rows", self.probe_rows)
        check_count("batch_size", self.batch_size)
        check_count("seed", self.seed, least=0)
        ((name, self.probe),) = named_probes([self.probe]).items()
        self._reading = "" if self.layer is None else f"{name} on {self.layer}"
        self._rows = RowMeans(torch.from_numpy(self.labels), full=self.full)
        self._curves: list[tuple[float, ...]] = []
        self._correct: list[Tensor | None] = []  # (m,) int8 of each epoch, in the order of the hold-out
        self._holdout_y = torch.empty(0, dtype=torch.int64)
        self._is_logit = False  # whether the only output of a network is known to be no probability

    @property
    def num_epochs(self) -> int:
        """Number of complete epochs."""
        return len(self._curves)

    def __repr__(self) -> str:
        return f"History({len(self.labels)} rows, {self.num_epochs} epochs)"

    # Recording ------------------------------------------------------------------------------------------

    def update(self, index: Any, logits: Any) -> None:
        """Record a batch of training rows.

        The host does not wait for the device of the logits if the index is on the CPU.

        Parameters
        ----------
        index : (b,) int
            Positions of the rows in `labels`.
        logits : Tensor (b, K)
            Outputs of the network for these rows, of any floating-point type; of one logit z per row 0 and z.

        Raises
        ------
        InputError
            If index and logits do not fit together or to the labels.
        """
        self._rows.add(index, logits)

    def epoch(self, model: nn.Module | None = None) -> HistoryEpoch:
        """End an epoch: measure the network, add the epoch to the history, and report one line.

        Parameters
        ----------
        model : nn.Module, optional
            The network in training; not needed without `holdout` and `data`.

        Raises
        ------
        InputError
            If `holdout` or `data` have no labels or another number of rows, or `layer` is given without both.
        LayerError
            If the network does not have the layer.
        """
        holdout_accuracy, reading, correct = nan, nan, None
        device = None if model is None else device_and_dtype(model)[0]
        self._rows.gather(device)
        if model is not None:
            passes = self.data is not None and not self._rows.counts.any()
            try:
                with _preserved_state(), seeded(self.seed):
                    if passes:
                        self._read_rows(model)
                    if self.holdout is not None:
                        holdout_accuracy, reading, correct = self._read_holdout(model)
            except BaseException:  # also Ctrl-C: the next call runs the network again
                if passes:
                    self._rows.clear()
                raise
        elif self.holdout is not None or self.data is not None:
            raise InputError("expected the network, history.epoch(model), to run it on holdout= or data=")
        rows, fit = self._rows.end_epoch()
        self._curves.append((float(rows), fit, holdout_accuracy, reading))
        self._correct.append(correct)
        ended = HistoryEpoch(self.num_epochs, rows, fit, holdout_accuracy, reading, self.onset is not None)
        if self.progress and rank() == 0:
            line = self._line(ended)
            if callable(self.progress):
                self.progress(line)
            else:
                sys.stderr.write(f"{line}\n")
        return ended

    def _run(
        self,
        model: nn.Module,
        data: Any,
        consume: Callable[[LayerBatch, Tensor], object],
        *,
        layer: str | None = None,
        shared: bool = True,
        named: bool = True,
    ) -> None:
        """Run the network over data in eval mode, and call a function with each batch and its logits (b, K).

        The indices of a batch are the positions of its rows in the data; for an iterable of batches
        (x, y, index) they are the given ones, if `named`. Batches hold the outputs of a layer, see
        `_features`. If `shared`, each process of a job runs a part of the rows.
        """
        single: list[tuple[LayerBatch, Tensor]] = []  # of a network with one output

        def take(batch: LayerBatch) -> None:
            if batch.logits is None and (not batch.heads or self.labels.max() > 1):
                raise InputError(
                    f"expected one output for each of K classes, (n, K), got the shape {batch.output_shape}"
                )
            if not len(batch):
                return
            if batch.logits is None:
                single.append((batch, next(iter(batch.heads.values()))))
            else:
                consume(batch, batch.logits)

        def batches() -> Iterator[tuple[Any, Any, np.ndarray]]:
            by_position = is_whole(data) or isinstance(data, DataLoader) or hasattr(data, "__getitem__")
            by_position = not named or (by_position and not isinstance(data, list))  # a list may be shuffled
            start = 0
            for batch in read_batches(data, self.batch_size, prepare=self.inputs, model=model):
                given = None if by_position else row_index(batch.indices)
                positions = np.arange(start, start + batch.size) if given is None else given
                yield batch.inputs, batch.labels, positions
                start += batch.size

        extractor = Extractor(model, batch_size=self.batch_size, default_pool="compact")
        extractor.of_layers([layer or OUTPUT]).run(batches(), take, shared=shared)
        # All rows so far show whether one output is a logit or a probability, see `class_scores`.
        outside = sum(int((~((head >= 0) & (head <= 1))).sum()) for _, head in single)
        device = device_and_dtype(model)[0]
        self._is_logit |= int(sum_over_processes(torch.tensor(outside, device=device))) > 0
        for batch, head in single:
            consume(batch, class_scores(head, probability=not self._is_logit))

    def _in_order(self, rows: list[int] | None = None) -> Any:
        """Return the data in the order of the data set, whole or some rows: a loader may shuffle them."""
        data, n = self.data, len(self.labels)
        if isinstance(data, DataLoader) and not isinstance(data.dataset, IterableDataset):
            whole = data.dataset
            size = data.batch_size or getattr(data.batch_sampler, "batch_size", None) or 1
            return DataLoader(
                whole if rows is None else Subset(whole, rows),
                size,
                collate_fn=data.collate_fn,
                num_workers=data.num_workers,
            )
        if rows is None:
            return data
        if is_whole(data):
            return _take(data, rows, n)
        if not hasattr(data, "__getitem__") or not hasattr(data, "__len__") or len(data) != n:  # batches
            raise InputError(
                f"a probe needs data= with access to rows by position, got {type(data).__name__}: give "
                "arrays or a Dataset, or leave out layer="
            )
        return Subset(data, rows)

    def _features(self, batch: LayerBatch) -> Tensor:
        """Return the outputs (b, d) of the layer, float32 on the CPU; raise if a pattern matches several."""
        if len(batch.outputs) != 1:
            raise InputError(
                f"expected layer= to match one layer, {self.layer!r} matches "
                f"{', '.join(batch.outputs) or 'none'}"
            )
        return next(iter(batch.outputs.values())).float().cpu()

    def _read_rows(self, model: nn.Module) -> None:
        """Record all training rows by one pass of the network."""
        n, y = len(self.labels), torch.from_numpy(self.labels)

        def record(batch: LayerBatch, logits: Tensor) -> None:
            rows, given = torch.as_tensor(batch.indices), batch.labels
            if int(rows.max()) >= n:
                raise InputError(f"expected data= to have the {n} rows of labels, got more")
            if isinstance(given, Tensor) and given.ndim == 1 and not given.is_floating_point():
                other = (given != y[rows]).nonzero()
                if len(other):
                    row = int(rows[other[0]])
                    raise InputError(
                        f"expected data= in the order of labels, but row {row} has the label "
                        f"{int(given[other[0]])} there and {self.labels[row]} in labels"
                    )
            self.update(rows, logits)

        self._run(model, self._in_order(), record)
        self._rows.gather(device_and_dtype(model)[0])
        if missing := int((self._rows.counts == 0).sum()):
            raise InputError(f"expected data= to have the {n} rows of labels, got {n - missing}")

    def _read_holdout(self, model: nn.Module) -> tuple[float, float, Tensor]:
        """Return the hold-out accuracies of network and probe, and which rows the network predicts."""
        probe = None if self.layer is None else self._fit_probe(model)
        parts = [torch.empty(4, 0, dtype=torch.int64)]  # position, label, whether both are right

        def count(batch: LayerBatch, logits: Tensor) -> None:
            y = batch.labels
            if not isinstance(y, Tensor) or y.ndim != 1 or y.is_floating_point():
                raise InputError("expected holdout= with whole numbers as labels, as in (x, y)")
            low, high = map(int, y.aminmax())
            if low < 0 or high >= logits.shape[1]:
                raise InputError(
                    f"expected labels of holdout= in 0..{logits.shape[1] - 1}, the positions of the outputs, "
                    f"got {low}..{high}"
                )
            by_probe = torch.zeros(len(y), dtype=torch.bool)
            if probe is not None:
                by_probe = torch.as_tensor(probe.predict(self._features(batch).nan_to_num())) == y
            by_network = logits.argmax(1).cpu() == y
            parts.append(torch.stack([torch.as_tensor(batch.indices), y, by_network, by_probe]))

        self._run(model, self.holdout, count, layer=None if probe is None else self.layer, named=False)
        device, (positions, *values) = device_and_dtype(model)[0], torch.cat(parts, 1)
        total = int(sum_over_processes(torch.tensor(len(positions), device=device)))
        rows = torch.zeros(3, total, dtype=torch.int64)
        rows[:, positions] = torch.stack(values)
        y, by_network, by_probe = sum_over_processes(rows.to(device)).cpu()
        if self.holdout_rows not in (0, total):
            raise InputError(
                f"expected the same {self.holdout_rows} rows of holdout= in each epoch, got {total}"
            )
        if len(self._holdout_y) and not torch.equal(y, self._holdout_y):
            raise InputError(
                "expected the rows of holdout= in the same order in each epoch, but their labels differ: use "
                "DataLoader(..., shuffle=False)"
            )
        self.holdout_rows, self._holdout_y = total, y
        reading = nan if probe is None else int(by_probe.sum()) / total
        return int(by_network.sum()) / total, reading, by_network.to(torch.int8)

    def _fit_probe(self, model: nn.Module) -> ClassifierMixin | None:
        """Fit the probe to the fixed part of the training rows; None if their outputs are not finite."""
        n = len(self.labels)
        if self.data is None:
            raise InputError(f"layer={self.layer!r} needs data=, the training inputs in the order of labels")
        if (known := count_rows(self._in_order())) not in (None, n):
            raise InputError(f"expected data= to have the {n} rows of labels, got {known}")
        chosen = np.sort(np.random.default_rng(self.seed).permutation(n)[: self.probe_rows])
        features: list[Tensor] = []
        rows: list[np.ndarray] = []

        def collect(batch: LayerBatch, logits: Tensor) -> None:
            features.append(self._features(batch))
            rows.append(chosen[np.asarray(batch.indices)])

        part = self._in_order(chosen.tolist())
        self._run(model, part, collect, layer=self.layer, shared=False)
        X, y = torch.cat(features), torch.from_numpy(self.labels[np.concatenate(rows)])
        return clone(self.probe).fit(X, y) if torch.isfinite(X).all() else None

    # Results --------------------------------------------------------------------------------------------

    @property
    def onset(self) -> Onset | None:
        """The epoch in which memorisation begins, by `memorisation_onset`; None if it has not begun."""
        correct = self._correct_rows().numpy()
        recorded = (int(curve[0]) for curve in self._curves if curve[0])
        rows = min(recorded, default=len(self.labels))
        return memorisation_onset(correct, self.train_fit, train_rows=rows)

    def _correct_rows(self) -> Tensor:
        """Return which hold-out rows were predicted correctly, (epochs, m) int8; -1 where it is not known."""
        unknown = torch.full((len(self._holdout_y),), -1, dtype=torch.int8)
        rows = [unknown if correct is None else correct for correct in self._correct]
        return torch.stack(rows) if rows else unknown.new_empty(0, len(unknown))

    @property
    def aum(self) -> np.ndarray:
        """Area under the margin, (n,): the mean margin of each row; NaN for rows that were never recorded."""
        return self._mean("margin")

    @property
    def confidence(self) -> np.ndarray:
        """Mean probability of the given label, (n,)."""
        return self._mean("probability")

    @property
    def variability(self) -> np.ndarray:
        """Standard deviation over the epochs of the probability of the given label, (n,)."""
        self._require_rows()
        return (self._rows.squares / self._rows.seen).sqrt().numpy()

    @property
    def correctness(self) -> np.ndarray:
        """Share of the epochs in which the given label was predicted, (n,)."""
        return self._mean("correct")

    @property
    def margins(self) -> np.ndarray:
        """Margins, (epochs, n) float32, NaN for rows that were not recorded; needs ``full=True``."""
        return self._full()[:, 0].numpy()

    @property
    def probabilities(self) -> np.ndarray:
        """Probabilities of the given labels, (epochs, n) float32; needs ``full=True``."""
        return self._full()[:, 1].numpy()

    @property
    def holdout_accuracy(self) -> np.ndarray:
        """Accuracy of the network on the hold-out after each epoch."""
        return self.curves["holdout_accuracy"].to_numpy()

    @property
    def train_fit(self) -> np.ndarray:
        """Share of the recorded rows whose given label was predicted, per epoch."""
        return self.curves["train_fit"].to_numpy()

    @property
    def probe_accuracy(self) -> np.ndarray:
        """Accuracy of the probe on the hold-out after each epoch."""
        return self.curves["probe_accuracy"].to_numpy()

    @property
    def curves(self) -> pd.DataFrame:
        """One row per epoch: epoch, rows, train_fit, holdout_accuracy, probe_accuracy."""
        frame = pd.DataFrame(self._curves, columns=list(CURVES), dtype=float)
        frame.insert(0, "epoch", np.arange(1, len(frame) + 1))
        return frame.astype({"rows": int})

    def to_frame(self) -> pd.DataFrame:
        """Return one row per training row: label, epochs, aum, confidence, variability, correctness.

        The index is the position in `labels`; `epochs` counts those in which the row was recorded.
        """
        columns = {name: getattr(self, name) for name in ("aum", "confidence", "variability", "correctness")}
        frame = pd.DataFrame({"label": self.labels, "epochs": self._rows.seen.numpy().copy(), **columns})
        return frame.rename_axis("index")

    def plot(self) -> "Figure":
        """Draw the fit of the training labels and the accuracies on the hold-out over the epochs."""
        names = {"train_fit": "fit of the training labels", "holdout_accuracy": "network on the hold-out"}
        names["probe_accuracy"] = f"{self._reading} on the hold-out"
        curves = self.curves.set_index("epoch")
        lines = [
            Line(label, style, pd.DataFrame(dict.fromkeys(RANGE, curves[column].dropna())))
            for (column, label), style in zip(names.items(), STYLES, strict=False)
            if curves[column].notna().any()
        ]
        figure = draw_panels([Panel("", lines, "accuracy")])
        headline(figure, self._state().capitalize())
        return figure

    def _mean(self, quantity: str) -> np.ndarray:
        self._require_rows()
        means = self._rows.means[QUANTITIES.index(quantity)]
        return torch.where(self._rows.seen > 0, means, nan).numpy()

    def _require_rows(self) -> None:
        if not self._rows.seen.any():
            raise InputError(
                "the history has no training rows: call history.update(index, logits) in each training step, "
                "or give their inputs as data=; then history.epoch(model) after each epoch"
            )

    def _full(self) -> Tensor:
        if not self._rows.record:
            raise InputError("the values of single epochs were not kept: create the history with full=True")
        return torch.stack(self._rows.record)  # (epochs, 2, n)

    def _state(self) -> str:
        """Return in words whether memorisation has begun."""
        onset = self.onset
        if onset is None:
            return "no significant loss on the hold-out"
        return f"memorisation since epoch {onset.epoch}, best epoch {onset.best}"

    def _line(self, ended: HistoryEpoch) -> str:
        parts = []
        if ended.rows:
            parts.append(f"training labels fitted {ended.train_fit:.1%}")
        if not isnan(ended.holdout_accuracy):
            best = int(np.nanargmax(self.holdout_accuracy))
            highest = f"best {self.holdout_accuracy[best]:.1%} in epoch {best + 1}"
            parts.append(f"hold-out {ended.holdout_accuracy:.1%} ({highest})")
        if not isnan(ended.probe_accuracy):
            parts.append(f"{self._reading} {ended.probe_accuracy:.1%}")
        state = f"; {self._state()}" if ended.rows and not isnan(ended.holdout_accuracy) else ""
        return f"epoch {ended.epoch}: {', '.join(parts) or 'nothing was measured'}{state}"

    # Callbacks and files --------------------------------------------------------------------------------

    trainer_callback = trainer_callback
    lightning_callback = lightning_callback

    def save(self, path: str | PathLike[str]) -> None:
        """Write the complete epochs to one safetensors file.

        Parameters
        ----------
        path : path

        Raises
        ------
        DataError
            If the file cannot be written.
        """
        curves = torch.tensor(self._curves, dtype=torch.float64).reshape(-1, len(CURVES))
        header = {"holdout_rows": self.holdout_rows, "reading": self._reading}
        holdout = {"correct": self._correct_rows(), "holdout_y": self._holdout_y}
        write_tensors(path, {"curves": curves, **holdout, **self._rows.tensors()}, KIND, header)

    @classmethod
    def load(cls, path: str | PathLike[str], **options: Any) -> Self:
        """Read a history.

        Parameters
        ----------
        path : path
        **options
            Arguments of `History` besides `labels`, to continue the history with further epochs.

        Raises
        ------
        DataError
            If the file is missing, damaged or of another kind.
        """
        tensors, header = read_tensors(path, KIND)
        if "labels" not in tensors or tensors["labels"].dtype != torch.int64:
            raise DataError(f"{path}: damaged, a history needs labels; save it again.")
        history = cls(tensors["labels"], **{**options, "full": "record" in tensors})
        try:
            history._rows.restore(tensors)
            curves = tensors["curves"].double().reshape(-1, len(CURVES)).tolist()
            history._curves = [tuple(values) for values in curves]
            rows, y = tensors["correct"], tensors["holdout_y"]
            if rows.shape != (len(curves), len(y)) or (rows.dtype, y.dtype) != (torch.int8, torch.int64):
                raise ValueError(f"correct {rows.dtype} {tuple(rows.shape)}")
            history._correct, history._holdout_y = list(rows), y
            history.holdout_rows = int(header["holdout_rows"])
            history._reading = history._reading or str(header["reading"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise DataError(f"{path}: a history that this version cannot read ({error!r}).") from error
        return history


@contextmanager
def _preserved_state() -> Iterator[None]:
    """Restore the random generators of Python and NumPy afterwards; `capture` restores the network itself.

    The cache of autocast is not used meanwhile: weights that it casts without gradient must not reach the
    next training step.
    """
    cache, python = torch.is_autocast_cache_enabled(), random.getstate()
    legacy = np.random.get_state()  # noqa: NPY002 (transforms of users draw from this generator)
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(cache)
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


def _take(value: Any, rows: list[int], n: int) -> Any:
    """Return some rows of everything in whole data that has n rows."""
    if isinstance(value, Mapping):
        return {key: _take(item, rows, n) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_take(item, rows, n) for item in value)
    if isinstance(value, list):
        return [value[row] for row in rows] if len(value) == n else [_take(item, rows, n) for item in value]
    if isinstance(value, pd.DataFrame | pd.Series):
        return value.iloc[rows]
    return value[rows] if hasattr(value, "__len__") and np.ndim(value) else value
