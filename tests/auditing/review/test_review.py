"""Reviews of an audit with known wrong labels, from the sample to corrected labels."""

import json
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from auditing.planted import clusters, corrupted
from layerprobe import Audit, audit_features, audit_predictions
from layerprobe.auditing.review.decisions import KIND, NONE, OUTSIDE, Decisions
from layerprobe.auditing.review.estimating import error_rate
from layerprobe.auditing.review.measuring import ReviewedRows, measure, percent
from layerprobe.auditing.review.sampling import draw_sample
from layerprobe.cli import main
from layerprobe.errors import DataError, InputError, LayerprobeWarning

NAMES = np.array(["ant", "bee, big", "=cat"])
X, TRUE = clusters(900, apart=2.2)
GIVEN = corrupted(TRUE, 3, 0.25, seed=4)
HELD_X, HELD_TRUE = clusters(600, seed=1, apart=2.2)
HELD = corrupted(HELD_TRUE, 3, 0.25, seed=5)
INDEX = np.array([f"row {i}" for i in range(900)])


@pytest.fixture(scope="module")
def audit():
    return audit_features(
        {"fc1": X},
        NAMES[GIVEN],
        policy="noisy_holdout",
        holdout=({"fc1": HELD_X}, NAMES[HELD]),
        probes=["ridge", "ncm"],
        class_names=NAMES.tolist(),
        index=INDEX,
    )


def right(index):
    places = [int(name.split()[1]) for name in index]
    return NAMES[TRUE[places].numpy()]


def decisions_on(sample, **columns):
    return pd.DataFrame({"index": sample["index"], "label": right(sample["index"]), **columns})


def test_sample_is_a_frame_with_weights_that_sum_to_all_rows(audit):
    sample = audit.review_sample(60, seed=2)
    assert list(sample) == [
        "index",
        "given_label",
        "suggested_label",
        "label_score",
        "stratum",
        "weight",
        "repeat",
        "sample_n",
        "sample_seed",
    ]
    assert sample[~sample["repeat"]]["weight"].sum() == pytest.approx(900)
    assert sample["repeat"].sum() == 6
    assert sample["index"].nunique() == 60


def test_review_measures_noise_precision_and_recall(audit):
    reviewed = audit.apply(decisions_on(audit.review_sample()))
    review, wrong, flags = reviewed.review, (GIVEN != TRUE).numpy(), audit.issue_mask()
    assert review.reviewed == 100
    assert review.pairs == 10
    assert review.different == 0
    assert review.noise.low <= wrong.mean() <= review.noise.high
    assert review.precision.low <= wrong[flags].mean() <= review.precision.high
    assert review.recall.low <= wrong[flags].sum() / wrong.sum() <= review.recall.high
    proposed = audit.relabel("confident").labels
    changed = proposed != NAMES[GIVEN]
    became = (proposed == NAMES[TRUE]).astype(int) - (NAMES[GIVEN] == NAMES[TRUE])
    assert review.gain.low <= became[changed].mean() <= review.gain.high
    assert review.advice == "relabel"
    assert reviewed.advice == "relabel"
    assert reviewed.why.startswith("Relabelling helps")


def test_review_of_everything_is_exact(audit):
    review = audit.apply(decisions_on(audit.review_sample(900)), n=900).review
    wrong, flags = (GIVEN != TRUE).numpy(), audit.issue_mask()
    assert review.noise.value == pytest.approx(wrong.mean())
    assert review.precision.value == pytest.approx(wrong[flags].mean())
    assert review.recall.value == pytest.approx(wrong[flags].sum() / wrong.sum())


def test_verified_labels_are_fixed_and_scores_recalibrated(audit):
    sample = audit.review_sample()
    reviewed = audit.apply(decisions_on(sample))
    rows = [int(name.split()[1]) for name in sample["index"]]
    fixed = reviewed.issues.iloc[rows]
    assert (fixed["given_label"] == right(sample["index"])).all()
    assert (fixed["label_score"] == 1).all()
    assert not fixed["is_label_issue"].any()
    assert (reviewed.relabel("confident").labels[rows] == right(sample["index"])).all()
    corrected = (GIVEN[rows] != TRUE[rows]).numpy()[~sample["repeat"]].sum() / 900
    assert reviewed.noise.rate == pytest.approx(reviewed.review.noise.value - corrected)
    assert reviewed.posterior.sum(1).numpy() == pytest.approx(np.ones(900))
    others = ~reviewed.verified
    announced = 1 - reviewed.issues["label_score"].to_numpy()[others].mean()
    assert announced == pytest.approx((GIVEN != TRUE)[others].double().mean().item(), abs=0.06)
    assert audit.review is None
    assert (audit.y == GIVEN).all()


def test_labels_that_relabelling_would_harm_are_kept(audit):
    """The reviewer calls every given label right."""
    sample = audit.review_sample()
    reviewed = audit.apply(pd.DataFrame({"index": sample["index"], "label": sample["given_label"]}))
    assert reviewed.review.advice == "keep"
    assert reviewed.advice == "keep"
    assert (reviewed.relabel("verified").labels == NAMES[GIVEN]).all()
    assert reviewed.review.noise.value == 0
    assert np.isnan(reviewed.review.recall.value)
    assert reviewed.label_finding.endswith("of the labels flagged before the review are wrong.")
    harmful = reviewed.relabel()
    assert harmful.wrong_after > harmful.wrong_before


@pytest.mark.parametrize("right_rows", [True, False])
def test_labels_that_change_after_a_review_are_those_whose_gain_it_measures(audit, right_rows):
    sample = audit.review_sample()
    label = right(sample["index"]) if right_rows else sample["given_label"]
    reviewed = audit.apply(pd.DataFrame({"index": sample["index"], "label": label}))
    measured, done = audit.relabel("confident"), reviewed.relabel("confident")
    others = ~reviewed.verified.numpy()
    assert (done.labels[others] == measured.labels[others]).all()
    assert (done.changed == measured.changed & others).all()


@pytest.mark.parametrize("policy", ["confident", "all", "soft", "prune", "verified"])
def test_verified_labels_stay_and_rows_of_none_of_the_classes_are_left_out(audit, policy):
    sample = audit.review_sample()
    decisions = decisions_on(sample)
    strangers = sample["index"].unique()[:7]
    decisions.loc[decisions["index"].isin(strangers), "label"] = NONE
    reviewed = audit.apply(decisions)
    outside = np.isin(INDEX, strangers)
    repaired = reviewed.relabel(policy)
    assert (reviewed.outside.numpy() == outside).all()
    assert not repaired.kept[outside].any()
    assert (repaired.labels[outside] == NAMES[GIVEN][outside]).all()
    known = reviewed.verified.numpy() & ~outside
    assert (repaired.labels[known] == NAMES[TRUE][known]).all()
    assert repaired.kept[known].all()
    assert (repaired.targets[known].argmax(1) == TRUE.numpy()[known]).all()


