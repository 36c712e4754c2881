"""Candidates, every probe on every layer at every hyperparameter, and the ensemble of the best ones."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from torch import Tensor

from layerprobe.errors import DegenerateWarning, InputError
from layerprobe.layerwise.classes import LabelSets
from layerprobe.layerwise.engine import fit_layer
from layerprobe.probes import REGISTRY, Probe, named_probes
from layerprobe.probes.base import StagedProbe
from layerprobe.utils.progress import report_count

HYPERPARAMETERS: dict[str, tuple[float, ...]] = {
    "ridge": (1e-3, 1e-2, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
    "shrinkage_lda": (0.01, 0.03, 0.1, 0.3, 0.6, 0.9, 0.99),
    "whitened_knn": (25, 50, 100, 200, 500),
    "masc": (0.25, 0.5, 0.75, 0.9, 0.95, 0.99),
}
"""Values of each staged probe's hyperparameter that become candidates."""

DEFAULT_PROBES = ("ridge", "shrinkage_lda", "masc", "velpic", "ncm")


@dataclass(frozen=True)
class Candidate:
    """A layer, a probe and the value of its hyperparameter; None for a probe without one."""

    layer: str
    probe: str
    hyperparameter: float | None


@dataclass(frozen=True, eq=False)
class CandidateScore:
    """Score of one candidate on the selection set."""

    candidate: Candidate
    correct: Tensor  # (m,), float32: share of correct predictions over the views, corrected for memorisation
    scores: list[Tensor] | None  # (m, K) of each view; only of the best hyperparameter of a layer and probe

    @property
    def criterion(self) -> float:
        """Accuracy on the selection set; minus infinity if it is unknown."""
        return _accuracy(self.correct)


def _accuracy(correct: Tensor) -> float:
    return float(correct.double().mean().nan_to_num(-torch.inf))


def audit_probes(probes: Any) -> dict[str, Probe]:
    """Return unfitted probes by name; raise an InputError for other classifiers than those of layerprobe."""
    named = named_probes(probes)
    if wrong := [probe for probe in named.values() if not isinstance(probe, Probe)]:
        raise InputError(f"expected probes of layerprobe ({', '.join(REGISTRY)}), got {wrong[0]!r:.80}")
    return named


def score_candidates(
    probes: Mapping[str, Probe],
    fitted_on: Mapping[str, Tensor],
    y: Tensor,
    views: Sequence[Mapping[str, Tensor]],
    correct: Callable[[list[Tensor]], Tensor],
) -> list[CandidateScore]:
    """Fit every probe on every layer and score it on the selection set.

    Parameters
    ----------
    probes : mapping of str to Probe
    fitted_on : mapping of str to Tensor (n, d)
        Outputs of the training rows, by layer.
    y : Tensor (n,), int64
        Their given labels.
    views : sequence of mapping of str to Tensor (m, d)
        Outputs of the rows to score: one entry, or one per view.
    correct : callable
        From the class scores (m, K) of each view to the share of correct predictions per row, (m,).
    """
    scored: list[CandidateScore] = []
    pairs = list(product(fitted_on.items(), probes.items()))
    for done, ((layer, X), (name, probe)) in enumerate(pairs):
        report_count("candidates", done, len(pairs))
        values = _hyperparameters(name, probe)
        fitted = _fit(layer, name, probe, X, y, staged=bool(values))
        staged: list[CandidateScore] = []  # of which the first best one keeps its class scores
        for value, scores in _staged_scores(values, fitted, [view[layer] for view in views]):
            one = CandidateScore(Candidate(layer, name, value), correct(scores).float(), scores)
            if all(one.criterion > other.criterion for other in staged):
                staged = [replace(other, scores=None) for other in staged]
            else:
                one = replace(one, scores=None)
            staged.append(one)
        scored += staged
    return scored


