"""Made-up data whose answer is known: scores with a planted sharpness and noise, clusters as layers."""

import numpy as np
import torch


def noise_matrix(K, rate, kind="uniform"):
    """P(given = column | true = row) with a share `rate` of wrong labels."""
    if kind == "pair":
        return (1 - rate) * torch.eye(K).double() + rate * torch.eye(K).double().roll(1, 1)
    return (1 - rate - rate / (K - 1)) * torch.eye(K).double() + torch.full((K, K), rate / (K - 1)).double()


def draw(probabilities, generator):
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)


def scored_rows(m, K, beta, T, seed):
    """Scores, true labels and given labels that follow the model of calibration exactly."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(m, K, generator=generator, dtype=torch.float64)
    true = draw((beta * scores).softmax(1), generator)
    return scores, true, draw(T[true], generator)


def clusters(n, K=3, d=6, *, seed=0, apart=3.0):
    """Rows (n, d) around the class means, and their classes; the last feature hardly varies."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % K
    noise = torch.randn(n, d, generator=generator)
    noise[:, -1] *= 0.01
    return apart * torch.eye(K, d)[y] + noise, y


def corrupted(y, K, rate, seed=0, kind="uniform"):
    return draw(noise_matrix(K, rate, kind)[y], torch.Generator().manual_seed(seed))


def prints(n, seed=0):
    """Fingerprints of n different rows."""
    return np.random.default_rng(seed).permutation(n).astype(np.uint64)


def right_of(labels):
    """What a policy with these labels counts as right, row by row."""
    return lambda scores: torch.stack([s.argmax(1) == labels for s in scores]).double().mean(0)
