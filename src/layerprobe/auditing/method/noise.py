"""Estimate the noise of the labels: by the calibrated scores, by further estimators, with one interval.

The mixture model of `calibration` is fitted to held-out rows with noisy labels. Without them there are
label-free layers: the raw input, and the layers of an untrained copy of the network. The leave-one-out score
of a ridge probe on such a layer does not depend on the row's own label. On trained layers it does, because
the features have memorised the label.

A weak probe makes confident errors, since it is fitted to noisy labels, and such errors look like noise. The
parametric bootstrap (Efron and Tibshirani, 1993) estimates this bias: draw labels from the fitted model, fit
and estimate again, and compare.

Bounds. Let c be the agreement of predictions with noisy labels of rows whose labels they do not depend on.
Where a right prediction differs from the given label, this label is wrong. With the accuracy a on true
labels, the noise rate is therefore r >= a - c for every kind of noise. At an input x, the given labels have
the distribution p and the predictions the distribution q. They differ with the probability 1 - p.q, which is
at least 1 - max p. If the true class is the most frequent given label at each x, 1 - max p is the noise rate
there, so that r <= 1 - c for all errors of the predictions. Noise that breaks the assumption cannot be
seen in predictions: rows of no class, and labels that follow from the content of the row.

Trusted rows. They measure a. The prediction agrees with a right label in a share a of the rows, and with a
wrong one in a share b, where its error is this label: c = (1 - r) a + r b, so that r = (a - c) / (a - b). If
errors and wrong labels of one true class are spread evenly over the other K - 1 classes,
b = (1 - a) / (K - 1). The interval consists of the two bounds and does not need the last assumption.

Neighbours. HOC (Zhu et al., ICML 2021; :class:`layerprobe.baselines.HOC`) reads the noise rate off the labels
of each row and its two nearest rows, which it assumes to be of one true class. Its error is in most cases
upwards, since neighbours of different classes count as noise.

Without trusted rows, a is unknown, and wrong labels and ambiguous rows cannot be distinguished: the bootstrap
interval of one estimator ignores the error of its assumption. `span` therefore takes the range of all
estimators. It raises the upper end to the bound 1 - c, and lowers the lower end in proportion to the errors
of the ensemble, which look like wrong labels.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from layerprobe.auditing.method.calibration import Calibration, calibrate, calibrate_clean, evenly_spaced
from layerprobe.auditing.method.ensemble import standardise
from layerprobe.auditing.method.policies import Interval, SelectionSet
from layerprobe.baselines.features import label_triples, rates_of_triples
from layerprobe.probes import Ridge

NO_LABEL_FREE_LAYER = "no label-free layer is available"
RIDGE_STRENGTHS = (0.1, 1.0, 10.0)  # of the probes on label-free layers
BIAS_DRAWS = 2  # sets of labels that the bias is estimated from
Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
LEAST_ACCURACY = 0.85  # of an ensemble on true labels, for an estimate of the noise
LEAST_AGREEMENT = 0.5  # with the given labels; below it a weak ensemble and heavy noise look the same
WEAKNESS = 0.5  # share of the errors of the ensemble that may have been counted as wrong labels
MOST_CLASSES = 64  # for HOC, whose cost grows with the cube
MOST_ROWS = 5_000  # for HOC, whose cost grows with the square


@dataclass(frozen=True, eq=False)
class NoiseEstimate:
    """Estimated label noise.

    Attributes
    ----------
    rate, low, high : float
        Share of wrong labels and its interval, which all estimators span, see `span`.
    matrix, matrix_low, matrix_high : ndarray of shape (K, K)
        P(given = column | true = row), and the smallest and largest of each entry in the bootstrap. With its
        40 samples this is a 95 % interval; with the 20 samples for more than 64 classes, a 90 % one.
    prior : ndarray of shape (K,)
        Shares of the true classes.
    source : str
        The rows or layer of the estimate.
    estimates : dict of str to float
        The rate by each estimator.
    """

    rate: float
    low: float
    high: float
    matrix: np.ndarray
    matrix_low: np.ndarray
    matrix_high: np.ndarray
    prior: np.ndarray
    source: str
    estimates: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class LabelFreeScorer:
    """Scores of the training rows from the best label-free layer."""

    source: str  # name of the layer
    scores: Tensor  # (n, K): leave-one-out scores of a ridge probe
    calibration: Calibration  # of these scores, without correction of the bias
    posterior: Tensor  # (n, K), float64: P(true = k | row, given label) by this calibration
    ridge: Ridge
    X: Tensor  # (n, d): outputs of the layer

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
        if not layers:
            return None
        best = -1.0
        for name, outputs in layers.items():
            fitted = Ridge().fit(outputs, y)
            for strength in RIDGE_STRENGTHS:
                one = fitted.at(strength)
                loo_scores = one.loo_scores(outputs, y)
                agreement = float((loo_scores.argmax(1) == y).double().mean())
                if agreement > best:
                    best, layer, ridge, X, scores = agreement, name, one, outputs, loo_scores
        rows = evenly_spaced(len(y))
        # Scores of one ridge probe have one scale, and the bias is estimated better without ranks.
        calibration = calibrate(standardise(scores[rows], 1.0), y[rows], ranks=False, seed=seed)
        source = f"{layer}, which does not depend on the labels"
        return cls(source, scores, calibration, calibration.posterior(scores, y), ridge, X)

    def bias_corrected(self, y: Tensor, *, seed: int) -> tuple[Calibration, float]:
        """Return the calibration corrected for the bias of the noise rate, and this bias.

        Parameters
        ----------
        y : Tensor (n,), int64
            Given labels.
        seed : int
            Of the parametric bootstrap.
        """
        generator = torch.Generator().manual_seed(seed)
        p = self.calibration.probabilities(self.scores)
        rows = evenly_spaced(len(y))
        excess = 0.0
        for _ in range(BIAS_DRAWS):
            true = torch.multinomial(p, 1, generator=generator).squeeze(1)
            given = torch.multinomial(self.calibration.matrix[true], 1, generator=generator).squeeze(1)
            scores = self.ridge.relabelled(self.X, given).loo_scores(self.X, given)
            again = calibrate(standardise(scores[rows], 1.0), given[rows], ranks=False, draws=1, seed=seed)
            excess += again.noise_rate(scores, given) - float((true != given).double().mean())
        rate = float(1 - self.posterior.gather(1, y[:, None]).mean())
        bias = min(max(excess / BIAS_DRAWS, 0.0), rate)
        share = 1 - bias / max(rate, 1e-12)
        identity = torch.eye(p.shape[1], dtype=torch.float64)
        corrected = replace(
            self.calibration,
            matrix=identity + share * (self.calibration.matrix - identity),
            matrices=identity + share * (self.calibration.matrices - identity),
            rates=share * self.calibration.rates,
        )
        return corrected.refitted(self.scores[rows], y[rows]), bias


def estimate_noise(
    scores: Sequence[Tensor],
    measurement: SelectionSet,
    out_of_fit: Tensor,
    y: Tensor,
    label_free: LabelFreeScorer | None,
    *,
    neighbours: tuple[Tensor, Tensor] | None = None,
    trusted: Tensor | None = None,
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
        Without it and without noisy held-out rows, the noise is estimated from `out_of_fit` and comes out too
        low, because the network has memorised some of the labels.
    neighbours : (Tensor (p, d), Tensor (p,)), optional
        Features that do not depend on their labels, and these given labels, for HOC.
    trusted : Tensor (t,), bool, optional
        Whether the ensemble predicts the true label of each trusted row beside a noisy hold-out.
    seed : int
        Of the bootstrap.
    """
    stacked, K = torch.cat(list(scores)), out_of_fit.shape[1]
    labels = measurement.y.repeat(len(scores))
    by_neighbours = float("nan") if neighbours is None else rate_by_neighbours(*neighbours, K)
    if measurement.noisy_and_new:
        calibration = calibrate(stacked, labels, seed=seed)
        noise = _estimate(calibration, stacked, labels, measurement.source)
        agrees = stacked.argmax(1) == labels
        estimates = {
            "mixture, training rows": calibration.noise_rate(out_of_fit, y),
            "mixture, held-out rows": noise.rate,
            "neighbours, HOC": by_neighbours,
        }
        noise = _spanned(noise, estimates, agrees, K, len(y))
        if trusted is None:
            return calibration, noise
        measured = rate_by_trusted_rows(trusted, agrees, K, len(y))
        noise = replace(noise, estimates={**noise.estimates, "trusted rows": measured.value})
        if np.isfinite(measured.value):
            rate, low, high = measured
            source = f"{measurement.source} and {len(trusted):,} trusted rows"
            noise = replace(noise, rate=rate, low=low, high=high, source=source)
        return calibration, noise
    clean = calibrate_clean(stacked, labels) if measurement.clean else None
    if label_free is None:
        known = None if clean is None else (clean[0], clean[1].gap)
        calibration = calibrate(out_of_fit, y, known=known, seed=seed)
        source = f"the training rows, an underestimate: {NO_LABEL_FREE_LAYER}"
        noise = _estimate(calibration, out_of_fit, y, source)
        estimates = {"mixture, training rows": noise.rate}
        noise = _spanned(noise, estimates, out_of_fit.argmax(1) == y, K)
        return calibration, replace(noise, high=1.0)  # any share of the labels may be memorised
    calibration, bias = label_free.bias_corrected(y, seed=seed)
    noise = _estimate(calibration, label_free.scores, y, label_free.source)
    noise = replace(noise, low=max(0.0, noise.low - bias))
    estimates = {"mixture, label-free layer": noise.rate, "neighbours, HOC": by_neighbours}
    agrees = label_free.scores.argmax(1) == y
    noise = _spanned(noise, estimates, agrees, K)
    if clean is not None:
        beta, scale = clean
        betas = calibration.betas.new_full(calibration.betas.shape, beta)
        return replace(calibration, beta=beta, betas=betas, scale=scale), noise
    rows = evenly_spaced(len(y))
    return calibration.refitted(out_of_fit[rows], y[rows]), noise