def test_rows_of_none_of_the_classes_count_as_wrong_and_cannot_be_relabelled(audit, tmp_path):
    """A review of all rows, a tenth of which belong to none of the classes."""
    strange = np.random.default_rng(0).random(900) < 0.1
    label = np.where(strange, NONE, NAMES[TRUE])
    reviewed = audit.apply(pd.DataFrame({"index": INDEX, "label": label}), n=900)
    review, flags = reviewed.review, audit.issue_mask()
    wrong = strange | (GIVEN != TRUE).numpy()
    proposed = audit.relabel("confident").labels
    changed = proposed != NAMES[GIVEN]
    gain = (proposed == label).astype(int) - (NAMES[GIVEN] == label)
    assert review.noise.value == pytest.approx(wrong.mean())
    assert review.outside.value == pytest.approx(strange.mean())
    assert review.precision.value == pytest.approx(wrong[flags].mean())
    assert review.recall.value == pytest.approx(wrong[flags].sum() / wrong.sum())
    assert review.gain.value == pytest.approx(gain[changed].mean())
    assert review.undecided == 0
    assert (reviewed.issues["is_label_issue"] == strange).all()  # the others are verified
    assert reviewed.noise.rate == pytest.approx(strange.mean())
    assert "of the rows belong to none of the classes" in reviewed.label_finding
    reviewed.save(tmp_path / "audit.safetensors")
    assert (Audit.load(tmp_path / "audit.safetensors").outside.numpy() == strange).all()


def test_rows_of_none_of_the_classes_are_not_advised_to_be_kept(audit):
    review = audit.apply(decisions_on(audit.review_sample()).assign(label=NONE)).review
    assert review.advice == "review"
    assert review.why.startswith("100 % (9")
    everything = audit.apply(pd.DataFrame({"index": INDEX, "label": NONE})).review
    assert everything.advice == "keep"
    assert everything.why.startswith("100 % (9")


def test_share_of_none_of_the_classes_is_at_most_the_noise(audit):
    """Three rows are decided twice. For one of them the two decisions are different classes."""
    sample = audit.review_sample()
    decisions = decisions_on(sample[~sample["repeat"]])
    decisions.loc[40:, "label"] = NONE
    again = decisions.head(3).copy()
    other = NAMES[decisions["label"][0] != NAMES][0]
    same = decisions["label"][0] == sample["given_label"][0]
    again.loc[0, "label"] = other if same else sample["given_label"][0]
    review = audit.apply(pd.concat([decisions, again])).review
    assert review.different == 1
    assert all(part <= whole for part, whole in zip(review.outside, review.noise, strict=True))
    assert review.errors.low < review.errors.value < review.errors.high
    assert review.gain.low < review.gain.value < review.gain.high


def test_hundred_reviewed_rows_measure_noise_with_rows_of_none_of_the_classes(audit):
    """A tenth of the rows is from elsewhere; 95 % intervals hold in at least 90 % of 60 samples."""
    strange = np.random.default_rng(1).random(900) < 0.1
    label = torch.where(torch.from_numpy(strange), OUTSIDE, TRUE).numpy()
    repaired = audit.relabel("confident")
    proposed = torch.tensor([NAMES.tolist().index(name) for name in repaired.labels])
    score, flags = audit.issues["label_score"].to_numpy(), audit.issue_mask()
    held = []
    for seed in range(60):
        sample = draw_sample(score, repaired.changed, 100, seed)
        rows = np.concatenate([sample.positions, sample.repeated])
        decisions = Decisions(rows, label[rows], np.full(len(rows), ""), 100, seed)
        review = measure(decisions, sample, GIVEN, proposed, flags, score)
        of = (review.noise, (label != GIVEN.numpy()).mean()), (review.outside, strange.mean())
        held.append([low <= truth <= high for (_, low, high), truth in of])
    assert np.mean(held, axis=0).min() >= 0.9


def test_class_named_none_of_the_classes_is_a_class():
    given = np.array([NONE, "ant", "ant", "ant"] * 10)
    audit = audit_predictions(np.tile([[0.8, 0.2], [0.1, 0.9]], (20, 1)), given, class_names=[NONE, "ant"])
    reviewed = audit.apply([{"index": 1, "label": NONE}])
    assert not reviewed.outside.any()
    assert reviewed.issues["given_label"][1] == NONE


def test_one_share_of_wrong_labels_in_finding_evidence_and_review(audit):
    reviewed = audit.apply(decisions_on(audit.review_sample()))
    evidence = reviewed.evidence.set_index("quantity")[["value", "low", "high"]]
    assert tuple(evidence.loc["wrong labels"]) == reviewed.review.noise
    assert tuple(evidence.loc["wrong labels that are left"]) == reviewed.noise_interval
    assert reviewed.label_finding.startswith(f"{100 * reviewed.review.noise.value:.0f} % ")


@pytest.mark.parametrize(("wrong", "advice"), [(20, "review"), (0, "keep")])
def test_wrong_labels_without_certain_suggestions_are_to_be_reviewed(wrong, advice):
    y = torch.zeros(100, dtype=torch.int64)
    sample = draw_sample(np.linspace(0, 1, 100), np.zeros(100, bool), 100, 0)
    right = (np.arange(100) < wrong).astype(np.int64)
    decisions = Decisions(np.arange(100), right, np.full(100, ""), 100, 0)
    review = measure(decisions, sample, y, y, np.zeros(100, bool), np.linspace(0, 1, 100))
    assert review.advice == advice
    assert review.why.startswith("no suggestion is certain enough")


def reviewed_changes(n, changed, better, size):
    """Review a sample of n rows, of which relabelling changes some; the first of these become right."""
    score = np.linspace(0, 1, n)
    mask = np.arange(n) < changed
    given, proposed = torch.zeros(n, dtype=torch.int64), torch.from_numpy(mask.astype(np.int64))
    sample = draw_sample(score, mask, size, 0)
    right = (sample.positions < better).astype(np.int64)
    decisions = Decisions(sample.positions, right, np.full(len(right), ""), size, 0)
    return measure(decisions, sample, given, proposed, mask, score)


