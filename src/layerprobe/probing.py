"""probe(): from a model and data to a tidy table of what every layer knows, in one call."""

import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from types import EllipsisType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import torch
from sklearn.base import ClassifierMixin, clone
from torch import Tensor, nn

from layerprobe.errors import DegenerateWarning, InputError
from layerprobe.layers import Captured, capture
from layerprobe.layers.batches import keeps_order
from layerprobe.layers.selecting import Maybe, matches
from layerprobe.probes import REGISTRY, Probe, create
from layerprobe.probes.base import label_array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ProbeTable", "probe"]

COLUMNS = ["layer", "probe", "fitted_on", "split", "labels", "accuracy", "components", "seconds"]
Probes: TypeAlias = (
    str | ClassifierMixin | Iterable[str | ClassifierMixin] | Mapping[str, str | ClassifierMixin]
)


class ProbeTable(pd.DataFrame):
    """Tidy rows, one accuracy each; prints as a table of layers, draws itself with ``plot()``.

    Columns: layer; probe ("network" for the model's own output); fitted_on, the labels that the probe was
    fitted on; split ("train" or "test"); labels, which of them the accuracy is against; accuracy in [0, 1];
    components, the mean r_k of a subspace probe; seconds to fit the probe and predict the split.
    """

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame  # a part of the rows is a plain frame

    def __repr__(self) -> str:
        if not set(COLUMNS) <= set(self.columns):
            return repr(pd.DataFrame(self))
        split = "test" if (self["split"] == "test").any() else "train"
        rows = pd.DataFrame(self[self["split"] == split])
        rows["probe"] = (rows["probe"] + " on " + rows["fitted_on"]).where(
            rows["fitted_on"] != "", rows["probe"]
        )
        text = [f"ProbeTable: {len(self)} rows; accuracy on {split} data against"]
        for labels, part in rows.groupby("labels", sort=False):
            wide = part.pivot_table(index="layer", columns="probe", values="accuracy", sort=False)
            text += [f"{labels} labels", wide.map("{:.4f}".format, na_action="ignore").fillna("").to_string()]
        return "\n".join(text)

    def _repr_html_(self) -> str:
        return pd.DataFrame(self).to_html(index=False)

    def plot(self, probe: str | None = None, *, title: str = "") -> "Figure":  # type: ignore[override]
        """Draw one probe's accuracy over the layers; see :func:`layerprobe.figures.accuracy_over_layers`."""
        from layerprobe.figures import accuracy_over_layers

        drawn = probe or next((name for name in self["probe"] if name != "network"), "any")
        return accuracy_over_layers(pd.DataFrame(self), drawn, title=title)


