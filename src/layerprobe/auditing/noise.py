"""How wrong the labels are, from rows or layers that cannot remember them.

Rows held out with noisy labels are such rows. Where there are none, there are layers that never saw a label:
the raw input, and those of an untrained copy of the network. A row's score by a ridge probe that is fitted on
all the other rows of such a layer knows nothing of the row's own label, so that leave-one-out, which fools on
trained layers, is honest there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from layerprobe.auditing.calibration import MIXED, Calibration, calibrate, calibrate_on_truth, sharpness
from layerprobe.auditing.policies import MOST_ROWS, Jury
from layerprobe.errors import InputError
from layerprobe.probes import Ridge

__all__ = ["Noise", "estimate_noise"]

SIGHTED = "no layer here never saw a label"
STRENGTHS = (0.1, 1.0, 10.0)  # of the ridge probes on layers that never saw a label


@dataclass(frozen=True, eq=False)
class Noise:
    """How wrong the labels are.

    Attributes
    ----------
    rate, low, high : float
        The share of wrong labels and its 95 % interval (bootstrap over the rows it is estimated from).
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


def estimate_noise(
    scores: Sequence[Tensor],
    jury: Jury,
    left_out: Tensor,
    codes: Tensor,
    blind: Mapping[str, Tensor],
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
    blind : mapping of str to Tensor (n, d)
        Outputs of layers that never saw a label. Without any, and without noisy rows held out, the views
        have to do, and the noise comes out too low: the network still knows some of their labels.
    seed : int
        Of the bootstrap.
    """
    judged = torch.cat(list(scores))
    labels = jury.labels.repeat(len(scores))
    groups = torch.arange(len(jury.labels)).repeat(len(scores))
    held_out = len(scores) == 1 and not jury.of_views
    if (held_out and not jury.clean) or not blind:
        if jury.clean:
            calibration = calibrate(left_out, codes, beta=calibrate_on_truth(judged, labels), seed=seed)
            return calibration, _noise(calibration, left_out, codes, f"the training rows, too low: {SIGHTED}")
        calibration = calibrate(judged, labels, groups=groups, seed=seed)
        source = f"views of the training rows, unsure: {SIGHTED}" if jury.of_views else "the rows held out"
        return calibration, _noise(calibration, judged, labels, source)
    some = torch.linspace(0, len(codes) - 1, min(len(codes), MOST_ROWS)).round().long()
    layer, own_scores = _best_blind(blind, codes)
    own = calibrate(own_scores[some], codes[some], seed=seed)
    noise = _noise(own, own_scores, codes, f"{layer}, which never saw a label")
    if jury.clean:
        beta = calibrate_on_truth(judged, labels)
        betas = own.betas.new_full(own.betas.shape, beta)
    else:
        beta = sharpness(left_out[some], codes[some], own.matrix)
        drawn = (sharpness(left_out[some], codes[some], T, start=beta) for T in own.matrices[:MIXED])
        betas = torch.tensor(list(drawn))
    return replace(own, beta=beta, betas=betas.double()), noise


def _best_blind(blind: Mapping[str, Tensor], codes: Tensor) -> tuple[str, Tensor]:
    """Return the layer and the scores that agree most with the labels, each row by the fit without it."""
    found: tuple[float, str, Tensor] | None = None
    for layer, X in blind.items():
        ridge = Ridge().fit(X, codes)
        for strength in STRENGTHS:
            scores = ridge.at(strength).loo_scores(X, codes)
            agreement = float((scores.argmax(1) == codes).double().mean())
            if found is None or agreement > found[0]:
                found = agreement, layer, scores
    if found is None:
        raise InputError("expected at least one layer that never saw a label, got none")
    return found[1:]


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
