"""Measure noise, flags and relabelling by the decisions of reviewers."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from layerprobe.auditing.method.policies import Interval
from layerprobe.auditing.review.decisions import OUTSIDE, UNDECIDED, Decisions
from layerprobe.auditing.review.estimating import (
    NOTHING,
    PRIOR,
    Z,
    correct_by,
    correct_gain,
    correct_share,
    error_of_majority,
    error_rate,
    share_of_sum,
    share_without_errors,
    stratified_mean,
)
from layerprobe.auditing.review.sampling import ReviewSample

Advice = Literal["relabel", "keep", "review"]
PSEUDO_ROWS = 2.0  # weight of the announced share in the recalibration of a stratum
NEGLIGIBLE = 0.005  # of all labels: an expected benefit that does not repay the review of further rows
MOST_UNDECIDED = 0.1  # of the rows in strata without decisions, for a share that has a value
SAYS_NOTHING = 0.9  # width of an interval of precision or recall, for no value
LEAST_DECIDED = 20  # changed rows for any advice: an interval of fewer rows is not valid


@dataclass(frozen=True, eq=False, repr=False)
class Review:
    """Measurements on reviewed rows. Shares have 95 % intervals that assume nothing about the scores.

    The value of an interval is NaN, and only the interval is known, if more than 10 % of its rows are in
    strata without decisions. Up to this share, these rows count as if they were like the others.

    Attributes
    ----------
    decisions : Decisions
    sample : ReviewSample
    reviewed : int
        Rows of the sample with a decision.
    undecided : int
        Rows of the sample for which the reviewers chose "cannot say". They are left out, as if they were like
        the other rows of their stratum.
    noise : Interval
        Share of wrong labels before any correction, at least that of the wrong labels that the decisions
        found. Every label of a row of none of the classes is wrong.
    left : Interval
        Share of wrong labels after the decisions: in rows without decision, in rows of none of the classes,
        and by wrong decisions.
    wrong_decisions : Interval
        Share of all rows that have a wrong label by a decision.
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
        Error rate of the reviewers, from rows with several labels. Without such rows its value is NaN, and
        the limits are assumed. The other intervals include its upper limit. Only errors that matter to a
        share change its value: a wrong class for a wrong label is no error of the noise.
    pairs, different : int
        Rows with several labels, and how many of them have different ones.
    strata : DataFrame
        Columns: stratum, rows, reviewed, wrong (share that the reviewers call wrong), announced (the same
        share by the scores).
    disagreements : DataFrame
        Rows with different labels: position, reviewer, y, in the order of the decisions.
    advice : {"relabel", "keep", "review"}
        "relabel" if the gain is above zero; "keep" if it is below, or if further review can be expected to
        correct at most 0.5 % of all labels; else "review", also if relabelling changes nothing although
        labels are wrong, or if more than 0.5 % of the rows belong to none of the classes and not
        all rows are decided.
    why : str
    """

    decisions: Decisions
    sample: ReviewSample
    reviewed: int
    undecided: int
    noise: Interval
    left: Interval
    wrong_decisions: Interval
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

    def __repr__(self) -> str:
        return f"Review: {self.finding} Advice: {self.advice}, since {self.why}."

    @property
    def source(self) -> str:
        """The source of the measurements, such as "100 reviewed rows"."""
        return f"{self.reviewed:,} reviewed {'row' if self.reviewed == 1 else 'rows'}"

    @property
    def finding(self) -> str:
        """The measurements in one sentence."""
        noise = percent(self.noise)
        found = f"{noise[0].upper()}{noise[1:]} of the labels are wrong, measured on {self.source}"
        if (self.decisions.y == OUTSIDE).any():
            found += f", {percent(self.outside)} of the rows belong to none of the classes"
        if _is_known(self.precision):
            found += f"; {percent(self.precision)} of the labels flagged before the review are wrong"
            if _is_known(self.recall):
                found += f", and these flags find {percent(self.recall)} of the wrong labels"
        return f"{found}."


def percent(interval: Interval) -> str:
    """Format a share with its interval, as "12 % (8 to 17 %)", or "between 8 and 17 %" without a value."""
    if not _is_known(interval):
        return "an unknown share"
    digits = 0 if interval.high >= 0.1 else 1
    value, low, high = (f"{100 * limit:.{digits}f}" for limit in interval)
    return f"between {low} and {high} %" if np.isnan(interval.value) else f"{value} % ({low} to {high} %)"


def _is_known(interval: Interval) -> bool:
    return bool(np.isfinite(interval.value) or interval.high - interval.low < 1)


def majorities(decisions: Decisions, n: int) -> np.ndarray:
    """Return the class that most decisions on each row name, (n,) int64.

    `OUTSIDE` for none of the classes; `UNDECIDED` without decisions, or if two classes have as many.

    Parameters
    ----------
    decisions : Decisions
    n : int
        Number of rows.
    """
    classes = np.full(n, UNDECIDED, np.int64)
    for position, labels in _by_row(decisions).items():
        values, counts = np.unique(labels, return_counts=True)
        if (counts == counts.max()).sum() == 1:
            classes[position] = values[counts.argmax()]
    return classes


@dataclass(frozen=True, eq=False)
class ReviewedRows:
    """The rows of a sample on which reviewers decided, and the shares that they measure.

    Attributes
    ----------
    decisions : Decisions
        On rows of the sample, and possibly on other rows. The latter were not drawn: they only raise a share
        of wrong labels to that of the wrong labels that are found.
    sample : ReviewSample
    given : ndarray of shape (n,), int64
        Class indices of the given labels.
    """

    decisions: Decisions
    sample: ReviewSample
    given: np.ndarray

    @cached_property
    def labels(self) -> dict[int, np.ndarray]:
        """The labels of each row that has one, without "cannot say"."""
        return {i: y[y != UNDECIDED] for i, y in _by_row(self.decisions).items() if (y != UNDECIDED).any()}

    @cached_property
    def used(self) -> np.ndarray:
        """The rows of the sample that have a label, (m,)."""
        return np.array([i for i in self.sample.positions.tolist() if i in self.labels], np.int64)

    @cached_property
    def wrong(self) -> np.ndarray:
        """Shares of the decisions by which the given labels of `used` are wrong, (m,)."""
        return np.array([(self.labels[i] != self.given[i]).mean() for i in self.used.tolist()])

    @cached_property
    def errors(self) -> Interval:
        """Probability that a decision names a wrong class."""
        return disagreement(self.labels.values())

    @cached_property
    def wrong_errors(self) -> Interval:
        """Probability that a decision takes a right label for wrong, or a wrong one for right.

        Repeated rows with wrong labels do not show how often right labels are called wrong, but decisions for
        different classes show that the reviewer makes errors: they count in the upper limit.
        """
        return disagreement(y != self.given[i] for i, y in self.labels.items())._replace(
            high=self.errors.high
        )

    @cached_property
    def decided(self) -> np.ndarray:
        """The class that most decisions on each row name, `OUTSIDE` or `UNDECIDED`, (n,)."""
        return majorities(self.decisions, len(self.given))

    @property
    def verified(self) -> np.ndarray:
        """Whether most decisions on each row name one class, or none of the classes, (n,) bool."""
        return self.decided != UNDECIDED

    def votes(self, rows: np.ndarray, *, wrong_or_right: bool = False) -> np.ndarray:
        """Return the numbers of decisions for each class, (v, w), the argument of `error_of_majority`.

        Parameters
        ----------
        rows : ndarray of shape (v,), int
            Rows with a decided class.
        wrong_or_right : bool
            Whether to count decisions by which the given label is wrong or right, instead of classes.
        """
        named = [self.labels[i] != self.given[i] if wrong_or_right else self.labels[i] for i in rows.tolist()]
        counts = [np.sort(np.unique(one, return_counts=True)[1])[::-1] for one in named]
        votes = np.zeros((len(counts), max(map(len, counts), default=1)), np.int64)
        for row, one in zip(votes, counts, strict=True):
            row[: len(one)] = one
        return votes

    def mean(self, values: np.ndarray, domain: np.ndarray, least: float = 0.0) -> Interval:
        """Return the mean of a value over the rows of a domain, without correction of errors.

        Parameters
        ----------
        values : ndarray of shape (m,)
            In [least, 1], of the rows `used`.
        domain : ndarray of shape (n,), bool
        least : float
            0 or -1.
        """
        within, stratum = domain[self.used], self.sample.stratum
        sizes = np.bincount(stratum[domain], minlength=len(self.sample.names))
        return stratified_mean(values[within], stratum[self.used[within]], sizes, least)

    def wrong_share(self, domain: np.ndarray) -> Interval:
        """Return the share of wrong labels in a domain, (n,) bool; NaN if it is empty.

        The value is at least the share of the wrong labels that the decisions found, also outside the sample.
        """
        if not domain.any():
            return NOTHING
        N, e = int(domain.sum()), self.wrong_errors.value
        measured = correct_share(self.mean(self.wrong, domain), self.wrong_errors, N)
        found = float(min(max(self._wrong_decided(domain)(e, e) / N, 0.0), 1.0))
        return Interval(max(measured.value, found), measured.low, max(measured.high, found))

    def _wrong_decided(self, domain: np.ndarray) -> Callable[[float, float], float]:
        """Return a function from two error rates to the number of wrong labels in decided rows of a domain.

        The error rates are those of `share_without_errors`. If reviewers with the error rate e change c of
        the v labels that they decided on, (c - e v) / (1 - 2 e) of these are expected to be wrong.
        """
        inside, outside = domain & (self.decided >= 0), (domain & (self.decided == OUTSIDE)).sum()
        corrected = (self.decided != self.given)[inside]
        votes = self.votes(inside.nonzero()[0], wrong_or_right=True)
        # As many decisions call the label right as call it wrong, but these name different classes. The
        # decided class then counts as one decision.
        votes[votes[:, 0] == votes[:, 1:].sum(1)] = np.eye(1, votes.shape[1], dtype=np.int64)

        def number(false: float, missed: float) -> float:
            f, m = (error_of_majority(error, votes, 2) for error in (false, missed))
            return float(outside + ((corrected - f) / (1 - f - m)).sum())

        return number

    def wrong_left(self, domain: np.ndarray) -> Interval:
        """Return the share of rows in a domain, (n,) bool, that have a wrong label and no decision.

        The wrong labels of decided rows are subtracted from all.
        """
        N, open_rows = domain.sum(), (domain & ~self.verified).sum()
        if not open_rows:
            return Interval(0.0, 0.0, 0.0)
        decided = self._wrong_decided(domain)

        def left(share: float, false: float, missed: float) -> float:
            wrong = N * share_without_errors(share, false, missed) - decided(false, missed)
            return float(min(max(wrong, 0), open_rows) / N)

        limits = correct_by(left, self.mean(self.wrong, domain), self.wrong_errors, N)
        return Interval(*(float(min(limit, open_rows / N)) for limit in limits))

    @cached_property
    def wrong_decisions(self) -> Interval:
        """Share of all rows that are expected to have a wrong label by a decision.

        The errors are spread over all classes; for the upper limit all of them name one class.
        """
        n, votes = len(self.given), self.votes((self.decided >= 0).nonzero()[0])
        K = int(max(self.given.max(), self.decisions.y.max())) + 1
        value, low, high = (
            float(error_of_majority(error, votes, classes).sum() / n)
            for error, classes in zip(self.errors, (max(K, 2), max(K, 2), 2), strict=True)
        )
        likely = error_of_majority(max(self.errors.value, 1 / (PRIOR + 1)), votes, 2)
        chance = Z * float(np.sqrt((likely * (1 - likely)).sum())) / n
        lowest, highest = value - np.hypot(value - low, chance), value + np.hypot(high - value, chance)
        return Interval(value, max(0.0, float(lowest)), min(1.0, float(highest)))

    def stated(self, interval: Interval, *domains: np.ndarray) -> Interval:
        """Return an interval, without its value if many rows of a domain are in strata without decisions.

        Parameters
        ----------
        interval : Interval
        *domains : ndarray of shape (n,), bool
            The rows that it is about.
        """
        stratum, H = self.sample.stratum, len(self.sample.names)
        for domain in domains:
            decided = np.bincount(stratum[self.used[domain[self.used]]], minlength=H) > 0
            if (domain & ~decided[stratum]).sum() > MOST_UNDECIDED * domain.sum():
                return interval._replace(value=float("nan"))
        return interval


def disagreement(labels: Iterable[np.ndarray]) -> Interval:
    """Return the error rate by the share of different pairs among the decisions on each row, if several."""
    shares_of_pairs = []
    for one in labels:
        if (m := len(one)) > 1:
            counts = np.unique(one, return_counts=True)[1]
            shares_of_pairs.append(1 - float((counts * (counts - 1)).sum()) / (m * (m - 1)))
    return error_rate(len(shares_of_pairs), sum(shares_of_pairs))


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
    sample : ReviewSample
    given, proposed : Tensor (n,), int64
        Class indices of the labels before and after relabelling.
    flags : ndarray of shape (n,), bool
    label_score : ndarray of shape (n,)
        Announced probability that the given label is right.
    """
    g, new = given.numpy(), proposed.numpy()
    rows = ReviewedRows(decisions, sample, g)
    used, decided = rows.used, [rows.labels[i] for i in rows.used.tolist()]
    outside = np.array([(y == OUTSIDE).mean() for y in decided])
    gained = np.array([(y == new[i]).mean() - (y == g[i]).mean() for i, y in zip(used, decided, strict=True)])
    repeated = [y for y in rows.labels.values() if len(y) > 1]
    everything, changed = np.ones(len(g), bool), new != g
    noise, precision = (rows.wrong_share(domain) for domain in (everything, flags))
    strangers = correct_share(
        rows.mean(outside, everything), disagreement(y == OUTSIDE for y in repeated), len(g)
    )
    strangers = Interval(*map(min, strangers, noise))
    wrong_left = zip(rows.wrong_left(everything), rows.wrong_decisions, strict=True)
    decided_outside = float((rows.decided == OUTSIDE).mean())
    left = Interval(*(min(a + b + decided_outside, 1.0) for a, b in wrong_left))
    gain = NOTHING
    if changed.any():
        gain = correct_gain(rows.mean(gained, changed, -1.0), rows.errors, changed.sum())
    recall = NOTHING
    if flags.any() and not flags.all():
        missed = rows.wrong_share(~flags)
        found = Interval(*(flags.mean() * limit for limit in precision))
        recall = share_of_sum(found, Interval(*((1 - flags.mean()) * limit for limit in missed)))
    noise, gain = rows.stated(noise, everything), rows.stated(gain, changed)
    advice: Advice = "review"
    why = "no row of the random sample is decided, so that nothing is measured"
    if len(used):
        seen, fixed = np.isin(np.arange(len(g)), list(rows.labels)), rows.verified
        numbers = [int(one.sum()) for one in (changed, changed[used], changed & ~seen, changed & ~fixed)]
        advice, why = _advise(noise, gain, *numbers, n=len(g))
        if strangers.low > NEGLIGIBLE and advice == "keep":
            advice = "keep" if seen.all() else "review"
            why = f"{percent(strangers)} of the rows belong to none of the classes: leave them out; {why}"
    return Review(
        decisions,
        sample,
        len(used),
        int(np.isin(sample.positions, decisions.positions).sum()) - len(used),
        noise,
        rows.stated(left, everything),
        rows.wrong_decisions,
        rows.stated(strangers, everything),
        rows.stated(precision, flags),
        rows.stated(recall, flags, ~flags),
        gain,
        rows.errors if repeated else rows.errors._replace(value=float("nan")),
        len(repeated),
        sum(len(np.unique(y)) > 1 for y in repeated),
        _strata(rows, label_score),
        _disagreements(decisions),
        advice,
        why,
    )


