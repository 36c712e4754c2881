"""Result of an audit, in the user's class names and row order."""

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from layerprobe.auditing.arrays import PREDICTIONS, new_outputs, read_predictions
from layerprobe.auditing.dataset.conflicts import NO_CONFLICTS, Conflicts, find_conflicts
from layerprobe.auditing.dataset.labelled import LabelledDataset, numbers_of_rows
from layerprobe.auditing.features import FlagRule, NetworkReader, check_flag_rule
from layerprobe.auditing.findings import (
    KNOWN_PRECISION,
    MARGIN,
    CandidateTable,
    Findings,
    RepairedLabels,
    by_suspicion,
    depends_on_labels,
    evidence_table,
    find_issues,
    flag,
    label_finding,
    network_doubts,
    network_finding,
    relabel,
    repaired_labels,
    suggest,
    why_noise_is_unknown,
)
from layerprobe.auditing.method.calibration import with_wrong_share
from layerprobe.auditing.method.noise import NoiseEstimate
from layerprobe.auditing.method.policies import OUT_OF_SAMPLE, POLICIES, Interval
from layerprobe.auditing.retraining import InputStore, RetrainedNetwork, ValidationRows, retrain
from layerprobe.auditing.review.decisions import NONE, OUTSIDE, UNDECIDED, Decisions, read_decisions
from layerprobe.auditing.review.estimating import NOTHING
from layerprobe.auditing.review.measuring import (
    Review,
    ReviewedRows,
    majorities,
    measure,
    measure_flags,
    recalibrate,
    scale_wrong_share,
)
from layerprobe.auditing.review.sampling import ReviewSample, draw_sample
from layerprobe.auditing.saving import read_audit, write_audit
from layerprobe.baselines.probabilities import confident_joint_rate
from layerprobe.errors import InputError, LayerprobeWarning, warn
from layerprobe.layers.batches import Batch, check_same_index
from layerprobe.layerwise.classes import Classes, label_column
from layerprobe.pages import render
from layerprobe.utils.files import as_path
from layerprobe.utils.settings import default_settings


