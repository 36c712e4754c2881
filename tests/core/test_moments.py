"""ClassMoments keeps its memory bound, and any way to it gives the same subspaces."""

import numpy as np
import pytest
import torch

from layerprobe.core import moments as module
from layerprobe.core.moments import ClassMoments, joint_subspaces
from layerprobe.core.second_moment import SecondMoment
from layerprobe.core.subspaces import fit_subspaces
from layerprobe.errors import InputError


def draw(n, d, K, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(K, (n,), generator=generator)
    centres = 3 * torch.randn(K, d, generator=generator, dtype=dtype)
    return centres[codes] + torch.randn(n, d, generator=generator, dtype=dtype), codes


@pytest.mark.parametrize(("n", "d", "K"), [(40, 300, 3), (900, 300, 5), (2_000, 300, 4), (6_000, 20, 3)])
@pytest.mark.parametrize("batch", [1_000_000, 128])
def test_memory_stays_under_the_bound_at_every_batch(n, d, K, batch):
    X, codes = draw(n, d, K)
    moments = ClassMoments(K, d)
    buffer = ClassMoments.buffer_rows(K, d) * (4 * d + 8)
    seen = torch.zeros(K, dtype=torch.int64)
    for rows, part in zip(X.split(batch), codes.split(batch), strict=True):
        moments.update(rows, part)
        seen += part.bincount(minlength=K)
        bound = 4 * (d + 1) * int(seen.clamp(max=d).sum())
        assert moments.nbytes <= bound + buffer
        assert bound <= ClassMoments.most_bytes(K, d, int(seen.sum()))
    assert torch.equal(moments.counts, seen)
    moments.subspaces(variance=0.9)  # what waited is sorted in
    assert moments.nbytes - buffer <= bound
    assert bound <= 1.06 * K * d * min(n, d) * 4


def test_a_buffer_is_not_larger_than_the_rows_that_are_expected():
    X, codes = draw(50, 30, 3)
    moments = ClassMoments(3, 30, expected=50).update(X, codes)
    assert moments.nbytes == 50 * 30 * 4 + 50 * 8


def test_packed_triangles_are_the_moment():
    for d in (1, 5, 128, 300, 1100):
        X = torch.randn(40, d, dtype=torch.float64, generator=torch.Generator().manual_seed(d))
        moment = SecondMoment(d).add(X[:25]).add(X[25:]).add(X[:0])
        torch.testing.assert_close(moment.matrix(), X.T @ X, rtol=0, atol=1e-11)
        assert moment.trace() == pytest.approx(float(X.square().sum()))
        assert sum(tensor.nbytes for tensor in moment.tensors) == 4 * d * (d + 1)


def test_each_class_collapses_once_it_has_d_rows_and_no_sooner(monkeypatch):
    made = []

    class Counted(SecondMoment):
        def __init__(self, *arguments):
            made.append(arguments)
            super().__init__(*arguments)

    monkeypatch.setattr(module, "SecondMoment", Counted)
    X, codes = draw(60, 20, 1)
    moments = ClassMoments(2, 20)
    for start in range(0, 60, 7):
        moments.update(X[start : start + 7], codes[start : start + 7])
        moments.merge(ClassMoments(2, 20))  # sorts in what waits
        assert len(made) == (start + 7 >= 20)


def test_joint_moments_are_those_of_all_rows():
    X, codes = draw(400, 60, 4, torch.float64)  # classes of 100 rows: in parts by rows, by moment, by both
    whole = fit_subspaces(X, codes, 4, variance=0.9)
    for cuts in ([30, 370], [200, 200], [350, 50], [100, 150, 150]):
        parts = [
            ClassMoments(4, 60, dtype=torch.float64).update(rows, part)
            for rows, part in zip(X.split(cuts), codes.split(cuts), strict=True)
        ]
        joint = joint_subspaces(parts, variance=0.9)
        assert joint.ranks == whole.ranks
        assert joint.counts == whole.counts
        torch.testing.assert_close(joint.squared_cosines(X), whole.squared_cosines(X), rtol=0, atol=1e-12)
        some = joint_subspaces(parts, variance=0.9, codes=[1, 3], classes=["b", "d"])
        assert some.ranks == (whole.ranks[1], whole.ranks[3])


def test_truncated_moments_lack_no_more_than_they_say():
    X, codes = draw(900, 80, 3, torch.float64)
    X *= 0.9 ** torch.arange(80)
    moments = ClassMoments(3, 80, dtype=torch.float64, directions=20)
    other = ClassMoments(3, 80, dtype=torch.float64, directions=20)
    for i, (rows, part) in enumerate(zip(X.split(50), codes.split(50), strict=True)):
        (moments if i % 3 else other).update(rows, part)
    moments.merge(other)
    assert moments.nbytes <= 3 * 40 * 80 * 8 + ClassMoments.buffer_rows(3, 80) * (8 * 80 + 8)
    assert moments.counts.tolist() == codes.bincount().tolist()
    subspaces = moments.subspaces(variance=0.9)
    assert subspaces.counts == tuple(codes.bincount().tolist())
    for k in range(3):
        rows, kept = X[codes == k], moments._kept(k)
        lacking = torch.linalg.eigvalsh(rows.T @ rows - kept.T @ kept)
        assert lacking[0] > -1e-9
        assert 0 < lacking[-1] <= moments.lost[k] + 1e-9
        assert moments.lost[k] < 0.2 * torch.linalg.matrix_norm(rows, 2) ** 2
    exact = fit_subspaces(X, codes, 3, components=5)
    agree = moments.subspaces(components=5).predict(X) == exact.predict(X)
    assert agree.double().mean() > 0.97


def test_nothing_is_lost_of_few_directions():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(300, 4, generator=generator).double() @ torch.randn(4, 30, generator=generator).double()
    moments = ClassMoments(1, 30, dtype=torch.float64, directions=4)
    for rows in X.split(20):
        moments.update(rows, torch.zeros(len(rows), dtype=torch.int64))
    np.testing.assert_allclose(
        moments.subspaces(variance=1.0).eigenvalues[0][:4], torch.linalg.svdvals(X)[:4] ** 2, rtol=1e-9
    )
    assert float(moments.lost[0]) < 1e-9 * float(X.square().sum())
    with pytest.raises(InputError, match="directions"):
        ClassMoments(1, 30, directions=0)
    with pytest.raises(InputError, match="Only like moments"):
        moments.merge(ClassMoments(1, 30, dtype=torch.float64))