def probe(
    model: nn.Module,
    train: Any,
    test: Any = None,
    *,
    train_labels: Mapping[str, Any] | None = None,
    layers: str | Iterable[str | EllipsisType] | None = None,
    probes: Probes = "masc",
    pool: Any = None,
    batch_size: int = 512,
    device: torch.device | str | None = None,
) -> ProbeTable:
    """Ask every layer of a network what it knows.

    Fits each probe on each layer's outputs for the training data, once for each set of training labels, and
    measures its accuracy on the training data against every set of labels, and on the test data. One
    forward pass over the training data and one over the test data serve all of it; the outputs of the
    chosen layers are held in memory meanwhile, 4 n d bytes a layer.

    Parameters
    ----------
    model : nn.Module
        Any; it is left as it was.
    train, test : (x, y), DataLoader, Dataset or iterable of batches
        As for :func:`layerprobe.capture`; each with labels.
    train_labels : mapping of str to n labels, optional
        Named sets of training labels in the order of the rows, say ``{"noisy": noisy, "true": clean}``.
        Default: ``{"given": y}``, the labels that come with the training data. A shuffling loader must then
        give each row's index, as batches (x, y, index); other iterables are taken to keep the order. The
        labels that come with the data are then not used.
    layers : str or iterable of str, optional
        Names or glob patterns. Default: the model's own ``probed_layers``, a mapping of names in the table
        to layers, which the paper's networks have; else as for :func:`layerprobe.capture`.
    probes : str, estimator, several of them, or a mapping of names to them
        Names of ``layerprobe.probes.available()``, or classifiers with scikit-learn's contract, which are
        cloned.
    pool : optional
        As for :func:`layerprobe.capture`.
    batch_size : int
        Rows of a batch cut from whole arrays.
    device : torch.device or str, optional
        For a model without parameters.

    Returns
    -------
    ProbeTable
        A pandas DataFrame. Test accuracy is against labels called "true" if there are training labels of
        that name, else "given". The model's own accuracies are the rows of the probe "network", where its
        output is (n, K) and the labels are integers in 0..K-1.

    Raises
    ------
    InputError
        If labels are missing or of another length, or a probe cannot be fitted.
    LayerError
        If a layer pattern matches nothing.
    """
    candidates = _named_probes(probes)
    names: dict[str, str] = {}  # of layers that go by another name in the table
    if layers is None:
        names = {layer: name for name, layer in getattr(model, "probed_layers", {}).items()}
        layers = names or [...]
    several = isinstance(layers, Iterable) and not isinstance(layers, str)
    wanted: list = list(layers) if several else [layers]
    wants_output = any(isinstance(pattern, str) and matches("output", pattern) for pattern in wanted)
    logits = _Logits()
    output = Maybe("output")  # a loss, say, has no rows to be captured
    pools = {output: logits, **pool} if isinstance(pool, Mapping) else {output: logits, "*": pool}
    options: dict[str, Any] = {
        "layers": [*wanted, output],
        "pool": pools,
        "batch_size": batch_size,
        "device": device,
    }
    outputs = capture(model, train, **options)
    if train_labels is not None and outputs.indices is None and not keeps_order(train):
        raise InputError(
            "train_labels are in the order of the rows, but the training loader may shuffle and gives no "
            "indices; use shuffle=False, or a data set of (x, y, index)"
        )
    label_sets = _label_sets(outputs, train_labels)
    splits = [_Split("train", outputs.outputs, label_sets)]
    if test is not None:
        held_out = capture(model, test, **options)
        name = "true" if "true" in label_sets else "given"
        splits.append(_Split("test", held_out.outputs, {name: _labels_of(held_out, "test")}))

    rows: list[tuple] = []
    for layer in outputs.outputs:
        if layer == "output":
            rows += _network_rows(splits) if logits.one_a_class else []
            if not wants_output:
                continue
        for name, candidate in candidates.items():
            for fitted_on, labels in label_sets.items():
                where = f"probe {name!r} on layer {layer!r}, fitted on {fitted_on} labels"
                rows += [
                    (names.get(layer, layer), name, fitted_on, *row)
                    for row in _fit_and_score(candidate, layer, labels, splits, where)
                ]
    return ProbeTable(rows, columns=COLUMNS)


class _Logits:
    """Flattens the model's output as any other, and remembers whether it was one score a class, (n, K)."""

    one_a_class = False

    def __call__(self, output: Tensor) -> Tensor:
        self.one_a_class = output.ndim == 2 and output.shape[1] > 1
        return output.flatten(1)


class _Split(NamedTuple):
    name: str
    outputs: dict[str, Tensor]  # layer -> (n, d)
    labels: dict[str, np.ndarray]


