"""Estimate the label noise from rows or layers that do not depend on the training labels.

Held-out rows with noisy labels are such rows. Without them there are label-free layers: the raw input, and
the layers of an untrained copy of the network. The leave-one-out score of a ridge probe on such a layer does
not depend on the row's own label. On trained layers it does, because the features have memorised the label.

A weak probe makes confident errors, since it is fitted to noisy labels, and such errors look like noise. The
parametric bootstrap (Efron and Tibshirani, 1993) estimates this bias: draw labels from the fitted model, fit
and estimate again, and compare.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from layerprobe.auditing.method.calibration import (
    AVERAGED_DRAWS,
    Calibration,
    calibrate,
    inverse_temperature,
    inverse_temperature_of_clean,
)
from layerprobe.auditing.method.policies import SelectionSet
from layerprobe.probes import Ridge

__all__ = ["LabelFreeScorer", "NoiseEstimate", "estimate_noise"]

MAX_ROWS = 10_000  # calibration is fitted on at most so many rows: half a point of standard error
NO_LABEL_FREE_LAYER = "no label-free layer is available"
RIDGE_STRENGTHS = (0.1, 1.0, 10.0)  # of the probes on label-free layers
BIAS_DRAWS = 2  # sets of labels that the bias is estimated from


@dataclass(frozen=True, eq=False)
class NoiseEstimate:
    """Estimated label noise.

    Attributes
    ----------
    rate, low, high : float
        Share of wrong labels and its interval: 95 % by the bootstrap over rows, with the lower end reduced by
        the estimated bias from confident errors.
    matrix, matrix_low, matrix_high : ndarray of shape (K, K)
        P(given = column | true = row), and the 95 % intervals of its entries.
    prior : ndarray of shape (K,)
        Shares of the true classes.
    source : str
        The rows or layer of the estimate.
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
class LabelFreeScorer:
    """Scores of the training rows from the best label-free layer.

    Attributes
    ----------
    source : str
        Name of the layer.
    scores : Tensor (n, K)
        Leave-one-out scores of a ridge probe.
    calibration : Calibration
        Of these scores, without correction of the bias.
    posterior : Tensor (n, K), float64
        P(true = k | row, given label) by this calibration.
    ridge : Ridge
        The fitted probe.
    X : Tensor (n, d)
        Outputs of the layer.
    """

    source: str
    scores: Tensor
    calibration: Calibration
    posterior: Tensor
    ridge: Ridge
    X: Tensor

    @classmethod
    def select(cls, layers: Mapping[str, Tensor], y: Tensor, *, seed: int) -> "LabelFreeScorer | None":
        """Select the layer whose leave-one-out predictions agree most often with the given labels.

        Parameters
        ----------
        layers : mapping of str to Tensor (n, d)
            Label-free layers by name.
        y : Tensor (n,), int64
            Given labels.
        seed : int
            Of the bootstrap.

        Returns
        -------
        LabelFreeScorer or None
            None without layers.
        """
        best: tuple[float, str, Ridge, Tensor, Tensor] | None = None
        for layer, X in layers.items():
            fitted = Ridge().fit(X, y)
            for strength in RIDGE_STRENGTHS:
                ridge = fitted.at(strength)
                scores = ridge.loo_scores(X, y)
                agreement = float((scores.argmax(1) == y).double().mean())
                if best is None or agreement > best[0]:
                    best = agreement, layer, ridge, X, scores
        if best is None:
            return None
        _, layer, ridge, X, scores = best
        rows = evenly_spaced(len(y))
        calibration = calibrate(scores[rows], y[rows], seed=seed)
        source = f"{layer}, which does not depend on the labels"
        return cls(source, scores, calibration, calibration.posterior(scores, y), ridge, X)

    def noise_rate(self, y: Tensor) -> float:
        """Return the noise rate without correction of the bias; `y` are the given labels (n,)."""
        return _rate(self.calibration, self.scores, y)

    def bias_corrected(self, y: Tensor, *, seed: int) -> tuple[Calibration, float]:
        """Return the calibration corrected for the bias of the noise rate, and this bias.

        Parameters
        ----------
        y : Tensor (n,), int64
            Given labels.
        seed : int
            Of the parametric bootstrap.

        Returns
        -------
        calibration : Calibration
        bias : float
            At least 0.
        """
        generator = torch.Generator().manual_seed(seed)
        p = self.calibration.probabilities(self.scores)
        rows = evenly_spaced(len(y))
        excess = 0.0
        for _ in range(BIAS_DRAWS):
            true = torch.multinomial(p, 1, generator=generator).squeeze(1)
            given = torch.multinomial(self.calibration.matrix[true], 1, generator=generator).squeeze(1)
            scores = self.ridge.relabelled(self.X, given).loo_scores(self.X, given)
            again = calibrate(scores[rows], given[rows], draws=1, seed=seed)
            excess += _rate(again, scores, given) - float((true != given).double().mean())
        rate = self.noise_rate(y)
        bias = min(max(excess / BIAS_DRAWS, 0.0), rate)
        share = 1 - bias / max(rate, 1e-12)
        identity = torch.eye(p.shape[1], dtype=torch.float64)
        corrected = replace(
            self.calibration,
            matrix=identity + share * (self.calibration.matrix - identity),
            matrices=identity + share * (self.calibration.matrices - identity),
            rates=share * self.calibration.rates,
        )
        return refit_temperature(corrected, self.scores[rows], y[rows]), bias