def measure_flags(rows: ReviewedRows, wrong: np.ndarray, flags: np.ndarray) -> tuple[Interval, Interval]:
    """Measure precision and recall of flags after a review, which verified rows do not have.

    The reviewed rows that would be flagged represent those that are: among both together the share of wrong
    labels is measured, and the wrong labels that the reviewers corrected are subtracted.

    Parameters
    ----------
    rows : ReviewedRows
    wrong : ndarray of shape (n,)
        Probability that each given label is wrong, as if no row were verified.
    flags : ndarray of shape (n,), bool
        The most likely wrong labels that are not verified, and rows of none of the classes.
    """
    if not flags.any():
        return NOTHING, NOTHING
    n, outside = len(flags), rows.decided == OUTSIDE
    flagged = flags & ~rows.verified
    threshold = wrong[flagged].min() if flagged.any() else np.inf
    found = flagged | (rows.verified & (wrong >= threshold))
    flagged_wrong, others = (
        Interval(*(float(one.sum() * limit + (outside & own).sum()) for limit in rows.wrong_left(one)))
        for one, own in ((found, flags), (~found, ~flags))
    )
    missed = Interval(*(a + n * b for a, b in zip(others, rows.wrong_decisions, strict=True)))
    precision = Interval(*(float(min(count / flags.sum(), 1)) for count in flagged_wrong))
    recall = share_of_sum(flagged_wrong, missed)
    precision, recall = (
        one._replace(value=float("nan")) if one.high - one.low > SAYS_NOTHING else one
        for one in (precision, recall)
    )
    return rows.stated(precision, found), rows.stated(recall, found, ~found)


