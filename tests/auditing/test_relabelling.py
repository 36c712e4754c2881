"""Which labels are changed by which policy, and how many wrong ones are to be expected then."""

import numpy as np
import pytest
import torch

from layerprobe.auditing.issues import RELABEL_POLICIES, relabel
from layerprobe.errors import InputError

CLASSES = np.array(["cat", "dog", "owl"])
GIVEN = torch.tensor([0, 0, 1, 2])
POSTERIOR = torch.tensor([[0.9, 0.1, 0.0], [0.3, 0.6, 0.1], [0.8, 0.1, 0.1], [0.0, 0.0, 1.0]]).double()
BLIND = torch.tensor([[0.2, 0.8, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.4, 0.6]]).double()
FLAGS = torch.tensor([False, False, True, False])


def repaired(policy, **options):
    return relabel(policy, BLIND, POSTERIOR, GIVEN, FLAGS, CLASSES, **options)


@pytest.mark.parametrize(
    ("policy", "labels", "right"),
    [
        ("all", ["dog", "dog", "cat", "owl"], [0.1, 0.6, 0.8, 1.0]),  # as the decoder predicts
        ("confident", ["cat", "cat", "cat", "owl"], [0.9, 0.3, 0.8, 1.0]),  # 0.6 is no half above 0.3
        ("soft", ["cat", "dog", "cat", "owl"], [0.9, 0.6, 0.8, 1.0]),
        ("keep", ["cat", "cat", "dog", "owl"], [0.9, 0.3, 0.1, 1.0]),
    ],
)
def test_labels_and_how_many_are_wrong(policy, labels, right):
    result = repaired(policy)
    assert result.policy == policy
    assert result.labels.tolist() == labels
    assert result.changed.tolist() == [a != b for a, b in zip(labels, CLASSES[GIVEN], strict=True)]
    assert result.kept.all()
    assert result.wrong_before == pytest.approx(1 - (0.9 + 0.3 + 0.1 + 1.0) / 4)
    assert result.wrong_after == pytest.approx(1 - sum(right) / 4)
    expected = POSTERIOR.numpy() if policy == "soft" else (np.array(labels)[:, None] == CLASSES)
    np.testing.assert_allclose(result.targets, expected)


def test_prune_leaves_flagged_rows_out_and_the_others_as_they_are():
    result = repaired("prune")
    assert result.kept.tolist() == [True, True, False, True]
    assert result.labels.tolist() == CLASSES[GIVEN].tolist()
    assert not result.changed.any()
    assert result.wrong_after == pytest.approx(1 - (0.9 + 0.3 + 1.0) / 3)
    nothing = relabel("prune", BLIND, POSTERIOR, GIVEN, torch.ones(4, dtype=torch.bool), CLASSES)
    assert np.isnan(nothing.wrong_after)


@pytest.mark.parametrize(
    ("margin", "changed"), [(0, [1, 2]), (0.3, [1, 2]), (0.31, [2]), (0.7, [2]), (1, [])]
)
def test_the_margin_is_of_probability(margin, changed):
    assert np.flatnonzero(repaired("confident", margin=margin).changed).tolist() == changed


def test_a_tie_keeps_the_label():
    even = torch.tensor([[0.5, 0.5, 0.0]]).double()
    for given in (0, 1):
        result = relabel("confident", even, even, torch.tensor([given]), FLAGS[:1], CLASSES, margin=0)
        assert result.wrong_after == pytest.approx(0.5)
    assert not relabel("confident", even, even, torch.tensor([0]), FLAGS[:1], CLASSES).changed.any()


@pytest.mark.parametrize("policy", RELABEL_POLICIES)
def test_nothing_is_written_into_what_was_given(policy):
    given = GIVEN.clone()
    relabel(policy, BLIND, POSTERIOR, given, FLAGS, CLASSES)
    assert torch.equal(given, GIVEN)


def test_policies_and_margins_that_do_not_exist():
    with pytest.raises(InputError, match=r"confident.*'best'"):
        repaired("best")
    for margin in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="margin"):
            repaired("confident", margin=margin)
