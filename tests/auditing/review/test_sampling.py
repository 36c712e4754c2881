import numpy as np
import pytest

from layerprobe.auditing.review.sampling import draw_sample, stratify
from layerprobe.errors import InputError


def scores(n=1000, seed=0, share=0.2):
    generator = np.random.default_rng(seed)
    score = generator.beta(5, 1, n)
    score[: round(share * n)] = generator.beta(1, 5, round(share * n))
    return score, score < 0.5


def test_every_row_is_in_one_stratum_of_rows_to_relabel_or_of_others():
    score, flags = scores()
    names, stratum = stratify(score, flags)
    assert np.bincount(stratum).min() > 0
    assert len(np.bincount(stratum)) == len(names) == 5
    for h, name in enumerate(names):
        assert (flags[stratum == h] == ("not" not in name)).all()
    low, high = (score[stratum == names.index(name)] for name in names[:2])
    assert low.max() <= high.min()


@pytest.mark.parametrize("size", [1, 2, 7, 100, 999, 1000, 5000])
def test_sample_has_the_requested_number_of_distinct_rows(size):
    score, flags = scores()
    sample = draw_sample(score, flags, size, seed=3)
    assert len(set(sample.positions.tolist())) == len(sample.positions) == min(size, 1000)
    assert len(sample.repeated) == round(0.1 * min(size, 1000))
    assert set(sample.repeated.tolist()) <= set(sample.positions.tolist())


def test_most_of_the_sample_are_rows_to_relabel_and_each_stratum_is_drawn():
    score, flags = scores(share=0.1)
    sample = draw_sample(score, flags, 100, seed=0)
    assert flags[sample.positions].mean() >= 0.55
    assert np.bincount(sample.stratum[sample.positions], minlength=5).min() >= 5


@pytest.mark.parametrize("flags", [np.zeros(300, bool), np.ones(300, bool)])
def test_data_without_changes_or_with_changes_only_can_be_sampled(flags):
    sample = draw_sample(np.linspace(0, 1, 300), flags, 60, seed=0)
    assert len(sample.positions) == 60


def test_rows_of_a_stratum_are_equally_probable():
    score, flags = scores(n=60)
    drawn = np.zeros(60)
    for seed in range(2000):
        drawn[draw_sample(score, flags, 20, seed).positions] += 1
    stratum = stratify(score, flags)[1]
    for h in range(stratum.max() + 1):
        share = drawn[stratum == h] / 2000
        p = share.mean()
        assert np.abs(share - p).max() < 4.5 * np.sqrt(p * (1 - p) / 2000) + 1e-12


def test_equal_seeds_draw_equal_samples():
    score, flags = scores()
    one, other = (draw_sample(score, flags, 50, seed=8) for _ in range(2))
    assert (one.positions == other.positions).all()
    assert (one.repeated == other.repeated).all()
    assert set(draw_sample(score, flags, 50, seed=9).positions) != set(one.positions)


@pytest.mark.parametrize(
    ("size", "seed"), [(0, 0), (-3, 0), (2.5, 0), ("9", 0), (True, 0), (10, -1), (10, None)]
)
def test_wrong_size_or_seed_is_an_input_error(size, seed):
    score, flags = scores()
    with pytest.raises(InputError, match="whole number"):
        draw_sample(score, flags, size, seed)
