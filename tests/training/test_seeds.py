import torch

from layerprobe.training import Seeds, seeded


def test_derived_seeds_are_fixed_and_all_different():
    assert Seeds.derive(0) == Seeds.derive(0)
    drawn = [s for seed in range(20) for s in vars(Seeds.derive(seed)).values()]
    assert len(set(drawn)) == 60


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
