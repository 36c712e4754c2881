"""Findings of an audit: flagged and repaired labels, tables of candidates and baselines, the verdict."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from layerprobe.auditing.method.ensemble import CandidateScore, ProbeEnsemble
from layerprobe.auditing.method.noise import Calibration, NoiseEstimate
from layerprobe.auditing.method.policies import FREQUENT, Baseline, Interval, interval
from layerprobe.errors import InputError

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


RELABEL_POLICIES = ("all", "confident", "soft", "prune")
MARGIN = 0.5  # a suggestion must be more likely than the given label by this much


def find_issues(
    scores: Tensor, posterior: Tensor, y: Tensor, index: np.ndarray, classes: np.ndarray
) -> tuple[pd.DataFrame, float]:
    """Return the table of label issues, and the expected precision of the flags.

    Parameters
    ----------
    scores : Tensor (n, K)
        Of each row by the fit without it.
    posterior : Tensor (n, K)
        P(true = k | row, given label).
    y : Tensor (n,), int64
        Given labels.
    index : ndarray (n,)
        Names of the rows.
    classes : ndarray (K,)
        Names of the classes.

    Returns
    -------
    issues : DataFrame
        One row per training row: index, given_label, suggested_label, label_score (the probability that the
        given label is right), is_label_issue, margin (score of the given label minus the best other score).
    expected_precision : float
        Mean probability that a flagged label is wrong; NaN without flags.
    """
    own = posterior.gather(1, y[:, None]).squeeze(1)
    flags = flag(posterior, y)
    best_other = scores.scatter(1, y[:, None], -torch.inf).amax(1)
    margin = scores.gather(1, y[:, None]).squeeze(1) - best_other
    columns = {
        "index": index,
        "given_label": classes[y.numpy()],
        "suggested_label": classes[posterior.argmax(1).numpy()],
        "label_score": own.clamp(0, 1).numpy(),
        "is_label_issue": flags.numpy(),
        "margin": margin.numpy(),
    }
    return pd.DataFrame(columns), float(1 - own[flags].mean()) if flags.any() else float("nan")


def flag(posterior: Tensor, y: Tensor) -> Tensor:
    """Flag labels that are probably wrong, (n,) bool.

    For each pair of classes, the rows with given label j and most likely class i are ranked by the
    probability of the given label. The lowest are flagged, as many as the posterior expects errors from i to
    j. This is the pruning by noise rate of confident learning (Northcutt et al., JAIR 2021), with expected
    counts.

    Parameters
    ----------
    posterior : Tensor (n, K)
    y : Tensor (n,), int64
        Given labels.
    """
    K = posterior.shape[1]
    likeliest = posterior.argmax(1)
    own = posterior.gather(1, y[:, None]).squeeze(1)
    expected = torch.zeros(K, K, dtype=torch.float64).index_add_(0, y, posterior.double())  # given x true
    rows = (likeliest != y).nonzero().squeeze(1)
    rows = rows[own[rows].argsort(stable=True)]
    pair = y[rows] * K + likeliest[rows]
    order = pair.argsort(stable=True)
    rows, pair = rows[order], pair[order]  # by pair, the least probable first
    counts = pair.unique(return_counts=True)[1]
    rank = torch.arange(len(rows)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    flags = torch.zeros(len(y), dtype=torch.bool)
    flags[rows[rank < expected.flatten()[pair].round()]] = True
    return flags


def score_text(score: float) -> str:
    """Format a label score with three digits; small positive scores become "< 0.001"."""
    return f"{score:.3f}" if not 0 < score < 0.0005 else "< 0.001"


@dataclass(frozen=True, eq=False)
class RepairedLabels:
    """A repaired label set.

    Attributes
    ----------
    policy : str
        "all", "confident", "soft" or "prune"; "keep" if nothing was changed.
    labels : ndarray of shape (n,)
        One label per row, in the user's names; the most likely one for "soft".
    targets : ndarray of shape (n, K)
        The labels as probabilities; one-hot except for "soft".
    kept : ndarray of shape (n,), bool
        Rows to train on; all except for "prune".
    changed : ndarray of shape (n,), bool
    wrong_before, wrong_after : float
        Expected share of wrong labels before, and afterwards among the rows to train on.
    """

    policy: str
    labels: np.ndarray
    targets: np.ndarray
    kept: np.ndarray
    changed: np.ndarray
    wrong_before: float
    wrong_after: float


def relabel(
    policy: str,
    probabilities: Tensor,
    posterior: Tensor,
    y: Tensor,
    flags: Tensor,
    classes: np.ndarray,
    *,
    margin: float = MARGIN,
) -> RepairedLabels:
    """Return a repaired label set.

    Parameters
    ----------
    policy : {"all", "confident", "soft", "prune", "keep"}
        "all": the prediction for every row, as in the paper. "confident": the suggestion where it is more
        likely than the given label by `margin`. "soft": probabilities of all classes. "prune": the given
        labels without the flagged rows. "keep": the given labels.
    probabilities, posterior : Tensor (n, K)
        Class probabilities without and with use of the given label.
    y : Tensor (n,), int64
        Given labels.
    flags : Tensor (n,), bool
    classes : ndarray (K,)
        Names of the classes.
    margin : float
        In [0, 1].

    Raises
    ------
    InputError
        If the policy is unknown, or the margin is outside [0, 1].
    """
    if policy not in (*RELABEL_POLICIES, "keep"):
        raise InputError(f"expected a policy of {', '.join(RELABEL_POLICIES)}, got {policy!r}")
    if not 0 <= margin <= 1:
        raise InputError(f"margin is a difference of probabilities in [0, 1], got {margin!r}")
    own = posterior.gather(1, y[:, None]).squeeze(1)
    highest, likeliest = posterior.max(1)
    labels, kept = y, torch.ones(len(y), dtype=torch.bool)
    if policy == "all":
        labels = probabilities.argmax(1)
    elif policy == "confident":
        labels = torch.where(highest - own >= margin, likeliest, y)
    elif policy == "soft":
        labels = likeliest
    elif policy == "prune":
        kept = ~flags
    one_hot = torch.nn.functional.one_hot(labels, posterior.shape[1])
    right = posterior.gather(1, labels[:, None]).squeeze(1)
    return RepairedLabels(
        policy,
        classes[labels.numpy()],
        (posterior if policy == "soft" else one_hot).double().numpy(),
        kept.numpy(),
        (labels != y).numpy(),
        float(1 - own.mean()),
        float(1 - right[kept].mean()) if kept.any() else float("nan"),
    )
