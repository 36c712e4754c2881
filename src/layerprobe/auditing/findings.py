"""Findings of an audit on the labels and on the network, flagged and repaired labels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from layerprobe.auditing.method.calibration import Calibration
from layerprobe.auditing.method.ensemble import ProbeEnsemble
from layerprobe.auditing.method.noise import (
    LEAST_ACCURACY,
    LEAST_AGREEMENT,
    NO_LABEL_FREE_LAYER,
    NoiseEstimate,
    implied_accuracy,
)
from layerprobe.auditing.method.policies import FREQUENT, POLICIES, Interval
from layerprobe.auditing.review.decisions import NONE, OUTSIDE
from layerprobe.auditing.review.estimating import NOTHING
from layerprobe.core.checks import check_number
from layerprobe.errors import InputError

ONE_SIDED = 1.644853626951472  # 95 % quantile of the normal distribution
KNOWN_WIDTH = 0.15  # of an interval of the noise rate; a wider one is a range and not an estimate
KNOWN_RATIO = 3.0  # of its ends; beyond it the number of labels to flag is open as well
FEW = 0.02  # wrong labels; their interval is narrow, although its ends differ by a large factor
KNOWN_PRECISION = 0.1  # the same of the precision of the flags
RELABEL_POLICIES = ("all", "confident", "soft", "prune", "verified")
MARGIN = 0.5  # a suggestion must be more likely than the given label by this much


@dataclass(frozen=True, eq=False)
class Findings:
    """Results of the method."""

    ensemble: ProbeEnsemble
    scores: Tensor  # (n, K): of each training row by the fit without it
    calibration: Calibration  # of these scores
    noise: NoiseEstimate
    criterion: Interval  # accuracy of the ensemble on the measurement rows
    gain: Interval | None  # over the head there; None without a head
    head_fit: float  # share of the training rows whose given label the head predicts; NaN without a head
    frequent: float  # share of the training rows with the most frequent label
    layers: pd.DataFrame  # see `candidate_table`
    controls: pd.DataFrame  # see `baseline_table`


def network_doubts(findings: Findings) -> list[str]:
    """Return the reasons not to use the ensemble instead of the head or of a baseline; none is best."""
    criterion, gain, controls = findings.criterion.value, findings.gain, findings.controls
    reasons = []
    if findings.head_fit <= 1.2 * findings.frequent:
        reasons.append(
            f"the head predicts {findings.head_fit:.1%} of its own training labels, about as many as have "
            f"the most frequent one ({findings.frequent:.1%}): check that the network is trained, and that "
            "class_names are in the order of its outputs"
        )
    if not _separates_classes(findings):
        reasons.append(
            "the features do not separate the classes: the decoder is no better than the most frequent label"
        )
    if gain is not None and math.isnan(gain.value):
        reasons.append(
            "the head has memorised more than half of the labels on a view, so that its accuracy is unknown"
        )
    elif gain is not None and gain.low <= 0:
        reasons.append(f"the decoder's gain over the head is {_points(gain)}, not significant")
    for name, value, beaten in controls.iloc[:-1][["control", "criterion", "beaten"]].itertuples(index=False):
        if name not in ("head", FREQUENT) and beaten is not None and not beaten:  # None: not comparable
            reasons.append(f"{name!r} is about as good as the decoder ({value:.3f} against {criterion:.3f})")
    return reasons


def _separates_classes(findings: Findings) -> bool:
    return bool(findings.controls.set_index("control")["beaten"].get(FREQUENT, True))


def why_noise_is_unknown(findings: Findings, noise: NoiseEstimate) -> str:
    """Return why the noise rate cannot be estimated; empty if it can.

    Parameters
    ----------
    findings : Findings
    noise : NoiseEstimate
    """
    if not _separates_classes(findings):
        return "the features do not separate the classes"
    if noise.high - noise.low <= KNOWN_WIDTH and noise.high <= KNOWN_RATIO * noise.low:
        return ""
    if NO_LABEL_FREE_LAYER in noise.source:
        return "no layer is known to be independent of the labels"
    accuracy = implied_accuracy(findings.criterion.value, noise.rate, len(noise.prior))
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
    if noise.high <= FEW:
        return "only verified labels can distinguish few wrong labels from ambiguous rows"
    return "the bounds are far apart, and only verified labels can distinguish noise from ambiguity"


def network_finding(findings: Findings, rows: str = "") -> str:
    """Return in one sentence whether a layer predicts better than the head and the baselines.

    Parameters
    ----------
    findings : Findings
    rows : str
        Where the accuracies are measured, as " on the views".
    """
    first, *more = (member.candidate for member in findings.ensemble.members)
    where = f"The best layer, {first.probe} on {first.layer}"
    where += f" (and {len(more)} more {'probe' if len(more) == 1 else 'probes'})," if more else ","
    doubts = network_doubts(findings)
    if findings.gain is not None and findings.gain.low > 0:
        better = f"{where} predicts better than the head{rows}, {_points(findings.gain)}"
        return f"{better}, but {doubts[0]}." if doubts else f"{better}, and than every baseline."
    if doubts:
        return f"{where} is not certainly better: {doubts[0]}."
    return f"{where} predicts better than every baseline."


def _points(gain: Interval) -> str:
    value, low, high = (100 * number for number in gain)
    return f"{value:+.1f} points ({low:+.1f} to {high:+.1f})"


def label_finding(findings: Findings, noise: NoiseEstimate, flagged: int) -> str:
    """Return in one sentence how many labels are wrong, by an estimate.

    Parameters
    ----------
    findings : Findings
    noise : NoiseEstimate
    flagged : int
        Number of flagged labels.
    """
    digits, scale = (0, 100) if noise.high >= 0.1 else (1, 1000)
    # Rounded outwards, so that the printed range contains the interval.
    low, high = math.floor(scale * noise.low + 1e-6) / scale, math.ceil(scale * noise.high - 1e-6) / scale
    if reason := why_noise_is_unknown(findings, noise):
        share = f"Between {low:.{digits}%} and {high:.{digits}%}"
        if noise.high < 0.0005:
            share = "Fewer than 0.05%"
        elif noise.high == 1:
            share = f"At least {noise.low:.0%}"
        return f"{share} of the labels are wrong, a closer estimate is not possible: {reason}."
    return (
        f"About {noise.rate:.{digits}%} of the labels are wrong ({low:.{digits}%} to {high:.{digits}%}), an "
        f"estimate that takes ambiguous rows for wrong labels; {flagged:,} "
        f"{'label is' if flagged == 1 else 'labels are'} flagged."
    )


class CandidateTable(pd.DataFrame):
    """The rows of `Audit.layers`; prints its main columns."""

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame  # a part of the rows is a plain frame

    def __repr__(self) -> str:
        main = ["layer", "probe", "strength", "criterion", "chosen", "why"]
        if not set(main) <= set(self.columns):
            return repr(pd.DataFrame(self))
        text = pd.DataFrame(self[main]).to_string(index=False, max_rows=20, float_format="{:.4f}".format)
        others = ", ".join(name for name in self.columns if name not in main)
        return f"{text}\n{len(self)} candidates; further columns: {others}"


def evidence_table(audit: Any) -> pd.DataFrame:
    """Return the table `Audit.evidence` of an audit."""
    nan = float("nan")
    review, findings, noise = audit.review, audit.findings, audit.noise
    rows: list[tuple[Any, ...]] = []

    def add(quantity: str, interval: Sequence[float], kind: str, basis: str) -> None:
        rows.append((quantity, *interval, "unknown" if np.isnan(interval[0]) else kind, basis))

    if review is not None and review.reviewed:
        measured = {
            "wrong labels": review.noise,
            "rows of none of the classes": review.outside,
            "wrong labels that are left": audit.noise_interval,
            "flagged labels that are wrong": audit.precision_interval,
            "wrong labels that are flagged": audit.recall_interval,
            "flagged labels that are wrong, before the review": review.precision,
            "wrong labels that are flagged, before the review": review.recall,
            "gain per changed label": review.gain,
        }
        for name, interval in measured.items():
            few = ", not enough for a value" if np.isnan(interval[0]) else ""
            basis = "no such labels" if np.isnan(interval[1]) else review.source + few
            add(name, interval, "measured", basis)
        rows_are = "row" if review.pairs == 1 else "rows"
        several = f"{review.pairs:,} {rows_are} with several labels"
        assumed = "no row has several labels; this range is assumed"
        add("errors of the reviewers", review.errors, "measured", several if review.pairs else assumed)
    else:
        reason = why_noise_is_unknown(findings, noise)
        assumed = "errors depend on the class only; ambiguous rows count as wrong labels"
        rate, *ends = audit.noise_interval
        estimated = {
            "wrong labels": (nan if reason else rate, *ends),
            "flagged labels that are wrong": audit.precision_interval,
            "wrong labels that are flagged": audit.recall_interval,
        }
        for name, interval in estimated.items():
            add(name, interval, "estimated", reason or f"{noise.source}; {assumed}")
        add("gain per changed label", NOTHING, "unknown", "needs a review")
        for name, value in noise.estimates.items():
            if np.isfinite(value):
                add(f"wrong labels by {name}", (value, nan, nan), "estimated", "one estimator alone")
    held = POLICIES[audit.policy].rows
    rows.append(("accuracy of the decoder", *findings.criterion, "measured", held))
    if findings.gain is not None:
        add("gain of the decoder over the head", findings.gain, "measured", held)
    return pd.DataFrame(rows, columns=["quantity", "value", "low", "high", "kind", "basis"])


def suggest(posterior: Tensor, y: Tensor, flags: Tensor) -> Tensor:
    """Return the suggested classes (n,): the most likely one, or the most likely other one if flagged.

    `OUTSIDE` for a row of none of the classes, whose probabilities are all zero.

    Parameters
    ----------
    posterior : Tensor (n, K)
        P(true = k | row, given label).
    y : Tensor (n,), int64
        Given labels.
    flags : Tensor (n,), bool
    """
    other = posterior.scatter(1, y[:, None], -1.0).argmax(1)
    inside = torch.where(flags, other, posterior.argmax(1))
    return torch.where(posterior.any(1), inside, OUTSIDE)


def find_issues(
    scores: Tensor, posterior: Tensor, y: Tensor, index: np.ndarray, classes: np.ndarray, flags: Tensor
) -> pd.DataFrame:
    """Return the table `Audit.issues`.

    Parameters
    ----------
    scores : Tensor (n, K)
        Of each row by the fit without it.
    posterior, y, flags
        As for `suggest`.
    index, classes : ndarray (n,), (K,)
        Names of the rows and classes.
    """
    own = posterior.gather(1, y[:, None]).squeeze(1)
    suggested = suggest(posterior, y, flags).numpy()
    names = classes[suggested.clip(min=0)]
    if (suggested == OUTSIDE).any():
        names = np.where(suggested == OUTSIDE, NONE, names.astype(object))
    best_other = scores.scatter(1, y[:, None], -torch.inf).amax(1)
    margin = scores.gather(1, y[:, None]).squeeze(1) - best_other
    return pd.DataFrame(
        {
            "index": index,
            "given_label": classes[y.numpy()],
            "suggested_label": names,
            "label_score": own.clamp(0, 1).numpy(),
            "is_label_issue": flags.numpy(),
            "margin": margin.numpy(),
        }
    )


def by_suspicion(issues: pd.DataFrame) -> np.ndarray:
    """Return the positions of the rows of `Audit.issues`: flagged rows first, low scores first, (n,)."""
    return np.lexsort((issues["label_score"], ~issues["is_label_issue"]))  # ties keep their order


def flag(wrong: Tensor, rule: str | float, rate: float | None = None) -> Tensor:
    """Flag the labels that are most likely wrong, (n,) bool.

    Parameters
    ----------
    wrong : Tensor (n,)
        Probability that each label is wrong.
    rule : "balanced", float in (0, 1) or int
        As for `Audit.with_flags`.
    rate : float, optional
        Share of labels that "balanced" flags. By default the share with the highest expected F1: the expected
        number of wrong labels among the flags, over the mean of the numbers of flags and of wrong labels
        (Lipton et al., 2014).
    """
    n = len(wrong)
    order = wrong.argsort(descending=True, stable=True)
    found, flagged = wrong[order].double().cumsum(0), torch.arange(1, n + 1)
    if rule == "balanced":
        if rate is not None:
            count = max(round(rate * n), 0)
        else:
            count = int((found / (flagged + found[-1])).argmax()) + 1 if wrong.any() else 0
    elif isinstance(rule, int):
        count = min(rule, n)
    else:
        count = int((found / flagged >= float(rule)).sum())  # the means descend
    flags = torch.zeros(n, dtype=torch.bool)
    flags[order[:count]] = True
    return flags


def depends_on_labels(p: Tensor, y: Tensor) -> bool:
    """Return whether given labels are more probable than labels drawn by their frequencies, by a test at 5 %.

    The test is one-sided: labels that are less probable, as those of two classes of which more than half are
    wrong, count as not dependent.

    Parameters
    ----------
    p : Tensor (n, K)
        Class probabilities.
    y : Tensor (n,), int64
        Given labels.
    """
    frequencies = y.bincount(minlength=p.shape[1]).to(p.dtype) / len(y)
    gain = p.gather(1, y[:, None]).squeeze(1) - p @ frequencies
    return float(gain.mean()) > ONE_SIDED * float(gain.std()) / math.sqrt(len(y))


def score_text(score: float) -> str:
    """Format a label score with three digits; small positive scores become "< 0.001"."""
    return f"{score:.3f}" if not 0 < score < 0.0005 else "< 0.001"


@dataclass(frozen=True, eq=False, repr=False)
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
        Expected share of wrong labels before, and afterwards among the rows to train on; NaN where the share
        of wrong labels is unknown, see `Audit.evidence`.
    wrong_after_interval : Interval
        `wrong_after` with its 95 % interval, as a review measures it. NaN without a review, and for "soft",
        "prune" and labels of the user, which may depend on the decisions that would measure them.
    """

    policy: str
    labels: np.ndarray
    targets: np.ndarray
    kept: np.ndarray
    changed: np.ndarray
    wrong_before: float
    wrong_after: float
    wrong_after_interval: Interval = NOTHING

    def __repr__(self) -> str:
        changed, kept, n = int(self.changed.sum()), int(self.kept.sum()), len(self.labels)
        measured, after = self.wrong_after_interval, f"{self.wrong_after:.1%}"
        if not math.isnan(measured.value):
            after += f" ({measured.low:.1%} to {measured.high:.1%})"
        share = (
            "unknown" if math.isnan(self.wrong_after) else f"{self.wrong_before:.1%} before, {after} after"
        )
        return (
            f"RepairedLabels by {self.policy!r}: {changed:,} of {n:,} labels changed, {kept:,} rows kept; "
            f"share of wrong labels: {share}"
        )


