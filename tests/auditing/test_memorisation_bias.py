"""Recovery of planted memorised shares and accuracies."""

import numpy as np
import pytest
import torch

from layerprobe.auditing.method.baselines import interval
from layerprobe.auditing.method.policies import memorisation_corrected, memorised_share

K, N = 10, 20_000


def planted(memory, accuracy, *, seed=0, n=N, noise=0.4, blind=0.6):
    """Given labels, a blind decoder's posterior, predictions with and without memory."""
    rng = np.random.default_rng(seed)

    def noisy(labels, wrong):
        return np.where(rng.random(n) < wrong, (labels + rng.integers(1, K, n)) % K, labels)

    true = rng.integers(K, size=n)
    given, seen = noisy(true, noise), noisy(true, 1 - blind)
    likely = np.where(np.arange(K) == seen[:, None], blind, (1 - blind) / (K - 1))
    posterior = likely * np.where(np.arange(K) == given[:, None], 1 - noise, noise / (K - 1))
    posterior /= posterior.sum(1, keepdims=True)
    understood = noisy(true, 1 - accuracy)
    predicted = np.where(rng.random(n) < memory, given, understood)
    tensors = [torch.from_numpy(array) for array in (given, posterior, predicted, understood)]
    return tensors[0], tensors[1], tensors[2], tensors[3]


@pytest.mark.parametrize("accuracy", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("memory", [0.0, 0.2, 0.45])
def test_memorised_share_and_accuracy_are_recovered(memory, accuracy):
    given, posterior, predicted, understood = planted(memory, accuracy)
    assert memorised_share(predicted, given, posterior) == pytest.approx(memory, abs=0.03)
    without = float(memorisation_corrected(predicted, given, posterior).mean())
    assert without == pytest.approx(float((understood == given).double().mean()), abs=0.02)


def test_row_values_give_a_valid_interval():
    means, halves = [], []
    for seed in range(40):
        given, posterior, predicted, _ = planted(0.3, 0.6, seed=seed, n=2000)
        found = interval(memorisation_corrected(predicted, given, posterior))
        means.append(found.value)
        halves.append(found.high - found.value)
    assert np.mean(halves) / 1.96 == pytest.approx(np.std(means), rel=0.3)


def test_less_memorised_candidate_is_better():
    given, posterior, remembering, _ = planted(0.45, 0.4)
    *_, understanding = planted(0.0, 0.6)
    plain = [(predicted == given).double().mean() for predicted in (remembering, understanding)]
    taken = [memorisation_corrected(p, given, posterior).mean() for p in (remembering, understanding)]
    assert plain[0] > plain[1]
    assert taken[0] < taken[1]


def test_correction_without_memorisation_is_the_identity():
    given, posterior, _, understood = planted(0.0, 0.9)
    wrong = (given + 1) % K  # agrees with nothing: less than no memory
    assert torch.equal(memorisation_corrected(wrong, given, posterior), torch.zeros(N, dtype=torch.float64))
    assert memorised_share(wrong, given, posterior) == 0
    assert memorised_share(understood, given, posterior) < 0.02


def test_fully_memorised_predictions_are_at_chance():
    given, posterior, _, _ = planted(0.0, 0.9)
    assert memorised_share(given, given, posterior) == pytest.approx(1)
    assert memorisation_corrected(given, given, posterior).unique().tolist() == [1 / K]


def test_uninformative_posterior_corrects_nothing():
    given, _, predicted, _ = planted(0.3, 0.6)
    nothing = torch.full((N, K), 0.4 / (K - 1), dtype=torch.float64)
    nothing[torch.arange(N), given] = 0.6
    assert torch.equal(memorisation_corrected(predicted, given, nothing), (predicted == given).double())
