import numpy as np
import pytest
import torch

from layerprobe.errors import InputError
from layerprobe.training import Seeds, seeded


def test_derived_seeds_are_fixed_and_all_different():
    assert Seeds.derive(0) == Seeds.derive(0)
    drawn = [s for seed in range(20) for s in vars(Seeds.derive(seed)).values()]
    assert len(set(drawn)) == 60


def test_derived_seeds_are_numpys():
    # Part of every run's recipe: other seeds would silently be another experiment.
    assert Seeds.derive(7) == Seeds.derive(np.int64(7)) == Seeds(2083679832, 3939563265, 4185785210)


@pytest.mark.parametrize("seed", [-1, 1.7, None, "1", [1, 2]])
def test_what_is_no_seed(seed):
    with pytest.raises(InputError, match="seed must be a non-negative integer, got"):
        Seeds.derive(seed)


def test_seeded_repeats_and_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with seeded(1, 2):
        a = torch.rand(4)
    assert torch.equal(torch.rand(4), expected)
    with seeded(1, 2):
        assert torch.equal(torch.rand(4), a)
    with seeded(2, 1):
        assert not torch.equal(torch.rand(4), a)
