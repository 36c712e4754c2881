"""All probes of one layer, fitted to its rows or to sums over them."""

import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin, clone
from torch import Tensor

from layerprobe.core.statistics import LayerSums, RowStatistics, Statistics
from layerprobe.errors import DegenerateWarning, InputError
from layerprobe.layerwise.label_sets import Labelling
from layerprobe.layerwise.scoring import Fitted
from layerprobe.probes import MASC, MomentProbe, Probe
from layerprobe.utils.distributed import world_size

__all__ = ["fit_layer", "layer_sums", "sums_of_rows"]

CHUNK = 16384  # rows that are summed at a time


def streams(candidate: ClassifierMixin) -> bool:
    """Whether sums over rows are all that a probe needs."""
    return isinstance(candidate, MomentProbe) and candidate.streams


def layer_sums(
    X: Tensor, labelling: Labelling, reads: frozenset[str], expected: int | None = None
) -> LayerSums:
    """Make empty sums for rows like those of X, (n, d)."""
    return LayerSums(
        len(labelling.classes),
        X.shape[1],
        len(labelling.names),
        moments="moments" in reads,
        means=bool(reads & {"means", "scatter"}),
        scatter="scatter" in reads,
        dtype=X.dtype,
        device=X.device,
        expected=expected,
    )


def sums_of_rows(X: Tensor, codes: Tensor, labelling: Labelling, reads: frozenset[str]) -> LayerSums:
    """Sum the rows of X, (n, d), of these codes (S, n)."""
    sums = layer_sums(X, labelling, reads, expected=0)  # nothing has to wait
    for rows, part in zip(X.split(CHUNK), codes.split(CHUNK, dim=1), strict=True):
        sums.update(rows, part)
    return sums


def fit_layer(
    layer: str,
    candidates: Mapping[str, ClassifierMixin],
    labelling: Labelling,
    *,
    sums: LayerSums | None,
    summing: float = 0.0,
    X: Tensor | None = None,
    codes: Tensor | None = None,
) -> list[Fitted]:
    """Fit every probe on every set of labels.

    Parameters
    ----------
    layer : str
    candidates : mapping of str to estimator
    labelling : Labelling
    sums : LayerSums, optional
        For the probes that need no rows.
    summing : float
        Seconds that they took.
    X, codes : Tensors of shapes (n, d) and (S, n), optional
        Rows, for the others; also in the place of sums where there are fewer rows than features.

    Returns
    -------
    list of Fitted
        By probe, then by set of labels.
    """
    if sums is not None:
        start = time.perf_counter()
        sums.finish()
        summing += time.perf_counter() - start
    fitted: dict[tuple[str, int], Fitted] = {}
    shared = dict.fromkeys(range(len(labelling.names)), summing)  # seconds of sums and of subspaces, by set
    statistics: dict[int, Statistics] = {}
    subspaced = []
    for name, candidate in _largest_first(candidates):
        for s, fitted_on in enumerate(labelling.names):
            where = f"probe {name!r} on layer {layer!r}, fitted on {fitted_on} labels"
            start = time.perf_counter()
            probe = clone(candidate)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", DegenerateWarning)
                try:
                    if not streams(candidate):
                        present = _fit_rows(probe, X, codes, s, labelling)
                    else:
                        if s not in statistics:
                            statistics[s] = sums.of(s) if sums else _of_rows(X, codes, s)
                        present = _present(sums, codes, s)
                        probe.fit_statistics(statistics[s], labelling.classes[present.numpy()])
                except ValueError as error:
                    raise InputError(f"{where}: {error}") from error
            for warning in caught:
                warnings.warn(f"{where}: {warning.message}", warning.category, stacklevel=4)
            subspaces = getattr(probe, "subspaces_", None)
            components = float(np.mean(subspaces.ranks)) if subspaces is not None else np.nan
            seconds = time.perf_counter() - start
            if isinstance(candidate, MASC) and streams(candidate):
                shared[s] += seconds
                subspaced.append((name, s))
            elif streams(candidate):
                seconds += summing
            fitted[name, s] = Fitted(name, fitted_on, probe, present, components, seconds, where)
    for name, s in subspaced:
        fitted[name, s] = fitted[name, s]._replace(seconds=shared[s])
    return [fitted[name, s] for name in candidates for s in range(len(labelling.names))]


def _largest_first(candidates: Mapping[str, ClassifierMixin]) -> list[tuple[str, ClassifierMixin]]:
    """Order probes so that the largest subspaces come first: the smaller ones are parts of them."""

    def size(pair: tuple[str, ClassifierMixin]) -> float:
        probe = pair[1]
        return -(probe.variance or 0.0) if isinstance(probe, MASC) and probe.components is None else 0.0

    return sorted(candidates.items(), key=size)


def _of_rows(X: Any, codes: Any, s: int) -> Statistics:
    present = codes[s].unique()
    return RowStatistics(X, torch.searchsorted(present, codes[s]), len(present))


def _present(sums: LayerSums | None, codes: Any, s: int) -> Tensor:
    """Codes of the classes that have rows in a set, (K,)."""
    return codes[s].unique() if sums is None else sums.counts[s].nonzero().squeeze(1).cpu()


def _fit_rows(probe: Any, X: Any, codes: Any, s: int, labelling: Labelling) -> Tensor:
    labels = labelling.classes[codes[s].numpy()]
    probe.fit(X if isinstance(probe, Probe) else X.numpy(), labels)
    return codes[s].unique()


def check_rows_here(candidates: Mapping[str, ClassifierMixin]) -> None:
    """Refuse probes that need all rows in a job of several processes, each of which has a part of them."""
    needing: Sequence[str] = [name for name, candidate in candidates.items() if not streams(candidate)]
    if needing and world_size() > 1:
        raise InputError(
            f"expected probes that sums over rows serve, as {world_size()} processes share the rows: "
            "masc below a variance of 1 and without noise=, velpic, ncm, lda, ridge or shrinkage_lda; got "
            f"{', '.join(needing)}, for which one process has to have all rows"
        )
