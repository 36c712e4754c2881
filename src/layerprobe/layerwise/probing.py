"""probe(): from a model and data to a tidy table of the accuracies of every layer's probes."""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from math import isnan, nan
from types import EllipsisType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from sklearn.base import ClassifierMixin
from torch import Tensor, nn

from layerprobe.core.statistics import LayerSums
from layerprobe.errors import DegenerateWarning, InputError, LayerprobeWarning, warn
from layerprobe.layers.batches import (
    Column,
    check_same_index,
    count_rows,
    is_whole,
    keeps_order,
    read_index,
    require_repeatable,
    row_index,
)
from layerprobe.layers.capturing import RowCollector
from layerprobe.layerwise.classes import (
    Classes,
    LabelSets,
    as_kind,
    check_test_classes,
    class_indices,
    class_order,
    fitting_heads,
    fitting_names,
    given_labels,
    output_names,
    read_label_sets,
    renumbered,
)
from layerprobe.layerwise.engine import (
    Accuracies,
    FittedProbe,
    count_correct,
    failures,
    fit_layer,
    new_sums,
    reads_of,
    streams,
)
from layerprobe.layerwise.outputs import (
    OUTPUT,
    Dimensions,
    Extractor,
    HeadCounts,
    LayerBatch,
    head_predictions,
)
from layerprobe.layerwise.planning import ProbePlan
from layerprobe.probes import Probes, named_probes
from layerprobe.probes.base import label_array, whole_numbers
from layerprobe.utils.distributed import require_same, sum_over_processes
from layerprobe.utils.memory_limit import SHARE, as_bytes, free_memory, require_memory
from layerprobe.utils.progress import report_count, shows_progress
from layerprobe.utils.settings import default_settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ["layer", "probe", "fitted_on", "split", "labels", "accuracy", "components", "seconds", "reason"]
SMALL = 2**28  # bytes, 256 MiB, below which outputs are held without a plan
ASSUMED_CLASSES = 1000  # K in the plan until labels are read; if that plan does not fit, they are read first


class ProbeTable(pd.DataFrame):
    """Tidy rows of one accuracy each; prints as a table of layers, draws itself with ``plot()``.

    Columns: layer; probe ("network" for the model's own output); fitted_on, the labels that the probe was
    fitted on; split ("train" or "test"); labels, the labels that the accuracy compares with; accuracy in
    [0, 1]; components, the mean r_k of a subspace probe; seconds to fit the probe and predict the split.
    Time that several probes or sets of labels share is counted for each of them. Where the accuracy is NaN,
    reason says why the probe could not be fitted or could not predict.
    """

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame  # a part of the rows is a plain frame

    def __repr__(self) -> str:
        parts = self._parts()
        return "\n".join(one if isinstance(one, str) else one.to_string() for one in parts)

    def _repr_html_(self) -> str:
        parts = self._parts()
        return "\n".join(f"<p>{escape(one)}</p>" if isinstance(one, str) else one.to_html() for one in parts)

    def _parts(self) -> list[str | pd.DataFrame]:
        """Return captions, and the accuracies as texts for each kind of labels: layers x probes."""
        if not set(COLUMNS) <= set(self.columns):
            return [pd.DataFrame(self)]
        split = "test" if (self["split"] == "test").any() else "train"
        rows = pd.DataFrame(self[self["split"] == split])
        if len(set(rows["fitted_on"]) - {""}) > 1:
            named = rows["probe"] + " on " + rows["fitted_on"]
            rows["probe"] = named.where(rows["fitted_on"] != "", rows["probe"])
        parts: list[str | pd.DataFrame] = [f"ProbeTable: {len(self)} rows; accuracy on {split} data against"]
        for labels, part in rows.groupby("labels", sort=False):
            wide = part.pivot_table(
                index="layer", columns="probe", values="accuracy", sort=False, dropna=False
            )
            parts += [f"{labels} labels", wide.map(lambda share: "" if isnan(share) else f"{share:.4f}")]
        return parts

    def plot(self, probe: str | None = None, *, title: str = "") -> "Figure":  # type: ignore[override]
        """Draw one probe's accuracy over the layers; see :func:`layerprobe.figures.accuracy_over_layers`.

        Parameters
        ----------
        probe : str, optional
            Default: the first.
        title : str
        """
        from layerprobe.figures import accuracy_over_layers

        drawn = probe or next((name for name in self["probe"] if name != "network"), "any")
        return accuracy_over_layers(pd.DataFrame(self), drawn, title=title)


