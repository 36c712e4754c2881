"""Prepare an audit: check its arguments, sort the rows, and extract the layer outputs.

Rows are sorted here by their content, once, so that no result depends on their order; `pipeline` restores the
user's order once, in the result.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layerprobe.auditing.dataset.inputs import dummy_input, hash_inputs, hash_network
from layerprobe.auditing.dataset.labelled import Classes, LabelledDataset, check_disjoint
from layerprobe.auditing.dataset.readers import read_rows
from layerprobe.auditing.features import (
    Features,
    LabelledFeatures,
    NetworkReader,
    check_matrix,
    features_of,
    with_views,
)
from layerprobe.auditing.method.baselines import untrained_copy
from layerprobe.auditing.method.ensemble import DEFAULT_PROBES, HYPERPARAMETERS, named_probes
from layerprobe.auditing.method.policies import MAX_VIEW_ROWS, check_policy
from layerprobe.errors import InputError
from layerprobe.probes.base import label_array
from layerprobe.utils.distributed import require_same, world_size
from layerprobe.utils.memory_limit import require_memory


@dataclass(frozen=True, eq=False, kw_only=True)
class AuditOptions:
    """Keyword arguments of an audit; see :func:`layerprobe.audit`.

    `probes` becomes a mapping of names to probes, and `views` of a network a mapping of names to functions.

    Raises
    ------
    InputError
        If the policy is refused or lacks its argument, or probes or views are invalid.
    """

    policy: str
    holdout: Any = None
    trusted: Any = None
    test: Any = None
    views: Any = ()
    probes: Any = DEFAULT_PROBES
    class_names: Sequence[Any] | None = None
    history: Sequence[float] | None = None
    seed: int = 0
    # Options of networks only:
    layers: Any = None
    pool: Any = None
    inputs: Any = None
    controls: bool = True
    batch_size: int = 512
    device: torch.device | str | None = None

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed must be 0 or more, got {self.seed}")
        check_policy(self.policy, self._held_out, views=len(self.views) > 0)
        object.__setattr__(self, "probes", named_probes(self.probes))

    @property
    def held_out_name(self) -> str | None:
        """The argument with held-out rows, "holdout", "trusted" or "test"; None without."""
        return next((name for name, value in self._held_out.items() if value is not None), None)

    @property
    def held_out(self) -> Any:
        """The held-out rows as the user gave them, or None."""
        return None if self.held_out_name is None else self._held_out[self.held_out_name]

    @property
    def _held_out(self) -> dict[str, Any]:
        return {"holdout": self.holdout, "trusted": self.trusted, "test": self.test}

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
class AuditFeatures:
    """Input of the method; rows are sorted by content.

    Attributes
    ----------
    train : LabelledFeatures
        Of the n training rows.
    held_out : LabelledFeatures or None
        Of the held-out rows of the policy.
    order : ndarray (n,), int64
        Row i of `train` is the user's row ``order[i]``.
    index : ndarray (n,)
        Names of the rows in the user's order.
    classes : Classes
    settings : dict
        Recorded in the result.
    untrained : tuple of LabelledFeatures, or None
        `train` and `held_out` for an untrained copy of the network.
    """

    train: LabelledFeatures
    held_out: LabelledFeatures | None
    order: np.ndarray
    index: np.ndarray
    classes: Classes
    settings: dict[str, Any] = field(default_factory=dict)
    untrained: tuple[LabelledFeatures, LabelledFeatures | None] | None = None


class SortedRows:
    """A labelled dataset in an order that depends only on the content and labels of its rows.

    Parameters
    ----------
    rows : LabelledDataset
    y : Tensor (n,), int64
        Class indices of their labels.

    Attributes
    ----------
    n : int
    y : Tensor (n,), int64
    hashes : ndarray (n,), uint64
        Fingerprints of the rows.
    order : ndarray (n,), int64
        Row i is row ``order[i]`` of `rows`.
    """

    def __init__(self, rows: LabelledDataset, y: Tensor) -> None:
        self.rows, self.n = rows, rows.n
        self.order = _sort_order(rows.fingerprints(), y)
        self.y, self.hashes = y[torch.from_numpy(self.order)], rows.fingerprints()[self.order]
        self._position = np.argsort(self.order)

    def batches(self, batch_size: int = 512) -> Iterator[tuple[Any, np.ndarray]]:
        """Yield inputs of the model and the positions of their rows."""
        for x, positions in self.rows.batches(batch_size):
            yield x, self._position[positions]


def _sort_order(hashes: np.ndarray, y: Tensor) -> np.ndarray:
    """Return the order of rows by fingerprint (n,), then by class (n,)."""
    return np.lexsort((y.numpy(), hashes))


def _view_rows(n: int) -> np.ndarray:
    """Return the positions of the rows whose views form the selection set: all, or evenly spaced ones."""
    return np.linspace(0, n - 1, min(n, MAX_VIEW_ROWS)).round().astype(np.int64)


@dataclass(frozen=True, eq=False)
class NetworkInputs:
    """A network and the rows to run it on, checked.

    Attributes
    ----------
    options : AuditOptions
    model : nn.Module
    reader : NetworkReader
    rows : SortedRows
        The training rows.
    held_out : SortedRows or None
    classes : Classes
    dimensions : dict of str to int
        Number of features of each layer.
    """

    options: AuditOptions
    model: nn.Module
    reader: NetworkReader
    rows: SortedRows
    held_out: SortedRows | None
    classes: Classes
    dimensions: dict[str, int]

    @classmethod
    def read(cls, model: nn.Module, data: Any, labels: Any, options: AuditOptions) -> "NetworkInputs":
        """Read and check everything before the first pass of the network.

        Parameters
        ----------
        model, data, labels
            As for :func:`layerprobe.audit`.
        options : AuditOptions

        Raises
        ------
        InputError
            If labels, rows and network do not fit together, or held-out rows are among the training rows.
        """
        rows = read_rows(data, labels, inputs=options.inputs)
        what, held_out = options.held_out_name, None
        if what is not None:
            held_out = read_rows(options.held_out, inputs=options.inputs)
            check_disjoint(rows, held_out, what)
        layers = options.layers
        if not (layers is None or isinstance(layers, str)):
            layers = tuple(layers)  # an iterator would be used up by the first pass
        x, positions = next(rows.batches(min(options.batch_size, 2)))
        reader = NetworkReader(
            model,
            layers,
            options.pool,
            options.views,
            options.batch_size,
            options.device,
            blank=dummy_input(x, len(positions)),
        )
        dimensions, outputs = reader.dimensions(x)
        names = rows.class_names if options.class_names is None else options.class_names
        classes = Classes.from_labels(rows.labels, outputs, names)
        y = classes.indices(rows.labels, "labels")
        classes.check_counts(y)
        sorted_held_out = None
        if held_out is not None:
            sorted_held_out = SortedRows(held_out, classes.indices(held_out.labels, f"labels of {what}="))
        return cls(options, model, reader, SortedRows(rows, y), sorted_held_out, classes, dimensions)

    @property
    def plan(self) -> AuditPlan:
        """The dry run."""
        held_out = self.held_out.n if self.held_out else 0
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
        if world_size() > 1:
            parts = [torch.from_numpy(part.rows.fingerprints().view(np.int64)) for part in self._parts()]
            require_same("network", *self.model.parameters(), *self.model.buffers())
            require_same("rows and labels", *parts, self.rows.y)

    def extract(self) -> AuditFeatures:
        """Run the network and its untrained copy over all rows.

        In a job of several processes all of them call it, and the first returns the outputs.
        """
        train, held_out = self._outputs(self.reader)
        untrained = None
        if self.options.controls:
            fresh = untrained_copy(self.model, self.options.seed)
            untrained = self._outputs(replace(self.reader, model=fresh))
        settings = {
            **self.options.settings(),
            "views": list(self.reader.views),
            "inputs": self.options.inputs,
            "layers": self.dimensions,
            "batch_size": self.reader.batch_size,
            "weights": hash_network(self.model),
        }
        order, index = self.rows.order, self.rows.rows.index
        return AuditFeatures(train, held_out, order, index, self.classes, settings, untrained)

    def _parts(self) -> list[SortedRows]:
        return [self.rows, self.held_out] if self.held_out else [self.rows]

    def _outputs(self, reader: NetworkReader) -> tuple[LabelledFeatures, LabelledFeatures | None]:
        kept = _view_rows(self.rows.n) if self.held_out is None else None
        train = LabelledFeatures(reader.read(self.rows, kept), self.rows.y, self.rows.hashes)
        if (held_out := self.held_out) is None:
            return train, None
        return train, LabelledFeatures(reader.read(held_out), held_out.y, held_out.hashes)


def features_of_arrays(features: Any, labels: Any, index: Any, options: AuditOptions) -> AuditFeatures:
    """Check layer outputs and sort their rows.

    Parameters
    ----------
    features, labels, index
        As for :func:`layerprobe.audit_features`.
    options : AuditOptions

    Raises
    ------
    InputError
        If features, labels and names do not fit together, or held-out rows are among the training rows.
    """
    given = _check_layers(features, "features")
    label_column, n = label_array(labels), given.n
    if len(label_column) != n:
        raise InputError(f"expected a label for each of {n} rows, got {len(label_column)}")
    names = np.arange(n) if index is None else label_array(index)
    if len(names) != n or len(set(names.tolist())) < n:
        raise InputError(
            f"expected a different name for each of {n} rows as index=, got {len(names)} names, "
            f"{len(set(names.tolist()))} different ones"
        )
    outputs = None if given.logits is None else given.logits.shape[1]
    classes = Classes.from_labels(label_column, outputs, options.class_names)
    y = classes.indices(label_column, "labels")
    classes.check_counts(y)
    train, order = _sort_by_content(given, y)
    views = []
    for i, view in enumerate(options.views):
        viewed = _check_layers(view, f"views[{i}]", given.own)
        if viewed.n != n:
            raise InputError(f"expected the same {n} rows in views[{i}] as in features, got {viewed.n}")
        views.append((str(i), _take(viewed, order)))
    train = replace(train, features=with_views(train.features, views, _view_rows(n)))
    held_out = None
    if (what := options.held_out_name) is not None:
        held_out = _held_out_arrays(options.held_out, what, given.own, classes)
        if shared := int(np.isin(held_out.hashes, train.hashes).sum()):
            raise InputError(
                f"{shared} of the {len(held_out.y)} rows of {what}= are among the training rows; remove them"
            )
    dimensions = {layer: X.shape[1] for layer, X in given.own.items()}
    settings = {**options.settings(), "views": len(views), "layers": dimensions}
    return AuditFeatures(train, held_out, order, names, classes, settings)


def _held_out_arrays(pair: Any, what: str, own: Mapping[str, Tensor], classes: Classes) -> LabelledFeatures:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise InputError(f"expected {what}= as (features, labels), got {type(pair).__name__}")
    given = _check_layers(pair[0], what, own)
    if given.logits is not None and (outputs := given.logits.shape[1]) != len(classes):
        raise InputError(f"expected {len(classes)} outputs per row in {what}=, got {outputs}")
    y = classes.indices(label_array(pair[1]), f"labels of {what}=")
    if len(y) != given.n:
        raise InputError(f"expected a label for each of the {given.n} rows of {what}=, got {len(y)}")
    return _sort_by_content(given, y)[0]


def _sort_by_content(features: Features, y: Tensor) -> tuple[LabelledFeatures, np.ndarray]:
    """Return the rows in an order that depends only on their content and labels, and this order."""
    hashes = hash_inputs({layer: features.own[layer] for layer in sorted(features.own)}, features.n)
    order = _sort_order(hashes, y)
    return LabelledFeatures(_take(features, order), y[torch.from_numpy(order)], hashes[order]), order


def _take(features: Features, positions: np.ndarray) -> Features:
    rows = torch.from_numpy(positions)
    logits = None if features.logits is None else features.logits[rows]
    return features_of({layer: X[rows] for layer, X in features.own.items()}, logits)


def _check_layers(features: Any, what: str, like: Mapping[str, Tensor] | None = None) -> Features:
    """Return checked features: layers (n, d), and the logits (n, K) if there are any."""
    if not isinstance(features, Mapping) or not features:
        raise InputError(
            f"expected {what} as a mapping of layer to array (n, d), got {type(features).__name__}"
        )
    matrices = {str(k): check_matrix(values, f"{what} of layer {k!r}") for k, values in features.items()}
    sizes = {layer: len(X) for layer, X in matrices.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(f"expected the same number of rows for every layer in {what}, got {sizes}")
    logits = matrices.pop("output", None)
    if like is not None:
        wrong = [
            f"{k} {tuple(v.shape)}"
            for k, v in matrices.items()
            if k not in like or v.shape[1] != like[k].shape[1]
        ]
        if wrong or len(matrices) < len(like):
            raise InputError(
                f"expected {what} of the layers {', '.join(like)} as in training, "
                f"got {wrong or list(matrices)}"
            )
    if not matrices:
        raise InputError(f"expected at least one layer in {what} besides the output")
    return features_of(matrices, logits)
