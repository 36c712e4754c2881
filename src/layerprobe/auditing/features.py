"""What every layer puts out for the rows: as they are, averaged over views, and view by view."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import EllipsisType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from layerprobe.auditing.dataset.labelled import LabelledDataset
from layerprobe.auditing.gather import own_batches, send_outputs, with_others
from layerprobe.errors import InputError
from layerprobe.layers import capture
from layerprobe.layers.capturing import OptionalPattern
from layerprobe.layers.pooling import Pool
from layerprobe.layers.views import View, apply_view

__all__ = ["MOST_FEATURES", "Features", "Reader", "layer_outputs", "memory_needed"]

MOST_FEATURES = 1024  # of a layer that can be averaged over positions
OUTPUT = "output"
OWN = OptionalPattern(OUTPUT)  # a network may put out what is no tensor; `dimensions` says so


@dataclass(eq=False)
class Features:
    """Layer outputs of n rows.

    Attributes
    ----------
    own : dict of str to Tensor (n, d)
        Of the rows as they are.
    mean : dict of str to Tensor (n, d)
        Averaged over the rows and all their views; `own` itself without views.
    logits : Tensor (n, K) or None
        The network's own answer; None for features that come without a network.
    probabilities : Tensor (n, K) or None
        Its softmax, averaged over the rows and all their views.
    copies : dict of str to Features
        By view: of the rows that the reader was asked to keep, seen so.
    kept : ndarray of int64
        Which rows those are.
    """

    own: dict[str, Tensor]
    mean: dict[str, Tensor]
    logits: Tensor | None = None
    probabilities: Tensor | None = None
    copies: "dict[str, Features]" = field(default_factory=dict)
    kept: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))


@dataclass(frozen=True, eq=False)
class Reader:
    """Runs a network over rows and their views.

    Attributes
    ----------
    model : nn.Module or None
        Left as it was. None for an audit that was loaded without it.
    layers : str, iterable of str or None
        As for :func:`layerprobe.probe`.
    pool : optional
        As for :func:`layerprobe.capture`. Where it says nothing, tokens are averaged, those that an
        ``attention_mask`` leaves out aside, and feature maps of more than `MOST_FEATURES` numbers are
        averaged over neighbouring positions until they have at most so many.
    views : mapping of str to View
    batch_size : int
    device : torch.device, str or None
    renamed : mapping of str to str
        Names of features, and the model's names of their layers where these differ.
    blank
        An input of two rows that holds nothing, to try a network with; see `dummy_input`.
    """

    model: nn.Module | None
    layers: str | Iterable[str | EllipsisType] | None = None
    pool: Pool = None
    views: Mapping[str, View] = field(default_factory=dict)
    batch_size: int = 512
    device: torch.device | str | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
    blank: Any = None

    def read(
        self,
        rows: LabelledDataset,
        order: np.ndarray | None = None,
        keep: np.ndarray | None = None,
        *,
        shared: bool = False,
    ) -> Features:
        """Return the outputs for all rows.

        Parameters
        ----------
        rows : LabelledDataset
        order : ndarray of shape (n,), int64, optional
            Row i of the result is row ``order[i]`` of `rows`; by default they stay as they are.
        keep : ndarray of int64, optional
            Positions in the result of the rows whose single views are returned as well.
        shared : bool
            Every other process of the job calls `share` for the same rows, and runs its batches.
        """
        places = np.arange(rows.n) if order is None else np.argsort(order)
        own, logits = self._pass(rows, places, None, shared)
        if not self.views:
            return Features(own, own, logits, None if logits is None else logits.softmax(1))
        sums = {layer: outputs.clone() for layer, outputs in own.items()}
        probabilities = None if logits is None else logits.softmax(1)
        kept = np.empty(0, np.int64) if keep is None else keep
        index = torch.from_numpy(kept)
        copies = {}
        for name in self.views:
            seen, seen_logits = self._pass(rows, places, name, shared)
            pairs = [(own[layer], seen[layer]) for layer in own]
            if logits is not None and seen_logits is not None:
                pairs.append((logits, seen_logits))
            if all(torch.equal(before, now) for before, now in pairs):
                raise InputError(f"the view {name!r} changes nothing that a layer would see; leave it out")
            for layer, total in sums.items():
                total += seen[layer]
            if probabilities is not None and seen_logits is not None:
                probabilities += seen_logits.softmax(1)
            if len(kept):
                outputs = {layer: outputs[index] for layer, outputs in seen.items()}
                copies[name] = Features(
                    outputs, outputs, None if seen_logits is None else seen_logits[index], None
                )
        count = 1 + len(self.views)
        for total in sums.values():
            total /= count
        if probabilities is not None:
            probabilities /= count
        return Features(own, sums, logits, probabilities, copies, kept)

    def share(self, rows: LabelledDataset) -> None:
        """Run this process's batches of the passes that the first process makes by `read`."""
        for view in (None, *self.views):
            if (mine := own_batches(rows.batches(self.batch_size))) is not None:
                self._capture(mine, view, send_outputs)

    def of_layers(self, layers: Iterable[str]) -> "Reader":
        """Return a reader of these layers alone, by the names that features have."""
        own = getattr(self.model, "probed_layers", {}) if self.layers is None else {}
        pool = self.pool
        if isinstance(pool, Mapping):  # it may speak of layers that are not asked for now
            pool = {OptionalPattern(pattern): choice for pattern, choice in pool.items()}
        return replace(self, layers=[own.get(layer, layer) for layer in layers], pool=pool, renamed=own)

    def dimensions(self, rows: LabelledDataset) -> tuple[dict[str, int], int]:
        """Return each layer's number of features, and the network's number of outputs, from one batch."""
        x, _ = next(rows.batches(min(self.batch_size, 2)))
        return self.dimensions_of(x)

    def dimensions_of(self, x: Any) -> tuple[dict[str, int], int]:
        """Return the same for a batch of inputs as the model takes them.

        Raises
        ------
        InputError
            If the network does not put out one score a class, (n, K).
        """
        shape: tuple[int, ...] = ()

        def see(output: Tensor) -> Tensor:
            nonlocal shape
            shape = tuple(output.shape)
            return output

        own = self.pool if isinstance(self.pool, Mapping) else {} if self.pool is None else {"*": self.pool}
        looking = replace(self, pool={OWN: see, **own})
        taken = looking._capture(iter([(x, None)]))
        if len(shape) != 2 or shape[1] < 2:
            raise InputError(
                "the network has no head to compare with: expected one score a class, (n, K), "
                f"got {shape or 'nothing that is a row'}; audit_features takes its layers' outputs alone"
            )
        dimensions = {layer: outputs.shape[1] for layer, outputs in taken.items() if layer != OUTPUT}
        if not dimensions:
            raise InputError("expected at least one layer besides the network's own output, got none")
        return dimensions, shape[1]

    def _pass(
        self, rows: LabelledDataset, places: np.ndarray, view: str | None, shared: bool
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        stores: dict[str, Tensor] = {}

        def place(outputs: dict[str, Tensor], labels: Any, positions: Any) -> None:
            for layer, values in outputs.items():
                if layer not in stores:
                    stores[layer] = torch.empty(rows.n, values.shape[1], dtype=torch.float32)
                stores[layer][torch.from_numpy(places[np.asarray(positions)])] = values.float().cpu()

        batches = rows.batches(self.batch_size)
        if shared:
            batches = with_others(batches, stores, lambda positions: torch.from_numpy(places[positions]))
        self._capture(batches, view, place)
        logits = stores.pop(OUTPUT, None)
        if logits is not None and (bad := logits.isnan().any(1)).any():
            raise InputError(
                f"the network puts out NaN for {int(bad.sum())} of {rows.n} rows, so that its head cannot be "
                "compared with: take other weights, or leave out these rows"
            )
        return stores, logits

    def _capture(
        self, batches: Iterator[tuple[Any, np.ndarray | None]], view: str | None = None, consume: Any = None
    ) -> dict[str, Tensor]:
        if self.model is None:
            raise InputError("the audit was loaded without its network: pass it, Audit.load(path, model)")
        layers: Any = self.layers
        known = self.renamed
        if layers is None:
            known = getattr(self.model, "probed_layers", {})
            layers = list(known.values()) or [...]
        renamed = {layer: name for name, layer in known.items()}
        wanted = [layers] if isinstance(layers, str) else list(layers)
        pooling = _Pooling(self.pool)

        def read() -> Iterator[tuple[Any, None, np.ndarray | None]]:
            for x, positions in batches:
                pooling.mask = x.get("attention_mask") if isinstance(x, Mapping) else None
                yield (x if view is None else apply_view(view, self.views[view], x)), None, positions

        def rename(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
            return {renamed.get(layer, layer): values for layer, values in outputs.items()}

        captured = capture(
            self.model,
            read(),
            [*wanted, OWN],
            pool=pooling.by_layer(),
            device=self.device,
            consume=consume and (lambda outputs, *columns: consume(rename(outputs), *columns)),
        )
        return rename(captured.outputs)


class _Pooling:
    """The user's pooling, and what is done where she says nothing."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.mask: Any = None  # of the present batch's tokens

    def by_layer(self) -> Pool:
        if isinstance(self.pool, Mapping):
            return {OWN: None, **self.pool} | ({} if "*" in self.pool else {"*": self._fit})
        return {OWN: None, "*": self._fit if self.pool is None else self.pool}

    def _fit(self, x: Tensor) -> Tensor:
        if x.ndim == 3:
            return _mean_of_tokens(x, self.mask)
        if x.ndim == 4 and math.prod(x.shape[1:]) > MOST_FEATURES:
            side = max(1, math.isqrt(MOST_FEATURES // x.shape[1]))
            return adaptive_avg_pool2d(x, (min(side, x.shape[2]), min(side, x.shape[3])))
        return x


def _mean_of_tokens(x: Tensor, mask: Any) -> Tensor:
    """Average (n, t, c) over the tokens that count."""
    if mask is None or tuple(mask.shape) != tuple(x.shape[:2]):
        return x.mean(1)
    kept = torch.as_tensor(np.asarray(mask)).to(x.device, x.dtype)[..., None]
    return (x * kept).sum(1) / kept.sum(1).clamp(min=1)


def layer_outputs(x: Any, dimensions: Mapping[str, int]) -> dict[str, Tensor]:
    """Check that x maps each of these layers to finite outputs (m, d) and return them.

    Raises
    ------
    InputError
        If a layer is missing, or its outputs are of another dimension or not finite.
    """
    missing = [layer for layer in dimensions if not isinstance(x, Mapping) or layer not in x]
    if missing:
        raise InputError(
            f"expected the outputs of {', '.join(dimensions)} by layer; {', '.join(missing)} missing"
        )
    found = {layer: torch.as_tensor(np.asarray(x[layer])).float() for layer in dimensions}
    for layer, X in found.items():
        if X.ndim != 2 or X.shape[1] != dimensions[layer]:
            raise InputError(
                f"expected outputs (m, {dimensions[layer]}) of layer {layer!r} as in training, got "
                f"{tuple(X.shape)}"
            )
        if not torch.isfinite(X).all():
            raise InputError(f"the outputs of layer {layer!r} have NaN or infinity: mend or drop these rows")
    return found


def memory_needed(dimensions: Mapping[str, int], rows: int, *, views: bool) -> int:
    """Return the bytes of all layers' outputs for so many rows."""
    return 4 * rows * sum(dimensions.values()) * (3 if views else 1)
