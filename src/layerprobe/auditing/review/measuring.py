"""Measure noise, flags and relabelling by the decisions of reviewers."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from layerprobe.auditing.method.policies import Interval
from layerprobe.auditing.review.decisions import OUTSIDE, UNDECIDED, Decisions
from layerprobe.auditing.review.estimating import (
    Z,
    correct_gain,
    correct_share,
    error_rate,
    share_of_sum,
    shares,
    stratified_mean,
)
from layerprobe.auditing.review.sampling import ReviewSample

Advice = Literal["relabel", "keep", "review"]
PSEUDO_ROWS = 2.0  # weight of the announced share in the recalibration of a stratum
NEGLIGIBLE = 0.005  # of all labels: an expected benefit that does not repay the review of further rows
LEAST_DECIDED = 20  # changed rows for any advice: an interval of fewer rows is not valid
NOTHING = Interval(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True, eq=False)
class Review:
    """Measurements on reviewed rows. Shares have 95 % intervals that assume nothing about the scores.

    Attributes
    ----------
    decisions : Decisions
    sample : ReviewSample
    reviewed : int
        Rows of the sample with a decision.
    undecided : int
        Rows of the sample without a label: the reviewers chose "cannot say", or equally many chose different
        labels. They are left out, as if they were like the other rows of their stratum.
    noise : Interval
        Share of wrong labels before any correction. Every label of a row of none of the classes is wrong.
    outside : Interval
        Share of the rows that belong to none of the classes; relabelling cannot correct them.
    precision : Interval
        Share of wrong labels among the flagged ones; NaN without flags.
    recall : Interval
        Share of the wrong labels that are flagged; NaN if none was found.
    gain : Interval
        Labels that become right minus labels that become wrong, per label that relabelling changes
        (`relabel("confident")`); NaN if it changes none.
    errors : Interval
        Error rate of the reviewers, from rows with several decisions. The other intervals include it.
    pairs, different : int
        Rows with several decisions, and how many of them have different ones.
    strata : DataFrame
        Columns: stratum, rows, reviewed, wrong (share that the reviewers call wrong), announced (the same
        share by the scores).
    disagreements : DataFrame
        Rows with different decisions: position, reviewer, y, in the order of the decisions.
    advice : {"relabel", "keep", "review"}
        "relabel" if the gain is above zero; "keep" if it is below, or if further review can be expected to
        correct at most 0.5 % of all labels; else "review", also if relabelling changes nothing although
        labels are wrong.
    why : str
    """

    decisions: Decisions
    sample: ReviewSample
    reviewed: int
    undecided: int
    noise: Interval
    outside: Interval
    precision: Interval
    recall: Interval
    gain: Interval
    errors: Interval
    pairs: int
    different: int
    strata: pd.DataFrame
    disagreements: pd.DataFrame
    advice: Advice
    why: str

    @property
    def finding(self) -> str:
        """The measurements in one sentence."""
        found = f"{percent(self.noise)} of the labels are wrong, measured on {self.reviewed:,} reviewed rows"
        if (self.decisions.y == OUTSIDE).any():
            found += f", {percent(self.outside)} of the rows belong to none of the classes"
        if not (np.isfinite(self.precision.value) and np.isfinite(self.recall.value)):
            return f"{found}."
        return (
            f"{found}; {percent(self.precision)} of the flagged labels are wrong, and the flags find "
            f"{percent(self.recall)} of the wrong labels."
        )


def percent(interval: Interval) -> str:
    """Format a share with its interval, as "12 % (8 to 17 %)"."""
    if not np.isfinite(interval.value):
        return "an unknown share"
    digits = 0 if interval.high >= 0.1 else 1
    value, low, high = (f"{100 * limit:.{digits}f}" for limit in interval)
    return f"{value} % ({low} to {high} %)"


def resolve(decisions: Decisions) -> dict[int, int]:
    """Return the class of each decided row, or -2: what more decisions name than anything else, or -1.

    Parameters
    ----------
    decisions : Decisions

    Returns
    -------
    dict of position to class index
    """
    resolved = {}
    for position, labels in _by_row(decisions).items():
        values, counts = np.unique(labels, return_counts=True)
        best = values[counts == counts.max()]
        resolved[position] = int(best[0]) if len(best) == 1 else UNDECIDED
    return resolved


def measure(
    decisions: Decisions,
    sample: ReviewSample,
    given: Tensor,
    proposed: Tensor,
    flags: np.ndarray,
    label_score: np.ndarray,
) -> Review:
    """Measure labels, flags and relabelling on the reviewed rows of a random sample.

    Parameters
    ----------
    decisions : Decisions
        On rows of the sample, and possibly on other rows. The latter are not used: they were not drawn.
    sample : ReviewSample
    given, proposed : Tensor (n,), int64
        Class indices of the labels before and after relabelling.
    flags : ndarray of shape (n,), bool
    label_score : ndarray of shape (n,)
        Announced probability that the given label is right.

    Returns
    -------
    Review
    """
    g, new = given.numpy(), proposed.numpy()
    rows = _by_row(decisions)
    drawn = [int(i) for i in sample.positions if int(i) in rows]
    decided = {i: rows[i][rows[i] != UNDECIDED] for i in drawn}
    used = np.array([i for i in drawn if len(decided[i])], dtype=np.int64)
    wrong = np.array([(decided[int(i)] != g[i]).mean() for i in used])
    outside = np.array([(decided[int(i)] == OUTSIDE).mean() for i in used])
    gained = np.array([(decided[int(i)] == new[i]).mean() - (decided[int(i)] == g[i]).mean() for i in used])
    repeated = [labels for labels in rows.values() if len(labels) > 1]
    different = sum(len(set(labels.tolist())) > 1 for labels in repeated)
    errors = error_rate(len(repeated), different)

    def observed(values: np.ndarray, domain: np.ndarray) -> Interval:
        sizes = np.bincount(sample.stratum[domain], minlength=len(sample.names))
        within = domain[used]
        sums = shares(values[within], sample.stratum[used[within]], sizes)
        return stratified_mean(sums)

    def share(values: np.ndarray, domain: np.ndarray) -> Interval:
        return correct_share(observed(values, domain), errors, domain.sum()) if domain.any() else NOTHING

    everything, changed = np.ones(len(g), bool), new != g
    noise, precision, missed = (share(wrong, domain) for domain in (everything, flags, ~flags))
    gain = NOTHING
    if changed.any():
        gain = correct_gain(observed(gained, changed), errors, changed.sum())
    recall = NOTHING
    if flags.any() and not flags.all():
        found = Interval(*(flags.mean() * limit for limit in precision))
        recall = share_of_sum(found, Interval(*((1 - flags.mean()) * limit for limit in missed)))
    advice: Advice = "review"
    why = "no row of the random sample is decided, so that nothing is measured"
    if len(used):
        unseen = changed.copy()
        unseen[used] = False
        advice, why = _advise(noise, gain, int(changed.sum()), int(unseen.sum()), len(g))
    counts = np.bincount(sample.stratum[used], minlength=len(sample.names))
    sums = np.bincount(sample.stratum[used], wrong, minlength=len(sample.names))
    strata = pd.DataFrame(
        {
            "stratum": sample.names,
            "rows": sample.sizes,
            "reviewed": counts,
            "wrong": np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0),
            "announced": np.bincount(sample.stratum, 1 - label_score) / sample.sizes,
        }
    )
    return Review(
        decisions,
        sample,
        len(used),
        len(drawn) - len(used),
        noise,
        share(outside, everything),
        precision,
        recall,
        gain,
        errors,
        len(repeated),
        different,
        strata,
        _disagreements(decisions),
        advice,
        why,
    )


def _advise(noise: Interval, gain: Interval, changed: int, unseen: int, n: int) -> tuple[Advice, str]:
    """Return what to do with n labels, and why; of those that relabelling changes, `unseen` are undecided.

    The labels stay as they are unless relabelling is measured to help. More rows are to be reviewed only if
    they can matter: not if all changes are verified, nor if the expected benefit is negligible.
    """
    if not changed:
        none = f"no suggestion is certain enough to change a label; {percent(noise)} of the labels are wrong"
        return ("review", f"{none}: decide on the most suspicious rows") if noise.low > 0 else ("keep", none)
    if not unseen:
        seen = f"all {changed:,} labels that relabelling would change are verified"
        return ("relabel", f"relabelling helps: {seen}") if gain.value > 0 else ("keep", seen)
    per_hundred = "{:+.0f} ({:+.0f} to {:+.0f})".format(*(100 * limit for limit in gain))
    measured = f"of 100 changed labels {per_hundred} more become right than wrong, measured"
    if changed - unseen < LEAST_DECIDED:
        return "review", f"only {changed - unseen} of the {changed:,} labels to change are decided"
    if gain.low > 0:
        return "relabel", f"relabelling helps: {measured}; it changes {changed:,} labels"
    if gain.high <= 0:
        return "keep", f"relabelling harms: {measured}"
    benefit = _expected_benefit(gain) * changed / n
    if benefit <= NEGLIGIBLE:
        most = f"at most {100 * benefit:.1f} % of all labels"
        return "keep", f"further review can be expected to correct {most}: {measured}"
    return "review", f"too few rows are reviewed to tell whether relabelling helps: {measured}"


def _expected_benefit(gain: Interval) -> float:
    """Return the expected gain per changed label of a person who learns whether the gain is above zero.

    Relabelling or keeping is then the better choice, and the gain is max(gain, 0): the expected value of
    perfect information (Raiffa and Schlaifer, Applied Statistical Decision Theory, 1961, chapter 4). The
    distribution is taken as normal, with the upper limit as its 97.5 % quantile.
    """
    spread = (gain.high - gain.value) / Z
    if not spread:
        return max(gain.value, 0.0)
    m = gain.value / spread
    density, below = math.exp(-m * m / 2) / math.sqrt(2 * math.pi), (1 + math.erf(m / math.sqrt(2))) / 2
    return spread * (density + m * below)


def recalibrate(posterior: Tensor, given: Tensor, review: Review) -> Tensor:
    """Return probabilities (n, K) whose mean in each stratum is the measured share of wrong labels.

    Parameters
    ----------
    posterior : Tensor (n, K)
        P(true = k | row, given label).
    given : Tensor (n,), int64
    review : Review
    """
    result = torch.empty_like(posterior)
    stratum = torch.from_numpy(review.sample.stratum)
    for h, (_, _, reviewed, wrong, announced) in enumerate(review.strata.itertuples(index=False)):
        rows = stratum == h
        weight = reviewed / (reviewed + PSEUDO_ROWS)
        target = weight * wrong + (1 - weight) * announced if reviewed else announced
        result[rows] = _scaled(posterior[rows], given[rows], target)
    return result


def _scaled(posterior: Tensor, given: Tensor, share: float) -> Tensor:
    """Return probabilities (n, K) whose mean share of wrong labels is as given.

    The probabilities that labels are wrong, or that they are right, shrink in proportion. A shift of the log
    odds would keep the most extreme rows as they are, although the review contradicts them.
    """
    own = posterior.gather(1, given[:, None]).squeeze(1).double().clamp(1e-9, 1 - 1e-9)
    announced = float(1 - own.mean())
    fewer = share < announced
    moved = 1 - (1 - own) * share / announced if fewer else own * (1 - share) / (1 - announced)
    others = posterior.double() * ((1 - moved) / (1 - own))[:, None]
    return others.scatter(1, given[:, None], moved[:, None]).to(posterior.dtype)


def _by_row(decisions: Decisions) -> dict[int, np.ndarray]:
    """Return the decided classes of each row."""
    order = np.argsort(decisions.positions, kind="stable")
    rows, starts = np.unique(decisions.positions[order], return_index=True)
    return dict(zip(rows.tolist(), np.split(decisions.y[order], starts[1:]), strict=True))


def _disagreements(decisions: Decisions) -> pd.DataFrame:
    frame = pd.DataFrame({"position": decisions.positions, "reviewer": decisions.reviewers, "y": decisions.y})
    different = frame.groupby("position")["y"].transform("nunique") > 1
    return frame[different].reset_index(drop=True)