def fit_candidate(candidate: Candidate, probe: Probe, X: Tensor, y: Tensor) -> Probe:
    """Return the candidate's probe, fitted on the outputs of its layer.

    Parameters
    ----------
    candidate : Candidate
    probe : Probe
        Unfitted.
    X : Tensor (n, d)
    y : Tensor (n,), int64
    """
    staged = candidate.hyperparameter is not None
    fitted = _fit(candidate.layer, candidate.probe, probe, X, y, staged=staged)
    return fitted.at(candidate.hyperparameter) if isinstance(fitted, StagedProbe) and staged else fitted


def _hyperparameters(name: str, probe: Probe) -> tuple[float, ...]:
    """Return the values to try; none for a probe under another name or with a fixed number of components."""
    fixed = getattr(probe, "components", None) is not None
    return () if fixed or not isinstance(probe, StagedProbe) else HYPERPARAMETERS.get(name, ())


def _fit(layer: str, name: str, probe: Probe, X: Tensor, y: Tensor, *, staged: bool) -> Probe:
    """Fit a probe on a layer; at the largest value if its hyperparameter is staged."""
    if staged and isinstance(probe, StagedProbe) and probe.stage == "variance":
        probe = clone(probe).set_params(variance=max(HYPERPARAMETERS["masc"]))
    with warnings.catch_warnings():
        if staged:  # the largest value may saturate a small layer; smaller values are candidates too
            warnings.simplefilter("ignore", DegenerateWarning)
        (fitted,) = fit_layer(layer, {name: probe}, LabelSets.of({"given": y}), X)
    return fitted.estimator


def _staged_scores(
    values: Sequence[float], fitted: Probe, views: Sequence[Tensor]
) -> Iterator[tuple[float | None, list[Tensor]]]:
    """Yield the class scores of every view at each value of the hyperparameter."""
    if not values or not isinstance(fitted, StagedProbe):
        yield None, [fitted.class_scores(X) for X in views]
        return
    for value, *scores in zip(values, *(fitted.staged_scores(X, values) for X in views), strict=True):
        yield value, scores


FOLDS = 5
MAX_MEMBERS = 8


@dataclass(frozen=True, eq=False)
class EnsembleMember:
    """A fitted probe of one layer."""

    candidate: Candidate
    probe: Probe
    scale: float = 1.0  # standard deviation of its out-of-fit scores, centred per row


