"""Flags, repaired labels, and the findings of an audit."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from auditing.planted import draw, noise_matrix, scored_rows
from layerprobe.auditing.features import check_flag_rule
from layerprobe.auditing.findings import (
    RELABEL_POLICIES,
    find_issues,
    flag,
    label_finding,
    network_doubts,
    network_finding,
    relabel,
    repaired_labels,
    score_text,
    why_noise_is_unknown,
)
from layerprobe.auditing.method.calibration import Calibration
from layerprobe.auditing.method.ensemble import Candidate, EnsembleMember, ProbeEnsemble
from layerprobe.auditing.method.noise import NO_LABEL_FREE_LAYER
from layerprobe.auditing.method.policies import Interval
from layerprobe.errors import InputError

CLASSES = np.array(["cat", "dog", "owl"])
CONTROLS = {"head": 0.5, "head, averaged over views": 0.55, "raw input": 0.6, "early stopping": 0.65}


def findings(
    controls=CONTROLS,
    own=0.7,
    noise=(0.3, 0.25, 0.35),
    gain=(0.2, 0.1, 0.3),
    incomparable=(),
    head_fit=0.9,
    source="the held-out rows",
):
    members = [EnsembleMember(Candidate(f"fc{i}", "ridge", 0.1), None) for i in (1, 2)]
    table = pd.DataFrame({"control": [*controls, "decoder"], "criterion": [*controls.values(), own]})
    table["beaten"] = [*(None if name in incomparable else own > c for name, c in controls.items()), False]
    return SimpleNamespace(
        ensemble=ProbeEnsemble(tuple(members)),
        noise=SimpleNamespace(
            rate=noise[0], low=noise[1], high=noise[2], source=source, prior=np.full(10, 0.1)
        ),
        criterion=Interval(own, own - 0.02, own + 0.02),
        gain=None if gain is None else Interval(*gain),
        head_fit=head_fit,
        frequent=0.1,
        controls=table,
    )


def test_finding_on_the_network_names_the_best_layer_and_its_gain():
    found = network_finding(findings())
    assert found == (
        "The best layer, ridge on fc1 (and 1 more probe), predicts better than the head, "
        "+20.0 points (+10.0 to +30.0), and than every baseline."
    )
    assert "better than every baseline" in network_finding(findings({}, gain=None))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"gain": (0.01, 0.0, 0.02)}, "not significant"),
        ({"gain": (-0.1, -0.2, -0.05)}, "-10.0 points"),
        ({"own": 0.65}, "'early stopping' is about as good as the decoder (0.650 against 0.650)"),
        ({"controls": {"untrained copy": 0.71}}, "'untrained copy' is about as good"),
        ({"controls": {"raw input": 0.7}}, "'raw input' is about as good"),
        ({"controls": {"head, averaged over views": 0.9}}, "averaged over views' is about as good"),
        ({"head_fit": 0.11}, "class_names"),
    ],
)
def test_doubts_about_the_network_are_named(options, reason):
    assert any(reason in doubt for doubt in network_doubts(findings(**options)))
    assert reason in network_finding(findings(**options))


def test_incomparable_baseline_need_not_be_beaten():
    name = "head, averaged over views"
    better = {"controls": {**CONTROLS, name: 0.9}}
    assert network_doubts(findings(**better))
    assert not network_doubts(findings(**better, incomparable=[name]))


def said(found, flagged=70):
    return label_finding(found, found.noise, flagged)


def test_doubts_about_the_network_do_not_change_the_finding_on_the_labels():
    weak = findings(gain=(-0.1, -0.2, -0.05), controls={"untrained copy": 0.9})
    assert said(weak) == said(findings())
    assert "30% of the labels are wrong (25% to 35%)" in said(weak)
    assert "70 labels are flagged" in said(weak)


def test_noise_is_unknown_if_the_features_do_not_separate_the_classes():
    weak = findings({"most frequent label": 0.8})
    assert said(weak).startswith(
        "Between 25% and 35% of the labels are wrong, a closer estimate is not possible"
    )
    assert "30%" not in said(weak)


def test_the_printed_range_of_the_noise_contains_its_interval():
    wide = findings(own=0.5, noise=(0.5, 0.399, 0.5545))
    assert said(wide).startswith("Between 39% and 56% of the labels are wrong")
    narrow = findings(own=0.5, noise=(0.02, 0.0, 0.0641))
    assert said(narrow).startswith("Between 0.0% and 6.5% of the labels are wrong")
    estimated = findings(own=0.69, noise=(0.3, 0.2492, 0.3508))
    assert said(estimated).startswith("About 30% of the labels are wrong (24% to 36%)")
    few = findings(own=0.95, noise=(0.03, 0.0204, 0.0496))
    assert said(few).startswith("About 3.0% of the labels are wrong (2.0% to 5.0%)")


def test_noise_is_known_if_its_interval_is_narrow():
    found = findings(own=0.69)
    assert why_noise_is_unknown(found, found.noise) == ""
    too_wide, too_far_apart = (0.3, 0.1, 0.35), (0.03, 0.01, 0.05)  # ends that differ by a factor of five
    for own, noise in ((0.69, too_wide), (0.95, too_far_apart)):
        found = findings(own=own, noise=noise)
        assert "the bounds are far apart" in why_noise_is_unknown(found, found.noise)
    certain = findings(own=0.99, noise=(0.0002, 0.0, 0.0004))
    assert "far apart" not in why_noise_is_unknown(certain, certain.noise)
    assert said(certain).startswith("Fewer than 0.05% of the labels are wrong, a closer estimate is not")
    assert "distinguish few wrong labels from ambiguous rows" in said(certain)
    weak = findings(own=0.5, noise=(0.3, 0.0, 0.5))
    assert "predict about 70% of the right labels" in why_noise_is_unknown(weak, weak.noise)
    assert said(weak).startswith("Between 0% and 50% of the labels are wrong")
    open_above = findings(noise=(0.2, 0.14, 1.0), source=f"the training rows: {NO_LABEL_FREE_LAYER}")
    assert said(open_above) == (
        "At least 14% of the labels are wrong, a closer estimate is not possible: no layer is known to be "
        "independent of the labels."
    )


def posterior(scores, given, beta, T):
    """Return the posterior for known temperature and noise, (n, K)."""
    known = Calibration(beta, T, torch.tensor([beta]).double(), T[None], torch.zeros(1))
    return known.posterior(scores, given)


def test_issue_table_equals_the_hand_computed_one():
    given = torch.tensor([0, 0, 1, 2])
    chances = torch.tensor([[0.9, 0.1, 0.0], [0.1, 0.8, 0.1], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).double()
    scores = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 5.0, 1.0], [0.0, 1.0, 1.0]])
    index = np.array(["a.png", "b.png", "c.png", "d.png"])
    frame = find_issues(scores, chances, given, index, CLASSES, torch.tensor([False, True, False, False]))
    columns = "index given_label suggested_label label_score is_label_issue margin"
    assert list(frame.columns) == columns.split()
    assert frame["index"].tolist() == index.tolist()
    assert frame["given_label"].tolist() == ["cat", "cat", "dog", "owl"]
    assert frame["suggested_label"].tolist() == ["cat", "dog", "dog", "owl"]
    assert frame["label_score"].tolist() == pytest.approx([0.9, 0.1, 1.0, 1.0])
    assert frame["is_label_issue"].tolist() == [False, True, False, False]
    chances[3] = 0  # reviewers found that the row belongs to none of the classes
    stranger = find_issues(scores, chances, given, index, CLASSES, torch.tensor([False, True, False, True]))
    assert stranger["suggested_label"].tolist() == ["cat", "dog", "dog", "none of the classes"]
    assert frame["margin"].tolist() == [2, -2, 4, 0]


WRONG = torch.tensor([0.1, 0.9, 0.6, 0.9, 0.3]).double()


@pytest.mark.parametrize(
    ("rule", "flagged"),
    [
        ("balanced", [1, 3]),  # the rate says that two of five labels are wrong
        (3, [1, 2, 3]),
        (0, []),
        (99, [0, 1, 2, 3, 4]),
        (0.79, [1, 2, 3]),  # their mean probability is 0.8
        (0.85, [1, 3]),
        (0.95, []),
    ],
)
def test_flags_are_the_labels_most_likely_wrong(rule, flagged):
    assert flag(WRONG, rule, rate=0.4).nonzero().squeeze(1).tolist() == flagged
    assert not flag(WRONG, "balanced", rate=-0.4).any()  # more labels are corrected than were expected


@pytest.mark.parametrize("seed", range(5))
def test_balanced_flags_have_the_highest_expected_f1(seed):
    wrong = torch.rand(8, generator=torch.Generator().manual_seed(seed)).double() ** 3

    def expected_f1(flags):
        return 2 * wrong[flags].sum() / (flags.sum() + wrong.sum())

    sets = [torch.tensor([bool(i >> j & 1) for j in range(8)]) for i in range(1, 256)]
    assert torch.equal(flag(wrong, "balanced"), max(sets, key=expected_f1))
    assert not flag(torch.zeros(3), "balanced").any()


@pytest.mark.parametrize("rule", ["all", -1, 1.0, 0.0, True, None, [3], float("nan")])
def test_wrong_rule_for_flags_is_an_input_error(rule):
    with pytest.raises(InputError, match="'balanced', an expected precision between 0 and 1"):
        check_flag_rule(rule)


def issues(scores, chances, given, rate):
    wrong = 1 - chances.gather(1, given[:, None]).squeeze(1)
    flags = flag(wrong, "balanced", rate)
    return find_issues(scores, chances, given, np.arange(len(given)), CLASSES, flags), float(
        wrong[flags].mean()
    )


def test_a_flag_suggests_another_label():
    scores, _, given = scored_rows(500, 3, 3.0, noise_matrix(3, 0.4), seed=0)
    frame, _ = issues(scores, posterior(scores, given, 3.0, noise_matrix(3, 0.4)), given, 0.4)
    flagged = frame[frame["is_label_issue"]]
    assert len(flagged)
    assert (flagged["given_label"] != flagged["suggested_label"]).all()
    assert frame["label_score"].between(0, 1).all()


@pytest.mark.parametrize(("rate", "kind"), [(0.1, "uniform"), (0.4, "uniform"), (0.2, "pair")])
@pytest.mark.parametrize("beta", [2.0, 5.0])
def test_the_expected_precision_is_the_precision(rate, kind, beta):
    T = noise_matrix(3, rate, kind)
    scores, true, given = scored_rows(20_000, 3, beta, T, seed=4)
    wrong = (given != true).numpy()
    frame, expected = issues(scores, posterior(scores, given, beta, T), given, wrong.mean())
    flags = frame["is_label_issue"].to_numpy()
    assert wrong[flags].mean() == pytest.approx(expected, abs=0.04)
    assert flags.sum() == wrong.sum()
    suggested = frame["suggested_label"][flags] == CLASSES[true.numpy()][flags]
    assert suggested[wrong[flags]].mean() > 0.6


def test_scores_rank_wrong_labels_first():
    T = noise_matrix(3, 0.3)
    scores, true, given = scored_rows(2000, 3, 5.0, T, seed=1)
    frame, _ = issues(scores, posterior(scores, given, 5.0, T), given, 0.3)
    ranked = (given != true).numpy()[frame["label_score"].argsort().to_numpy()]
    assert ranked[:300].mean() > 0.9 > 0.1 > ranked[-1000:].mean()


@pytest.mark.parametrize(
    ("score", "text"),
    [(0.0, "0.000"), (7e-11, "< 0.001"), (0.0005, "0.001"), (0.25, "0.250")],
)
def test_score_text(score, text):
    assert score_text(score) == text


def test_order_of_rows_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    chances = torch.rand(400, 3, generator=generator).double().softmax(1) ** 4
    chances /= chances.sum(1, keepdim=True)
    given = draw(chances, generator)
    wrong = 1 - chances.gather(1, given[:, None]).squeeze(1)
    flags = flag(wrong, "balanced", 0.3)
    assert flags.sum() == 120
    rows = torch.randperm(400, generator=generator)
    assert torch.equal(flag(wrong[rows], "balanced", 0.3), flags[rows])


GIVEN = torch.tensor([0, 0, 1, 2])
POSTERIOR = torch.tensor([[0.9, 0.1, 0.0], [0.3, 0.6, 0.1], [0.8, 0.1, 0.1], [0.0, 0.0, 1.0]]).double()
BLIND = torch.tensor([[0.2, 0.8, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.4, 0.6]]).double()
NOTHING = torch.zeros(4, dtype=torch.bool)


def repaired(policy, dropped=NOTHING, **options):
    labels = relabel(policy, BLIND, POSTERIOR, GIVEN, **options)
    return repaired_labels(policy, labels, dropped, GIVEN, POSTERIOR, CLASSES)


@pytest.mark.parametrize(
    ("policy", "labels", "right"),
    [
        ("all", ["dog", "dog", "cat", "owl"], [0.1, 0.6, 0.8, 1.0]),  # as the decoder predicts
        ("confident", ["cat", "cat", "cat", "owl"], [0.9, 0.3, 0.8, 1.0]),  # 0.6 is no half above 0.3
        ("soft", ["cat", "dog", "cat", "owl"], [0.9, 0.6, 0.8, 1.0]),
    ],
)
def test_labels_and_expected_errors_by_policy(policy, labels, right):
    result = repaired(policy)
    assert result.policy == policy
    assert result.labels.tolist() == labels
    assert result.changed.tolist() == [a != b for a, b in zip(labels, CLASSES[GIVEN], strict=True)]
    assert result.kept.all()
    assert result.wrong_before == pytest.approx(1 - (0.9 + 0.3 + 0.1 + 1.0) / 4)
    assert result.wrong_after == pytest.approx(1 - sum(right) / 4)
    expected = POSTERIOR.numpy() if policy == "soft" else (np.array(labels)[:, None] == CLASSES)
    np.testing.assert_allclose(result.targets, expected)


def test_dropped_rows_do_not_count_after_the_repair():
    result = repaired("prune", torch.tensor([False, False, True, False]))
    assert result.kept.tolist() == [True, True, False, True]
    assert result.labels.tolist() == CLASSES[GIVEN].tolist()
    assert not result.changed.any()
    assert result.wrong_after == pytest.approx(1 - (0.9 + 0.3 + 1.0) / 3)
    assert np.isnan(repaired("prune", ~NOTHING).wrong_after)


@pytest.mark.parametrize(
    ("margin", "changed"), [(0, [1, 2]), (0.3, [1, 2]), (0.31, [2]), (0.7, [2]), (1, [])]
)
def test_margin_is_a_difference_of_probabilities(margin, changed):
    assert np.flatnonzero(repaired("confident", margin=margin).changed).tolist() == changed


def test_a_tie_keeps_the_label():
    even = torch.tensor([[0.5, 0.5, 0.0]]).double()
    for given in (0, 1):
        (label,) = relabel("confident", even, even, torch.tensor([given]), margin=0)
        assert even[0, label] == 0.5
    assert relabel("confident", even, even, torch.tensor([0])).tolist() == [0]


@pytest.mark.parametrize("policy", RELABEL_POLICIES)
def test_relabel_does_not_change_its_arguments(policy):
    given = GIVEN.clone()
    relabel(policy, BLIND, POSTERIOR, given)
    assert torch.equal(given, GIVEN)


def test_unknown_policy_or_margin_is_refused():
    with pytest.raises(InputError, match=r"confident.*'best'"):
        repaired("best")
    for margin in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="margin"):
            repaired("confident", margin=margin)