@shows_progress
@default_settings()
@torch.random.fork_rng([])  # a DataLoader and random transforms draw from torch's generator
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
    variances: Sequence[float] | None = None,
    memory: int | float | str | None = None,
    class_names: Sequence[Any] | None = None,
    progress: bool | Callable[[str], object] = True,
) -> ProbeTable:
    """Measure how well probes predict labels from every layer of a network.

    Fits each probe on each layer's outputs for the training data, once for each set of training labels. Its
    accuracy is measured on the training data against every set of labels, and on the test data. One forward
    pass over the training data and one over the test data are enough while the training outputs of the
    chosen layers fit into memory. If they do not, and all probes need only sums over rows, sums over batches
    are kept instead: one forward pass sums, and a second one predicts; results are the same but for rounding.
    The labels of a loader are then first read in an extra pass without the model. MASC, VeLPIC, nearest
    class mean, LDA, ridge and ShrinkageLDA need only sums. With other probes, one layer is held at a time, in
    a pass of its own.

    A probe that cannot be fitted on a layer, or on a layer with NaN, has accuracies of NaN and the reason in
    the table, with a warning; all others are measured.

    In a job of several processes (``torchrun``; see :mod:`layerprobe.distributed`) each of them runs the
    model over every world_size-th row, sums are added over processes, and all get the same table. Probes
    that need rows are refused there.

    Parameters
    ----------
    model : nn.Module
        Any; it is left as it was.
    train, test : (x, y), DataLoader, Dataset or iterable of batches
        As for :func:`layerprobe.capture`; each with labels.
    train_labels : mapping of str to n labels, optional
        Named sets of training labels in the order of the rows, say ``{"noisy": noisy, "true": clean}``.
        Default: ``{"given": y}``, the labels that come with the training data. A shuffling loader must then
        give each row's index, as batches (x, y, index); other iterables are assumed to keep the order. The
        labels that come with the data are then not used.
    layers : str or iterable of str, optional
        Names or glob patterns. Default: the model's own ``probed_layers``, a mapping of names in the table
        to layers, which the paper's networks have; else as for :func:`layerprobe.capture`.
    probes : str, estimator, several of them, or a mapping of names to them
        Names of ``layerprobe.probes.available()``, or classifiers with scikit-learn's contract, which are
        cloned.
    pool : optional
        As for :func:`layerprobe.capture`; for all layers but the raw input, unless a mapping names it.
        Default: "compact", as in :func:`layerprobe.audit`: feature maps of more than 1,024 numbers are
        averaged over neighbouring positions, tokens over the attention mask.
    batch_size : int
        Rows of a batch cut from whole arrays.
    device : torch.device or str, optional
        For a model without parameters.
    variances : sequence of float, optional
        Every MASC is measured at each of them, as "masc 0.99" and so on, from one fit and one projection;
        so are MASC probes that are given one by one and differ in their variance alone.
    memory : int or str, optional
        Memory limit, bytes or text such as "8GiB"; :func:`layerprobe.plan` counts the need. Default:
        80 % of free memory.
    class_names : sequence of labels, optional
        The classes in the order of the model's outputs, for its own accuracy. Default, as in
        :func:`layerprobe.audit`: whole numbers, also as texts, are positions of outputs. Names have the order
        of ``model.config.id2label``, or else of pandas' categories, of an enumeration's definition, or of the
        data set's ``classes``; without these they are sorted.
    progress : bool or callable
        Show the step and an estimate of its time in one line on a terminal or in a notebook; True is silent
        where stderr is a file. A callable gets one text per step, and every few seconds in a long one.

    Returns
    -------
    ProbeTable
        A pandas DataFrame. Test accuracy is against labels called "true" if there are training labels of
        that name, else "given". The model's own accuracies are the rows of the probe "network", where it
        has an output per class: a part called logits, or else one as wide as there are classes, or wider if
        it mostly predicts them; one column is the logit or the probability of the second of two classes.
        If it is not clear which output is which class, they are NaN, with the reason and a warning.

    Raises
    ------
    InputError
        If arguments are of a wrong type, labels are missing or of another length, or the memory is too small;
        the message then says what to change.
    LayerError
        If a layer pattern matches nothing.

    Warns
    -----
    LayerprobeWarning
        If the model agrees with the training labels much better in another order of the classes; the message
        has the argument `class_names` to give.
    """
    if isinstance(train_labels, Mapping):
        check_same_index((train[0] if isinstance(train, tuple) and train else train, *train_labels.values()))
    task = _Task(
        Extractor(model, layers, pool, batch_size, device, "compact"),
        named_probes(probes, variances),
        train,
        None if train_labels is None else LabelSets.of(train_labels),
        0 if test is None else count_rows(test) or 0,
        None if memory is None else as_bytes(memory),
        None if class_names is None else label_array([*class_names]).tolist(),
        _known_order(train, train_labels),
    )
    require_repeatable(train, "training data")
    if test is not None:
        require_repeatable(test, "test data")
    if task.processes > 1:
        task.require_shareable()
    labels, groups = task.choose_way()
    if groups is None:
        labels, fitted, split = _fit_streamed(task, labels)
    else:
        labels, fitted, split = _fit_held(task, labels, groups)
    splits = {"train": split}
    if test is not None:
        order = _known_order(test, None)
        splits["test"] = _Split(["true" if "true" in labels.names else "given"], fitted, split.truth)
        seen: list[np.ndarray] = []

        def score(batch: LayerBatch) -> None:
            given = renumbered(given_labels(batch.labels, "test"), order, task.known, "the test labels")
            given = as_kind(given, labels.classes, "the test labels")
            seen.append(np.unique(given) if given.dtype != object else given)
            splits["test"].add(batch, class_indices(labels.classes, given)[None], [given])

        task.run(test, score)
        check_test_classes(labels.classes, np.concatenate(seen))
        if task.processes > 1:
            splits["test"].sum_over_processes()
    return _table(fitted, splits)


