"""Findings of an audit on the labels and on the network, flagged and repaired labels."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from layerprobe.auditing.method.ensemble import ProbeEnsemble
from layerprobe.auditing.method.noise import Calibration, NoiseEstimate
from layerprobe.auditing.method.policies import FREQUENT, Interval
from layerprobe.auditing.method.rates import LEAST_ACCURACY, LEAST_AGREEMENT, implied_accuracy
from layerprobe.core.checks import check_number
from layerprobe.errors import InputError

KNOWN_WIDTH = 0.15  # of an interval of the noise rate; a wider one is a range and not an estimate
KNOWN_RATIO = 3.0  # of its ends; beyond it the number of labels to flag is open as well
KNOWN_PRECISION = 0.1  # the same of the precision of the flags
RELABEL_POLICIES = ("all", "confident", "soft", "prune", "verified")
MARGIN = 0.5  # a suggestion must be more likely than the given label by this much


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


def network_doubts(findings: Findings) -> list[str]:
    """Return the reasons not to use the ensemble instead of the head or of a baseline; none is best."""
    criterion, gain, controls = findings.criterion.value, findings.gain, findings.controls
    reasons = []
    if findings.head_fit <= 1.2 * findings.frequent:
        reasons.append(
            f"the head predicts {findings.head_fit:.1%} of its own training labels, about as many as have "
            f"the most frequent one ({findings.frequent:.1%}): is the network trained, and are class_names "
            "in the order of its outputs?"
        )
    if not _separates_classes(findings):
        reasons.append(
            "the features do not separate the classes: the decoder is no better than the most frequent label"
        )
    if gain is not None and gain.low <= 0:
        reasons.append(f"the decoder's gain over the head is {_points(gain)}, not significant")
    for name, value, beaten in controls.iloc[:-1][["control", "criterion", "beaten"]].itertuples(index=False):
        if name not in ("head", FREQUENT) and beaten is not None and not beaten:  # None: not comparable
            reasons.append(f"{name!r} is about as good as the decoder ({value:.3f} against {criterion:.3f})")
    return reasons


def _separates_classes(findings: Findings) -> bool:
    return bool(findings.controls.set_index("control")["beaten"].get(FREQUENT, True))


def why_noise_is_unknown(findings: Findings, noise: NoiseEstimate, K: int) -> str:
    """Return why the noise rate cannot be estimated; empty if it can.

    Parameters
    ----------
    findings : Findings
    noise : NoiseEstimate
    K : int
    """
    if not _separates_classes(findings):
        return "the features do not separate the classes"
    if noise.high - noise.low <= KNOWN_WIDTH and noise.high <= KNOWN_RATIO * noise.low:
        return ""
    accuracy = implied_accuracy(findings.criterion.value, noise.rate, K)
    if accuracy < LEAST_ACCURACY:
        return (
            f"the best layers predict about {accuracy:.0%} of the right labels, and their errors cannot be "
            "distinguished from wrong labels"
        )
    if findings.criterion.value < LEAST_AGREEMENT:
        return (
            f"the best layers agree with {findings.criterion.value:.0%} of the given labels only, and heavy "
            "noise looks like a weak decoder"
        )
    return "the bounds are far apart, and only verified labels can distinguish noise from ambiguity"


def network_finding(findings: Findings) -> str:
    """Return in one sentence whether a layer predicts better than the head and the baselines."""
    first, *more = (member.candidate for member in findings.ensemble.members)
    where = f"The best layer, {first.probe} on {first.layer}"
    where += f" (and {len(more)} more {'probe' if len(more) == 1 else 'probes'})," if more else ","
    doubts = network_doubts(findings)
    if findings.gain is not None and findings.gain.low > 0:
        better = f"{where} predicts better than the head, {_points(findings.gain)}"
        return f"{better}, but {doubts[0]}." if doubts else f"{better}, and than every baseline."
    if doubts:
        return f"{where} is not certainly better: {doubts[0]}."
    return f"{where} predicts better than every baseline."


def _points(gain: Interval) -> str:
    value, low, high = (100 * number for number in gain)
    return f"{value:+.1f} points ({low:+.1f} to {high:+.1f})"


def label_finding(findings: Findings, noise: NoiseEstimate, K: int, flagged: int) -> str:
    """Return in one sentence how many labels are wrong, by an estimate.

    Parameters
    ----------
    findings : Findings
    noise : NoiseEstimate
    K, flagged : int
        Numbers of classes and of flagged labels.
    """
    if reason := why_noise_is_unknown(findings, noise, K):
        between = f"Between {noise.low:.0%} and {noise.high:.0%} of the labels are wrong"
        return f"{between}, a closer estimate is not possible: {reason}."
    return (
        f"About {noise.rate:.0%} of the labels are wrong ({noise.low:.0%} to {noise.high:.0%}), an estimate "
        f"that takes ambiguous rows for wrong labels; {flagged:,} "
        f"{'label is' if flagged == 1 else 'labels are'} flagged."
    )


def find_issues(
    scores: Tensor, posterior: Tensor, y: Tensor, index: np.ndarray, classes: np.ndarray, flags: Tensor
) -> pd.DataFrame:
    """Return the table `Audit.issues`.

    A flagged row suggests the most likely other label, any other row the most likely label.

    Parameters
    ----------
    scores : Tensor (n, K)
        Of each row by the fit without it.
    posterior : Tensor (n, K)
        P(true = k | row, given label).
    y : Tensor (n,), int64
        Given labels.
    index : ndarray (n,)
    classes : ndarray (K,)
    flags : Tensor (n,), bool
    """
    own = posterior.gather(1, y[:, None]).squeeze(1)
    other = posterior.scatter(1, y[:, None], -1.0).argmax(1)
    suggested = torch.where(flags, other, posterior.argmax(1))
    best_other = scores.scatter(1, y[:, None], -torch.inf).amax(1)
    margin = scores.gather(1, y[:, None]).squeeze(1) - best_other
    return pd.DataFrame(
        {
            "index": index,
            "given_label": classes[y.numpy()],
            "suggested_label": classes[suggested.numpy()],
            "label_score": own.clamp(0, 1).numpy(),
            "is_label_issue": flags.numpy(),
            "margin": margin.numpy(),
        }
    )


def flag(wrong: Tensor, rule: str | float, rate: float) -> Tensor:
    """Flag the labels that are most likely wrong, (n,) bool.

    Parameters
    ----------
    wrong : Tensor (n,)
        Probability that each label is wrong.
    rule : "balanced", float in (0, 1) or int
        As for `Audit.with_flags`.
    rate : float
        Share of wrong labels, for "balanced".
    """
    n = len(wrong)
    order = wrong.argsort(descending=True, stable=True)
    if rule == "balanced":
        count = round(rate * n)
    elif isinstance(rule, int):
        count = min(rule, n)
    else:
        means = wrong[order].double().cumsum(0) / torch.arange(1, n + 1)
        count = int((means >= float(rule)).sum())  # the means descend
    flags = torch.zeros(n, dtype=torch.bool)
    flags[order[:count]] = True
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
        "all", "confident", "soft", "prune" or "verified"; "given" for labels of the user.
    labels : ndarray of shape (n,)
        One label per row, in the user's names; the most likely one for "soft".
    targets : ndarray of shape (n, K)
        The labels as probabilities; one-hot except for "soft".
    kept : ndarray of shape (n,), bool
        Rows to train on: without the flagged ones for "prune", and always without rows that reviewers found
        to belong to none of the classes. Their labels stay as they were given.
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
    """Return a repaired label set, see `Audit.relabel`.

    Parameters
    ----------
    policy : {"confident", "all", "soft", "prune", "verified"}
    probabilities, posterior : Tensor (n, K)
        Class probabilities without and with use of the given label.
    y : Tensor (n,), int64
        Given labels.
    flags : Tensor (n,), bool
    classes : ndarray (K,)
    margin : float
        In [0, 1].
    """
    if policy not in RELABEL_POLICIES:
        raise InputError(f"expected a policy of {', '.join(RELABEL_POLICIES)}, got {policy!r}")
    check_number("margin", margin, least=0, most=1)
    highest, likeliest = posterior.max(1)
    own = posterior.gather(1, y[:, None]).squeeze(1)
    labels = {
        "all": probabilities.argmax(1),
        "confident": torch.where(highest - own >= margin, likeliest, y),
        "soft": likeliest,
    }.get(policy, y)
    kept = ~flags if policy == "prune" else torch.ones(len(y), dtype=torch.bool)
    return repaired_labels(policy, labels, kept, y, posterior, classes)


def repaired_labels(
    policy: str, labels: Tensor, kept: Tensor, y: Tensor, posterior: Tensor, classes: np.ndarray
) -> RepairedLabels:
    """Return a repaired label set with its expected shares of wrong labels.

    Parameters
    ----------
    policy : str
    labels, y : Tensor (n,), int64
        The repaired and the given labels.
    kept : Tensor (n,), bool
        Rows to train on.
    posterior : Tensor (n, K)
        P(true = k | row, given label).
    classes : ndarray (K,)
    """
    own, right = (posterior.gather(1, one[:, None]).squeeze(1) for one in (y, labels))
    targets = posterior if policy == "soft" else torch.nn.functional.one_hot(labels, len(classes))
    return RepairedLabels(
        policy,
        classes[labels.numpy()],
        targets.double().numpy(),
        kept.numpy(),
        (labels != y).numpy(),
        float(1 - own.mean()),
        float(1 - right[kept].mean()) if kept.any() else float("nan"),
    )