def relabel(
    policy: str, probabilities: Tensor, posterior: Tensor, y: Tensor, *, margin: float = MARGIN
) -> Tensor:
    """Return the classes of repaired labels (n,), see `Audit.relabel`.

    Parameters
    ----------
    policy : {"confident", "all", "soft", "prune", "verified"}
    probabilities, posterior : Tensor (n, K)
        Class probabilities without and with use of the given label.
    y : Tensor (n,), int64
        Given labels.
    margin : float
        In [0, 1].
    """
    if policy not in RELABEL_POLICIES:
        raise InputError(f"expected a policy of {', '.join(RELABEL_POLICIES)}, got {policy!r}")
    check_number("margin", margin, least=0, most=1)
    highest, likeliest = posterior.max(1)
    own = posterior.gather(1, y[:, None]).squeeze(1)
    return {
        "all": probabilities.argmax(1),
        "confident": torch.where(highest - own >= margin, likeliest, y),
        "soft": likeliest,
    }.get(policy, y)


def repaired_labels(
    policy: str, labels: Tensor, dropped: Tensor, y: Tensor, posterior: Tensor, classes: np.ndarray
) -> RepairedLabels:
    """Return a repaired label set with its expected shares of wrong labels.

    Parameters
    ----------
    policy : str
    labels, y : Tensor (n,), int64
        The repaired and the given labels.
    dropped : Tensor (n,), bool
        Rows that are not trained on.
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
        ~dropped.numpy(),
        (labels != y).numpy(),
        float(1 - own.mean()),
        float("nan") if dropped.all() else float(1 - right[~dropped].mean()),
    )
