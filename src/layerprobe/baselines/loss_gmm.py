"""Mixture model of the losses (Arazo et al., 2019; Li et al., 2020)."""

from typing import ClassVar

import numpy as np

from layerprobe.baselines.base import Detector, ScoresAndFlags, upper_component


class LossGMM(Detector):
    """Probability that the loss of a row belongs to the component of small losses.

    The cross entropy l_i = -log p_i[y_i], scaled to [0, 1] over the rows, is modelled by two Gaussians (Arazo
    et al.: two Beta distributions). s_i is the probability of the component with the smaller mean; flagged
    below `threshold`. The settings of the mixture are those of DivideMix. A network that has memorised the
    labels gives no large losses: use probabilities of an early epoch, or out of sample.

    Parameters
    ----------
    threshold : float, default 0.5

    References
    ----------
    E. Arazo, D. Ortego, P. Albert, N. E. O'Connor, K. McGuinness, "Unsupervised label noise modeling and loss
    correction", ICML 2019.
    J. Li, R. Socher, S. C. H. Hoi, "DivideMix: learning with noisy labels as semi-supervised learning",
    ICLR 2020.
    """

    reads: ClassVar[str] = "pred_probs"

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold

    def _detect(self, values: np.ndarray, y: np.ndarray, num_classes: int) -> ScoresAndFlags:
        losses = -np.log(np.maximum(values[np.arange(len(y)), y], np.finfo(np.float64).tiny))
        scaled = (losses - losses.min()) / (np.ptp(losses) or 1.0)
        scores = upper_component(-scaled, iterations=10, tolerance=1e-2, ridge=5e-4)
        return scores, scores < self.threshold