@pytest.mark.parametrize(("better", "advice"), [(4, "relabel"), (3, "keep")])
def test_no_further_review_is_advised_where_all_changes_are_verified(better, advice):
    review = reviewed_changes(400, 7, better, 100)
    assert review.gain.low < 0 < review.gain.high
    assert review.advice == advice
    assert "all 7 labels that relabelling would change have a decision" in review.why


@pytest.mark.parametrize(
    ("n", "better", "advice"), [(1000, 170, "review"), (20000, 170, "keep"), (1000, 148, "keep")]
)
def test_labels_are_kept_where_relabelling_is_expected_to_correct_a_negligible_share(n, better, advice):
    review = reviewed_changes(n, 300, better, 100)
    value, low, high = review.gain
    assert low < 0 < high
    drawn = np.random.default_rng(0).normal(value, (high - value) / 1.96, 100_000)
    expected = drawn.clip(min=0).mean() * 300 / n
    assert (expected <= 0.005) == (advice == "keep")
    assert review.advice == advice
    if advice == "keep":
        stated = float(re.search(r"at most (.*) % of all labels", review.why)[1])
        assert stated == pytest.approx(100 * expected, abs=0.06)


@pytest.mark.parametrize("decided", ["cannot say", "three rows", "outside the sample"])
def test_review_without_a_value_of_the_noise_flags_no_unrelated_labels(decided):
    """Predictions that do not depend on the labels flag nothing, whatever the decisions."""
    random = np.random.default_rng(0)
    given = random.integers(0, 3, 600)
    found = audit_predictions(random.dirichlet(np.full(3, 2.0), 600), given)
    sample = found.review_sample()
    decisions = sample.assign(label=sample["given_label"])
    if decided == "cannot say":
        decisions["label"] = ""
    elif decided == "three rows":
        decisions = decisions[:3]
    else:
        others = found.issues[~found.issues["index"].isin(sample["index"])][:5]
        decisions = others.assign(label=others["given_label"])
    reviewed = found.apply(decisions[["index", "label"]])
    assert found.issue_mask().sum() == reviewed.issue_mask().sum() == 0
    assert np.isnan(reviewed.review.noise.value)
    none = found.apply(decisions[["index"]][:2].assign(label=NONE))
    assert none.issue_mask().sum() == 2


def test_report_after_a_review_shows_the_share_that_is_left(audit, tmp_path):
    reviewed = audit.apply(decisions_on(audit.review_sample()))
    value, low, high = reviewed.noise_interval
    before = reviewed.review.noise.value
    assert value < before
    reviewed.report(tmp_path / "audit.html")
    tile = (
        f"<dt>wrong labels that are left, measured</dt><dd>{100 * value:.1f} %<small>{100 * low:.1f} to "
        f"{100 * high:.1f}; {100 * before:.1f} % before the review</small>"
    )
    assert tile in (tmp_path / "audit.html").read_text("utf-8")


def test_few_decisions_give_the_advice_to_review(audit):
    sample = audit.review_sample()[:3]
    review = audit.apply(decisions_on(sample)).review
    assert review.advice == "review"
    assert review.noise.high - review.noise.low > 0.4
    assert re.fullmatch(
        r"none of the \d+ labels that relabelling changes is decided in the sample", review.why
    )
    one = audit.apply(decisions_on(sample[-1:]))
    assert one.noise.source == "1 reviewed row"


def test_decisions_outside_the_sample_change_labels_but_no_estimate(audit):
    sample = audit.review_sample()
    outside = audit.issues[~audit.issues["index"].isin(sample["index"])][:50]
    alone = audit.apply(decisions_on(outside))
    assert alone.review.reviewed == 0
    assert alone.review.advice == "review"
    corrected = (alone.y != audit.y).double().mean().item()
    assert corrected > 0
    assert alone.noise_interval == pytest.approx([max(0, one - corrected) for one in audit.noise_interval])
    assert alone.issue_mask().sum() == pytest.approx(audit.issue_mask().sum() - 900 * corrected, abs=1)
    assert (
        alone.issues.set_index("index").loc[outside["index"], "given_label"] == right(outside["index"])
    ).all()
    both = audit.apply(decisions_on(sample)).apply(decisions_on(outside))
    assert both.review.noise == audit.apply(decisions_on(sample)).review.noise
    assert both.verified.sum() == 150


def test_reviewers_who_disagree_are_shown_and_widen_the_intervals(audit):
    sample = audit.review_sample()
    decisions = decisions_on(sample, reviewer="ann")
    other = decisions.assign(reviewer="bob")
    other.loc[:19, "label"] = sample["given_label"][:20].where(
        sample["given_label"][:20] != other["label"][:20], "ant"
    )
    review = audit.apply(pd.concat([decisions, other])).review
    assert review.different == len(set(review.disagreements["position"])) > 0
    assert set(review.disagreements["reviewer"]) == {"ann", "bob"}
    alone = audit.apply(decisions).review
    assert review.errors.value > 0 == alone.errors.value
    assert review.noise.high - review.noise.low > alone.noise.high - alone.noise.low


