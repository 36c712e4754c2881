"""The decoder: an equal-weight sum of z-scored probes over layers, closed form in all its parts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from layerprobe.auditing.method.candidates import Candidate, Tried, fit_candidate
from layerprobe.probes import Probe

__all__ = ["Decoder", "Member", "choose_members", "fold_of"]

FOLDS = 5
MOST_MEMBERS = 8


@dataclass(frozen=True, eq=False)
class Member:
    """A fitted probe of one layer.

    Attributes
    ----------
    candidate : Candidate
    probe : Probe
    scale : float
        Standard deviation of its scores, each row's less their mean, on rows that it was not fitted on.
    """

    candidate: Candidate
    probe: Probe
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class Decoder:
    """Several probes as one: the mean of their scores, each in units of its own spread.

    Attributes
    ----------
    members : tuple of Member
    """

    members: tuple[Member, ...]

    @classmethod
    def fit(
        cls,
        candidates: Sequence[Candidate],
        probes: Mapping[str, Probe],
        outputs: Mapping[str, Tensor],
        codes: Tensor,
        fingerprints: np.ndarray,
    ) -> "tuple[Decoder, Tensor]":
        """Fit on the training rows' outputs; return the decoder, and every row's score without itself.

        Scores without the row itself are exact leave-one-out scores of the probes that have them, and
        out-of-fold scores of the others: five folds by the rows' content, so that neither their order nor
        doubled rows matter.

        Returns
        -------
        Decoder
        Tensor of shape (n, K)
        """
        folds = fold_of(codes.numpy(), fingerprints)
        members, left_out = [], []
        for candidate in candidates:
            X, probe = outputs[candidate.layer], probes[candidate.probe]
            fitted = fit_candidate(candidate, probe, X, codes)
            if hasattr(fitted, "loo_scores"):
                scores = fitted.loo_scores(X, codes)
            else:
                scores = _out_of_fold(candidate, probe, X, codes, folds)
            member = Member(candidate, fitted)
            member = replace(member, scale=_spread(scores))
            members.append(member)
            left_out.append(standardise(scores, member.scale))
        return cls(tuple(members)), torch.stack(left_out).mean(0)

    def scores(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Score every class, (n, K), for rows of these layer outputs."""
        return torch.stack(
            [standardise(m.probe._scores(outputs[m.candidate.layer]), m.scale) for m in self.members]
        ).mean(0)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that it reads, each once."""
        return tuple(dict.fromkeys(member.candidate.layer for member in self.members))


def standardise(scores: Tensor, scale: float) -> Tensor:
    """Centre each row's scores (n, K) and divide them by their spread."""
    return (scores - scores.mean(1, keepdim=True)).double() / scale


def _spread(scores: Tensor) -> float:
    return float((scores - scores.mean(1, keepdim=True)).double().std()) or 1.0


def choose_members(tried: Sequence[Tried], correct: Callable[[list[Tensor]], Tensor]) -> list[Tried]:
    """Choose the decoder's members greedily: each time the one that raises the sum's criterion most.

    Begins with the best candidate and ends when nothing raises it, or at `MOST_MEMBERS`. Of each layer and
    probe the best strength takes part.

    Parameters
    ----------
    tried : sequence of Tried
    correct : callable
        As for :func:`layerprobe.auditing.method.candidates.try_all`.
    """
    pool = [t for t in tried if t.scores is not None]
    z = {id(t): [standardise(s, _spread(s)) for s in t.scores or ()] for t in pool}
    chosen = [max(pool, key=lambda t: t.criterion)]
    best, total = chosen[0].criterion, z[id(chosen[0])]
    while len(chosen) < MOST_MEMBERS:
        gains = []
        for t in pool:
            if t in chosen:
                continue
            summed = [a + b for a, b in zip(total, z[id(t)], strict=True)]
            gains.append((float(correct(summed).mean()), t, summed))
        if not gains:
            break
        criterion, t, summed = max(gains, key=lambda gain: gain[0])
        if criterion <= best:
            break
        best, total = criterion, summed
        chosen.append(t)
    return chosen


def fold_of(codes: np.ndarray, fingerprints: np.ndarray) -> np.ndarray:
    """Return each row's fold (n,): of every class the distinct rows, in the order of their fingerprints."""
    folds = np.empty(len(codes), np.int64)
    for k in np.unique(codes):
        rows = np.flatnonzero(codes == k)
        folds[rows] = np.unique(fingerprints[rows], return_inverse=True)[1] % FOLDS
    return folds


def _out_of_fold(candidate: Candidate, probe: Probe, X: Tensor, codes: Tensor, folds: np.ndarray) -> Tensor:
    K = int(codes.max()) + 1
    scores = X.new_full((len(X), K), -torch.inf)
    for fold in range(FOLDS):
        inside = torch.from_numpy(folds == fold)
        if not inside.any():
            continue
        fitted = fit_candidate(candidate, probe, X[~inside], codes[~inside])
        found = fitted._scores(X[inside])
        columns = torch.from_numpy(np.asarray(fitted.classes_, dtype=np.int64))
        block = scores.new_full((len(found), K), float(found.min()))
        block[:, columns] = found.to(block)
        scores[inside] = block
    return scores
