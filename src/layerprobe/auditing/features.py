"""Layer outputs of an audit of a network: check its arguments, run the network, sort the rows.

Rows are sorted here by their content, once, so that no result depends on their order; `pipeline` restores the
user's order once, in the result.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import EllipsisType
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from layerprobe.auditing.dataset.labelled import (
    LabelledDataset,
    check_disjoint,
    dummy_input,
    hash_network,
    read_rows,
)
from layerprobe.auditing.method.calibration import evenly_spaced
from layerprobe.auditing.method.ensemble import DEFAULT_PROBES, HYPERPARAMETERS, audit_probes
from layerprobe.auditing.method.policies import POLICIES, check_policy, early_stopping, untrained_copy
from layerprobe.core.checks import check_count, check_type
from layerprobe.errors import InputError, LayerError
from layerprobe.layers.batches import named_tensors
from layerprobe.layers.capturing import Pool
from layerprobe.layers.tracing import check_model
from layerprobe.layers.views import View, apply_view
from layerprobe.layerwise.classes import Classes, fitting_heads, label_column, output_names, renumbered
from layerprobe.layerwise.outputs import (
    OUTPUT,
    Extractor,
    HeadCounts,
    LayerBatch,
    class_scores,
    head_predictions,
)
from layerprobe.recording.history import History
from layerprobe.utils.distributed import require_same
from layerprobe.utils.memory_limit import require_memory

HEAD_ROWS = 2048  # training rows that decide which part of the network's output is its head

FlagRule: TypeAlias = str | float | int
"""How many labels are flagged: "balanced", a precision in (0, 1), or a number of labels."""


def check_flag_rule(rule: Any) -> FlagRule:
    """Return a rule for flags, NumPy's numbers as Python's; raise an InputError for any other value."""
    rule = rule.item() if isinstance(rule, np.number) else rule
    known = isinstance(rule, str) and rule == "balanced"
    count = isinstance(rule, int) and not isinstance(rule, bool) and rule >= 0
    precision = isinstance(rule, float) and 0 < rule < 1
    if not (known or count or precision):
        raise InputError(
            "flags is 'balanced', an expected precision between 0 and 1, or a whole number of labels, got "
            f"{rule!r}"
        )
    return rule


@dataclass(frozen=True, eq=False, kw_only=True)
class AuditOptions:
    """Keyword arguments of an audit, checked; see :func:`layerprobe.audit`.

    `probes` becomes a mapping of names to probes; `views` of a network map names to functions.
    """

    policy: str
    holdout: Any = None
    trusted: Any = None
    test: Any = None
    views: Any = ()
    probes: Any = DEFAULT_PROBES
    class_names: Sequence[Any] | None = None
    history: Sequence[float] | History | None = None
    flags: FlagRule = "balanced"
    seed: int = 0
    own_policy: str = ""  # a policy of this kind of audit only
    # Options of networks only:
    layers: Any = None
    pool: Any = None
    inputs: Any = None
    controls: bool = True
    batch_size: int = 512
    device: torch.device | str | None = None

    def __post_init__(self) -> None:
        check_count("seed", self.seed, 0)
        check_count("batch_size", self.batch_size)
        check_type("policy", self.policy, str, "a text")
        check_type("controls", self.controls, bool, "True or False")
        check_type("class_names", self.class_names, Iterable | None, "a sequence of labels")
        check_type("history", self.history, Iterable | History | None, "a sequence of numbers")
        check_type("layers", self.layers, Iterable | None, "names or patterns of layers")
        check_type("views", self.views, Collection, "a sequence or mapping of views")
        check_type("inputs", self.inputs, Callable | None, "a function")
        if self.class_names is not None:
            object.__setattr__(self, "class_names", label_column([*self.class_names]).tolist())
        if self.history is not None:
            if not isinstance(self.history, History):
                object.__setattr__(self, "history", [*self.history])
            early_stopping(self.history, 1)
        if isinstance(self.layers, Iterator | list | set):  # an iterator would be used up by the first pass
            object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "flags", check_flag_rule(self.flags))
        given = {"holdout": self.holdout, "trusted": self.trusted, "test": self.test}
        check_policy(self.policy, given, views=len(self.views) > 0, more=self.own_policy)
        object.__setattr__(self, "probes", audit_probes(self.probes))

    @property
    def selecting(self) -> str:
        """The argument with the rows of the policy: "holdout", "trusted" or "test"; "" without."""
        needs = POLICIES[self.policy].needs
        return needs if needs != "views" else ""

    @property
    def others(self) -> dict[str, Any]:
        """The rows beside the training rows as the user gave them, by their argument, `selecting` first."""
        names = [name for name in (self.selecting, "trusted") if name]
        return {name: rows for name in names if (rows := getattr(self, name)) is not None}

    def settings(self) -> dict[str, Any]:
        """Return the options that a result records."""
        return {"policy": self.policy, "probes": list(self.probes), "seed": self.seed}


@dataclass(frozen=True)
class AuditPlan:
    """Dry run: what :func:`layerprobe.audit` would do with the same arguments.

    Attributes
    ----------
    rows, held_out : int
        Numbers of training rows and of held-out rows.
    classes : tuple
        Names of the K classes.
    layers : mapping of str to int
        Number of features of each layer, in order of execution.
    candidates : mapping of str to tuple of float
        Hyperparameters to try for each probe; empty for a probe without one.
    passes : int
        How often the network runs over all rows, including its untrained copy.
    memory : int
        Bytes of the layer outputs held at the same time.
    """

    rows: int
    held_out: int
    classes: tuple[Any, ...]
    layers: Mapping[str, int]
    candidates: Mapping[str, tuple[float, ...]]
    passes: int
    memory: int

    @property
    def tried(self) -> int:
        """Number of candidates over all layers."""
        return len(self.layers) * sum(max(1, len(values)) for values in self.candidates.values())


@dataclass(frozen=True, eq=False)
class Features:
    """Layer outputs of n rows."""

    own: dict[str, Tensor]  # (n, d) by layer, of the rows without views
    mean: dict[str, Tensor]  # (n, d), averaged over the rows and all their views; `own` itself without views
    logits: Tensor | None = None  # (n, K); None for features without a network
    probabilities: Tensor | None = None  # (n, K), averaged over the rows and all their views
    views: "dict[str, Features]" = field(default_factory=dict)  # of each view, for the rows in `kept`
    kept: Tensor | None = None  # positions of these rows, int64
    predicted: Tensor | None = None  # (n,): the largest output among all, also those of no class

    @classmethod
    def of(cls, outputs: dict[str, Tensor], logits: Tensor | None) -> "Features":
        """Return features without views.

        Parameters
        ----------
        outputs : dict of str to Tensor (n, d)
        logits : Tensor (n, k) or None
            All outputs of the network.
        """
        features = cls(outputs, outputs, logits)
        if logits is None:
            return features
        return replace(features, probabilities=logits.softmax(1), predicted=logits.argmax(1))

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(next(iter(self.own.values())))

    def of_outputs(self, outputs: tuple[int, ...] | None) -> "Features":
        """Return the features with the logits of some outputs only; None for all."""
        if outputs is None or self.logits is None:
            return self
        logits = self.logits[:, list(outputs)]
        return replace(self, logits=logits, probabilities=logits.softmax(1))

    def take(self, rows: Tensor) -> "Features":
        """Return the features of some rows, without views."""
        logits, predicted = (None if part is None else part[rows] for part in (self.logits, self.predicted))
        outputs = {layer: X[rows] for layer, X in self.own.items()}
        return replace(Features.of(outputs, logits), predicted=predicted)

    def with_views(self, views: "Iterable[tuple[str, Features]]", kept: Tensor | None = None) -> "Features":
        """Average over views of all rows, one view at a time; keep the single views of some rows.

        Parameters
        ----------
        views : iterable of (str, Features)
            Of the same rows, by name.
        kept : Tensor of int64, optional
            Positions of the rows whose single views are kept.
        """
        sums: dict[str, Tensor] = {}
        probabilities, parts, count = self.probabilities, {}, 1
        for name, view in views:
            outputs = [(X, view.own[layer]) for layer, X in self.own.items()]
            if self.logits is not None and view.logits is not None:
                outputs.append((self.logits, view.logits))
            if outputs and all(torch.equal(before, after) for before, after in outputs):
                raise InputError(f"the view {name!r} does not change any layer's output; leave it out")
            sums = sums or {layer: X.clone() for layer, X in self.own.items()}
            for layer, total in sums.items():
                total += view.own[layer]
            if probabilities is not None and view.probabilities is not None:
                probabilities = probabilities + view.probabilities
            if kept is not None and view.own:
                parts[name] = view.take(kept)
            count += 1
        for total in sums.values():
            total /= count
        averaged = None if probabilities is None else probabilities / count
        return replace(self, mean=sums or self.own, probabilities=averaged, views=parts, kept=kept)


@dataclass(frozen=True, eq=False)
class LabelledFeatures:
    """Layer outputs of n rows, sorted by content."""

    features: Features
    y: Tensor  # (n,), int64: class indices
    hashes: np.ndarray  # (n,), uint64: fingerprints
    order: np.ndarray  # (n,), int64: row i is the user's row order[i]


@dataclass(frozen=True, eq=False)
class AuditFeatures:
    """Input of the method."""

    train: LabelledFeatures
    others: dict[str, LabelledFeatures]  # by the argument that gave them, as in `AuditOptions.others`
    index: np.ndarray  # (n,), names of the rows in the user's order
    classes: Classes
    settings: dict[str, Any]  # recorded in the result
    # The training rows and those of the policy, for an untrained copy of the network:
    untrained: tuple[LabelledFeatures, LabelledFeatures | None] | None = None


@dataclass(frozen=True, eq=False)
class NetworkReader:
    """Runs a network over rows and their views."""

    model: nn.Module | None  # not changed; None for an audit that was loaded without it
    layers: str | Iterable[str | EllipsisType] | None = None
    pool: Pool = None  # the default policy is "compact"
    views: Mapping[str, View] = field(default_factory=dict)
    batch_size: int = 512
    device: torch.device | str | None = None
    blank: Any = None  # an input of two rows of ones, to test a network with; see `dummy_input`
    head: str | None = None  # name of the class scores in the network's own output; see `LayerBatch`
    outputs: tuple[int, ...] | None = None  # the output of each class; None for all in their order

    def read(
        self,
        rows: LabelledDataset,
        order: np.ndarray | None = None,
        kept: Tensor | None = None,
        *,
        layers: Iterable[str] | None = None,
    ) -> Features:
        """Return the outputs for all rows.

        In a job of several processes all of them call it with the same rows; each runs its share of the
        batches, and the first returns the outputs.

        Parameters
        ----------
        rows : LabelledDataset
        order : ndarray (n,), int64, optional
            Row i of the result is row ``order[i]``; by default the order of the dataset.
        kept : Tensor of int64, optional
            Positions in the result of the rows whose single views are returned too.
        layers : iterable of str, optional
            Names of features, to read only these layers, in this process.
        """
        order = np.arange(rows.n) if order is None else order
        views = ((view, self._pass(rows, order, view, layers)) for view in self.views)
        return self._pass(rows, order, None, layers).with_views(views, kept)

    def read_new(
        self, x: Any, layers: Iterable[str], inputs: Callable[[Any], Any] | None
    ) -> dict[str, Tensor]:
        """Return the outputs (m, d) of layers for new rows, averaged over the views.

        Parameters
        ----------
        x
            Rows in the form of the training data, with or without labels.
        layers : iterable of str
        inputs : callable, optional
            As for :func:`layerprobe.audit`.
        """
        model, rows = self._network, x
        if isinstance(x, Mapping):  # of whole arrays; without names, so that the rows keep their order
            rows = {key: value for key, value in x.items() if key not in ("labels", "label", "index")}
        if not isinstance(x, LabelledDataset):
            rows = read_rows(rows, ..., inputs=inputs, model=model)
        try:
            return self.read(rows, layers=layers).mean
        except InputError:
            raise
        except (LayerError, RuntimeError, ValueError, TypeError, IndexError) as error:
            expected, got = _shape(self.blank), _shape(next(rows.batches(1))[0])
            raise InputError(
                f"the network cannot take these rows: expected {expected} as in training, got {got} ({error})"
            ) from error

    def dimensions(self, x: Any) -> tuple[dict[str, int], dict[str, int]]:
        """Return the number of features of each layer, and of outputs of each possible head.

        `x` is a batch of inputs as the model takes them.
        """
        sizes = self._extractor().dimensions(iter([(x, None)]))
        if not sizes.heads:
            got = "no tensor with rows" if sizes.output is None else f"the shape {('n', *sizes.output)}"
            raise InputError(
                f"the network has no classification head: expected one score per class, (n, K), got {got}; "
                "audit_features audits layer outputs without a head"
            )
        dimensions = {layer: d for layer, d in sizes.layers.items() if layer != OUTPUT}
        if not dimensions:
            raise InputError("expected at least one layer besides the network's own output, got none")
        return dimensions, sizes.heads

    def _count_heads(self, rows: LabelledDataset, y: np.ndarray, num_outputs: int) -> HeadCounts:
        """Run the network on the first rows, and count its predictions by every possible head."""
        counts, seen = HeadCounts(1, num_outputs), 0
        for x, positions in rows.batches(self.batch_size):

            def count(batch: LayerBatch, y: np.ndarray = y[positions]) -> None:
                counts.add(head_predictions(batch.heads), torch.from_numpy(y)[None])

            self._extractor().run(iter([(x, None)]), count)
            seen += len(positions)
            if seen >= HEAD_ROWS:
                break
        return counts

    @property
    def _network(self) -> nn.Module:
        if self.model is None:
            raise InputError("this audit was loaded without its network: Audit.load(path, model) predicts")
        return self.model

    def _extractor(self) -> Extractor:
        return Extractor(
            self._network, self.layers, self.pool, self.batch_size, self.device, "compact", head=self.head
        )

    def _pass(
        self, rows: LabelledDataset, order: np.ndarray, view: str | None, layers: Iterable[str] | None
    ) -> Features:
        """Run the network over all rows once."""

        def batches() -> Iterator[tuple[Any, None, np.ndarray]]:
            for x, positions in rows.batches(self.batch_size):
                yield (x if view is None else apply_view(view, self.views[view], x)), None, positions

        extractor = self._extractor() if layers is None else self._extractor().of_layers(layers)
        outputs = extractor.extract(batches(), order=order, gather=layers is None)
        logits = None if outputs.output is None else class_scores(outputs.output)
        own = {layer: outputs[layer] for layer in outputs if layer != OUTPUT}
        features = Features.of(own, logits).of_outputs(self.outputs)
        if features.logits is not None and (bad := features.logits.isnan().any(1)).any():
            raise InputError(
                f"the network outputs NaN for {int(bad.sum())} of {rows.n} rows, so the audit has no head to "
                "compare with: use other weights, or leave out these rows"
            )
        for layer, X in own.items():
            if not math.isfinite(sum(map(float, X.aminmax()))) and (bad := ~X.isfinite().all(1)).any():
                raise InputError(
                    f"layer {layer!r} has NaN or infinity in {int(bad.sum())} of {rows.n} rows: drop these "
                    "rows, repair the layer, or leave it out by layers="
                )
        return features


def _shape(x: Any) -> str:
    """Describe the shape of one row of a batch of inputs."""
    shapes = [f"{name or 'x'} {tuple(tensor.shape[1:])}" for name, tensor in named_tensors(x)]
    return ", ".join(shapes) or "no tensor"


@dataclass(frozen=True, eq=False)
class NetworkInputs:
    """A network and the rows to run it on, checked."""

    options: AuditOptions
    model: nn.Module
    reader: NetworkReader
    rows: LabelledDataset
    y: Tensor  # (n,), int64
    others: dict[str, tuple[LabelledDataset, Tensor]]  # other rows and their classes, by their argument
    classes: Classes  # those that have training rows
    every: Classes  # those of all outputs
    dimensions: dict[str, int]  # number of features of each layer
    width: int  # number of outputs

    @classmethod
    def read(cls, model: nn.Module, data: Any, labels: Any, options: AuditOptions) -> "NetworkInputs":
        """Read and check everything before the first pass of the network.

        Parameters
        ----------
        model, data, labels
            As for :func:`layerprobe.audit`.
        options : AuditOptions
        """
        check_model(model)
        if labels is not None:
            label_column(labels)
        rows = read_rows(data, labels, inputs=options.inputs, model=model)
        require_classes(rows.labels)
        require_different_rows(rows.fingerprints())
        others = {}
        for what, given in options.others.items():
            others[what] = read_rows(given, inputs=options.inputs, model=model)
            check_disjoint(rows, others[what], what)
        x, positions = next(rows.batches(min(options.batch_size, 2)))
        blank = dummy_input(x, len(positions))
        reader = NetworkReader(
            model, options.layers, options.pool, options.views, options.batch_size, options.device, blank
        )
        dimensions, heads = reader.dimensions(x)
        names, to_names = output_names(model, rows.labels, rows.class_names, options.class_names, heads)
        labels = to_names(rows.labels)
        head, every = _head(reader, heads, rows, labels, names)
        classes, y, outputs = present_classes(every, every.indices(labels, "labels"))
        classes.check_counts(y)
        with_classes = {}
        for what, part in others.items():
            given = renumbered(part.labels, part.class_names, rows.class_names, f"labels of {what}=")
            with_classes[what] = part, classes.indices(to_names(given), f"labels of {what}=")
        reader, width = replace(reader, head=head, outputs=outputs), max(heads[head], 2)
        return cls(options, model, reader, rows, y, with_classes, classes, every, dimensions, width)

    @property
    def selecting(self) -> tuple[LabelledDataset, Tensor] | tuple[None, None]:
        """The rows of the policy and their classes."""
        return self.others.get(self.options.selecting, (None, None))

    @property
    def plan(self) -> AuditPlan:
        """The dry run."""
        part, _ = self.selecting
        held_out = 0 if part is None else part.n
        numbers = (self.rows.n + held_out) * sum(self.dimensions.values())
        return AuditPlan(
            self.rows.n,
            held_out,
            tuple(self.classes.names.tolist()),
            self.dimensions,
            {name: tuple(HYPERPARAMETERS.get(name, ())) for name in self.options.probes},
            (1 + len(self.reader.views)) * (2 if self.options.controls else 1),
            4 * numbers * (3 if self.reader.views else 1),
        )

    def require_resources(self) -> None:
        """Raise unless the outputs fit into memory and all processes of the job have equal inputs."""
        require_memory(
            self.plan.memory,
            "the layers' outputs",
            "choose fewer layers by layers=, pool them by pool=, or audit fewer rows at a time",
        )
        parts = [self.rows, *(part for part, _ in self.others.values())]
        hashes = [torch.from_numpy(part.fingerprints().view(np.int64)) for part in parts]
        require_same("network", *self.model.parameters(), *self.model.buffers())
        require_same("rows and labels", *hashes, self.y)

    def extract(self) -> AuditFeatures:
        """Run the network and its untrained copy over all rows.

        In a job of several processes all of them call it, and the first returns the outputs.
        """
        options, reader = self.options, self.reader
        kept = None if options.selecting else evenly_spaced(self.rows.n)
        train = _read_sorted(reader, self.rows, self.y, kept)
        others = {what: _read_sorted(reader, *part) for what, part in self.others.items()}
        if options.class_names is None:
            require_order(train.features.predicted, train.y, self.classes, self.every)
        untrained = None
        if options.controls:
            reader = replace(reader, model=untrained_copy(self.model, options.seed))
            rows, y = self.selecting
            fresh = _read_sorted(reader, self.rows, self.y, kept)
            untrained = fresh, None if rows is None or y is None else _read_sorted(reader, rows, y)
        settings = {
            **options.settings(),
            "views": list(reader.views),
            "inputs": options.inputs,
            "layers": self.dimensions,
            "outputs": self.width,
            "batch_size": reader.batch_size,
            "weights": hash_network(self.model),
        }
        return AuditFeatures(train, others, self.rows.index, self.classes, settings, untrained)


def _read_sorted(
    reader: NetworkReader, rows: LabelledDataset, y: Tensor, kept: Tensor | None = None
) -> LabelledFeatures:
    """Run the network over rows in an order that depends only on their content and labels."""
    hashes = rows.fingerprints()
    order = np.lexsort((y.numpy(), hashes))
    return LabelledFeatures(reader.read(rows, order, kept), y[torch.from_numpy(order)], hashes[order], order)


def _head(
    reader: NetworkReader,
    heads: Mapping[str, int],
    rows: LabelledDataset,
    labels: np.ndarray,
    names: Sequence[Any] | None,
) -> tuple[str, Classes]:
    """Return the name of the class scores in the network's own output, and the classes of all its columns.

    The only part with an output per class is the head. Otherwise the predictions for some rows decide.
    """
    fitting = fitting_heads(heads, labels, names, rows.class_names)
    _, y = next(iter(fitting.values()))
    width = int(y.max()) + 1
    exact = [name for name in fitting if names is not None or max(heads[name], 2) == width]
    if len(exact) == 1:
        return exact[0], fitting[exact[0]][0]
    counts = reader._count_heads(rows, y.numpy(), width)
    counts.counts = {name: one for name, one in counts.counts.items() if name.partition(" > ")[0] in fitting}
    chosen = counts.choose(y.unique().numpy())
    if chosen is None:
        widths = ", ".join(f"{name.strip('.') or 'output'} (n, {k})" for name, k in heads.items())
        raise InputError(
            f"the network has no classification head for labels of {len(y.unique())} classes: its output, "
            f"{widths}, mostly predicts none of them, as an embedding does. If it holds class scores, give "
            "the names of all its outputs in their order by class_names="
        )
    chosen = chosen.partition(" > ")[0]
    return chosen, fitting[chosen][0]


def require_classes(labels: np.ndarray) -> None:
    """Raise an InputError if all labels (n,) are equal."""
    values = labels.tolist()  # a label may be a tuple, which NumPy would compare with each row
    if values and all(label == values[0] for label in values):
        raise InputError(
            f"expected labels of at least two classes, but all {len(values)} labels are "
            f"{values[0]!r}: audit the rows of all classes together"
        )


def require_different_rows(hashes: np.ndarray) -> None:
    """Raise an InputError if all rows have the same fingerprint; `hashes` (n,) uint64."""
    if len(hashes) and (hashes == hashes[0]).all():
        raise InputError(
            f"expected different rows, but all {len(hashes)} rows have the same content, for example only "
            "zeros: check how the data were read"
        )


def present_classes(every: Classes, y: Tensor) -> tuple[Classes, Tensor, tuple[int, ...] | None]:
    """Return the classes that have training rows, the class indices among them, and their outputs.

    Parameters
    ----------
    every : Classes
        Of all outputs.
    y : Tensor (n,), int64
        Class indices among `every`.
    """
    present, y = y.unique(return_inverse=True)
    if len(present) == len(every):
        return every, y, None
    return every.take(present.numpy()), y, tuple(present.tolist())


def require_order(predicted: Tensor | None, y: Tensor, classes: Classes, every: Classes) -> None:
    """Raise an InputError if predictions agree much better with the labels in another order of the classes.

    Parameters
    ----------
    predicted : Tensor (n,), int64, or None
        The predicted output of each row; None without a network.
    y : Tensor (n,), int64
        The class of each row.
    classes, every : Classes
        Those that have rows, and those of all outputs.
    """
    if predicted is None:
        return
    of_class = every.indices(classes.names, "classes")
    counts = HeadCounts(1, len(every))
    counts.add({"": (len(every), predicted)}, of_class[y][None])
    if message := counts.other_order("", of_class.numpy(), classes.names.tolist(), every.names.tolist()):
        raise InputError(message)