def test_report_shows_the_measured_precision_of_the_flags(audit, tmp_path):
    reviewed = audit.apply(decisions_on(audit.review_sample()))
    reviewed.report(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    shown = re.search(r"<dt>flags that are right</dt><dd>(.*?) %<small>measured", page)[1]
    assert float(shown) == pytest.approx(100 * reviewed.expected_precision, abs=0.06)


def test_precision_and_recall_of_the_flags_that_are_left_are_measured(audit):
    """95 % intervals for the flags after the review hold in at least 90 % of 40 samples."""
    held, widths, values = [], [], []
    for seed in range(40):
        sample = audit.review_sample(100, seed)
        reviewed = audit.apply(decisions_on(sample), n=100, seed=seed)
        flags, wrong = reviewed.issue_mask(), (reviewed.y != TRUE).numpy()
        truths = wrong[flags].mean(), wrong[flags].sum() / wrong.sum()
        intervals = reviewed.precision_interval, reviewed.recall_interval
        held += [low <= truth <= high for (_, low, high), truth in zip(intervals, truths, strict=True)]
        widths.append(intervals[0].high - intervals[0].low)
        values += [abs(one.value - truth) for one, truth in zip(intervals, truths, strict=True)]
    assert np.nanmean(values) < 0.12
    assert np.isnan(values).mean() < 0.2
    assert np.mean(held) >= 0.9
    assert np.mean(widths) < 0.4
    evidence = reviewed.evidence.set_index("quantity")
    assert tuple(evidence.loc["flagged labels that are wrong", ["low", "high"]]) == intervals[0][1:]
    known = not np.isnan(reviewed.expected_precision)
    assert evidence["kind"]["flagged labels that are wrong"] == ("measured" if known else "unknown")


def test_precision_after_a_review_of_everything_is_exact(audit):
    """A tenth of the rows belongs to none of the classes: only they remain flagged, and wrong decisions."""
    strange = np.random.default_rng(0).random(900) < 0.1
    label = np.where(strange, NONE, NAMES[TRUE])
    reviewed = audit.apply(pd.DataFrame({"index": INDEX, "label": label}), n=900)
    assert reviewed.precision_interval == pytest.approx((1, 1, 1))
    value, low, high = reviewed.recall_interval
    flagged, missed = strange.sum(), 900 * reviewed.review.wrong_decisions.high
    assert (value, high) == pytest.approx((1, 1))
    assert low == pytest.approx(flagged / (flagged + missed))
    issues = reviewed.issues
    assert ((issues["suggested_label"] == NONE) == strange).all()
    joint = pd.crosstab(TRUE.numpy()[~strange], TRUE.numpy()[~strange]).to_numpy()
    assert reviewed.noise.matrix == pytest.approx(np.eye(3))  # all labels are corrected
    assert reviewed.noise.prior == pytest.approx(joint.sum(1) / joint.sum())


def test_transition_matrix_follows_the_decisions():
    """The scores know nothing: half of the labels 0 are wrong, and only the review shows it."""
    generator = np.random.default_rng(0)
    true = generator.integers(0, 2, 2000)
    given = np.where((true == 1) & (generator.random(2000) < 0.5), 0, true)
    scores = np.full((2000, 2), 0.5)
    scores[np.arange(2000), true] += generator.uniform(0, 0.2, 2000)
    audit = audit_predictions(scores / scores.sum(1, keepdims=True), given)
    sample = audit.review_sample(400)
    places = sample["index"].to_numpy()
    reviewed = audit.apply(pd.DataFrame({"index": places, "label": true[places]}), n=400)
    left = reviewed.y.numpy()
    truth = np.array([[(left[true == k] == j).mean() for j in (0, 1)] for k in (0, 1)])
    assert reviewed.noise.matrix.sum(1) == pytest.approx([1, 1])
    assert abs(reviewed.noise.matrix - truth).max() < 0.1
    off_diagonal = reviewed.noise.prior @ (1 - np.diagonal(reviewed.noise.matrix))
    assert off_diagonal == pytest.approx(reviewed.noise.rate, abs=0.02)
    assert np.isnan(reviewed.noise.matrix_low).all()


def two_reviewers(first, second, given, n=200):
    """Measure a review in which two people decide on all rows of one stratum."""
    sample = draw_sample(np.linspace(0.2, 0.8, n), np.zeros(n, bool), n, 0)
    y = np.concatenate([first[sample.positions], second[sample.positions]])
    names = np.repeat(["ann", "bob"], n)
    decisions = Decisions(np.tile(sample.positions, 2), y, names, n, 0)
    given = torch.from_numpy(given)
    return measure(decisions, sample, given, given, np.zeros(n, bool), np.linspace(0.2, 0.8, n))


def test_share_of_none_of_the_classes_does_not_depend_on_errors_elsewhere():
    """Reviewers agree on the strangers, and disagree on the class of a fifth of the other rows."""
    n = 200
    given = np.arange(n) % 3
    first = given.copy()
    first[:20] = OUTSIDE
    second = first.copy()
    second[100:140] = (given[100:140] + 1) % 3
    review = two_reviewers(first, second, given)
    assert review.outside.value == pytest.approx(0.1)
    assert review.outside.low <= 0.1 <= review.outside.high < 0.13
    assert review.errors == error_rate(200, 40)


def test_disagreement_about_the_right_class_of_a_wrong_label_is_no_error_of_the_noise():
    n = 200
    given = np.zeros(n, np.int64)
    first, second = given.copy(), given.copy()
    first[:30], second[:30] = 1, 2
    review = two_reviewers(first, second, given)
    assert review.noise.value == pytest.approx(0.15)
    assert review.different == 30


def test_disagreement_about_wrong_labels_widens_the_interval_of_the_noise():
    """A reviewer who confuses the classes of wrong labels may also call right labels wrong."""
    n = 200
    given = np.zeros(n, np.int64)
    first = given.copy()
    first[:30] = 1
    second = first.copy()
    agreeing = two_reviewers(first, second, given).noise
    second[:30] = 2
    review = two_reviewers(first, second, given)
    most = review.errors.high
    assert agreeing.value == review.noise.value == pytest.approx(0.15)
    assert review.noise.low <= (0.15 - most) / (1 - most) < agreeing.low


def confused(rows, error, generator):
    """Return the classes that a reviewer names, who confuses classes evenly at an error rate."""
    other = (TRUE.numpy()[rows] + generator.integers(1, 3, len(rows))) % 3
    return np.where(generator.random(len(rows)) < error, other, TRUE.numpy()[rows])


@pytest.mark.parametrize("further", [0, 150, 800])
def test_share_that_is_left_holds_although_reviewers_make_errors(audit, further):
    """Fifty rows are decided twice, and further ones once, with 5 % errors in 40 reviews."""
    held, excess = [], []
    suspicious = audit.issues["label_score"].to_numpy().argsort()
    for seed in range(40):
        generator = np.random.default_rng(seed)
        sample = np.array([int(name.split()[1]) for name in audit.review_sample(100, seed)["index"]])
        more = suspicious[~np.isin(suspicious, sample)][:further]
        rows = np.concatenate([sample, more, sample[:50]])
        decisions = pd.DataFrame({"index": INDEX[rows], "label": NAMES[confused(rows, 0.05, generator)]})
        reviewed = audit.apply(decisions, n=100, seed=seed)
        left = (reviewed.y != TRUE).double().mean().item()
        value, low, high = reviewed.noise_interval
        held.append(low <= left <= high)
        excess.append(value - left)
    assert np.mean(held) >= 0.9
    assert abs(np.mean(excess)) < 0.025


def test_decisions_on_all_rows_leave_their_errors(audit):
    """With 10 % errors nothing else is left, and nothing is flagged; a tenth of the rows is decided twice."""
    rows = np.concatenate([np.arange(900), np.arange(0, 900, 10)])
    named = confused(rows, 0.1, np.random.default_rng(0))
    reviewed = audit.apply(pd.DataFrame({"index": INDEX[rows], "label": NAMES[named]}), n=900)
    left = (reviewed.y != TRUE).double().mean().item()
    value, low, high = reviewed.noise_interval
    assert low <= left <= high
    assert value == pytest.approx(left, abs=0.04)
    undecided = ~reviewed.verified.numpy()
    assert reviewed.issue_mask().sum() <= undecided.sum()
    assert not reviewed.issue_mask()[~undecided].any()


@pytest.mark.parametrize("people", [2, 3])
def test_errors_of_several_reviewers_spread_over_ten_classes(people):
    """All of 1,000 rows are decided by each, with 10 % errors; majorities are right far more often."""
    held, values, truths = [], [], []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        true = generator.integers(0, 10, 1000)
        given = np.where(generator.random(1000) < 0.2, (true + 1) % 10, true)
        sample = draw_sample(generator.random(1000), given != true, 1000, 0)
        other = (true + generator.integers(1, 10, (people, 1000))) % 10
        named = np.where(generator.random((people, 1000)) < 0.1, other, true)
        who = np.repeat([f"reviewer {i}" for i in range(people)], 1000)
        decisions = Decisions(np.tile(np.arange(1000), people), named.ravel(), who, 1000, 0)
        y = torch.from_numpy(given)
        review = measure(decisions, sample, y, y, given != true, generator.random(1000))
        rows = ReviewedRows(decisions, sample, given)
        truth = ((rows.decided >= 0) & (rows.decided != true)).mean()
        value, low, high = review.wrong_decisions
        held.append(low <= truth <= high)
        values.append(value)
        truths.append(truth)
    assert np.mean(held) >= 0.9
    assert np.mean(values) == pytest.approx(np.mean(truths), abs=0.002)


def test_no_share_after_a_review_is_above_one(audit):
    """Reviewers find that all rows of the sample belong to none of the classes, and correct 300 others."""
    sample = audit.review_sample()
    others = audit.issues[~audit.issues["index"].isin(sample["index"])].sort_values("label_score")[:300]
    frames = [sample[["index"]].assign(label=NONE), decisions_on(others)]
    for decisions in (frames[0], pd.concat(frames)):
        reviewed = audit.apply(decisions)
        shares = [*reviewed.noise_interval, *reviewed.precision_interval, *reviewed.recall_interval]
        assert np.nanmax(shares) <= 1
        assert reviewed.review.left.high <= 1


def test_rows_of_none_of_the_classes_stay_wrong_without_a_measurement(audit):
    sample = audit.review_sample()
    others = audit.issues[~audit.issues["index"].isin(sample["index"])][:300]
    reviewed = audit.apply(others[["index"]].assign(label=NONE))
    assert reviewed.review.reviewed == 0
    assert min(reviewed.noise_interval) >= 300 / 900


@pytest.mark.parametrize("error", [0, 0.1])
def test_repaired_labels_state_the_measured_share_of_wrong_labels(audit, error):
    rows = np.array([int(name.split()[1]) for name in audit.review_sample()["index"]])
    rows = np.concatenate([rows, rows[:50]])
    named = confused(rows, error, np.random.default_rng(0))
    reviewed = audit.apply(pd.DataFrame({"index": INDEX[rows], "label": NAMES[named]}))
    assert (reviewed.review.wrong_decisions.value > 0) == (error > 0)
    repaired = reviewed.relabel("verified")
    assert repaired.wrong_before == pytest.approx(reviewed.noise.rate, abs=1e-6)
    assert repaired.wrong_after == pytest.approx(reviewed.noise.rate, abs=1e-6)


@pytest.mark.parametrize("policy", ["confident", "all", "verified"])
def test_share_of_wrong_labels_after_relabelling_is_measured(audit, policy):
    held, errors = [], []
    for seed in range(8):
        made = audit.apply(decisions_on(audit.review_sample(seed=seed)), seed=seed).relabel(policy)
        value, low, high = made.wrong_after_interval
        wrong = (made.labels != NAMES[TRUE]).mean()
        held.append(low <= wrong <= high)
        errors.append(value - wrong)
        assert made.wrong_after == value
        assert repr(made).startswith(
            f"RepairedLabels by {policy!r}: {made.changed.sum()} of 900 labels changed"
        )
        assert f"{value:.1%} ({low:.1%} to {high:.1%}) after" in repr(made)
    assert sum(held) >= 7
    assert abs(np.mean(errors)) < 0.02


def test_share_of_wrong_labels_after_relabelling_is_not_measured_without_a_sample(audit):
    reviewed = audit.apply(decisions_on(audit.review_sample()))
    for made in (audit.relabel(), reviewed.relabel("soft"), reviewed.relabel("prune")):
        assert np.isnan(made.wrong_after_interval).all()
    assert repr(audit.relabel()).endswith("share of wrong labels: unknown")
    assert repr(reviewed.review).startswith(f"Review: {reviewed.review.finding} Advice: relabel, since ")


def test_noise_is_at_least_the_share_of_wrong_labels_that_are_found(audit):
    """Beside a sample in which no label is wrong, 80 wrong labels are decided on."""
    sample = audit.review_sample()
    label = sample.set_index("index")["given_label"]
    wrong = INDEX[(GIVEN != TRUE).numpy() & ~np.isin(INDEX, label.index)][:80]
    decisions = pd.concat([label, pd.Series(right(wrong), wrong)])
    review = audit.apply(pd.DataFrame({"index": decisions.index, "label": decisions.to_numpy()})).review
    assert review.noise.value == pytest.approx(80 / 900)
    assert review.noise.low <= 80 / 900 <= review.noise.high
    assert review.left.value == 0


def test_errors_of_reviewers_leave_the_wrong_labels_that_are_found():
    """The 46 wrong labels of 974 are in a stratum of 60 rows, of which the reviewer confuses two of ten."""
    n, position = 974, np.arange(974)
    score, given = np.where(position < 60, 0.3, 0.99), np.zeros(n, np.int64)
    sample = draw_sample(score, position < 60, 100, 0)
    places = np.concatenate([sample.positions, sample.repeated])
    y = np.where(places < 46, 1, 0)
    y[len(sample.positions) :][:2] ^= 1
    decisions, labels = Decisions(places, y, np.full(len(places), ""), 100, 0), torch.from_numpy(given)
    review = measure(decisions, sample, labels, labels, score < 0.5, score)
    assert review.different == 2
    assert review.noise.value == pytest.approx(46 / 974, abs=0.005)
    assert review.noise.low <= 46 / 974 <= review.noise.high


def test_cannot_say_is_no_error():
    n = 200
    given = np.arange(n) % 3
    second = given.copy()
    second[:100] = -1
    review = two_reviewers(given, second, given)
    assert (review.pairs, review.different, review.errors.value) == (100, 0, 0)
    assert review.disagreements.empty


def test_strata_without_decisions_leave_the_interval_only(audit):
    """The reviewer can say nothing on the rows that relabelling does not change."""
    sample = audit.review_sample()
    decisions = decisions_on(sample)
    decisions.loc[~sample["stratum"].str.startswith("changed"), "label"] = None
    reviewed = audit.apply(decisions)
    review, wrong = reviewed.review, (GIVEN != TRUE).double().mean()
    assert np.isnan(review.noise.value)
    assert review.noise.low <= wrong <= review.noise.high
    assert review.gain.value > 0.5
    text = percent(review.noise)
    assert text.startswith("between ")
    assert reviewed.label_finding.startswith(f"B{text[1:]} of the labels are wrong")
    evidence = reviewed.evidence.set_index("quantity")
    assert evidence["kind"][["wrong labels", "gain per changed label"]].tolist() == ["unknown", "measured"]
    assert "not enough for a value" in evidence["basis"]["wrong labels"]
    assert np.isnan(reviewed.noise.rate)
    assert reviewed.issue_mask().sum() == round(float((1 - reviewed.issues["label_score"]).sum()))


def test_errors_are_unknown_where_no_row_has_several_labels(audit):
    sample = audit.review_sample()
    reviewed = audit.apply(decisions_on(sample[~sample["repeat"]]))
    errors = reviewed.evidence.set_index("quantity").loc["errors of the reviewers"]
    assert np.isnan(errors["value"])
    assert (errors["low"], errors["kind"]) == (0, "unknown")
    assert "assumed" in errors["basis"]
    both = audit.apply(decisions_on(sample)).evidence.set_index("quantity").loc["errors of the reviewers"]
    assert (both["value"], both["kind"], both["basis"]) == (0, "measured", "10 rows with several labels")


def test_advice_counts_the_labels_that_are_still_to_change(audit):
    reviewed = audit.apply(decisions_on(audit.review_sample()))
    assert f"changes {reviewed.relabel('confident').changed.sum():,} labels that are not" in reviewed.why


def test_export_that_repeats_earlier_decisions_counts_them_once(audit):
    decisions = decisions_on(audit.review_sample())
    once = audit.apply(decisions).review
    for part in (decisions[:40], decisions):
        twice = audit.apply(part).apply(decisions).review
        assert (twice.pairs, twice.noise, twice.errors) == (once.pairs, once.noise, once.errors)


def test_second_export_with_a_changed_decision_replaces_the_first(audit):
    decisions = decisions_on(audit.review_sample())
    first = decisions.copy()
    first.loc[first.index[0], "label"] = NONE
    once, twice = audit.apply(decisions).review, audit.apply(first).apply(decisions).review
    assert (twice.pairs, twice.noise, twice.errors) == (once.pairs, once.noise, once.errors)
    assert audit.apply(first).review.noise != once.noise


def test_later_decision_of_a_named_reviewer_replaces_the_earlier_one(audit):
    first = pd.DataFrame({"index": ["row 5"], "label": ["ant"], "reviewer": ["ann"]})
    changed = audit.apply(first).apply(first.assign(label="bee, big"))
    assert changed.issues["given_label"][5] == "bee, big"
    other = audit.apply(first).apply(first.assign(label="bee, big", reviewer="bob"))
    assert not other.verified[5]


def test_majority_of_three_reviewers_decides(audit):
    rows = pd.DataFrame(
        {"index": ["row 5"] * 3, "label": ["ant", "bee, big", "bee, big"], "reviewer": ["a", "b", "c"]}
    )
    reviewed = audit.apply(rows)
    assert reviewed.issues["given_label"][5] == "bee, big"
    tied = audit.apply(rows[:2])
    assert not tied.verified[5]
    assert tied.issues["given_label"][5] == audit.issues["given_label"][5]


@pytest.mark.parametrize("empty", ["", None, np.nan, " "])
def test_empty_label_means_that_the_reviewer_cannot_say(audit, empty):
    sample = audit.review_sample()
    decisions = decisions_on(sample)
    first = sample["index"][0]
    decisions.loc[decisions["index"] == first, "label"] = empty
    review = audit.apply(decisions).review
    assert (review.reviewed, review.undecided) == (99, 1)


def test_decisions_are_read_from_csv_json_and_label_studio(audit, tmp_path):
    sample = audit.review_sample(80, seed=1)
    decisions = decisions_on(sample)
    expected = audit.apply(decisions, n=80, seed=1).review
    decisions.assign(label=decisions["label"].replace("=cat", "'=cat")).to_csv(
        tmp_path / "d.csv", index=False
    )
    records = decisions.to_dict("records")
    page = {"kind": KIND, "sample": {"n": 80, "seed": 1}, "decisions": records}
    (tmp_path / "d.json").write_text(json.dumps(page))
    tasks = [
        {
            "data": {"index": one["index"]},
            "annotations": [
                {"completed_by": 7, "result": [{"type": "choices", "value": {"choices": [one["label"]]}}]}
            ],
        }
        for one in records
    ]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    for source, options in (
        (tmp_path / "d.csv", {"n": 80, "seed": 1}),
        (tmp_path / "d.json", {}),
        (tmp_path / "tasks.json", {"n": 80, "seed": 1}),
        (records, {"n": 80, "seed": 1}),
    ):
        review = audit.apply(source, **options).review
        assert review.noise == expected.noise
        assert review.gain == expected.gain
    with pytest.raises(InputError, match="n=80, not n=100"):
        audit.apply(tmp_path / "d.json", n=100)


def test_table_of_a_spreadsheet_is_read(tmp_path):
    logits = np.random.default_rng(0).normal(size=(900, 3)) + 4 * np.eye(3)[TRUE.numpy()]
    found = audit_predictions(logits, GIVEN, progress=False)
    sample = found.review_sample()
    made = pd.DataFrame({"index": sample["index"], "label": TRUE.numpy()[sample["index"]].astype(float)})
    made.loc[0, "label"] = np.nan  # so that pandas writes 2.0 for 2
    made.to_csv(tmp_path / "d.csv", sep=";", index=False)
    expected = found.apply(made.assign(reviewer=7))
    assert found.apply(tmp_path / "d.csv").review.noise == expected.review.noise
    again = expected.apply(made.assign(reviewer=7.0))  # the same person
    assert len(again.review.decisions) == len(made)


@pytest.mark.parametrize("index", [None, pd.date_range("2020", periods=900)])
def test_rows_named_by_numbers_or_dates_are_found_in_a_table_that_is_read_back(tmp_path, index):
    frame = pd.DataFrame(np.eye(3)[TRUE] * 0.7 + 0.1, index=np.arange(900) / 2)
    found = audit_predictions(frame if index is None else frame.to_numpy(), GIVEN, index=index)
    sample = found.review_sample()
    sample.assign(label=sample["given_label"]).to_csv(tmp_path / "d.csv", index=False)
    for source in (tmp_path / "d.csv", pd.read_csv(tmp_path / "d.csv")):
        assert found.apply(source).review.reviewed == 100


def test_texts_are_not_taken_for_rows_with_other_names():
    index = np.array([f"v{i}.0" for i in range(900)])
    found = audit_predictions(np.eye(3)[TRUE] * 0.7 + 0.1, GIVEN, index=index)
    with pytest.raises(InputError, match="v7"):
        found.apply(pd.DataFrame({"index": ["v7"], "label": [0]}))


@pytest.mark.filterwarnings("error")
def test_a_sample_may_have_fewer_rows_than_strata(audit):
    assert np.isfinite(audit.review_sample(n=1)["weight"]).all()


def test_frame_of_the_sample_states_its_size_and_seed(audit, tmp_path):
    sample = audit.review_sample(n=150, seed=3)
    decided = sample.assign(label=right(sample["index"]))
    decided.to_csv(tmp_path / "d.csv", index=False)
    for source in (decided, tmp_path / "d.csv"):
        assert audit.apply(source).review.reviewed == 150
    with pytest.raises(InputError, match="n=150, not n=100"):
        audit.apply(decided, n=100)


def test_label_studio_tasks_hold_the_sample_and_the_suggestions(audit, tmp_path):
    audit.label_studio_tasks(tmp_path / "tasks.json", n=30, seed=0)
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    sample = audit.review_sample(30)
    assert [task["data"]["index"] for task in tasks] == sample["index"][:30].tolist()
    chosen = [task["predictions"][0]["result"][0]["value"]["choices"][0] for task in tasks]
    assert chosen == sample["suggested_label"][:30].tolist()


def exported(tasks, decisions):
    """Annotated tasks, as Label Studio exports them as JSON; a decision None is a skipped task."""
    records = []
    for number, task in enumerate(tasks, start=1):
        annotations = []
        for person, label in decisions(task["data"]["index"]):
            choice = {"choices": [label]}
            tags = {"id": "k2", "from_name": "label", "to_name": "item", "type": "choices"}
            other = {**tags, "from_name": "quality", "value": {"choices": ["blurred"]}}
            annotations.append(
                {
                    "id": 40 + number,
                    "completed_by": person,
                    "result": [] if label is None else [other, {**tags, "value": choice}],
                    "was_cancelled": label is None,
                    "ground_truth": False,
                    "created_at": "2026-01-05T10:03:22.211Z",
                    "updated_at": "2026-01-05T10:03:25.800Z",
                    "draft_created_at": None,
                    "lead_time": 4.2,
                    "prediction": {},
                    "result_count": 2,
                    "task": number,
                    "project": 3,
                    "parent_prediction": None,
                    "parent_annotation": None,
                }
            )
        cancelled = sum(one["was_cancelled"] for one in annotations)
        meta = {"inner_id": number, "total_annotations": len(annotations) - cancelled, "project": 3}
        records.append(
            {
                "id": number,
                "annotations": annotations,
                "file_upload": "tasks.json",
                "drafts": [],
                "predictions": [number],
                "data": task["data"],
                "meta": {},
                "created_at": "2026-01-05T10:00:00.000Z",
                "cancelled_annotations": cancelled,
                **meta,
            }
        )
    return records


def test_annotations_of_label_studio_by_several_people(audit, tmp_path, capsys):
    audit.label_studio_tasks(tmp_path / "tasks.json", n=60, seed=4)
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    sample = audit.review_sample(60, seed=4)[:60]
    names = sample["index"].tolist()
    answer = dict(zip(names, right(names).tolist(), strict=True))
    skipped, disputed = names[0], names[1]
    other = next(name for name in NAMES.tolist() if name != answer[disputed])

    def decisions(row):
        if row == skipped:
            return [(1, None), ({"id": 2, "email": "b@example.org"}, None)]
        second = other if row == disputed else answer[row]
        return [(1, answer[row]), ({"id": 2, "email": "b@example.org", "first_name": ""}, second)]

    records = exported(tasks, decisions)
    (tmp_path / "export.json").write_text(json.dumps(records))
    found = audit.apply(tmp_path / "export.json").review  # the tasks state n=60 and seed=4
    frame = pd.DataFrame(
        [
            {"index": row, "label": label, "reviewer": person if person == 1 else "b@example.org"}
            for row in names
            for person, label in decisions(row)
            if label is not None
        ]
    )
    expected = audit.apply(frame, n=60, seed=4).review
    assert (found.reviewed, found.noise, found.gain) == (expected.reviewed, expected.noise, expected.gain)
    assert INDEX[found.disagreements["position"].unique()].tolist() == [disputed]
    # JSON-MIN and CSV have one line per annotation, without skipped ones
    minimal = [
        {
            **record["data"],
            "id": record["id"],
            "annotator": one["completed_by"] if one["completed_by"] == 1 else 2,
            "annotation_id": one["id"],
            "lead_time": one["lead_time"],
            "label": one["result"][1]["value"]["choices"][0],
        }
        for record in records
        for one in record["annotations"]
        if one["result"]
    ]
    (tmp_path / "minimal.json").write_text(json.dumps(minimal))
    pd.DataFrame(minimal).to_csv(tmp_path / "minimal.csv", index=False)
    for name in ("minimal.json", "minimal.csv"):
        again = audit.apply(tmp_path / name).review
        assert (again.reviewed, again.noise, again.gain) == (found.reviewed, found.noise, found.gain)
        assert INDEX[again.disagreements["position"].unique()].tolist() == [disputed]
    audit.save(tmp_path / "audit.safetensors")
    command = ["review", str(tmp_path), "--decisions", str(tmp_path / "export.json"), "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["noise"]["value"] == pytest.approx(found.noise.value)
    with pytest.raises(InputError, match="n=60, not n=100"):
        audit.apply(tmp_path / "export.json", n=100)
    other_audit = [{**one, "data": {**one["data"], "sample_audit": "0" * 16}} for one in records]
    with pytest.warns(LayerprobeWarning, match="another audit"):
        audit.apply(other_audit)
    records[0]["data"] = {**records[0]["data"], "sample_n": 90}
    records[0]["annotations"] = records[1]["annotations"]
    with pytest.raises(InputError, match="n=60 and 90"):
        audit.apply(records)


@pytest.mark.parametrize(
    ("decisions", "message"),
    [
        (pd.DataFrame({"index": ["row 5"]}), "'label' is missing"),
        (pd.DataFrame({"index": [], "label": []}), "no decisions"),
        (pd.DataFrame([["row 5", "ant", "ant"]], columns=["index", "label", "label"]), "two columns of one"),
        ([{"index": "row 5000", "label": "ant"}], r"no training row 'row 5000'\. Did you mean row \d+\?"),
        ([{"index": "row 5", "label": "ants"}], r"'ants'\. Did you mean ant\? The classes are 'ant', "),
        ([{"index": ["row 5"], "label": "ant"}], "simple values"),
        ([1, 2], "records"),
        (3, "got int"),
        ([{"data": {}, "annotations": [{"result": []}]}], "Label Studio lacks 'index'"),
    ],
)
def test_wrong_decisions_are_an_input_error(audit, decisions, message):
    with pytest.raises(InputError, match=message):
        audit.apply(decisions)


@pytest.mark.parametrize("content", ["{", '{"kind": "other"}', '{"kind": "layerprobe.decisions.1"}', "\x00"])
def test_damaged_file_of_decisions_is_a_data_error(audit, tmp_path, content):
    (tmp_path / "d.json").write_text(content)
    with pytest.raises(DataError, match=r"decisions|export"):
        audit.apply(tmp_path / "d.json")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.json", None, "missing.json does not exist: expected a .csv or .json file of decisions"),
        ("folder.json", "", "folder.json is a folder: expected a .csv or .json file of decisions"),
        ("d.json", b"", "cannot be read: Expecting value"),
        ("d.csv", b"", "cannot be read: No columns to parse"),
        ("d.json", b'[{"index": "row 5", "lab', "cannot be read: Unterminated string"),
        ("d.csv", b"row,answer\nrow 5,ant\n", "'index' is missing, there are 'row', 'answer'"),
        ("d.csv", b"index,label\n900,ant\n", "no training row '900'"),
        ("d.csv", b"index,label\nrow 5,ants\n", "unknown label 'ants'"),
        ("d.csv", b"index,label\nrow 5,\xff\n", "cannot be read: 'utf-8' codec"),
        ("d.txt", b"row 5 ant", "a .csv or .json file, got 'd.txt'"),
    ],
)
def test_wrong_file_of_decisions_is_one_line_and_nothing_is_written(
    audit, tmp_path, capsys, name, content, message
):
    audit.save(tmp_path / "audit.safetensors")
    path = tmp_path / name
    if content:
        path.write_bytes(content)
    elif content is not None:
        path.mkdir() if name.startswith("folder") else path.touch()
    before = set(tmp_path.rglob("*"))
    outputs = ["--labels-out", str(tmp_path / "labels.csv"), "--tasks-out", str(tmp_path / "tasks.json")]
    assert main(["review", str(tmp_path), "--decisions", str(path), *outputs]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert set(tmp_path.rglob("*")) == before


def test_decisions_on_the_page_of_another_audit_raise_a_warning(audit, tmp_path):
    audit.review_page(tmp_path / "review.html", most=0)
    page = (tmp_path / "review.html").read_text(encoding="utf-8")
    export = {
        "kind": KIND,
        "audit": re.search(r'"id": "(\w+)"', page)[1],
        "sample": {"n": 100, "seed": 0},
        "decisions": decisions_on(audit.review_sample()).to_dict("records"),
    }
    with warnings.catch_warnings(action="error"):
        assert audit.apply(export).review.reviewed == 100
    with pytest.warns(LayerprobeWarning, match="page of another audit"):
        audit.apply({**export, "audit": "0" * 16})


def test_decisions_in_another_order_of_rows_measure_the_same(audit):
    decisions = decisions_on(audit.review_sample())
    shuffled = decisions.sample(frac=1, random_state=0)
    expected, review = audit.apply(decisions).review, audit.apply(shuffled).review
    assert (review.noise, review.gain, review.errors) == (expected.noise, expected.gain, expected.errors)


def test_reviewed_audit_is_saved_and_loaded(audit, tmp_path):
    reviewed = audit.apply(decisions_on(audit.review_sample(50, seed=3)), n=50, seed=3)
    reviewed.save(tmp_path / "a.safetensors")
    loaded = Audit.load(tmp_path / "a.safetensors")
    tasks = tmp_path / "tasks.json"
    assert main(["review", str(tmp_path / "a.safetensors"), "--tasks-out", str(tasks)]) == 0
    stated = json.loads(tasks.read_text())[0]["data"]
    assert (stated["sample_n"], stated["sample_seed"]) == (50, 3)
    assert loaded.review.noise == reviewed.review.noise
    pd.testing.assert_frame_equal(loaded.issues, reviewed.issues)
    with pytest.raises(InputError, match="decisions on one sample only"):
        loaded.apply(decisions_on(audit.review_sample(60, seed=3)), n=60, seed=3)


def test_command_measures_and_writes_labels(audit, tmp_path, capsys):
    audit.save(tmp_path / "audit.safetensors")
    decisions = decisions_on(audit.review_sample())
    stranger = decisions["index"][5]
    decisions.loc[decisions["index"] == stranger, "label"] = NONE
    decisions.to_csv(tmp_path / "d.csv", index=False)
    labels = tmp_path / "labels.csv"
    command = ["review", str(tmp_path), "--decisions", str(tmp_path / "d.csv")]
    assert main([*command, "--labels-out", str(labels)]) == 0
    printed = capsys.readouterr().out
    assert "Advice: relabel" in printed
    assert "wrong labels that are left after the review" in printed
    frame = pd.read_csv(labels)
    assert (frame["label"].str.removeprefix("'").to_numpy() == NAMES[TRUE]).mean() > 0.85
    assert set(frame["source"]) == {"verified", "suggested", "given", NONE}
    assert frame.set_index("index").loc[stranger].isna()["label"]
    assert main([*command, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["noise"]["low"] <= (GIVEN != TRUE).double().mean() <= summary["noise"]["high"]
    assert summary["left"]["value"] < summary["noise"]["value"]
    assert summary["wrong_decisions"]["value"] == 0 < summary["wrong_decisions"]["high"]
    assert main(["review", str(tmp_path)]) == 2
    assert "--decisions" in capsys.readouterr().err
