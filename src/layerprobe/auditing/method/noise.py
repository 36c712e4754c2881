"""How wrong the labels are, from rows or layers that cannot remember them.

Rows held out with noisy labels are such rows. Where there are none, there are layers that never saw a label:
the raw input, and those of an untrained copy of the network. A row's score by a ridge probe that is fitted on
all the other rows of such a layer knows nothing of the row's own label, so that leave-one-out, which fools on
trained layers, is honest there.

A weak decoder errs with confidence, because it is itself fitted to noisy labels, and such errors look like
noise. By how much is found by drawing labels from what was estimated, fitting and estimating again, and
comparing: the parametric bootstrap's correction of bias.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from layerprobe.auditing.method.calibration import (
    MIXED,
    Calibration,
    calibrate,
    calibrate_on_truth,
    sharpness,
)
from layerprobe.auditing.method.policies import MOST_ROWS, Jury
from layerprobe.probes import Ridge

__all__ = ["Noise", "Unlabelled", "estimate_noise"]

SIGHTED = "no layer here never saw a label"
STRENGTHS = (0.1, 1.0, 10.0)  # of the ridge probes on layers that never saw a label
REDRAWN = 2  # sets of labels that the bias is estimated from


@dataclass(frozen=True, eq=False)
class Noise:
    """How wrong the labels are.

    Attributes
    ----------
    rate, low, high : float
        The share of wrong labels and its interval: 95 % by the bootstrap over the rows it is estimated from,
        and lower by what a decoder's confident errors may add, which look like noise.
    matrix, matrix_low, matrix_high : ndarray of shape (K, K)
        P(given = column | true = row), and the intervals of its entries.
    prior : ndarray of shape (K,)
        Shares of the true classes.
    source : str
        What it is estimated from.
    """

    rate: float
    low: float
    high: float
    matrix: np.ndarray
    matrix_low: np.ndarray
    matrix_high: np.ndarray
    prior: np.ndarray
    source: str


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """What the layer says that knows most of those that never saw a label.

    Attributes
    ----------
    source : str
        Which layer.
    scores : Tensor (n, K)
        Of each training row by a ridge probe that is fitted on the others.
    plain : Calibration
        What the scores mean, errors of the decoder taken for noise as far as they look like it.
    posterior : Tensor (n, K), float64
        By `plain`, P(true = k | row, given label).
    """

    source: str
    scores: Tensor
    plain: Calibration
    posterior: Tensor
    _ridge: Ridge
    _X: Tensor

    @classmethod
    def ask(cls, layers: Mapping[str, Tensor], codes: Tensor, *, seed: int) -> "Unlabelled | None":
        """Choose by agreement with the given labels, each row scored without itself; None without layers."""
        found: tuple[float, str, Ridge, Tensor, Tensor] | None = None
        for layer, X in layers.items():
            ridge = Ridge().fit(X, codes)
            for strength in STRENGTHS:
                at = ridge.at(strength)
                scores = at.loo_scores(X, codes)
                agreement = float((scores.argmax(1) == codes).double().mean())
                if found is None or agreement > found[0]:
                    found = agreement, layer, at, X, scores
        if found is None:
            return None
        _, layer, at, X, scores = found
        some = _evenly(codes)
        plain = calibrate(scores[some], codes[some], seed=seed)
        return cls(f"{layer}, which never saw a label", scores, plain, plain.posterior(scores, codes), at, X)

    def unbiased(self, codes: Tensor, *, seed: int) -> tuple[Calibration, float]:
        """Return the calibration without the estimate's bias, and that bias of the noise rate, at least 0."""
        generator = torch.Generator().manual_seed(seed)
        p = self.plain.probabilities(self.scores)
        some = _evenly(codes)
        excess = 0.0
        for _ in range(REDRAWN):
            true = torch.multinomial(p, 1, generator=generator).squeeze(1)
            given = torch.multinomial(self.plain.matrix[true], 1, generator=generator).squeeze(1)
            scores = self._ridge.relabelled(self._X, given).loo_scores(self._X, given)
            again = calibrate(scores[some], given[some], draws=1, seed=seed)
            excess += _rate(again, scores, given) - float((true != given).double().mean())
        rate = _rate(self.plain, self.scores, codes)
        bias = min(max(excess / REDRAWN, 0.0), rate)
        left = 1 - bias / max(rate, 1e-12)
        unit = torch.eye(p.shape[1], dtype=torch.float64)
        fewer = replace(
            self.plain,
            matrix=unit + left * (self.plain.matrix - unit),
            matrices=unit + left * (self.plain.matrices - unit),
            rates=left * self.plain.rates,
        )
        return sharpened(fewer, self.scores[some], codes[some]), bias


