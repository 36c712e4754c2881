"""ClassMoments keeps its memory bound, and any way to it gives the same subspaces."""

import pytest
import torch

from layerprobe.core.linalg import SecondMoment
from layerprobe.core.moments import ClassMoments, joint_subspaces
from layerprobe.core.subspaces import fit_subspaces
from layerprobe.errors import InputError


def draw(n, d, K, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(K, (n,), generator=generator)
    centres = 3 * torch.randn(K, d, generator=generator, dtype=dtype)
    return centres[codes] + torch.randn(n, d, generator=generator, dtype=dtype), codes


@pytest.mark.parametrize(("n", "d", "K"), [(40, 300, 3), (900, 300, 5), (2_000, 300, 4), (6_000, 20, 3)])
@pytest.mark.parametrize("batch", [1_000_000, 128])
def test_memory_is_below_the_bound_after_every_batch(n, d, K, batch):
    X, codes = draw(n, d, K)
    moments = ClassMoments(K, d)
    buffer = ClassMoments.buffer_rows(K, d) * (4 * d + 8)
    seen = torch.zeros(K, dtype=torch.int64)
    for rows, part in zip(X.split(batch), codes.split(batch), strict=True):
        moments.update(rows, part)
        seen += part.bincount(minlength=K)
        moment = SecondMoment.bytes_for(d)
        bound = sum(min(4 * d * n_k, moment) if n_k < moment / (4 * d) else moment for n_k in seen.tolist())
        assert moments.nbytes <= bound + buffer
        assert bound <= ClassMoments.most_bytes(K, d, int(seen.sum()))
    assert torch.equal(moments.counts, seen)
    moments.subspaces(variance=0.9)  # what waited is sorted in
    assert moments.nbytes - buffer <= bound
    assert moment <= 4 * d * (d + max(16, min(96, d / 12)))  # the triangle, and half of the stripes


def test_a_buffer_is_not_larger_than_the_rows_that_are_expected():
    X, codes = draw(50, 30, 3)
    moments = ClassMoments(3, 30, expected=50).update(X, codes)
    assert moments.nbytes == 50 * 30 * 4 + 50 * 8


def test_packed_triangles_are_the_moment():
    for d in (1, 5, 128, 300, 1100):
        X = torch.randn(40, d, dtype=torch.float64, generator=torch.Generator().manual_seed(d))
        moment = SecondMoment(d).add(X[:25]).add(X[25:]).add(X[:0])
        torch.testing.assert_close(moment.matrix(), X.T @ X, rtol=0, atol=1e-11)
        torch.testing.assert_close(moment.diagonal(), X.square().sum(0), rtol=0, atol=1e-11)
        assert sum(part.nbytes for part in moment.parts) == SecondMoment.bytes_for(d)


def test_a_class_keeps_its_rows_while_they_take_less_memory_than_its_moment():
    d = 200
    X, y = draw(500, d, 1)
    moments, moment = ClassMoments(1, d, expected=1), SecondMoment.bytes_for(d)
    for start in range(0, 500, 50):
        moments.update(X[start : start + 50], y[start : start + 50])
        rows = 4 * d * (start + 50)
        assert moments.nbytes - 8 == (rows if rows < moment else moment)


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
        some = joint_subspaces(parts, variance=0.9, y=[1, 3], classes=["b", "d"])
        assert some.ranks == (whole.ranks[1], whole.ranks[3])


def test_moments_of_other_kinds_do_not_merge():
    with pytest.raises(InputError, match="Only like moments"):
        ClassMoments(1, 30).merge(ClassMoments(1, 30, dtype=torch.float64))