def _spanned(
    noise: NoiseEstimate, estimates: dict[str, float], agrees: Tensor, K: int, rows: float = math.inf
) -> NoiseEstimate:
    """Return the first estimate with the interval that all estimates span."""
    low, high = span(noise.low, noise.high, estimates.values(), agrees, K, rows)
    low = low if low * len(agrees) >= 0.5 else 0.0  # less than half a label
    return replace(noise, rate=next(iter(estimates.values())), low=low, high=high, estimates=estimates)


def _estimate(calibration: Calibration, scores: Tensor, y: Tensor, source: str) -> NoiseEstimate:
    posterior = calibration.posterior(scores, y)
    rate = float(1 - posterior.gather(1, y[:, None]).mean())
    low, high = calibration.rates.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return NoiseEstimate(
        rate,
        min(low, rate),
        max(high, rate),
        calibration.matrix.numpy(),
        calibration.matrices.amin(0).numpy(),
        calibration.matrices.amax(0).numpy(),
        posterior.mean(0).numpy(),
        source,
    )


# Further estimators, and the interval -------------------------------------------------------------------


def implied_accuracy(agreement: float, rate: float, num_classes: int) -> float:
    """Return the accuracy a on true labels that follows from the agreement c with the given ones.

    With uniform noise of the rate r, c = (1 - r) a + r (1 - a) / (K - 1).

    Parameters
    ----------
    agreement, rate : float
    num_classes : int
        K.
    """
    by_chance = rate / (num_classes - 1)
    return min(max((agreement - by_chance) / max(1 - rate - by_chance, 1e-9), 0.0), 1.0)