def _fit_and_score(
    candidate: ClassifierMixin, layer: str, labels: np.ndarray, splits: Sequence[_Split], where: str
) -> list[tuple]:
    """Fit a clone on the first split; give (split, labels, accuracy, components, seconds) for every set."""
    fitted = clone(candidate)
    data = [
        split.outputs[layer] if isinstance(fitted, Probe) else split.outputs[layer].numpy()
        for split in splits
    ]
    rows: list[tuple] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DegenerateWarning)
        try:
            start = time.perf_counter()
            fitted.fit(data[0], labels)
            fit_seconds = time.perf_counter() - start
            subspaces = getattr(fitted, "subspaces_", None)
            components = float(np.mean(subspaces.ranks)) if subspaces is not None else np.nan
            for split, X in zip(splits, data, strict=True):
                start = time.perf_counter()
                predicted = np.asarray(fitted.predict(X))
                seconds = fit_seconds + time.perf_counter() - start
                rows += [
                    (split.name, name, float(np.mean(predicted == truth)), components, seconds)
                    for name, truth in split.labels.items()
                ]
        except ValueError as error:
            raise InputError(f"{where}: {error}") from error
    for warning in caught:
        warnings.warn(f"{where}: {warning.message}", warning.category, stacklevel=4)
    return rows


def _network_rows(splits: Sequence[_Split]) -> list[tuple]:
    """Accuracies of the model's own output, where it is one score a class."""
    rows = []
    for split in splits:
        logits = split.outputs["output"]
        K = logits.shape[1]
        for name, truth in split.labels.items():
            if truth.dtype.kind in "iu" and truth.min() >= 0 and truth.max() < K:
                accuracy = float(np.mean(logits.argmax(1).numpy() == truth))
                rows.append(("output", "network", "", split.name, name, accuracy, np.nan, np.nan))
    return rows


def _named_probes(probes: Probes) -> dict[str, ClassifierMixin]:
    if isinstance(probes, Mapping):
        pairs: list[tuple[str, Any]] = list(probes.items())
    else:
        if isinstance(probes, type):
            raise InputError(f"expected a probe, got the class {probes.__name__}; write {probes.__name__}()")
        listed = [probes] if isinstance(probes, str | ClassifierMixin) else list(probes)
        pairs = [
            (candidate if isinstance(candidate, str) else _name_of(candidate), candidate)
            for candidate in listed
        ]
    names = [name for name, _ in pairs]
    if not names or len(set(names)) < len(names) or "network" in names:
        raise InputError(
            f"expected probes of different names, none of them 'network', got {names}; "
            "a mapping {name: probe} gives them names"
        )
    return {name: create(candidate) if isinstance(candidate, str) else candidate for name, candidate in pairs}


def _name_of(candidate: ClassifierMixin) -> str:
    registered = {kind: name for name, kind in REGISTRY.items()}
    return registered.get(type(candidate), type(candidate).__name__)


def _label_sets(outputs: Captured, train_labels: Mapping[str, Any] | None) -> dict[str, np.ndarray]:
    if train_labels is None:
        return {"given": _labels_of(outputs, "training")}
    if not isinstance(train_labels, Mapping):
        raise InputError(
            f'train_labels must map names to labels, say {{"noisy": y}}, got {type(train_labels).__name__}'
        )
    n = len(next(iter(outputs.outputs.values())))
    index: Any = slice(None) if outputs.indices is None else np.asarray(outputs.indices)
    sets: dict[str, np.ndarray] = {}
    for name, values in train_labels.items():
        labels = label_array(values)
        if outputs.indices is None and len(labels) != n:
            raise InputError(f"train_labels[{name!r}] has {len(labels)} labels for {n} training rows")
        if outputs.indices is not None and not -1 < index.min() <= index.max() < len(labels):
            raise InputError(
                f"train_labels[{name!r}] has {len(labels)} labels, but the indices go to {index.max()}"
            )
        sets[name] = labels[index]
    if not sets:
        raise InputError("train_labels is empty: name at least one set of labels, or leave it out")
    return sets


def _labels_of(outputs: Captured, what: str) -> np.ndarray:
    if outputs.labels is None:
        raise InputError(f"the {what} data have no labels; give (x, y), or a loader of (x, y)")
    return label_array(outputs.labels)