def estimate_noise(
    scores: Sequence[Tensor],
    measurement: SelectionSet,
    out_of_fit: Tensor,
    y: Tensor,
    label_free: LabelFreeScorer | None,
    *,
    seed: int,
) -> tuple[Calibration, NoiseEstimate]:
    """Calibrate the ensemble's scores of the training rows, and estimate the label noise.

    Parameters
    ----------
    scores : sequence of Tensor (m, K)
        Scores of the ensemble for each view of the measurement rows.
    measurement : SelectionSet
        The rows that measure the ensemble.
    out_of_fit : Tensor (n, K)
        Scores of each training row by the fit without it.
    y : Tensor (n,), int64
        Given labels of the training rows.
    label_free : LabelFreeScorer or None
        Without it and without noisy held-out rows, the noise is estimated from views and comes out too low,
        because the network has memorised some of their labels.
    seed : int
        Of the bootstrap.

    Returns
    -------
    calibration : Calibration
    noise : NoiseEstimate
    """
    stacked = torch.cat(list(scores))
    labels = measurement.y.repeat(len(scores))
    if not (measurement.of_training_rows or measurement.clean):
        calibration = calibrate(stacked, labels, seed=seed)
        noise = _estimate(calibration, stacked, labels, "the held-out rows")
        if label_free is not None:  # the weaker probe finds more noise; a better ensemble finds less
            noise = _lower(noise, label_free.noise_rate(y) - noise.rate)
        return calibration, noise
    if label_free is None and measurement.clean:
        beta = inverse_temperature_of_clean(stacked, labels)
        calibration = calibrate(out_of_fit, y, beta=beta, seed=seed)
        source = f"the training rows, an underestimate: {NO_LABEL_FREE_LAYER}"
        return calibration, _estimate(calibration, out_of_fit, y, source)
    if label_free is None:
        groups = torch.arange(len(measurement.y)).repeat(len(scores))
        calibration = calibrate(stacked, labels, groups=groups, seed=seed)
        source = f"views of the training rows, uncertain: {NO_LABEL_FREE_LAYER}"
        return calibration, _estimate(calibration, stacked, labels, source)
    calibration, bias = label_free.bias_corrected(y, seed=seed)
    noise = _lower(_estimate(calibration, label_free.scores, y, label_free.source), bias)
    if measurement.clean:
        beta = inverse_temperature_of_clean(stacked, labels)
        betas = calibration.betas.new_full(calibration.betas.shape, beta)
        return replace(calibration, beta=beta, betas=betas), noise
    rows = evenly_spaced(len(y))
    return refit_temperature(calibration, out_of_fit[rows], y[rows]), noise


def refit_temperature(calibration: Calibration, scores: Tensor, y: Tensor) -> Calibration:
    """Return the calibration with inverse temperatures refitted to other scores, at its transition matrices.

    Parameters
    ----------
    calibration : Calibration
    scores : Tensor (m, K)
    y : Tensor (m,), int64
        Given labels.
    """
    beta = inverse_temperature(scores, y, calibration.matrix)
    matrices = calibration.matrices[:AVERAGED_DRAWS]
    betas = [inverse_temperature(scores, y, T, start=beta) for T in matrices]
    return replace(calibration, beta=beta, betas=torch.tensor(betas, dtype=torch.float64))


def evenly_spaced(n: int) -> Tensor:
    """Return at most `MAX_ROWS` evenly spaced positions in 0..n-1, int64."""
    return torch.linspace(0, n - 1, min(n, MAX_ROWS)).round().long()


def _rate(calibration: Calibration, scores: Tensor, y: Tensor) -> float:
    return float(1 - calibration.posterior(scores, y).gather(1, y[:, None]).mean())


def _lower(noise: NoiseEstimate, by: float) -> NoiseEstimate:
    """Return the estimate with the lower end of its interval reduced; a negative amount changes nothing."""
    return replace(noise, low=max(0.0, noise.low - max(by, 0.0)))


def _estimate(calibration: Calibration, scores: Tensor, y: Tensor, source: str) -> NoiseEstimate:
    posterior = calibration.posterior(scores, y)
    rate = float(1 - posterior.gather(1, y[:, None]).mean())
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = calibration.rates.quantile(ends).tolist()
    matrix_low, matrix_high = calibration.matrices.quantile(ends, dim=0)
    return NoiseEstimate(
        rate,
        min(low, rate),
        max(high, rate),
        calibration.matrix.numpy(),
        matrix_low.numpy(),
        matrix_high.numpy(),
        posterior.mean(0).numpy(),
        source,
    )