def span(
    low: float,
    high: float,
    rates: Iterable[float],
    agrees: Tensor,
    num_classes: int,
    rows: float = math.inf,
) -> tuple[float, float]:
    """Return the interval of the noise rate by all estimators and the upper bound.

    Parameters
    ----------
    low, high : float
        Bootstrap interval of the mixture.
    rates : iterable of float
        By each estimator, the chosen one first; NaN counts as missing.
    agrees : Tensor (m,), bool
        Whether the ensemble predicts the given label of each measurement row.
    num_classes : int
        K.
    rows : float
        Number of training rows, if the measurement rows are others. The share of wrong labels in each varies
        around one rate.

    Returns
    -------
    low, high : float
        From zero, if the ensemble is too weak for an estimate.
    """
    known, agreement = [rate for rate in rates if np.isfinite(rate)], float(agrees.double().mean())
    accuracies = [implied_accuracy(agreement, rate, num_classes) for rate in known]
    c, variance = _mean_and_variance(agrees, rows)
    most = min(1.0, max(high, *known, 1 - c + Z * math.sqrt(variance)))
    if min(accuracies) < LEAST_ACCURACY or agreement < LEAST_AGREEMENT:
        return 0.0, most
    return max(0.0, min(low, *known) - WEAKNESS * (1 - accuracies[0])), most


def rate_by_trusted_rows(right: Tensor, agrees: Tensor, num_classes: int, rows: float = math.inf) -> Interval:
    """Return the noise rate by the accuracy on trusted rows and the agreement with noisy labels.

    Parameters
    ----------
    right : Tensor (t,), bool
        Whether the prediction for each trusted row is its true label.
    agrees : Tensor (m,), bool
        Whether the prediction for each other row is its noisy label.
    num_classes : int
        K.
    rows : float
        As for `span`.

    Returns
    -------
    Interval
        The value is NaN if the predictions are no better than chance.
    """
    (a, variance_a), (c, variance_c) = _mean_and_variance(right), _mean_and_variance(agrees, rows)
    low = max(0.0, a - c - Z * math.sqrt(variance_a + variance_c))
    high = min(1.0, 1 - c + Z * math.sqrt(variance_c))
    if a - (1 - a) / (num_classes - 1) <= 2 * math.sqrt(variance_a):
        return Interval(float("nan"), low, high)
    a, c = float(right.double().mean()), float(agrees.double().mean())
    return Interval(min(max((a - c) / (a - (1 - a) / (num_classes - 1)), low), high), low, high)


def _mean_and_variance(values: Tensor, rows: float = math.inf) -> tuple[float, float]:
    """Return a share and its variance as a prediction for `rows` other rows.

    One value of each kind is added (Agresti and Coull, 1998, add two).
    """
    n = len(values) + 2
    share = float(values.double().sum() + 1) / n
    return share, share * (1 - share) * (1 / n + 1 / rows)


def rate_by_neighbours(X: Tensor, y: Tensor, num_classes: int) -> float:
    """Return the noise rate by HOC; NaN for too many classes.

    Parameters
    ----------
    X : Tensor (m, d)
        Features that do not depend on the labels.
    y : Tensor (m,), int64
        Noisy labels.
    num_classes : int
        K.
    """
    if num_classes > MOST_CLASSES or len(y) < 3:
        return float("nan")
    rows = torch.linspace(0, len(y) - 1, min(len(y), MOST_ROWS)).round().long()
    centred = X[rows].double() - X[rows].double().mean(0)
    return rates_of_triples(label_triples(centred.numpy(), y[rows].numpy()), num_classes).rate
