"""Layer outputs of an audit: of the rows themselves, averaged over views, and view by view."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import EllipsisType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from layerprobe.errors import InputError
from layerprobe.layers.capturing import Pool
from layerprobe.layers.views import View, apply_view
from layerprobe.layerwise.outputs import OUTPUT, Extractor


@dataclass(frozen=True, eq=False)
class Features:
    """Layer outputs of n rows.

    Attributes
    ----------
    own : dict of str to Tensor (n, d)
        Outputs for the rows without views.
    mean : dict of str to Tensor (n, d)
        Averaged over the rows and all their views; `own` itself without views.
    logits : Tensor (n, K) or None
        Logits of the network; None for features without a network.
    probabilities : Tensor (n, K) or None
        Class probabilities, averaged over the rows and all their views.
    views : dict of str to Features
        Outputs of each view, for the rows in `kept`.
    kept : ndarray of int64
        Positions of these rows.
    """

    own: dict[str, Tensor]
    mean: dict[str, Tensor]
    logits: Tensor | None = None
    probabilities: Tensor | None = None
    views: "dict[str, Features]" = field(default_factory=dict)
    kept: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(next(iter(self.own.values())))


@dataclass(frozen=True, eq=False)
class LabelledFeatures:
    """Layer outputs of n rows with their labels and fingerprints.

    Attributes
    ----------
    features : Features
    y : Tensor (n,), int64
        Class indices.
    hashes : ndarray (n,), uint64
        Fingerprints of the rows.
    """

    features: Features
    y: Tensor
    hashes: np.ndarray


class RowSource(Protocol):
    """Rows that can be read several times, such as a labelled dataset."""

    n: int

    def batches(self, batch_size: int = ...) -> Iterator[tuple[Any, np.ndarray]]:
        """Yield inputs of the model and the positions of their rows."""


@dataclass(frozen=True, eq=False)
class NetworkReader:
    """Runs a network over rows and their views.

    Attributes
    ----------
    model : nn.Module or None
        It is not changed. None for an audit that was loaded without it.
    layers : str, iterable of str or None
        As for :func:`layerprobe.probe`.
    pool : optional
        As for :func:`layerprobe.capture`; the default policy is "compact".
    views : mapping of str to View
    batch_size : int
    device : torch.device, str or None
    blank
        An input of two rows of ones, to test a network with; see `dummy_input`.
    """

    model: nn.Module | None
    layers: str | Iterable[str | EllipsisType] | None = None
    pool: Pool = None
    views: Mapping[str, View] = field(default_factory=dict)
    batch_size: int = 512
    device: torch.device | str | None = None
    blank: Any = None

    def read(
        self, rows: RowSource, kept: np.ndarray | None = None, *, layers: Iterable[str] | None = None
    ) -> Features:
        """Return the outputs for all rows.

        In a job of several processes all of them call it with the same rows; each runs its share of the
        batches, and the first returns the outputs.

        Parameters
        ----------
        rows : RowSource
        kept : ndarray of int64, optional
            Positions of the rows whose single views are returned too.
        layers : iterable of str, optional
            Names of features, to read only these layers, in this process.

        Raises
        ------
        InputError
            If a view changes no output, or the network outputs NaN.
        """
        own = self._pass(rows, None, layers)
        return with_views(own, ((view, self._pass(rows, view, layers)) for view in self.views), kept)

    def dimensions(self, x: Any) -> tuple[dict[str, int], int]:
        """Return the number of features of each layer and the number of outputs of the network.

        Parameters
        ----------
        x
            A batch of inputs as the model takes them.

        Raises
        ------
        InputError
            If the network does not return one score per class, (n, K), or no other layer is selected.
        """
        sizes = self._extractor().dimensions(iter([(x, None)]))
        if sizes.output is None or len(sizes.output) != 1 or sizes.output[0] < 2:
            got = "no tensor with rows" if sizes.output is None else f"the shape {('n', *sizes.output)}"
            raise InputError(
                f"the network has no classification head: expected one score per class, (n, K), got {got}; "
                "audit_features audits layer outputs without a head"
            )
        dimensions = {layer: d for layer, d in sizes.layers.items() if layer != OUTPUT}
        if not dimensions:
            raise InputError("expected at least one layer besides the network's own output, got none")
        return dimensions, sizes.output[0]

    def _extractor(self) -> Extractor:
        if self.model is None:
            raise InputError("the audit was loaded without its network: pass it, Audit.load(path, model)")
        return Extractor(self.model, self.layers, self.pool, self.batch_size, self.device, "compact")

    def _pass(self, rows: RowSource, view: str | None, layers: Iterable[str] | None) -> Features:
        """Run the network over all rows once."""

        def batches() -> Iterator[tuple[Any, None, np.ndarray]]:
            for x, positions in rows.batches(self.batch_size):
                yield (x if view is None else apply_view(view, self.views[view], x)), None, positions

        extractor = self._extractor() if layers is None else self._extractor().of_layers(layers)
        outputs = extractor.extract(batches(), order=np.arange(rows.n), gather=layers is None)
        logits = outputs.output
        if logits is not None and (bad := logits.isnan().any(1)).any():
            raise InputError(
                f"the network outputs NaN for {int(bad.sum())} of {rows.n} rows, so the audit has no head to "
                "compare with: use other weights, or leave out these rows"
            )
        return features_of({layer: outputs[layer] for layer in outputs if layer != OUTPUT}, logits)


def features_of(outputs: dict[str, Tensor], logits: Tensor | None) -> Features:
    """Return features without views.

    Parameters
    ----------
    outputs : dict of str to Tensor (n, d)
    logits : Tensor (n, K) or None
    """
    return Features(outputs, outputs, logits, None if logits is None else logits.softmax(1))


def with_views(
    own: Features, views: Iterable[tuple[str, Features]], kept: np.ndarray | None = None
) -> Features:
    """Average features over views.

    Parameters
    ----------
    own : Features
        Of the rows without views.
    views : iterable of (str, Features)
        Of all rows; only one is held at a time.
    kept : ndarray of int64, optional
        Positions of the rows whose single views are kept.

    Returns
    -------
    Features

    Raises
    ------
    InputError
        If a view changes no output.
    """
    kept = np.empty(0, np.int64) if kept is None else kept
    index, parts = torch.from_numpy(kept), {}
    sums: dict[str, Tensor] = {}
    probabilities, count = own.probabilities, 1
    for name, view in views:
        outputs = [(X, view.own[layer]) for layer, X in own.own.items()]
        if own.logits is not None and view.logits is not None:
            outputs.append((own.logits, view.logits))
        if outputs and all(torch.equal(before, after) for before, after in outputs):
            raise InputError(f"the view {name!r} does not change any layer's output; leave it out")
        sums = sums or {layer: X.clone() for layer, X in own.own.items()}
        for layer, total in sums.items():
            total += view.own[layer]
        if probabilities is not None and view.probabilities is not None:
            probabilities = probabilities + view.probabilities
        if len(kept) and view.own:
            logits = None if view.logits is None else view.logits[index]
            parts[name] = features_of({layer: X[index] for layer, X in view.own.items()}, logits)
        count += 1
    for total in sums.values():
        total /= count
    averaged = None if probabilities is None else probabilities / count
    return Features(own.own, sums or own.own, own.logits, averaged, parts, kept)


def check_matrix(values: Any, what: str, dim: int | None = None) -> Tensor:
    """Return finite features as a float32 tensor (n, d) on the CPU.

    Parameters
    ----------
    values : array or Tensor (n, d)
    what : str
        Description for error messages, as "features of layer 'fc1'".
    dim : int, optional
        The expected d.

    Raises
    ------
    InputError
        If the values are not numbers (n, d), have no rows, or contain NaN or infinity.
    """
    try:
        X = torch.as_tensor(values if isinstance(values, Tensor) else np.asarray(values))
    except (TypeError, ValueError) as error:  # texts, objects, rows of different lengths
        raise InputError(f"expected {what} as numbers (n, d): {error}") from error
    X = X.detach().float().cpu()
    if X.ndim != 2 or not len(X) or dim not in (None, X.shape[1]):
        raise InputError(f"expected {what} of shape (n, {'d' if dim is None else dim}), got {tuple(X.shape)}")
    if not torch.isfinite(X).all():
        row = int((~torch.isfinite(X).all(1)).nonzero()[0])
        raise InputError(f"{what} contain NaN or infinity, first in row {row}: fix or remove it")
    return X