def estimate_noise(
    scores: Sequence[Tensor],
    jury: Jury,
    left_out: Tensor,
    codes: Tensor,
    unlabelled: Unlabelled | None,
    *,
    seed: int,
) -> tuple[Calibration, Noise]:
    """Return what the decoder's scores of training rows mean, and the noise of the labels.

    Parameters
    ----------
    scores : sequence of Tensor (m, K)
        The decoder's, of each copy of the rows that judge.
    jury : Jury
    left_out : Tensor (n, K)
        The decoder's, of each training row by the fit without it.
    codes : Tensor (n,)
        Given labels.
    unlabelled : Unlabelled or None
        Without it, and without noisy rows held out, the views have to do, and the noise comes out too low:
        the network still knows some of their labels.
    seed : int
        Of the bootstrap.
    """
    judged = torch.cat(list(scores))
    labels = jury.labels.repeat(len(scores))
    if not (jury.of_views or jury.clean):
        calibration = calibrate(judged, labels, seed=seed)
        noise = _noise(calibration, judged, labels, "the rows held out")
        if unlabelled is not None:  # a weaker decoder finds more noise, so that a better one would find less
            noise = _lower(noise, _rate(unlabelled.plain, unlabelled.scores, codes) - noise.rate)
        return calibration, noise
    if unlabelled is None and jury.clean:
        calibration = calibrate(left_out, codes, beta=calibrate_on_truth(judged, labels), seed=seed)
        return calibration, _noise(calibration, left_out, codes, f"the training rows, too low: {SIGHTED}")
    if unlabelled is None:
        groups = torch.arange(len(jury.labels)).repeat(len(scores))
        calibration = calibrate(judged, labels, groups=groups, seed=seed)
        source = f"views of the training rows, unsure: {SIGHTED}"
        return calibration, _noise(calibration, judged, labels, source)
    own, bias = unlabelled.unbiased(codes, seed=seed)
    noise = _lower(_noise(own, unlabelled.scores, codes, unlabelled.source), bias)
    if jury.clean:
        beta = calibrate_on_truth(judged, labels)
        return replace(own, beta=beta, betas=own.betas.new_full(own.betas.shape, beta)), noise
    some = _evenly(codes)
    return sharpened(own, left_out[some], codes[some]), noise


def sharpened(calibration: Calibration, scores: Tensor, labels: Tensor) -> Calibration:
    """Return the calibration with the sharpness that these scores and labels have at its noise."""
    beta = sharpness(scores, labels, calibration.matrix)
    betas = [sharpness(scores, labels, T, start=beta) for T in calibration.matrices[:MIXED]]
    return replace(calibration, beta=beta, betas=torch.tensor(betas, dtype=torch.float64))


def _evenly(codes: Tensor) -> Tensor:
    """Return the positions of so many rows as suffice, evenly chosen."""
    return torch.linspace(0, len(codes) - 1, min(len(codes), MOST_ROWS)).round().long()


def _rate(calibration: Calibration, scores: Tensor, given: Tensor) -> float:
    return float(1 - calibration.posterior(scores, given).gather(1, given[:, None]).mean())


def _lower(noise: Noise, by: float) -> Noise:
    """Return the noise with the lower end of its interval that much lower, never higher."""
    return replace(noise, low=max(0.0, noise.low - max(by, 0.0)))


def _noise(calibration: Calibration, scores: Tensor, given: Tensor, source: str) -> Noise:
    posterior = calibration.posterior(scores, given)
    rate = float(1 - posterior.gather(1, given[:, None]).mean())
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = calibration.rates.quantile(ends).tolist()
    matrix_low, matrix_high = calibration.matrices.quantile(ends, dim=0)
    return Noise(
        rate,
        min(low, rate),
        max(high, rate),
        calibration.matrix.numpy(),
        matrix_low.numpy(),
        matrix_high.numpy(),
        posterior.mean(0).numpy(),
        source,
    )
