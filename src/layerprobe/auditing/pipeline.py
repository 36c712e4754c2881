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

from layerprobe.auditing.features import Features
from layerprobe.auditing.method.calibration import Calibration
from layerprobe.auditing.method.candidates import Tried, fit_candidate, try_all
from layerprobe.auditing.method.controls import (
    Control,
    best_of_history,
    controls_of,
    most_frequent,
    untrained_control,
)
from layerprobe.auditing.method.decoder import Decoder, choose_members
from layerprobe.auditing.method.intervals import Interval, interval
from layerprobe.auditing.method.noise import Noise, Unlabelled, estimate_noise
from layerprobe.auditing.method.policies import Jury
from layerprobe.probes import Probe

__all__ = ["Decided", "decide"]

Timer = Callable[[str], object]


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
    head_fit, frequent : float
        Shares of the training rows whose given label the head predicts (NaN without a head), and which have
        the most frequent label.
    layers, controls : DataFrame
    """

    decoder: Decoder
    scores: Tensor
    calibration: Calibration
    noise: Noise
    criterion: Interval
    gain: Interval | None
    head_fit: float
    frequent: float
    layers: pd.DataFrame
    controls: pd.DataFrame


def decide(
    train: Features,
    codes: Tensor,
    jury: Jury,
    measure: Jury,
    probes: Mapping[str, Probe],
    fingerprints: np.ndarray,
    untrained: Callable[[], tuple[Features, Jury] | None],
    *,
    history: Sequence[float] | None = None,
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
    jury, measure : Jury
        What chooses, and what measures the choice: the same but for the paper's split of the test rows.
    probes : mapping of str to Probe
    fingerprints : ndarray (n,)
    untrained : callable
        Returns the features and the jury of an untrained copy of the network, or None.
    history : sequence of float, optional
        The network's accuracy on a noisy hold-out after every epoch.
    seed : int
        Of the bootstrap.
    timer : callable
        Told the name of each step as it begins.
    """
    timer("layers that never saw a label")
    fresh, blind = untrained(), {}
    if "input" in train.mean:
        blind["the raw input"] = train.mean["input"]
    if fresh is not None:
        blind |= {
            f"layer {name} of an untrained copy": X for name, X in fresh[0].mean.items() if name != "input"
        }
    unlabelled = Unlabelled.ask(blind, codes, seed=seed)
    if jury.of_views and unlabelled is not None:
        posterior = unlabelled.posterior[torch.from_numpy(train.kept)]
        places = jury.least_remembered(posterior)
        jury = measure = jury.forgetting(posterior, places)
        if fresh is not None:
            fresh = fresh[0], fresh[1].forgetting(posterior, places)
    timer("candidates")
    tried = try_all(probes, jury.fitted_on, codes, jury.copies, jury.correct)
    timer("choice")
    members = choose_members(tried, jury.correct)
    candidates = [one.candidate for one in members]
    timer("decoder")
    decoder, left_out = Decoder.fit(candidates, probes, train.mean, codes, fingerprints)
    judge = decoder
    if train.mean is not jury.fitted_on:  # the views that judge must not be part of what is fitted
        judge, _ = Decoder.fit(candidates, probes, jury.fitted_on, codes, fingerprints)
    scores = [judge.scores(copy) for copy in measure.copies]
    correct = measure.correct(scores)
    timer("controls")
    best_input = max(
        (one for one in tried if one.candidate.layer == "input"), key=lambda one: one.criterion, default=None
    )
    inputs = None
    if best_input is not None:
        probe = probes[best_input.candidate.probe]
        alone = fit_candidate(best_input.candidate, probe, jury.fitted_on["input"], codes)
        inputs = measure.correct([alone._scores(copy["input"]) for copy in measure.copies])
    controls = [*controls_of(measure, inputs), most_frequent(measure, codes)]
    if fresh is not None:
        controls.append(untrained_control(fresh[1], codes))
    if history is not None:
        same_rows = not (measure.of_views or measure.clean)  # the history is of a noisy hold-out
        controls.append(best_of_history(history, len(measure.labels), comparable=same_rows))
    timer("noise")
    calibration, noise = estimate_noise(scores, measure, left_out, codes, unlabelled, seed=seed)
    head = measure.correct(measure.logits) if measure.logits else None
    chosen_head = jury.correct(jury.logits) if jury.logits else None
    return Decided(
        decoder,
        left_out,
        calibration,
        noise,
        interval(correct),
        None if head is None else interval(correct - head),
        float("nan") if train.logits is None else float((train.logits.argmax(1) == codes).double().mean()),
        float(codes.bincount().max() / len(codes)),
        _layers(tried, members, chosen_head),
        _controls(controls, correct),
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
        beaten: bool | None
        if not control.comparable:
            beaten = None
        elif control.correct is None:
            beaten = own.value > control.criterion.value
        else:
            beaten = interval(correct - control.correct).low > 0
        rows.append((control.name, *control.criterion, beaten))
    rows.append(("decoder", *own, False))
    return pd.DataFrame(rows, columns=["control", "criterion", "low", "high", "beaten"])