def _known_order(train: Any, train_labels: Mapping[str, Any] | None) -> Sequence[Any] | None:
    """Return the classes in the order that comes with the labels or the data set, or None."""
    own = [train[1]] if isinstance(train, tuple) and len(train) > 1 else []
    for labels in train_labels.values() if isinstance(train_labels, Mapping) else own:
        if (order := class_order(labels)) is not None:
            return order
    return getattr(getattr(train, "dataset", train), "classes", None)


@dataclass(frozen=True, eq=False)
class _Truth:
    """The outputs (K,) of the classes of the training labels, whose names are (K,)."""

    every: Classes
    names: np.ndarray
    outputs: np.ndarray
    to_names: Callable[[np.ndarray], np.ndarray]
    heads: frozenset[str]  # that have these outputs
    width: int | None  # the number of outputs, if it is known
    checks_order: bool

    @property
    def num_classes(self) -> int:
        return int(self.outputs.max()) + 1

    def of(self, labels: Sequence[np.ndarray]) -> Tensor:
        """Return the output of each label, (S, b) int64; -1 for those of no class."""
        y = torch.stack([self.every.find(self.to_names(one)) for one in labels])
        return torch.where(y < self.num_classes, y, -1)


@dataclass(frozen=True, eq=False)
class _Task:
    """The checked arguments of one call of `probe`."""

    extractor: Extractor
    probes: Mapping[str, ClassifierMixin]
    train: Any
    named: LabelSets | None  # in the order of the rows; None for the labels that come with the data
    test_rows: int
    memory: int | None  # bytes
    class_names: Sequence[Any] | None = None
    known: Sequence[Any] | None = None  # names of the classes in the order that comes with the data

    def truth(self, labels: LabelSets, heads: Mapping[str, int]) -> _Truth | str | None:
        """Return the training classes as outputs of the network, or the reason why these are not known.

        Without possible heads, whose numbers of outputs are given, there are none.
        """
        if not heads:
            return None
        given = labels.classes
        known = fitting_names(given, class_order(labels.classes) or self.known)
        if self.class_names is not None:
            every = Classes.from_labels(given, None, self.class_names)
            if (unknown := every.find(given) < 0).any():
                label = given.tolist()[int(unknown.int().argmax())]
                raise InputError(f"the training labels hold {label!r}, which is none of class_names=")
        names, to_names = output_names(self.extractor.model, given, known, self.class_names, heads)
        try:
            fitting = fitting_heads(heads, to_names(given), names, known)
        except InputError as error:
            return str(error)
        first = min(fitting, key=lambda name: max(heads[name], 2) != len(given))
        every, outputs = fitting[first]
        same = frozenset(name for name, (_, y) in fitting.items() if torch.equal(y, outputs))
        width = None if names is None and whole_numbers(given) is not None else len(every)
        return _Truth(every, given, outputs.numpy(), to_names, same, width, self.class_names is None)

    @cached_property
    def processes(self) -> int:
        """Number of processes of the job; 1 where there is no process group."""
        return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1

    @cached_property
    def dimensions(self) -> Dimensions:
        """Sizes of one row, found by running the network on the first training rows."""
        return self.extractor.dimensions(self.train)

    def run(self, data: Any, consume: Callable[[LayerBatch], object]) -> None:
        """Make one pass over this process's rows of the data."""
        rows = count_rows(data)
        own = None if rows is None else -(-rows // self.processes)
        self.extractor.run(data, consume, shared=self.processes > 1, total=own)

    @cached_property
    def memory_limit(self) -> int:
        """Bytes for this process: free memory is shared with the other processes of the machine."""
        if self.memory is not None:
            return self.memory
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if self.processes > 1 else 1
        return int(SHARE * free_memory()) // here

    def choose_way(self) -> tuple[LabelSets | None, list[list[str] | None] | None]:
        """Return the labels, if they are known before the pass, and the groups of layers to hold at a time.

        A single group of None stands for all layers in one pass. No groups stand for sums over batches.
        """
        labels, rows = self.named, count_rows(self.train)
        if labels is None and is_whole(self.train):
            labels = read_label_sets(self.train, rows or 1, self.extractor.model)
        if self.processes > 1:
            self.require_same_everywhere(rows, labels)
        if rows is None:  # an iterator of unknown length may serve one pass only
            return labels, [None]
        sizes = self.dimensions
        if labels is None and self.processes > 1:
            labels = self.read_labels()
        if self.memory is None and self.processes == 1 and self.is_small(sizes, rows):
            return labels, [None]
        plan = self.plan(sizes, rows, labels)
        if labels is None and not self.all_can_hold(plan):
            labels = self.read_labels()
            plan = self.plan(sizes, rows, labels)
        if self.all_can_hold(plan):
            return labels, [None]
        plan.require(self.memory_limit)
        return labels, None if plan.streamed is not None else [[layer] for layer in plan.dims]

    def read_labels(self) -> LabelSets:
        """Read the labels that come with the training data."""
        return read_label_sets(self.train, self.extractor.batch_size, self.extractor.model)

    def is_small(self, sizes: Dimensions, rows: int) -> bool:
        """Return whether nothing needs to be counted: a bound on what `ProbePlan` counts is below `SMALL`.

        Sums, bases and workspaces of a layer take less than 64 times (n + d) d numbers per label set.
        """
        sets = 1 if self.named is None else len(self.named.names)
        numbers = sum((rows + d) * d for d in sizes.layers.values())
        return 64 * sets * torch.get_num_threads() * sizes.itemsize * numbers < SMALL

    def plan(self, sizes: Dimensions, rows: int, labels: LabelSets | None) -> ProbePlan:
        """Count bytes and operations."""
        return ProbePlan(
            sizes.layers,
            rows,
            self.test_rows,
            min(rows, ASSUMED_CLASSES) if labels is None else len(labels.classes),
            1 if labels is None else len(labels.names),
            reads_of(self.probes.values()),
            changed=1.0 if self.named is None else self.named.changed,
            itemsize=sizes.itemsize,
            largest=None if labels is None else labels.largest,
        )

    def all_can_hold(self, plan: ProbePlan) -> bool:
        """Return whether each process of the job has memory for the outputs of its rows."""
        elsewhere = sum(layer.outputs for layer in plan.layers) * (1 - 1 / self.processes)
        fits = plan.held - elsewhere <= self.memory_limit
        return self.sum(torch.tensor(int(fits))) == self.processes

    def sum(self, count: Tensor) -> int:
        """Return the sum of a number over the processes of the job."""
        return int(sum_over_processes(count) if self.processes > 1 else count)

    def require_order(self, reason: str = "gives no indices") -> None:
        """Raise if the rows of the training data cannot be found among the named labels."""
        if self.named is not None and not keeps_order(self.train):
            raise InputError(
                "train_labels are in the order of the rows, but the training loader may shuffle and "
                f"{reason}; use shuffle=False, or a data set of (x, y, index)"
            )

    def are_positions(self, index: np.ndarray | None) -> bool:
        """Return whether the items after the labels are positions in train_labels.

        `index` (n,) holds the items of all rows if they identify rows.
        """
        assert self.named is not None
        longest = max(self.named.lengths)
        found = index is not None and index.dtype.kind in "iu" and bool(index.min() >= 0)
        if found and index is not None and index.max() >= longest:
            found = longest != len(index)  # as many labels as rows: in their order
        if not found:
            self.require_order("its third item is no index")
            if self.processes > 1:
                raise InputError("the third item of (x, y, index) identifies no rows: leave it out in a job")
        return found

    @cached_property
    def indexed(self) -> bool:
        """As `are_positions`, of the items of all rows, which are read in a pass without the network."""
        return self.are_positions(read_index(self.train, self.extractor.batch_size, self.extractor.model))

    def require_shareable(self) -> None:
        """Raise if a probe needs all rows in one process."""
        if refused := [name for name, one in self.probes.items() if not streams(one)]:
            raise InputError(
                f"expected probes that need only sums, as {self.processes} processes share the rows: "
                "masc below a variance of 1 and without noise=, velpic, ncm, lda, ridge or shrinkage_lda; "
                f"got {', '.join(refused)}, which need all rows in one process"
            )

    def require_same_everywhere(self, rows: int | None, labels: LabelSets | None) -> None:
        """Raise unless all processes of the job have the same network, labels and number of rows."""
        if rows is None and labels is None:
            raise InputError(
                "each process of a job reads a part of an iterator's labels; give train_labels=, or data of "
                "known length: arrays, a Dataset, or a loader"
            )
        require_same("network", *self.extractor.model.state_dict().values())
        require_same("number of training rows", torch.tensor(-1 if rows is None else rows))
        if labels is not None:
            text = repr([values.tolist() for values in labels.values()]).encode()
            require_same("training labels", torch.frombuffer(bytearray(text), dtype=torch.uint8))


class _Split:
    """Accuracies on one split of all probes of all layers, and of the network's own output."""

    def __init__(
        self,
        label_names: Sequence[str],
        fitted: Mapping[str, Sequence[FittedProbe]],
        truth: _Truth | str | None,
    ) -> None:
        self.label_names, self.truth = label_names, truth
        self.layers = {
            layer: Accuracies(probes, len(label_names), skip=True) for layer, probes in fitted.items()
        }
        self.network = HeadCounts(len(label_names), truth.num_classes if isinstance(truth, _Truth) else 1)

    def add(self, batch: LayerBatch, y: Tensor, labels: Sequence[np.ndarray]) -> None:
        """Add a batch, its class indices (S, b) and its labels, S arrays (b,)."""
        self.add_network(head_predictions(batch.heads), labels)
        for layer, X in batch.outputs.items():
            self.layers[layer].update(X, y)

    def add_network(
        self, predictions: Mapping[str, tuple[int, Tensor]], labels: Sequence[np.ndarray]
    ) -> None:
        """Add rows with the predictions of the possible heads, and S arrays of labels (b,)."""
        if isinstance(self.truth, _Truth):
            own = {name: one for name, one in predictions.items() if name in self.truth.heads}
            self.network.add(own, self.truth.of(labels))

    def sum_over_processes(self) -> None:
        for accuracies in self.layers.values():
            accuracies.sum_over_processes()
        self.network.sum_over_processes()

    def network_rows(self, split: str, head: str | None) -> list[tuple]:
        """Return the rows of the network's own output; without an accuracy, they have the reason."""
        if isinstance(self.truth, str):
            return [
                (OUTPUT, "network", "", split, labels, nan, nan, nan, self.truth)
                for labels in self.label_names
            ]
        if head is None or head not in self.network.counts:
            return []
        counts = self.network.counts[head].sum(1).double()  # (S, k, outputs + 1)
        correct = counts[:, :, :-1].diagonal(dim1=1, dim2=2).sum(1) / counts.sum((1, 2)).clamp(min=1)
        unknown = counts[:, :, -1].sum(1).long().tolist()
        reasons = [
            f"{split} rows whose output is NaN, or whose label is no class of the network: {m}" * (m > 0)
            for m in unknown
        ]
        return [
            (OUTPUT, "network", "", split, labels, nan if reason else float(correct[s]), nan, nan, reason)
            for s, (labels, reason) in enumerate(zip(self.label_names, reasons, strict=True))
            if counts[s].sum()
        ]


Fits: TypeAlias = dict[str, list[FittedProbe]]  # by layer


def _fit_held(
    task: _Task, known: LabelSets | None, groups: Sequence[list[str] | None]
) -> tuple[LabelSets, Fits, _Split]:
    """Fit and score all probes on layer outputs that are held, one group of layers per pass."""
    labels, split = known, None
    fitted: Fits = {}
    for group in groups:
        held = _HeldRows.of(task, task.extractor if group is None else task.extractor.of_layers(group))
        labels = held.labels(task, known)
        if split is None:
            heads = {name: width for name, (width, _) in held.predicted.items()}
            split = _Split(labels.names, {}, task.truth(labels, heads))
            split.add_network(held.predicted, labels.values())
        for done, layer in enumerate(list(held.outputs)):
            report_count("layers", done, len(held.outputs) + done)
            X = held.outputs.pop(layer)  # released when the layer is scored
            shared = task.processes > 1
            fitted[layer] = fit_layer(layer, task.probes, labels, X, shared=shared, skip=not shared)
            split.layers[layer] = count_correct(fitted[layer], X, labels.y, skip=True)
    assert labels is not None
    assert split is not None
    if task.processes > 1:
        split.sum_over_processes()
    return labels, fitted, split


class _HeldRows(NamedTuple):
    """Layer outputs of this process's training rows, and what came with them."""

    outputs: dict[str, Tensor]
    given: Column | None  # labels
    indices: Column | None
    positions: Tensor
    predicted: dict[str, tuple[int, Tensor]]  # by the possible heads

    @classmethod
    def of(cls, task: _Task, extractor: Extractor) -> "_HeldRows":
        """Run the network over the training rows."""
        rows = count_rows(task.train)
        own = None if rows is None else -(-rows // task.processes)
        collector = RowCollector(own)
        positions: list[Tensor] = []
        heads: dict[str, list[Tensor]] = defaultdict(list)
        widths: dict[str, int] = {}

        def take(batch: LayerBatch) -> None:
            if batch.indices is None:
                task.require_order()
            positions.append(batch.positions)
            for name, (width, y) in head_predictions(batch.heads).items():
                heads[name].append(y)
                widths[name] = width
            collector.add(batch.outputs, batch.labels, batch.indices)
            if rows is None and collector.nbytes > task.memory_limit:
                require_memory(
                    collector.nbytes,
                    f"the layers' outputs for the first {collector.count:,} rows",
                    "give a loader of known length, choose fewer layers by layers=, or pool them by pool=",
                    task.memory_limit,
                )

        extractor.run(task.train, take, shared=task.processes > 1, total=own)
        captured = collector.result()
        predicted = {name: (widths[name], torch.cat(parts)) for name, parts in heads.items()}
        return cls(captured.outputs, captured.labels, captured.indices, torch.cat(positions), predicted)

    def labels(self, task: _Task, known: LabelSets | None) -> LabelSets:
        """Return the labels of the rows."""
        if task.named is None:
            given = given_labels(self.given, "training")
            return LabelSets.of({"given": given}) if known is None else known.recode(given)
        total = task.sum(torch.tensor(len(self.positions)))
        if self.indices is not None and task.are_positions(row_index(self.indices)):
            return task.named.take(torch.as_tensor(self.indices))
        task.named.require_length(total)
        return task.named.take(self.positions)


def _fit_streamed(task: _Task, known: LabelSets | None) -> tuple[LabelSets, Fits, _Split]:
    """Fit all probes to sums over batches, in one pass, and score them in another one."""
    labels = known or task.read_labels()
    sums: dict[str, LayerSums] = {}
    seconds: dict[str, float] = defaultdict(float)
    failed: dict[str, str] = {}

    def labels_of(batch: LayerBatch) -> LabelSets:
        if task.named is None:
            return labels.recode(given_labels(batch.labels, "training"))
        if batch.indices is None:
            task.require_order()
        elif task.indexed:
            return task.named.take(torch.as_tensor(batch.indices))
        return task.named.take(batch.positions)

    def add(batch: LayerBatch) -> None:
        y = labels_of(batch).y
        for layer, X in batch.outputs.items():
            start = time.perf_counter()
            try:
                if layer not in seconds:
                    sums[layer] = new_sums(X, labels, task.probes, count_rows(task.train))
                if layer not in failed:
                    sums[layer].update(X, y)
            except InputError as error:
                if task.processes > 1:  # the others would wait for this process
                    raise
                failed[layer] = f"layer {layer!r}: {error}"
                sums.pop(layer, None)
            seconds[layer] += time.perf_counter() - start

    task.run(task.train, add)
    fitted: Fits = {}
    for done, (layer, elapsed) in enumerate(seconds.items()):
        report_count("layers", done, len(seconds))
        if layer in failed:
            fitted[layer] = failures(layer, task.probes, labels, failed[layer])
        else:
            own = sums.pop(layer)  # released when the layer is fitted
            skip = task.processes == 1
            fitted[layer] = fit_layer(layer, task.probes, labels, sums=own, seconds=elapsed, skip=skip)
    split = _Split(labels.names, fitted, task.truth(labels, task.dimensions.heads))

    def score(batch: LayerBatch) -> None:
        own = labels_of(batch)
        split.add(batch, own.y, own.values())

    task.run(task.train, score)
    if task.processes > 1:
        split.sum_over_processes()
    return labels, fitted, split


def _table(fitted: Mapping[str, Sequence[FittedProbe]], splits: Mapping[str, _Split]) -> ProbeTable:
    training = splits["train"]
    head = None
    truth = training.truth
    if isinstance(truth, str):
        message = f"No accuracy of the network's own output in the table: {truth}"
        warn(message, LayerprobeWarning)
    elif truth is not None:
        head = training.network.choose(truth.outputs, truth.width)
        if head is not None and truth.checks_order:
            every = truth.every.names.tolist()
            fits = len(every) == training.network.counts[head].shape[2]
            other = training.network.other_order(
                head, truth.outputs, truth.names.tolist(), every if fits else None
            )
            if other is not None:
                warn(other, LayerprobeWarning)
    _report_failures(splits)
    network = [row for name, split in splits.items() for row in split.network_rows(name, head)]
    rows: list[tuple] = []
    for layer, probes in fitted.items():
        if layer == OUTPUT:
            rows += network
        for position, one in enumerate(probes):
            for name, split in splits.items():
                accuracies = split.layers[layer]
                seconds = one.seconds + accuracies.seconds[position]
                for labels, accuracy in zip(split.label_names, accuracies.shares[position], strict=True):
                    key = (layer, one.name, one.fitted_on, name, labels)
                    reason = accuracies.failed.get(position, "")
                    rows.append((*key, float(accuracy), one.components, seconds, reason))
    return ProbeTable(rows if OUTPUT in fitted else rows + network, columns=COLUMNS)


def _report_failures(splits: Mapping[str, _Split]) -> None:
    """Warn about probes that failed; raise if all of them did."""
    accuracies = [one for split in splits.values() for one in split.layers.values()]
    reasons = dict.fromkeys(reason for one in accuracies for reason in one.failed.values())
    if reasons and all(len(one.failed) == len(one.fitted) for one in accuracies):
        raise InputError(next(iter(reasons)))
    for reason in reasons:
        warn(f"No accuracy in the table: {reason}", DegenerateWarning)
