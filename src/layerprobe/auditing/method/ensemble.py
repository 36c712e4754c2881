"""The ensemble: an equal-weight sum of standardised probe scores over layers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from layerprobe.auditing.method.candidates import Candidate, CandidateScore, fit_candidate
from layerprobe.probes import Probe

__all__ = ["EnsembleMember", "ProbeEnsemble", "fold_of", "select_members", "standardise"]

FOLDS = 5
MAX_MEMBERS = 8


@dataclass(frozen=True, eq=False)
class EnsembleMember:
    """A fitted probe of one layer.

    Attributes
    ----------
    candidate : Candidate
    probe : Probe
    scale : float
        Standard deviation of its out-of-fit scores, centred per row.
    """

    candidate: Candidate
    probe: Probe
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class ProbeEnsemble:
    """Several probes as one: the mean of their scores, each divided by its standard deviation.

    Attributes
    ----------
    members : tuple of EnsembleMember
    """

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
    """Centre scores per row and divide them by a scale.

    Parameters
    ----------
    scores : Tensor (m, K)
    scale : float

    Returns
    -------
    Tensor (m, K), float64
    """
    return (scores - scores.mean(1, keepdim=True)).double() / scale


def _spread(scores: Tensor) -> float:
    return float((scores - scores.mean(1, keepdim=True)).double().std()) or 1.0


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
        As for :func:`layerprobe.auditing.method.candidates.score_candidates`.

    Returns
    -------
    list of CandidateScore
    """
    pool = [one for one in scored if one.scores is not None]
    standardised = {id(one): [standardise(s, _spread(s)) for s in one.scores or ()] for one in pool}
    selected = [max(pool, key=lambda one: one.criterion)]
    best, total = selected[0].criterion, standardised[id(selected[0])]
    while len(selected) < MAX_MEMBERS:
        sums = [
            (one, [a + b for a, b in zip(total, standardised[id(one)], strict=True)])
            for one in pool
            if one not in selected
        ]
        criteria = [float(correct(scores).mean()) for _, scores in sums]
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
        columns = torch.from_numpy(np.asarray(fitted.classes_, dtype=np.int64))
        block = scores.new_full((len(seen), K), float(seen.min()))
        block[:, columns] = seen.to(block)
        scores[inside] = block
    return scores
