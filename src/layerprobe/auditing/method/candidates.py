"""Which decoders are tried: every probe on every layer at every strength."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sklearn.base import clone
from torch import Tensor

from layerprobe.errors import DegenerateWarning, InputError
from layerprobe.probes import REGISTRY, Probe, create
from layerprobe.probes.base import StagedProbe

__all__ = ["DEFAULT_PROBES", "STRENGTHS", "Candidate", "Tried", "families", "try_all"]

STRENGTHS: dict[str, tuple[float, ...]] = {
    "ridge": (1e-3, 1e-2, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
    "shrinkage_lda": (0.01, 0.03, 0.1, 0.3, 0.6, 0.9, 0.99),
    "whitened_knn": (25, 50, 100, 200, 500),
    "masc": (0.25, 0.5, 0.75, 0.9, 0.95, 0.99),
}
"""The values of each staged probe's argument that are tried."""
DEFAULT_PROBES = ("ridge", "shrinkage_lda", "masc", "velpic", "ncm")


@dataclass(frozen=True)
class Candidate:
    """One way to decode a layer: which probe, and how strong (None where it has no such argument)."""

    layer: str
    probe: str
    strength: float | None


@dataclass(frozen=True, eq=False)
class Tried:
    """What became of a candidate.

    Attributes
    ----------
    candidate : Candidate
    correct : Tensor (m,), float32
        The share of a row's copies on which its prediction is the label that the policy goes by; of views,
        what is remembered is taken out.
    scores : list of Tensor (m, K), or None
        Of each copy of the rows; kept for the best strength of each layer and probe alone.
    """

    candidate: Candidate
    correct: Tensor
    scores: list[Tensor] | None

    @property
    def criterion(self) -> float:
        """Accuracy on the policy's rows."""
        return float(self.correct.double().mean())


def families(probes: Any) -> dict[str, Probe]:
    """Return unfitted probes by name, of names, probes or a mapping of names to either.

    Raises
    ------
    InputError
        If there is none, two have one name, or something is no probe of this library.
    """
    if isinstance(probes, Mapping):
        pairs = list(probes.items())
    else:
        listed = [probes] if isinstance(probes, str | Probe) else list(probes)
        known = {kind: name for name, kind in REGISTRY.items()}
        pairs = [(p if isinstance(p, str) else known.get(type(p), type(p).__name__), p) for p in listed]
    named = {name: create(p) if isinstance(p, str) else p for name, p in pairs}
    wrong = [p for p in named.values() if not isinstance(p, Probe)]
    if not named or len(named) < len(pairs) or wrong:
        raise InputError(
            f"expected probes of different names, of {', '.join(REGISTRY)} or probes of layerprobe; "
            f"got {probes!r}"
        )
    return named


def try_all(
    probes: Mapping[str, Probe],
    fitted_on: Mapping[str, Tensor],
    codes: Tensor,
    copies: Sequence[Mapping[str, Tensor]],
    correct: Callable[[list[Tensor]], Tensor],
) -> list[Tried]:
    """Fit every probe on every layer and score what the network has not seen.

    Parameters
    ----------
    probes : mapping of str to Probe
    fitted_on : mapping of str to Tensor (n, d)
        The training rows' outputs, by layer.
    codes : Tensor (n,)
        Their given labels.
    copies : sequence of mapping of str to Tensor (m, d)
        The outputs of the rows to score: once, or once for each view.
    correct : callable
        From a candidate's scores (m, K) of each copy to what it gets right, row by row, (m,).

    Returns
    -------
    list of Tried
    """
    tried: list[Tried] = []
    for layer, X in fitted_on.items():
        for name, probe in probes.items():
            values = _strengths(name, probe)
            fitted = _fit(probe, X, codes, f"probe {name!r} on layer {layer!r}", staged=bool(values))
            best: Tried | None = None
            for strength, scores in _staged(values, fitted, [copy[layer] for copy in copies]):
                right = correct(scores).float()
                one = Tried(Candidate(layer, name, strength), right, scores)
                if best is None or one.criterion > best.criterion:
                    if best is not None:
                        tried[tried.index(best)] = Tried(best.candidate, best.correct, None)
                    best = one
                    tried.append(one)
                else:
                    tried.append(Tried(one.candidate, right, None))
    return tried


def fit_candidate(candidate: Candidate, probe: Probe, X: Tensor, codes: Tensor) -> Probe:
    """Return the probe fitted on a layer's outputs, at the candidate's strength."""
    staged = candidate.strength is not None
    where = f"probe {candidate.probe!r} on layer {candidate.layer!r}"
    fitted = _fit(probe, X, codes, where, staged=staged)
    return fitted.at(candidate.strength) if isinstance(fitted, StagedProbe) and staged else fitted


def _strengths(name: str, probe: Probe) -> tuple[float, ...]:
    """Return the strengths to try; none of a probe by another name, or with so many components."""
    settled = getattr(probe, "components", None) is not None
    return () if settled or not isinstance(probe, StagedProbe) else STRENGTHS.get(name, ())


def _fit(probe: Probe, X: Tensor, codes: Tensor, where: str, *, staged: bool) -> Probe:
    fitted = clone(probe)
    if staged and isinstance(fitted, StagedProbe) and fitted.stage == "variance":
        fitted.set_params(variance=max(STRENGTHS["masc"]))  # smaller ones are staged from it
    try:
        with warnings.catch_warnings():
            if staged:  # of too large a strength on a small layer; smaller ones are tried
                warnings.simplefilter("ignore", DegenerateWarning)
            return fitted.fit(X, codes)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def _staged(
    values: Sequence[float], fitted: Probe, copies: Sequence[Tensor]
) -> Iterator[tuple[float | None, list[Tensor]]]:
    """Give the scores of every copy at each strength."""
    if not values or not isinstance(fitted, StagedProbe):
        yield None, [fitted._scores(X) for X in copies]
        return
    for value, *scores in zip(values, *(fitted.staged_scores(X, values) for X in copies), strict=True):
        yield value, scores