def _advise(
    noise: Interval, gain: Interval, changed: int, decided: int, unseen: int, left: int, *, n: int
) -> tuple[Advice, str]:
    """Return what to do with n labels, and why.

    Of those that relabelling changes, `decided` rows of the sample have a decision, `unseen` rows have none,
    and `left` labels are not verified. The labels stay as they are unless relabelling is measured to help.
    More rows are to be reviewed only if they can matter: not if all changes have a decision, nor if the
    expected benefit is negligible.
    """
    if not changed:
        none = f"no suggestion is certain enough to change a label; {percent(noise)} of the labels are wrong"
        return ("review", f"{none}: decide on the most suspicious rows") if noise.low > 0 else ("keep", none)
    if not unseen:
        seen = f"all {changed:,} labels that relabelling would change have a decision"
        return ("relabel", f"relabelling helps: {seen}") if gain.value > 0 else ("keep", seen)
    if decided < LEAST_DECIDED:
        few, verb = f"only {decided}" if decided else "none", "are" if decided > 1 else "is"
        return (
            "review",
            f"{few} of the {changed:,} labels that relabelling changes {verb} decided in the sample",
        )
    more, limits = ("more", gain) if gain.high > 0 else ("fewer", (-gain.value, -gain.high, -gain.low))
    value, low, high = (f"{100 * limit:z.0f}" for limit in limits)
    per_hundred = f"between {low} and {high}" if np.isnan(gain.value) else f"{value} ({low} to {high})"
    measured = f"relabelling 100 labels gives {per_hundred} {more} right labels, as measured"
    if gain.low > 0:
        return "relabel", f"relabelling helps: {measured}; it changes {left:,} labels that are not verified"
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
    distribution is taken as normal, with the upper limit as its 97.5 % quantile; where the value is unknown,
    the largest possible gain is returned.
    """
    if np.isnan(gain.value):
        return max(gain.high, 0.0)
    spread = (gain.high - gain.value) / Z
    if not spread:
        return max(gain.value, 0.0)
    m, normal = gain.value / spread, NormalDist()
    return spread * (normal.pdf(m) + m * normal.cdf(m))


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
        result[rows] = scale_wrong_share(posterior[rows], given[rows], target)
    return result


def scale_wrong_share(posterior: Tensor, given: Tensor, share: float) -> Tensor:
    """Return probabilities whose mean share of wrong labels is as given.

    The probabilities that labels are wrong, or that they are right, shrink in proportion. A shift of the log
    odds would keep the most extreme rows as they are, although the review contradicts them.

    Parameters
    ----------
    posterior : Tensor (n, K)
        P(true = k | row, given label).
    given : Tensor (n,), int64
    share : float
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


def _strata(rows: ReviewedRows, label_score: np.ndarray) -> pd.DataFrame:
    sample, stratum = rows.sample, rows.sample.stratum[rows.used]
    counts = np.bincount(stratum, minlength=len(sample.names))
    sums = np.bincount(stratum, rows.wrong, minlength=len(sample.names))
    return pd.DataFrame(
        {
            "stratum": sample.names,
            "rows": sample.sizes,
            "reviewed": counts,
            "wrong": np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0),
            "announced": np.bincount(sample.stratum, 1 - label_score) / sample.sizes,
        }
    )


def _disagreements(decisions: Decisions) -> pd.DataFrame:
    frame = pd.DataFrame({"position": decisions.positions, "reviewer": decisions.reviewers, "y": decisions.y})
    frame = frame[frame["y"] != UNDECIDED]
    different = frame.groupby("position")["y"].transform("nunique") > 1
    return frame[different].reset_index(drop=True)
