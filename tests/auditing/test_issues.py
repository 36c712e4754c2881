"""Which labels are flagged, what is suggested, and how sure that is."""

import numpy as np
import pytest
import torch

from auditing.planted import draw, noise_matrix, scored_rows
from layerprobe.auditing.issues import COLUMNS, find_issues, flag, score_text
from layerprobe.auditing.method.calibration import Calibration

CLASSES = np.array(["cat", "dog", "owl"])


def posterior(scores, given, beta, T):
    """What the true sharpness and noise say."""
    known = Calibration(beta, T, torch.tensor([beta]).double(), T[None], torch.zeros(1))
    return known.posterior(scores, given)


def test_the_table_by_hand():
    given = torch.tensor([0, 0, 1, 2])
    chances = torch.tensor([[0.9, 0.1, 0.0], [0.1, 0.8, 0.1], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).double()
    scores = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 5.0, 1.0], [0.0, 1.0, 1.0]])
    index = np.array(["a.png", "b.png", "c.png", "d.png"])
    frame, expected = find_issues(scores, chances, given, index, CLASSES)
    assert list(frame.columns) == COLUMNS
    assert frame["index"].tolist() == index.tolist()
    assert frame["given_label"].tolist() == ["cat", "cat", "dog", "owl"]
    assert frame["suggested_label"].tolist() == ["cat", "dog", "dog", "owl"]
    assert frame["label_score"].tolist() == pytest.approx([0.9, 0.1, 1.0, 1.0])
    assert frame["is_label_issue"].tolist() == [False, True, False, False]
    assert frame["margin"].tolist() == [2, -2, 4, 0]
    assert expected == pytest.approx(0.9)


def test_as_many_of_a_pair_are_flagged_as_errors_are_expected():
    given = torch.zeros(10, dtype=torch.int64)
    chances = torch.tensor([[0.45, 0.55, 0.0]]).repeat(10, 1).double()
    chances[3] = torch.tensor([0.1, 0.9, 0.0])
    flags = flag(chances, given)  # 5.85 errors from dog to cat in all, the surest first
    assert flags.sum() == 6
    assert flags[3]
    assert not flag(torch.tensor([[0.6, 0.4, 0.0]]).repeat(10, 1).double(), given).any()  # none is likely


def test_a_flag_suggests_another_label():
    scores, _, given = scored_rows(500, 3, 3.0, noise_matrix(3, 0.4), seed=0)
    chances = posterior(scores, given, 3.0, noise_matrix(3, 0.4))
    frame, _ = find_issues(scores, chances, given, np.arange(500), CLASSES)
    flagged = frame[frame["is_label_issue"]]
    assert len(flagged)
    assert (flagged["given_label"] != flagged["suggested_label"]).all()
    assert frame["label_score"].between(0, 1).all()


@pytest.mark.parametrize(("rate", "kind"), [(0.1, "uniform"), (0.4, "uniform"), (0.2, "pair")])
@pytest.mark.parametrize("beta", [2.0, 5.0])
def test_the_expected_precision_is_the_precision(rate, kind, beta):
    T = noise_matrix(3, rate, kind)
    scores, true, given = scored_rows(20_000, 3, beta, T, seed=4)
    frame, expected = find_issues(
        scores, posterior(scores, given, beta, T), given, np.arange(20_000), CLASSES
    )
    wrong = (given != true).numpy()
    flags = frame["is_label_issue"].to_numpy()
    assert wrong[flags].mean() == pytest.approx(expected, abs=0.04)
    assert flags.sum() <= 1.02 * wrong.sum()
    suggested = frame["suggested_label"][flags] == CLASSES[true.numpy()][flags]
    assert suggested.mean() > 0.6


def test_scores_rank_wrong_labels_first():
    T = noise_matrix(3, 0.3)
    scores, true, given = scored_rows(2000, 3, 5.0, T, seed=1)
    frame, _ = find_issues(scores, posterior(scores, given, 5.0, T), given, np.arange(2000), CLASSES)
    ranked = (given != true).numpy()[frame["label_score"].argsort().to_numpy()]
    assert ranked[:300].mean() > 0.9 > 0.1 > ranked[-1000:].mean()


def test_clean_labels_are_not_flagged():
    scores, _, given = scored_rows(2000, 3, 5.0, noise_matrix(3, 0), seed=1)
    frame, expected = find_issues(
        scores, posterior(scores, given, 5.0, noise_matrix(3, 0)), given, given, CLASSES
    )
    assert not frame["is_label_issue"].any()
    assert np.isnan(expected)


@pytest.mark.parametrize(
    ("score", "text"),
    [(0.0, "0.000"), (7e-11, "< 0.001"), (0.0005, "0.001"), (0.25, "0.250")],
)
def test_a_score_in_words(score, text):
    assert score_text(score) == text


def test_neither_order_nor_names_of_classes_matter():
    generator = torch.Generator().manual_seed(0)
    chances = torch.rand(400, 3, generator=generator).double().softmax(1) ** 4
    chances /= chances.sum(1, keepdim=True)
    given = draw(chances, generator)
    flags = flag(chances, given)
    assert 0 < flags.sum() < 400
    rows = torch.randperm(400, generator=generator)
    assert torch.equal(flag(chances[rows], given[rows]), flags[rows])
    order = torch.tensor([2, 0, 1])
    assert torch.equal(flag(chances[:, order], order.argsort()[given]), flags)