@dataclass(frozen=True, eq=False, repr=False)
class Audit:
    """Result of :func:`layerprobe.audit`, :func:`~layerprobe.audit_features` and `audit_predictions`.

    Attributes
    ----------
    findings : Findings
        Ensemble, calibration, noise and tables.
    y : Tensor (n,), int64
        Class indices of the given labels.
    index : ndarray of shape (n,)
        Names of the rows.
    class_set : Classes
        Class names and their indices.
    policy : str
        The selection policy.
    settings : dict
        Arguments of the audit.
    cost : dict of str to float
        Seconds per step.
    reader : NetworkReader or None
        Runs the network for new rows; None for an audit of features.
    rows : LabelledDataset or None
        The training rows; None after `load`, and for an audit of features or predictions without `data`.
    held_out_rows : LabelledDataset or None
        The held-out rows of the policy.
    held_out_y : Tensor (m,), int64, or None
        Class indices of their labels.
    flag_rule : "balanced", float or int
        How many labels are flagged, see `with_flags`.
    conflict_set : Conflicts or None
        Duplicates with other labels, see `conflicts`; None if they are not yet searched for.
    original : Audit or None
        The audit before the decisions of reviewers; None if there are none.
    review : Review or None
        What the decisions measure.
    """

    findings: Findings
    y: Tensor
    index: np.ndarray
    class_set: Classes
    policy: str
    settings: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    reader: NetworkReader | None = None
    rows: LabelledDataset | None = None
    held_out_rows: LabelledDataset | None = None
    held_out_y: Tensor | None = None
    flag_rule: FlagRule = "balanced"
    conflict_set: Conflicts | None = None
    original: "Audit | None" = None
    review: Review | None = None

    def __repr__(self) -> str:
        return f"Audit of {self.n} rows: {self.finding}"

    def _repr_html_(self) -> str:
        evidence = self.evidence
        numbers = ["value", "low", "high"]
        evidence[numbers] = evidence[numbers].map(
            lambda share: "" if np.isnan(share) else f"{100 * share:.1f}\N{NO-BREAK SPACE}%"
        )
        return render("notebook.html.j2", audit=self, evidence=evidence)

    @property
    def decided(self) -> Findings:
        """Deprecated name of `findings`."""
        warnings.warn("Audit.decided is deprecated: use Audit.findings.", DeprecationWarning, stacklevel=2)
        return self.findings

    @property
    def n(self) -> int:
        """Number of training rows."""
        return len(self.y)

    @property
    def classes(self) -> np.ndarray:
        """Names of the classes, (K,)."""
        return self.class_set.names

    @property
    def finding(self) -> str:
        """The findings on the labels and on the network, one sentence each."""
        return f"{self.label_finding} {self.network_finding}"

    @property
    def label_finding(self) -> str:
        """The share of wrong labels in one sentence: estimated, or measured by a review."""
        if self.review is not None and self.review.reviewed:
            return self.review.finding
        return label_finding(self.findings, self.noise, int(self._flags.sum()))

    @property
    def network_finding(self) -> str:
        """Whether a layer predicts better than the head and the baselines, in one sentence."""
        if self.policy == OUT_OF_SAMPLE:
            return f"The predictions agree with {self.findings.criterion.value:.1%} of the given labels."
        return network_finding(self.findings, " on the views" if self.policy == "unseen_views" else "")

    @property
    def advice(self) -> str:
        """The advice on the labels: "review" (verified labels are needed), "relabel" or "keep".

        Only verified labels can tell wrong labels from ambiguous rows. Without them the advice is to review.
        """
        return "review" if self.review is None else self.review.advice

    @property
    def why(self) -> str:
        """The reasons of the advice."""
        if self.review is not None:
            return f"{self.review.why[0].upper()}{self.review.why[1:]}."
        return (
            "The share of wrong labels and the precision of the flags are estimates, which take ambiguous "
            "rows for wrong labels. Decide on the 100 rows of review.html to measure them."
        )

    @property
    def recommendations(self) -> pd.DataFrame:
        """One row per question: subject, advice, why.

        "labels": the advice. "predictions": whether to predict with the "decoder" or the "head". "network":
        whether to "retrain" it, which needs labels that relabelling makes better.
        """
        rows = [("labels", self.advice, self.why)]
        if self.policy != OUT_OF_SAMPLE:
            gain = self.findings.gain
            better = gain is None or gain.low > 0
            rows.append(("predictions", "decoder" if better else "head", self.network_finding))
        retrain = self.advice == "relabel"
        measured = f"relabelling is {'' if retrain else 'not '}measured to help"
        rows.append(("network", "retrain" if retrain else "keep", measured))
        return pd.DataFrame(rows, columns=["subject", "advice", "why"])

    @property
    def evidence(self) -> pd.DataFrame:
        """One row per number that the audit states: quantity, value, low, high, kind, basis.

        The kind is "measured", "estimated" or "unknown"; the basis names the rows or the assumption.
        """
        return evidence_table(self)

    @property
    def noise_interval(self) -> tuple[float, float, float]:
        """The share of wrong labels with its interval: value, low, high.

        After a review it is a 95 % interval; before it see :class:`NoiseEstimate`.
        """
        return self.noise.rate, self.noise.low, self.noise.high

    @property
    def verdict(self) -> str:
        """Deprecated: "repair" or "keep". Use `advice`, `recommendations` and `evidence`."""
        warnings.warn("Audit.verdict is deprecated: use Audit.advice.", DeprecationWarning, stacklevel=2)
        if self.review is not None:
            return "repair" if self.review.advice == "relabel" else "keep"
        return "keep" if network_doubts(self.findings) else "repair"

    @property
    def layers(self) -> CandidateTable:
        """One row per candidate, best first.

        Columns: layer, probe, strength (the hyperparameter); criterion, the accuracy on the rows of the
        policy, with its 95 % interval low, high; gain over the head, with gain_low, gain_high; chosen,
        whether it is a member of the decoder; why. Intervals do not account for the choice among candidates.
        """
        return CandidateTable(self.findings.layers)

    @property
    def controls(self) -> pd.DataFrame:
        """One row per baseline, the decoder last: control, criterion, low, high, beaten."""
        return self.findings.controls

    @cached_property
    @default_settings()
    def noise(self) -> NoiseEstimate:
        """Label noise of the training rows: estimated, or after a review measured.

        The estimated rate is the mean probability that a training label is wrong; with trusted rows beside a
        hold-out it follows from the accuracies on both. After a review the rate is that of the labels that
        are left wrong, see :class:`layerprobe.auditing.Review`; it is NaN where only its interval is
        measured. The matrix and the prior then follow from `posterior`, whose shares of wrong labels are
        measured; the limits of the matrix are NaN.
        """
        noise = self.findings.noise
        if self.review is None:
            return noise
        if self.review.reviewed:
            (rate, low, high), source = self.review.left, self.review.source
        else:
            rates, source = (noise.rate, noise.low, noise.high), noise.source
            rate, low, high = (self._left_wrong(one) for one in rates)
        joint = torch.zeros(len(self.classes), len(self.classes), dtype=torch.float64)
        joint.index_add_(1, self.y, self.posterior.T)
        prior = joint.sum(1, keepdim=True)
        matrix = torch.where(prior > 0, joint / prior, torch.eye(len(joint), dtype=torch.float64)).numpy()
        unknown = np.full_like(matrix, np.nan)
        return replace(
            noise,
            rate=rate,
            low=low,
            high=high,
            matrix=matrix,
            matrix_low=unknown,
            matrix_high=unknown,
            prior=(prior / prior.sum()).flatten().numpy(),
            source=source,
        )

    @property
    def scores(self) -> Tensor:
        """Class scores of the training rows, each by the fit without it, (n, K)."""
        return self.findings.scores

    @cached_property
    @default_settings()
    def posterior(self) -> Tensor:
        """P(true class | row, given label), (n, K), recalibrated by a review if there is one.

        It is zero for a row that reviewers found to belong to none of the classes.
        """
        if self.review is None:
            posterior = self.findings.calibration.posterior(self.scores, self.y)
            # Scores of memorised rows look right too often; and the estimate may be that of other rows.
            return with_wrong_share(posterior, self.y, max(self.findings.noise.rate, 0.5 / self.n))
        posterior = self._recalibrated.clone()
        open_rows, left = ~self.verified, self.review.left.value
        if not np.isnan(left) and open_rows.any():
            share = left - self.review.wrong_decisions.value - float(self.outside.double().mean())
            share *= self.n / float(open_rows.sum())
            posterior[open_rows] = scale_wrong_share(posterior[open_rows], self.y[open_rows], share)
        posterior[self.verified] = nn.functional.one_hot(self.y[self.verified], len(self.classes)).double()
        posterior[self.outside] = 0
        return posterior

    @cached_property
    def _recalibrated(self) -> Tensor:
        """The probabilities before the review, recalibrated by it; of verified rows, too, (n, K)."""
        base = self._before_review
        return base.posterior if self.review is None else recalibrate(base.posterior, base.y, self.review)

    @cached_property
    def verified(self) -> Tensor:
        """Whether reviewers decided on the label of each training row, (n,) bool."""
        return self._decided != UNDECIDED

    @cached_property
    def outside(self) -> Tensor:
        """Whether reviewers decided that each training row belongs to none of the classes, (n,) bool."""
        return self._decided == OUTSIDE

    @cached_property
    def _decided(self) -> Tensor:
        """The class that reviewers decided on for each training row, `OUTSIDE` or `UNDECIDED`, (n,)."""
        if self.review is None:
            return torch.full((self.n,), UNDECIDED)
        return torch.from_numpy(majorities(self.review.decisions, self.n))

    @cached_property
    @default_settings()
    def pred_probs(self) -> np.ndarray:
        """P(true class | row), (n, K), by the fit without the row; cleanlab's `pred_probs`."""
        return self.findings.calibration.probabilities(self.scores).numpy()

    @cached_property
    @default_settings()
    def _flags(self) -> Tensor:
        """Flags of the given labels, (n,) bool."""
        if not self._wrong_share_is_measured and not self._wrong_share_is_unknown:
            return flag(self._wrong, self.flag_rule)
        base, share = self._before_review, self.noise.rate
        if np.isnan(share):  # a review measures only its interval
            share = float(self._wrong.mean())
        elif self.review is not None:
            share -= self.review.wrong_decisions.value  # of verified labels, which no score finds
        if self._wrong_share_is_unknown:
            given = self.policy == OUT_OF_SAMPLE  # uncalibrated, since the calibration is unknown, too
            p = self.scores.softmax(1).double() if given else torch.from_numpy(self.pred_probs)
            if not depends_on_labels(p, base.y):
                share = float(self.outside.double().mean())
            elif POLICIES[self.policy].needs != "holdout":
                share = self._left_wrong(confident_joint_rate(p.numpy(), base.y.numpy()))
        return flag(self._wrong, self.flag_rule, share)

    def _left_wrong(self, share: float) -> float:
        """Return the share of wrong labels after a review, of a share before it."""
        corrected = float((self.y != self._before_review.y).double().mean())
        outside = float(self.outside.double().mean())  # wrong labels that no correction removes
        return max(share - corrected, outside)

    @cached_property
    @default_settings()
    def _issues(self) -> pd.DataFrame:
        return find_issues(self.scores, self.posterior, self.y, self.index, self.classes, self._flags)

    @cached_property
    def _wrong(self) -> Tensor:
        """Probability that each given label is wrong, (n,)."""
        return 1 - self.posterior.gather(1, self.y[:, None]).squeeze(1).clamp(0, 1)

    @property
    def issues(self) -> pd.DataFrame:
        """One row per training row, in their order.

        Columns: index; given_label; suggested_label, "none of the classes" where reviewers found so;
        label_score, the probability that the given label is right; is_label_issue; margin, the score of the
        given label minus the best other score.
        """
        return self._issues.copy()

    @property
    def suggested(self) -> Tensor:
        """Class indices of the suggested labels, -2 for none of the classes, (n,)."""
        return suggest(self.posterior, self.y, self._flags)

    @property
    def conflicts(self) -> pd.DataFrame:
        """One line per row whose features equal, or nearly equal, those of a row with another label.

        Columns: index, given_label; other_index, other_label, the most similar row with another label;
        similarity, 1 for equal rows, else one minus their distance over the distances to other neighbours;
        group, the number of the group of rows that conflicts connect. The groups with the most similar rows
        come first. Compared are the inputs, or the first layer of given features; rows of predictions only
        with `data`. Near duplicates of texts and tokens, and of more than 200,000 rows, are not searched for.
        """
        found = self.open_conflicts()
        labels = self.classes[self.y.numpy()]
        return pd.DataFrame(
            {
                "index": self.index[found.positions],
                "given_label": labels[found.positions],
                "other_index": self.index[found.others],
                "other_label": labels[found.others],
                "similarity": found.similarity,
                "group": found.group,
            }
        )

    def open_conflicts(self) -> Conflicts:
        """Return the conflicts that a review has not solved, in the order of `conflicts`."""
        found, y = self._before_review.all_conflicts, self.y.numpy()
        return found.among(y[found.positions] != y[found.others])

    @cached_property
    @default_settings()
    def all_conflicts(self) -> Conflicts:
        """All conflicts of the given labels; those of held rows are searched for when first needed."""
        if self.conflict_set is not None:
            return self.conflict_set
        if self.rows is None:
            return NO_CONFLICTS
        return find_conflicts(numbers_of_rows(self.rows), self.y, self.rows.fingerprints())

    @property
    def expected_precision(self) -> float:
        """Expected share of wrong labels among the flagged ones; NaN if unknown, see `precision_interval`."""
        return self.precision_interval.value

    @property
    def expected_recall(self) -> float:
        """Expected share of the wrong labels that are flagged; NaN if unknown, see `recall_interval`."""
        return self.recall_interval.value

    @property
    def precision_interval(self) -> Interval:
        """Expected precision of the flags; the limits are that at the lowest and at the highest noise rate.

        The value is NaN where only the range is known: the noise rate is unknown, or the range is wider
        than .1. After a review it is measured, with its 95 % interval.
        """
        if self._measured_flags is not None:
            return self._measured_flags[0]
        value, low, high = self._announced(lambda wrong, flags: wrong[flags].mean())
        return Interval(value, low * (self.noise.low > 0), high)  # zero, if possibly no label is wrong

    @property
    def recall_interval(self) -> Interval:
        """Expected recall of the flags, as `precision_interval`."""
        if self._measured_flags is not None:
            return self._measured_flags[1]
        return self._announced(lambda wrong, flags: wrong[flags].sum() / wrong.sum())

    @cached_property
    @default_settings()
    def _measured_flags(self) -> tuple[Interval, Interval] | None:
        """Precision and recall of the flags, as a review measures them; None without its decisions."""
        if self.review is None or not self.review.reviewed:
            return None
        given = self._before_review.y
        rows = ReviewedRows(self.review.decisions, self.review.sample, given.numpy())
        own = self._recalibrated.gather(1, given[:, None]).squeeze(1)
        return measure_flags(rows, 1 - own.numpy(), self.issue_mask())

    def _announced(self, share: Callable[[Tensor, Tensor], Tensor]) -> Interval:
        """Return a share of probabilities (n,) and flags (n,) with its interval; the value NaN if unknown."""
        value, *ends = (float(share(wrong, self._flags)) for wrong in self._wrong_at_interval)
        low, high = min(ends), max(ends)
        known = not self._noise_is_unknown and high - low <= KNOWN_PRECISION
        return Interval(value if known else float("nan"), low, high)

    @property
    def _noise_is_unknown(self) -> str:
        """Why the noise rate is unknown; empty if it is known."""
        return why_noise_is_unknown(self.findings, self.noise)

    @property
    def _wrong_share_is_unknown(self) -> bool:
        """Whether the share of wrong labels is neither measured nor estimated."""
        return not self._wrong_share_is_measured and bool(self._before_review._noise_is_unknown)

    @property
    def _wrong_share_is_measured(self) -> bool:
        """Whether a review measures the share of wrong labels."""
        return self.review is not None and not np.isnan(self.review.noise.value)

    @cached_property
    def _wrong_at_interval(self) -> tuple[Tensor, Tensor, Tensor]:
        """Probability that each label is wrong, at the noise rate and at the ends of its interval."""
        rates = (max(share, 0.5 / self.n) for share in (self.noise.low, self.noise.high))
        ends = (with_wrong_share(self.posterior, self.y, rate) for rate in rates)
        low, high = (1 - p.gather(1, self.y[:, None]).squeeze(1) for p in ends)
        return self._wrong, low, high

    def with_flags(self, rule: FlagRule) -> "Audit":
        """Return this audit with other flags; the scores stay.

        Parameters
        ----------
        rule : "balanced", float in (0, 1) or int
            "balanced": about as many labels as are expected to be wrong, the most suspicious first. Where the
            noise is estimated, the number with the highest expected F1; after a review, the number that it
            measures. Where the noise is unknown and there is no noisy hold-out, as many as confident learning
            counts in the out-of-sample probabilities; none, if these do not depend on the labels. A float: as
            many as have this expected precision; a warning says so if it is unknown. An int: this many.

        Raises
        ------
        InputError
            For any other rule.
        """
        rule = check_flag_rule(rule)
        if self.review is not None:
            return replace(self._before_review, flag_rule=rule).apply(self.review.decisions)
        found = replace(self, flag_rule=rule)
        value, low, high = found.precision_interval
        if isinstance(rule, float) and np.isnan(value) and found._flags.any():
            warn(
                f"the precision of the flags is {rule:.0%} by one estimate only; it is between {low:.0%} and "
                f"{high:.0%}. Decide on the rows of review_sample() to measure it",
                LayerprobeWarning,
            )
        return found

    def issue_mask(self) -> np.ndarray:
        """Return the flags in row order, (n,) bool."""
        return self._flags.numpy().copy()

    def issue_indices(self) -> np.ndarray:
        """Return the names of the flagged rows, lowest label score first."""
        return self.index[by_suspicion(self._issues)[: int(self._flags.sum())]]

    def example(self, i: int) -> np.ndarray | str | None:
        """Return row i for display: an image, a text, or None for other data."""
        return self.examples([i])[0]

    def examples(self, positions: Iterable[int]) -> list[np.ndarray | str | None]:
        """Return rows for display, as `example`; the data are read once for all of them."""
        return [None for _ in positions] if self.rows is None else self.rows.examples(positions)

    @default_settings()
    def predict_scores(self, x: Any) -> np.ndarray:
        """Return class scores of new rows.

        Parameters
        ----------
        x
            Inputs in the form of the training data, with or without labels; for an audit of features, a
            mapping of layer to outputs (m, d), or one array as in the audit; for an audit of predictions,
            predictions (m, K).

        Returns
        -------
        ndarray of shape (m, K)

        Raises
        ------
        InputError
            If the rows do not fit the network or the layers, or the audit was loaded without its network.
        """
        ensemble = self.findings.ensemble
        if self.policy == OUT_OF_SAMPLE:
            outputs = {PREDICTIONS: read_predictions(x, classes=self.classes)}
        elif self.reader is None:
            dimensions = {m.candidate.layer: m.probe.n_features_in_ for m in ensemble.members}
            outputs = new_outputs(x, dimensions)
        else:
            outputs = self.reader.read_new(x, ensemble.layers, self.settings.get("inputs"))
        return ensemble.scores(outputs).numpy()

    def predict_proba(self, x: Any) -> np.ndarray:
        """Return class probabilities (m, K) of new rows; `x` as for `predict_scores`."""
        scores = torch.from_numpy(self.predict_scores(x))
        return self.findings.calibration.probabilities(scores).numpy()

    def predict(self, x: Any) -> np.ndarray:
        """Return labels (m,) of new rows; `x` as for `predict_scores`."""
        return self.classes[self.predict_scores(x).argmax(1)]

    def review_sample(self, n: int = 100, seed: int = 0) -> pd.DataFrame:
        """Draw rows to review: a random sample, stratified by score, mostly of rows to relabel.

        Parameters
        ----------
        n : int
            Number of distinct rows. A tenth of them appears again at the end, which measures the errors of
            the reviewer.
        seed : int

        Returns
        -------
        DataFrame
            One row per decision, in random order. Columns: index, given_label, suggested_label, label_score,
            stratum, weight (training rows per drawn row of the stratum), repeat; sample_n and sample_seed,
            by which `apply` knows the sample.

        Raises
        ------
        InputError
            If `n` or `seed` is not a whole number, or `n` is below 1.
        """
        sample = self._sample(n, seed)
        rows = np.concatenate([sample.positions, sample.repeated])
        columns = ["index", "given_label", "suggested_label", "label_score"]
        frame = self._before_review._issues[columns].iloc[rows]
        stratum = sample.stratum[rows]
        drawn = np.bincount(sample.stratum[sample.positions], minlength=len(sample.names))
        weights = sample.sizes / drawn.clip(min=1)  # a small sample has strata without rows
        repeat = np.arange(len(rows)) >= len(sample.positions)
        names = np.array(sample.names)[stratum]
        design = {f"sample_{name}": value for name, value in sample.design.items()}
        frame = frame.assign(stratum=names, weight=weights[stratum], repeat=repeat, **design)
        return frame.reset_index(drop=True)

    def _sample(self, n: int, seed: int) -> ReviewSample:
        """Return the sample of `review_sample` as positions of rows."""
        audit = self._before_review
        changed = audit._proposed("confident") != audit.y
        if not changed.any():
            changed = flag(audit._wrong, "balanced", audit.noise.rate)
        return draw_sample(audit._issues["label_score"].to_numpy(), changed.numpy(), n, seed)

    @property
    def _before_review(self) -> "Audit":
        return self.original or self

    @default_settings()
    def apply(self, decisions: Any, *, n: int | None = None, seed: int | None = None) -> "Audit":
        """Return this audit with the decisions of reviewers.

        Decided rows get their right label. Decisions on the random sample measure how many labels are wrong,
        the precision and recall of the flags, and the gain of relabelling, with 95 % intervals; see
        :class:`layerprobe.auditing.Review`. The probabilities of the other rows are recalibrated.

        Parameters
        ----------
        decisions : DataFrame, list of records, or path to .json or .csv
            Columns "index" and "label" (empty: cannot say; "none of the classes"), and possibly "reviewer";
            several decisions on one row are counted. The frame of `review_sample` with a column "label", the
            export of the review page and annotations of Label Studio state their sample.
        n, seed : int, optional
            Arguments of `review_sample`. By default those that the decisions state, or else 100 and 0.

        Returns
        -------
        Audit
            Decisions of a reviewed audit and new ones add up.

        Raises
        ------
        InputError
            For unknown rows or labels, or decisions on two samples.
        DataError
            If the file cannot be read.
        """
        from layerprobe.auditing.review.page import sample_id

        base = self._before_review
        if not isinstance(decisions, Decisions):
            decisions = read_decisions(
                decisions,
                base.index,
                base.classes,
                sample_size=n,
                sample_seed=seed,
                sample_id=lambda *design: sample_id(base, base._sample(*design)),
            )
        if self.review is not None:
            decisions = self.review.decisions.followed_by(decisions)
        sample = self._sample(decisions.sample_size, decisions.sample_seed)
        score = base._issues["label_score"].to_numpy()
        review = measure(decisions, sample, base.y, base._proposed("confident"), base.issue_mask(), score)
        decided = torch.from_numpy(majorities(decisions, self.n))
        return replace(base, y=torch.where(decided >= 0, decided, base.y), original=base, review=review)

    def trusted_rows(self) -> tuple[Any, np.ndarray]:
        """Return the inputs and the right labels of the verified rows that belong to a class.

        Texts are returned as a list of texts, and other rows as inputs of the network. They serve as
        `trusted=` for a network that is trained without them.

        Raises
        ------
        InputError
            If no row is verified, or the audit holds no rows.
        """
        right = self.verified & ~self.outside
        if not right.any():
            raise InputError("no row is verified: apply the decisions of a review first, audit.apply(...)")
        if self.rows is None:
            raise InputError(
                "this audit holds no rows: it was loaded from a file, or made of features or predictions "
                "without data="
            )
        positions = right.nonzero().squeeze(1)
        if isinstance(self.example(int(positions[0])), str):
            inputs: Any = self.examples(positions.tolist())
        else:
            inputs = InputStore(self.rows).take(positions)
        return inputs, self.classes[self.y[right].numpy()]

    @default_settings()
    def relabel(
        self, policy: str = "confident", *, margin: float = MARGIN, force: bool | None = None
    ) -> RepairedLabels:
        """Return a repaired label set. Verified labels stay under every policy.

        Rows that reviewers found to belong to none of the classes keep their given label, and are not `kept`
        for training.

        Parameters
        ----------
        policy : {"confident", "all", "soft", "prune", "verified"}
            "confident": the suggestion where it is more likely than the given label by `margin`, by the
            probabilities before a review; a review measures the gain of just these changes. "all": the
            prediction for every row, as in the paper. "soft": probabilities. "prune": the given labels
            without the flagged rows. "verified": the given labels with those that reviewers corrected.
        margin : float
            Of "confident". The gain is measured for the default.
        force : bool, optional
            Deprecated and without effect.

        Returns
        -------
        RepairedLabels
            With the expected shares of wrong labels before and after, NaN where the noise is unknown.
        """
        if force is not None:
            warnings.warn("relabel() needs no force=: it always repairs.", DeprecationWarning, stacklevel=2)
        proposed = self._proposed(policy, margin)
        made = self._repaired(policy, torch.where(self.verified, self.y, proposed))
        if self.review is None or not self.review.reviewed or policy in ("soft", "prune"):
            return made
        measured = self._wrong_share_of(proposed, self.review, int(made.kept.sum()))
        after = made.wrong_after if np.isnan(measured.value) else measured.value
        return replace(made, wrong_after=after, wrong_after_interval=measured)

    def _proposed(self, policy: str, margin: float = MARGIN) -> Tensor:
        """Return the classes of repaired labels, (n,), as if no row were verified."""
        # A review measures the gain of these changes; the scores that it recalibrates would choose others.
        base = self if policy == "soft" else self._before_review
        return relabel(policy, torch.from_numpy(self.pred_probs), base.posterior, base.y, margin=margin)

    def _wrong_share_of(self, proposed: Tensor, review: Review, kept: int) -> Interval:
        """Return the share of wrong labels among `kept` rows, if decisions replace proposed labels (n,)."""
        rows, every = ReviewedRows(review.decisions, review.sample, proposed.numpy()), np.ones(self.n, bool)
        if not kept:
            return NOTHING
        parts = zip(rows.wrong_left(every), rows.wrong_decisions, strict=True)
        return rows.stated(Interval(*(min((a + b) * self.n / kept, 1.0) for a, b in parts)), every)

    def _repaired(self, policy: str, y: Tensor) -> RepairedLabels:
        """Return a label set in which rows of none of the classes are not kept."""
        dropped = self.outside | self._flags if policy == "prune" else self.outside
        made = repaired_labels(policy, y, dropped, self.y, self.posterior, self.classes)
        if self._wrong_share_is_unknown:
            return replace(made, wrong_before=float("nan"), wrong_after=float("nan"))
        if self.review is None or not made.kept.any():
            return made
        by_decisions = self.review.wrong_decisions.value
        return replace(
            made,
            wrong_before=made.wrong_before + by_decisions,
            wrong_after=made.wrong_after + by_decisions / made.kept.mean(),
        )

    @default_settings()
    def retrain(self, labels: Any = None, **options: Any) -> RetrainedNetwork:
        """Train a copy of the network on repaired labels, by default the soft ones.

        Parameters
        ----------
        labels : RepairedLabels or sequence of n labels, optional
            Result of `relabel`, or any labels of the rows.
        **options
            As for :func:`layerprobe.auditing.retraining.retrain`.

        Raises
        ------
        InputError
            If the labels belong to other rows or are none of the classes, the audit holds no network, or
            training is not possible.
        """
        model, rows = self.training_rows()
        if labels is None:
            labels = self.relabel("soft")
        elif not isinstance(labels, RepairedLabels):
            self.require_order(labels)
            names = label_column(labels, "labels")
            if names.shape != (self.n,):
                raise InputError(
                    f"expected one label per row, {self.n}, got labels of the shape {names.shape}"
                )
            labels = self._repaired("given", self.class_set.indices(names, "labels"))
        if labels.targets.shape != (self.n, len(self.classes)):
            raise InputError(
                f"expected labels of the {self.n} rows and {len(self.classes)} classes of the audit, got "
                f"targets of the shape {labels.targets.shape}"
            )
        validation = None
        if self.held_out_rows is not None and self.held_out_y is not None:
            validation = ValidationRows(self.held_out_rows, self.held_out_y, self.policy)
        if self.reader is not None:
            options = {"head": self.reader.head, "outputs": self.reader.outputs, **options}
        return retrain(model, rows, labels, validation, **options)

    @default_settings()
    def edit_head(self, probe: Any = "ridge", **options: Any) -> nn.Module:
        """Return a copy of the network whose last layer is a linear probe of the last hidden layer.

        The probe is fitted on the given labels and, after a review, on the verified ones, without the rows
        that reviewers found to belong to none of the classes.

        Parameters
        ----------
        probe : str or Probe
        **options
            As for :func:`layerprobe.edit_head`.
        """
        from layerprobe.editing import edit_head

        model, rows = self.training_rows()
        y = self.y
        if self.reader is not None and self.reader.outputs is not None:
            y = torch.tensor(self.reader.outputs)[y]
        inside = ~self.outside.numpy()
        batches = (
            Batch(x, y[torch.from_numpy(positions)], None, len(positions), x).take(
                inside[positions].nonzero()[0]
            )
            for x, positions in rows.batches()
        )
        return edit_head(model, ((one.inputs, one.labels) for one in batches if one.size), probe, **options)

    @default_settings()
    def compare(
        self,
        baselines: Any = None,
        *,
        true_labels: Any = None,
        features: Any = None,
        views: Sequence[Mapping[str, Any]] = (),
        pred_probs: Any = None,
        history: Any = None,
    ) -> pd.DataFrame:
        """Compare the label scores and flags with those of published detectors.

        Detectors read the same rows and layer outputs, averaged over the same views. An audit does not keep
        layer outputs: the network runs over the rows again, and an audit of features needs its arrays again.
        After a review this compares the audit before it, and the decisions are the right labels by default.

        Parameters
        ----------
        baselines : names, detectors, or mapping of names to them, optional
            Of :mod:`layerprobe.baselines`. By default all whose input is given.
        true_labels : sequence of n labels, optional
            Right labels, for the AUROC; None or NaN for rows whose right label is unknown. The AUROC is that
            of the known rows, which after a review are not drawn evenly from all rows.
        features, views : optional
            The arguments of :func:`layerprobe.audit_features`, in the same order of rows.
        pred_probs : array (n, K) or mapping of names to them, optional
            Class probabilities besides those of the network, for example out of sample.
        history : History, array (epochs, n, K) or mapping of names to them, optional
            A recorded training, for "aum" and "data_maps"; or logits or probabilities of the rows after each
            epoch, for these and "mean_margin".

        Returns
        -------
        DataFrame
            One row per detector and input, after one for the audit. Columns: detector; layer, the name of
            the input; overlap, the share of the flagged labels that are among as many lowest scores of the
            detector; flagged, the share that its own rule flags, and agreement, the share of rows where this
            rule and the audit decide alike, NaN for a detector without a rule; auroc, of its scores against
            the true labels, NaN without them.

        Raises
        ------
        InputError
            If arrays do not fit the rows, a named detector lacks its input, or the audit holds no layer
            outputs.
        """
        from layerprobe.auditing.comparison import compare_with

        audit = self._before_review
        if true_labels is None and self.verified.any():
            true_labels = self.classes[self.y.numpy()].astype(object)
            true_labels[self.outside.numpy()] = NONE
            true_labels[~self.verified.numpy()] = None
        inputs = {"features": features, "views": views, "pred_probs": pred_probs, "history": history}
        return compare_with(audit, baselines, true_labels, **inputs)

    def report(self, path: str | os.PathLike[str]) -> None:
        """Write the audit as one self-contained HTML file, and beside it `review.html`, see `review_page`.

        Parameters
        ----------
        path : path

        Raises
        ------
        InputError
            If the name is that of the review page.
        DataError
            If the folder does not exist.
        """
        from layerprobe.auditing.report.page import REVIEW_PAGE, write_page

        path = as_path(path)
        if path.name == REVIEW_PAGE:
            raise InputError(f"{REVIEW_PAGE} is the name of the review page: give the report another name")
        write_page(self, path)
        self.review_page(path.with_name(REVIEW_PAGE))

    def review_page(
        self, path: str | os.PathLike[str], *, n: int = 100, seed: int = 0, most: int = 1000
    ) -> None:
        """Write the page on which a person decides which labels are right, as one offline HTML file.

        It shows the random sample first, then the rows whose labels are most likely wrong. Its export is an
        argument of `apply`.

        Parameters
        ----------
        path : path
        n, seed : int
            As for `review_sample`.
        most : int
            Maximal number of rows beside the sample.

        Raises
        ------
        InputError
            As for `review_sample`, or if `most` is negative.
        DataError
            If the folder does not exist.
        """
        from layerprobe.auditing.review.page import write_review_page

        write_review_page(self._before_review, as_path(path), self._sample(n, seed), most)

    def label_studio_tasks(self, path: str | os.PathLike[str], *, n: int = 100, seed: int = 0) -> None:
        """Write the rows of `review_sample` as tasks of Label Studio, a JSON file.

        Its annotations, exported as JSON, are an argument of `apply`.

        Parameters
        ----------
        path : path
        n, seed : int
            As for `review_sample`.

        Raises
        ------
        DataError
            If the folder does not exist.
        """
        from layerprobe.auditing.review.page import write_tasks

        write_tasks(self._before_review, as_path(path), self._sample(n, seed))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the audit, without the network and the rows, as one safetensors file.

        Raises
        ------
        InputError
            If the decoder has probes, or the classes have names, that cannot be stored.
        DataError
            If the file cannot be written.
        """
        write_audit(path, self)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: nn.Module | None = None, **functions: Any) -> Self:
        """Read a saved audit.

        Parameters
        ----------
        path : path
        model : nn.Module, optional
            The audited network, which only predictions need.
        **functions
            The arguments `views`, `pool` and `inputs` of :func:`layerprobe.audit`, if they were functions.

        Returns
        -------
        Audit
            With equal numbers, but without rows: it cannot show rows, `retrain` or `edit_head`.

        Raises
        ------
        DataError
            If the file is missing, damaged or of another kind.
        InputError
            If functions are missing or differ, or the network has other layers or weights.
        """
        arguments = read_audit(path, model, **functions)
        decisions = arguments.pop("decisions")
        audit = cls(**arguments)
        return audit if decisions is None else audit.apply(decisions)  # type: ignore[return-value]

    def require_order(self, values: Any) -> None:
        """Raise an InputError if values of pandas have the names of the rows in another order."""
        if not np.array_equal(self.index, np.arange(self.n)):  # names, and not positions
            check_same_index((pd.Series(self.index, self.index), values))

    def training_rows(self) -> tuple[nn.Module, LabelledDataset]:
        """Return the network and its training rows; raise if the audit holds none."""
        if self.rows is None or self.reader is None or self.reader.model is None:
            raise InputError(
                "this audit holds no network and rows: it was loaded from a file, or made of features or "
                "predictions; audit the network to repair it"
            )
        return self.reader.model, self.rows
