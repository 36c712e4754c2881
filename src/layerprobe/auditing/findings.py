"""Findings of an audit: tables of candidates and baselines, and the verdict "repair" or "keep"."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
from torch import Tensor

from layerprobe.auditing.method.baselines import FREQUENT, Baseline, Interval, interval
from layerprobe.auditing.method.calibration import Calibration
from layerprobe.auditing.method.candidates import CandidateScore
from layerprobe.auditing.method.ensemble import ProbeEnsemble
from layerprobe.auditing.method.noise import NoiseEstimate

__all__ = ["Findings", "Verdict", "baseline_table", "candidate_table", "recommend"]

MIN_NOISE = 0.05  # labels are kept if the interval of the noise rate begins below


@dataclass(frozen=True, eq=False)
class Findings:
    """Results of the method.

    Attributes
    ----------
    ensemble : ProbeEnsemble
    scores : Tensor (n, K)
        Score of each training row by the fit without it.
    calibration : Calibration
        Of these scores.
    noise : NoiseEstimate
    criterion : Interval
        Accuracy of the ensemble on the measurement rows.
    gain : Interval or None
        Its gain over the head there; None without a head.
    head_fit : float
        Share of the training rows whose given label the head predicts; NaN without a head.
    frequent : float
        Share of the training rows with the most frequent label.
    layers, controls : DataFrame
        See `candidate_table` and `baseline_table`.
    """

    ensemble: ProbeEnsemble
    scores: Tensor
    calibration: Calibration
    noise: NoiseEstimate
    criterion: Interval
    gain: Interval | None
    head_fit: float
    frequent: float
    layers: pd.DataFrame
    controls: pd.DataFrame


class Verdict(NamedTuple):
    """Recommendation.

    Attributes
    ----------
    verdict : str
        "repair" or "keep".
    why : str
        The reasons.
    finding : str
        The result in one sentence.
    """

    verdict: str
    why: str
    finding: str


def candidate_table(
    scored: Sequence[CandidateScore], members: Sequence[CandidateScore], head: Tensor | None
) -> pd.DataFrame:
    """Return one row per candidate, best first.

    Parameters
    ----------
    scored : sequence of CandidateScore
    members : sequence of CandidateScore
        The ensemble members in order of selection.
    head : Tensor (m,) or None
        Correctness of the head per row of the selection set.

    Returns
    -------
    DataFrame
        Columns: layer, probe, strength (the hyperparameter); criterion, low, high; gain over the head,
        gain_low, gain_high; chosen; why.
    """
    best = max(one.criterion for one in scored)
    rows = []
    for one in scored:
        gain = (float("nan"),) * 3 if head is None else interval(one.correct.double() - head)
        position = next((i for i, member in enumerate(members) if member is one), None)
        if position == 0:
            why = "the best candidate"
        elif position is not None:
            why = f"member {position + 1}: it raises the accuracy of the sum"
        else:
            why = f"{best - one.criterion:.3f} below the best"
        c = one.candidate
        chosen = position is not None
        rows.append((c.layer, c.probe, c.hyperparameter, *interval(one.correct), *gain, chosen, why))
    columns = ["layer", "probe", "strength", "criterion", "low", "high", "gain", "gain_low", "gain_high"]
    frame = pd.DataFrame(rows, columns=[*columns, "chosen", "why"])
    frame["strength"] = frame["strength"].astype(float)
    return frame.sort_values("criterion", ascending=False, kind="stable", ignore_index=True)


def baseline_table(baselines: Sequence[Baseline], correct: Tensor) -> pd.DataFrame:
    """Return one row per baseline, and a last one for the ensemble.

    Parameters
    ----------
    baselines : sequence of Baseline
    correct : Tensor (m,)
        Correctness of the ensemble per row.

    Returns
    -------
    DataFrame
        Columns: control, criterion, low, high; beaten, beyond the 95 % interval of the paired difference
        where it is known, None for an accuracy that is not comparable.
    """
    own = interval(correct)
    rows = []
    for baseline in baselines:
        beaten: bool | None
        if not baseline.comparable:
            beaten = None
        elif baseline.correct is None:
            beaten = own.value > baseline.criterion.value
        else:
            beaten = interval(correct - baseline.correct).low > 0
        rows.append((baseline.name, *baseline.criterion, beaten))
    rows.append(("decoder", *own, False))
    return pd.DataFrame(rows, columns=["control", "criterion", "low", "high", "beaten"])


def recommend(findings: Findings, wrong_after: float, wrong_before: float) -> Verdict:
    """Recommend "repair" only if every measure supports it.

    Parameters
    ----------
    findings : Findings
    wrong_after, wrong_before : float
        Expected shares of wrong labels after and before the repair by the policy "confident".

    Returns
    -------
    Verdict
    """
    noise, gain, controls = findings.noise, findings.gain, findings.controls
    reasons = []
    if findings.head_fit <= 1.2 * findings.frequent:
        reasons.append(
            f"the head predicts {findings.head_fit:.1%} of its own training labels, about as many as have "
            f"the most frequent one ({findings.frequent:.1%}): is the network trained, and are class_names "
            "in the order of its outputs?"
        )
    if noise.low < MIN_NOISE:
        reasons.append(
            f"the estimated noise is {noise.rate:.1%} ({noise.low:.1%} to {noise.high:.1%}), too low for a "
            "reliable repair"
        )
    if not controls.set_index("control")["beaten"].get(FREQUENT, True):
        reasons.append(
            "the features do not separate the classes: the decoder is no better than the most frequent "
            "label, and its noise estimate is meaningless"
        )
    if gain is not None and gain.low <= 0:
        reasons.append(f"the decoder's gain over the head is {_points(gain)}, not significant")
    reasons += [
        f"{name!r} is about as good as the decoder ({value:.3f} against {findings.criterion.value:.3f})"
        for name, value in _not_beaten(controls)
    ]
    if not wrong_after < wrong_before:
        reasons.append("no label would become more likely to be right")
    first = findings.ensemble.members[0].candidate
    others = len(findings.ensemble.members) - 1
    where = f"{first.probe} on {first.layer}" + (f" (and {others} more probes)" if others else "")
    about = f"about {noise.rate:.0%} of the labels are wrong ({noise.low:.0%} to {noise.high:.0%})"
    if reasons:
        why = "; ".join(reasons)
        finding = f"Keep your labels: {reasons[0]}. By the decoder ({where}) {about}."
        return Verdict("keep", f"{why[0].upper()}{why[1:]}.", finding)
    better = "" if gain is None else f", {_points(gain)} against the head"
    return Verdict(
        "repair",
        f"The decoder agrees with the label on {findings.criterion} of the held-out rows or views{better}, "
        f"and beats every control. By its probabilities the confident repair leaves {wrong_after:.1%} of the "
        f"labels wrong, compared with {wrong_before:.1%} before.",
        f"The layers predict better than the head: {where} is best{better}, and {about}.",
    )


def _not_beaten(controls: pd.DataFrame) -> list[tuple[str, float]]:
    """Return names and accuracies of the comparable baselines that the ensemble does not beat."""
    others = controls.iloc[:-1]
    # `== False` and not `~`: the column holds None where a baseline is not comparable.
    others = others[~others["control"].isin(["head", FREQUENT]) & (others["beaten"] == False)]  # noqa: E712
    return list(zip(others["control"], others["criterion"].astype(float), strict=True))


def _points(gain: tuple[float, float, float]) -> str:
    value, low, high = (100 * number for number in gain)
    return f"{value:+.1f} points ({low:+.1f} to {high:+.1f})"
