"""Ensembles of probes, and out-of-fit scores."""

import numpy as np
import pytest
import torch

from auditing.planted import clusters, corrupted, prints, right_of
from layerprobe import MASC
from layerprobe.auditing.method import ensemble as module
from layerprobe.auditing.method.ensemble import (
    FOLDS,
    Candidate,
    CandidateScore,
    ProbeEnsemble,
    audit_probes,
    fold_of,
    score_candidates,
    select_members,
    standardise,
)
from layerprobe.errors import InputError
from layerprobe.probes import Ridge, VeLPIC, WhitenedKNN, create

K = 3
X, TRUE = clusters(60)
Y = corrupted(TRUE, K, 0.3)
PRINTS = prints(60)
RIDGE = Candidate("a", "ridge", 0.1)
VELPIC = Candidate("a", "velpic", None)


def fit(candidates, y=Y, outputs=None, fingerprints=PRINTS):
    probes = audit_probes({c.probe: c.probe for c in candidates})
    return ProbeEnsemble.fit(candidates, probes, outputs or {"a": X}, y, fingerprints)


def centred(scores):
    return (scores - scores.mean(1, keepdim=True)).double()


def test_ridge_scores_each_row_by_the_fit_without_it():
    decoder, left_out = fit([RIDGE])
    raw = left_out * decoder.members[0].scale
    for i in range(0, 60, 7):
        rest = torch.arange(60) != i
        alone = Ridge(0.1).fit(X[rest], Y[rest])
        torch.testing.assert_close(
            raw[i : i + 1], centred(alone.class_scores(X[i : i + 1])), atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("candidate", [RIDGE, Candidate("a", "whitened_knn", 25)], ids=lambda c: c.probe)
def test_a_row_s_own_label_is_not_in_its_score(candidate):
    decoder, left_out = fit([candidate])
    other = Y.clone()
    other[5] = (Y[5] + 1) % K
    flipped, again = fit([candidate], other)
    before, after = left_out * decoder.members[0].scale, again * flipped.members[0].scale
    torch.testing.assert_close(after[5], before[5], atol=1e-5, rtol=0)
    moved = (after - before).abs().amax(1)
    assert (moved > 1e-4).sum() > 5  # its neighbours' scores do change
    assert not torch.allclose(  # and so does its own, by the fit with it
        flipped.members[0].probe.class_scores(X[5:6]),
        decoder.members[0].probe.class_scores(X[5:6]),
        atol=1e-3,
    )


@pytest.mark.parametrize(
    ("candidate", "probe"), [(VELPIC, VeLPIC()), (Candidate("a", "masc", 0.5), MASC(0.5))]
)
def test_a_probe_without_leave_one_out_is_scored_out_of_fold(candidate, probe):
    decoder, left_out = fit([candidate])
    folds = torch.from_numpy(fold_of(Y.numpy(), PRINTS))
    for fold in range(FOLDS):
        inside = folds == fold
        alone = type(probe)(**probe.get_params()).fit(X[~inside], Y[~inside])
        expected = centred(alone.class_scores(X[inside]))
        torch.testing.assert_close(left_out[inside] * decoder.members[0].scale, expected, atol=1e-5, rtol=0)


def test_ensemble_scores_are_means_of_standardised_scores():
    decoder, left_out = fit([RIDGE, VELPIC])
    alone = [fit([candidate]) for candidate in (RIDGE, VELPIC)]
    torch.testing.assert_close(left_out, (alone[0][1] + alone[1][1]) / 2)
    for _, own in alone:
        assert float(own.std()) == pytest.approx(1)
        torch.testing.assert_close(own.mean(1), torch.zeros(60).double(), atol=1e-6, rtol=0)
    new = {"a": clusters(9, seed=5)[0]}
    expected = (alone[0][0].scores(new) + alone[1][0].scores(new)) / 2
    torch.testing.assert_close(decoder.scores(new), expected)


def test_layers_are_named_once():
    other = Candidate("b", "ridge", 1)
    decoder, _ = fit([RIDGE, other, VELPIC], outputs={"a": X, "b": X})
    assert decoder.layers == ("a", "b")
    assert torch.equal(standardise(torch.tensor([[3.0, 1.0]]), 2.0), torch.tensor([[0.5, -0.5]]).double())


def test_constant_layer_gives_finite_scores():
    decoder, left_out = fit([Candidate("a", "ncm", None)], outputs={"a": torch.zeros(60, 4)})
    assert left_out.isfinite().all()
    assert decoder.scores({"a": torch.ones(2, 4)}).isfinite().all()


def test_folds_are_balanced_per_class_and_keep_duplicates_together():
    codes = np.repeat([0, 1, 2], [50, 25, 2])
    fingerprints = np.append(prints(76), 7).astype(np.uint64)
    fingerprints[49] = fingerprints[0]  # a double of one class
    folds = fold_of(codes, fingerprints)
    assert folds[49] == folds[0]
    for k in range(3):
        counts = np.bincount(folds[codes == k], minlength=FOLDS)
        assert counts.max() - counts.min() <= 2
    assert len(set(folds[codes == 2])) == 2  # a class of two rows has one in every fit


def test_folds_do_not_depend_on_row_or_class_order():
    order = np.random.default_rng(0).permutation(60)
    folds = fold_of(Y.numpy(), PRINTS)
    assert np.array_equal(fold_of(Y.numpy()[order], PRINTS[order]), folds[order])
    assert np.array_equal(fold_of((2 - Y).numpy(), PRINTS), folds)


def test_a_class_of_two_rows_is_scored_too():
    y = Y.clone()
    y[y == 2] = 0
    y[[3, 8]] = 2
    _, left_out = fit([VELPIC], y)
    assert left_out.isfinite().all()
    doubled = PRINTS.copy()
    doubled[8] = doubled[3]  # both in one fold: no fit knows the class
    assert fit([VELPIC], y, fingerprints=doubled)[1].isfinite().all()


def halves(seed=0, n=300):
    """Two layers that each know half of the classes, and one that knows nothing."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 4
    both = 4 * torch.eye(4)[y]
    noise = torch.randn(3, n, 4, generator=generator)
    first, second = both.clone(), both.clone()
    first[:, 2:], second[:, :2] = 0, 0
    return {"first": first + noise[0], "second": second + noise[1], "blind": noise[2]}, y


def test_selected_members_raise_the_accuracy_of_the_sum():
    layers, y = halves()
    held, held_y = halves(1)
    tried = score_candidates(audit_probes(["ridge"]), layers, y, [held], right_of(held_y))
    members = select_members(tried, right_of(held_y))
    names = [one.candidate.layer for one in members]
    assert set(names) == {"first", "second"}
    assert members[0].criterion == max(one.criterion for one in tried)
    decoder, _ = ProbeEnsemble.fit(
        [m.candidate for m in members], audit_probes(["ridge"]), layers, y, prints(300)
    )
    together = float((decoder.scores(held).argmax(1) == held_y).double().mean())
    assert together > members[0].criterion + 0.1
    assert len({one.candidate.probe for one in members}) == 1


def one_class_right(k):
    """A candidate that is right on class k, and nearly indifferent on the others."""
    scores = torch.eye(4).roll(1, 1) / 10
    scores[k] = 10 * torch.eye(4)[k]
    return CandidateScore(Candidate(str(k), "ncm", None), torch.eye(4)[k], [scores])


def test_selection_stops(monkeypatch):
    pool, right = [one_class_right(k) for k in range(4)], right_of(torch.arange(4))
    assert select_members(pool, right) == pool
    monkeypatch.setattr(module, "MAX_MEMBERS", 2)
    assert select_members(pool, right) == pool[:2]
    perfect = CandidateScore(Candidate("p", "ncm", None), torch.ones(4), [10 * torch.eye(4)])
    assert select_members([*pool, perfect], right) == [perfect]  # nothing can raise it
    hidden = CandidateScore(Candidate("q", "ncm", None), torch.ones(4), None)
    assert select_members([hidden, *pool], right) == pool[:2]  # of its probe and layer another one is better


def test_candidates_of_unknown_accuracy_are_not_selected():
    unknown, scores = torch.full((4,), torch.nan), [torch.eye(4)]
    pool = [CandidateScore(RIDGE, unknown, scores), CandidateScore(VELPIC, torch.zeros(4), scores)]
    assert select_members(pool, lambda _: unknown) == pool[1:]
    with pytest.raises(InputError, match="choose views that change the rows more"):
        select_members(pool[:1], lambda _: unknown)


def test_order_of_rows_does_not_change_the_scores():
    candidates = [RIDGE, VELPIC, Candidate("a", "whitened_knn", 25)]
    _, plain = fit(candidates)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    _, shuffled = fit(candidates, Y[order], {"a": X[order]}, PRINTS[order.numpy()])
    torch.testing.assert_close(shuffled, plain[order], atol=1e-4, rtol=0)


def test_nearest_neighbours_leave_the_row_out():
    _, left_out = fit([Candidate("a", "whitened_knn", 25)])
    expected = centred(WhitenedKNN(25).fit(X, Y).loo_scores(X, Y))
    torch.testing.assert_close(left_out, expected / expected.std())
    assert create("ridge").fit(X, Y).score(X, Y) >= float((left_out.argmax(1) == Y).double().mean())