@dataclass(frozen=True, eq=False)
class ProbeEnsemble:
    """Several probes as one: the mean of their scores, each divided by its standard deviation."""

    members: tuple[EnsembleMember, ...]

    @classmethod
    def fit(
        cls,
        candidates: Sequence[Candidate],
        probes: Mapping[str, Probe],
        outputs: Mapping[str, Tensor],
        y: Tensor,
        hashes: np.ndarray,
    ) -> "tuple[ProbeEnsemble, Tensor]":
        """Fit on the training rows, and score each row by the fit without it.

        Out-of-fit scores are exact leave-one-out scores for probes that provide them, and out-of-fold scores
        for the others. The five folds depend only on the content of the rows, so neither the order of the
        rows nor duplicates matter.

        Parameters
        ----------
        candidates : sequence of Candidate
            The members.
        probes : mapping of str to Probe
            Unfitted probes by name.
        outputs : mapping of str to Tensor (n, d)
            Outputs of the training rows by layer.
        y : Tensor (n,), int64
            Given labels.
        hashes : ndarray (n,), uint64
            Fingerprints of the rows.

        Returns
        -------
        ensemble : ProbeEnsemble
        out_of_fit : Tensor (n, K), float64
        """
        folds = fold_of(y.numpy(), hashes)
        members, out_of_fit = [], []
        for candidate in candidates:
            X, probe = outputs[candidate.layer], probes[candidate.probe]
            fitted = fit_candidate(candidate, probe, X, y)
            if hasattr(fitted, "loo_scores"):
                scores = fitted.loo_scores(X, y)
            else:
                scores = _out_of_fold_scores(candidate, probe, X, y, folds)
            members.append(EnsembleMember(candidate, fitted, _spread(scores)))
            out_of_fit.append(standardise(scores, members[-1].scale))
        return cls(tuple(members)), torch.stack(out_of_fit).mean(0)

    def scores(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return class scores (m, K) for rows with these layer outputs (m, d)."""
        return torch.stack(
            [standardise(m.probe.class_scores(outputs[m.candidate.layer]), m.scale) for m in self.members]
        ).mean(0)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers of the members, each once."""
        return tuple(dict.fromkeys(member.candidate.layer for member in self.members))


def standardise(scores: Tensor, scale: float) -> Tensor:
    """Centre scores per row and divide them by a scale, float64.

    Parameters
    ----------
    scores : Tensor (m, K)
    scale : float
    """
    return (scores - scores.mean(1, keepdim=True)).double() / scale


def _spread(scores: Tensor) -> float:
    return float(standardise(scores, 1.0).std()) or 1.0


def select_members(
    scored: Sequence[CandidateScore], correct: Callable[[list[Tensor]], Tensor]
) -> list[CandidateScore]:
    """Select ensemble members greedily by the accuracy of the summed scores.

    Selection starts with the best candidate, adds the candidate that raises the accuracy most, and stops when
    none does or at `MAX_MEMBERS` members. Each layer and probe takes part with its best hyperparameter. This
    is forward ensemble selection (Caruana et al., "Ensemble selection from libraries of models", ICML 2004),
    without replacement.

    Parameters
    ----------
    scored : sequence of CandidateScore
    correct : callable
        As for :func:`score_candidates`.

    Raises
    ------
    InputError
        If the accuracy of every candidate is unknown.
    """
    pool = [
        (one, [standardise(s, _spread(s)) for s in one.scores]) for one in scored if one.scores is not None
    ]
    first, total = max(pool, key=lambda pair: pair[0].criterion)
    selected, best = [first], first.criterion
    if best == -torch.inf:
        raise InputError(
            "on these views every layer has memorised more than half of the labels, so that none can be "
            "selected: choose views that change the rows more, add the layer 'input', or set rows aside for "
            "the policy 'noisy_holdout'"
        )
    while len(selected) < MAX_MEMBERS:
        sums = [
            (one, [a + b for a, b in zip(total, own, strict=True)])
            for one, own in pool
            if one not in selected
        ]
        criteria = [_accuracy(correct(scores)) for _, scores in sums]
        if not criteria or max(criteria) <= best:
            break
        best = max(criteria)
        member, total = sums[criteria.index(best)]
        selected.append(member)
    return selected


def fold_of(y: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Return the fold of each row (n,): the distinct rows of each class in turn, ordered by fingerprint.

    Parameters
    ----------
    y : ndarray (n,), int64
    hashes : ndarray (n,), uint64
        Fingerprints of the rows. Equal rows of one class get the same fold.
    """
    folds = np.empty(len(y), np.int64)
    for k in np.unique(y):
        rows = np.flatnonzero(y == k)
        folds[rows] = np.unique(hashes[rows], return_inverse=True)[1] % FOLDS
    return folds


def _out_of_fold_scores(
    candidate: Candidate, probe: Probe, X: Tensor, y: Tensor, folds: np.ndarray
) -> Tensor:
    K = int(y.max()) + 1
    scores = X.new_full((len(X), K), -torch.inf)
    for fold in range(FOLDS):
        inside = torch.from_numpy(folds == fold)
        if not inside.any():
            continue
        fitted = fit_candidate(candidate, probe, X[~inside], y[~inside])
        seen = fitted.class_scores(X[inside])
        block = scores.new_full((len(seen), K), float(seen.min()))
        block[:, torch.from_numpy(np.asarray(fitted.classes_, dtype=np.int64))] = seen.to(block)
        scores[inside] = block
    return scores
