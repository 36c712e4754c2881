"""The audit itself, on layer outputs: START HERE.

candidates are judged -> the best become a decoder -> its scores of each row by the fit without it become
probabilities -> the noise, the wrong labels, and whether any of it is worth acting upon.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from layerprobe.auditing.calibration import Calibration, calibrate, calibrate_on_truth
from layerprobe.auditing.candidates import Tried, try_all
from layerprobe.auditing.controls import Control
from layerprobe.auditing.decoder import Decoder, choose_members
from layerprobe.auditing.features import Features
from layerprobe.auditing.intervals import Interval, interval
from layerprobe.auditing.policies import Jury
from layerprobe.probes import Probe

__all__ = ["Decided", "Noise", "decide"]

Timer = Callable[[str], object]


@dataclass(frozen=True, eq=False)
class Noise:
    """How wrong the labels are.

    Attributes
    ----------
    rate, low, high : float
        The share of wrong labels and its 95 % interval (bootstrap over the rows that judge).
    matrix, matrix_low, matrix_high : ndarray of shape (K, K)
        P(given = column | true = row), and the intervals of its entries.
    prior : ndarray of shape (K,)
        Shares of the true classes.
    """

    rate: float
    low: float
    high: float
    matrix: np.ndarray
    matrix_low: np.ndarray
    matrix_high: np.ndarray
    prior: np.ndarray


@dataclass(frozen=True, eq=False)
class Decided:
    """All that an audit finds, in codes; rows in the order of the features.

    Attributes
    ----------
    decoder : Decoder
    scores : Tensor (n, K)
        Of each training row by the fit without it.
    calibration : Calibration
        What these scores mean.
    noise : Noise
    criterion : Interval
        The decoder's accuracy on the policy's rows.
    gain : Interval or None
        Its gain over the head there; None without a head.
    layers, controls : DataFrame
    """

    decoder: Decoder
    scores: Tensor
    calibration: Calibration
    noise: Noise
    criterion: Interval
    gain: Interval | None
    layers: pd.DataFrame
    controls: pd.DataFrame


def decide(
    train: Features,
    codes: Tensor,
    num_classes: int,
    jury: Jury,
    measure: Jury,
    probes: Mapping[str, Probe],
    fingerprints: np.ndarray,
    controls: Callable[[Tensor | None], Sequence[Control]],
    *,
    seed: int,
    timer: Timer = lambda step: None,
) -> Decided:
    """Choose a decoder, and find out what it says of the labels.

    Parameters
    ----------
    train : Features
        Of the training rows, in an order that depends on their content alone.
    codes : Tensor (n,)
        Their given labels.
    num_classes : int
    jury, measure : Jury
        What chooses, and what measures the choice: the same but for the paper's split of the test rows.
    probes : mapping of str to Probe
    fingerprints : ndarray (n,)
    controls : callable
        Given what the best candidate on the raw input gets right of `measure`, or None, returns the controls.
    seed : int
        Of the bootstrap.
    timer : callable
        Told the name of each step as it begins.
    """
    timer("candidates")
    tried = try_all(probes, jury.fitted_on, codes, jury.copies, jury.labels)
    timer("choice")
    members = choose_members(tried, jury.labels)
    candidates = [one.candidate for one in members]
    timer("decoder")
    decoder, left_out = Decoder.fit(candidates, probes, train.mean, codes, fingerprints)
    judge = decoder
    if train.mean is not jury.fitted_on:  # the views that judge must not be part of what is fitted
        judge, _ = Decoder.fit(candidates, probes, jury.fitted_on, codes, fingerprints)
    scores = [judge.scores(copy) for copy in measure.copies]
    correct = measure.correct(scores)
    timer("noise")
    calibration = _calibration(scores, measure, left_out, codes, seed)
    timer("controls")
    best_input = max(
        (one for one in tried if one.candidate.layer == "input"), key=lambda one: one.criterion, default=None
    )
    inputs = None
    if best_input is not None:
        alone, _ = Decoder.fit([best_input.candidate], probes, jury.fitted_on, codes, fingerprints)
        inputs = measure.correct([alone.scores(copy) for copy in measure.copies])
    others = controls(inputs)
    head = measure.correct(measure.logits) if measure.logits else None
    chosen_head = jury.correct(jury.logits) if jury.logits else None
    return Decided(
        decoder,
        left_out,
        calibration,
        _noise(calibration, scores, measure, left_out, codes),
        interval(correct),
        None if head is None else interval(correct - head),
        _layers(tried, members, chosen_head),
        _controls(others, correct),
    )


def _calibration(
    scores: Sequence[Tensor], jury: Jury, left_out: Tensor, codes: Tensor, seed: int
) -> Calibration:
    """Give the scores of training rows a meaning, by rows whose labels the network has not seen."""
    copies, m = len(scores), len(jury.labels)
    stacked, labels = torch.cat(list(scores)), jury.labels.repeat(copies)
    if jury.clean:
        return calibrate(left_out, codes, beta=calibrate_on_truth(stacked, labels), seed=seed)
    return calibrate(stacked, labels, groups=torch.arange(m).repeat(copies), seed=seed)


def _noise(
    calibration: Calibration, scores: Sequence[Tensor], jury: Jury, left_out: Tensor, codes: Tensor
) -> Noise:
    rows, given = (
        (left_out, codes) if jury.clean else (torch.cat(list(scores)), jury.labels.repeat(len(scores)))
    )
    posterior = calibration.posterior(rows, given)
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
    )


def _layers(tried: Sequence[Tried], members: Sequence[Tried], head: Tensor | None) -> pd.DataFrame:
    """Return one row a candidate, best first."""
    best = max(one.criterion for one in tried)
    rows = []
    for one in tried:
        at = interval(one.correct)
        gain = (float("nan"),) * 3 if head is None else interval(one.correct.double() - head)
        place = next((i for i, member in enumerate(members) if member is one), None)
        if place == 0:
            why = "the best candidate"
        elif place is not None:
            why = f"member {place + 1}: the sum of members gains from it"
        else:
            why = f"{best - one.criterion:.3f} below the best"
        c = one.candidate
        rows.append((c.layer, c.probe, c.strength, *at, *gain, place is not None, why))
    columns = ["layer", "probe", "strength", "criterion", "low", "high", "gain", "gain_low", "gain_high"]
    frame = pd.DataFrame(rows, columns=[*columns, "chosen", "why"])
    frame["strength"] = frame["strength"].astype(float)
    return frame.sort_values("criterion", ascending=False, kind="stable", ignore_index=True)


def _controls(controls: Sequence[Control], correct: Tensor) -> pd.DataFrame:
    """Return one row a control and one for the decoder; beaten is by more than chance where that is known."""
    own = interval(correct)
    rows = []
    for control in controls:
        if control.correct is None:
            beaten = own.value > control.criterion.value
        else:
            beaten = interval(correct - control.correct).low > 0
        rows.append((control.name, *control.criterion, beaten))
    rows.append(("decoder", *own, False))
    return pd.DataFrame(rows, columns=["control", "criterion", "low", "high", "beaten"])
