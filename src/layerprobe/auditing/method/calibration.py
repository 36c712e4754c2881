"""From scores to probabilities, and to the noise of the labels: one model of how wrong labels come about.

A decoder's scores s (n, K) of rows that the network has not seen, and the rows' given labels g, follow

    P(true = k | x) = softmax(beta s)_k,    P(g = j | true = k) = T[k, j],

with one sharpness beta and one transition matrix T for all rows. Both are those of the largest likelihood of
the given labels, sum_k softmax(beta s)_k T[k, g]; where scores are decided, disagreement can only be noise,
which is what tells the two apart. On rows that the network was trained on they cannot be told apart: it has
learnt to agree with the given labels there.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from layerprobe.errors import InputError

__all__ = ["MIXED", "Calibration", "calibrate", "calibrate_on_truth", "sharpness"]

DRAWS = 40  # of the bootstrap
MIXED = 15  # of them that probabilities are the mean of
SPREAD = 1.0  # pseudo-rows a class, spread as uniform noise: a class of few rows keeps a sane row of T
TINY = 1e-12
USUAL = 3.0  # sharpness of scores of unit spread, as far as few rows leave it open


@dataclass(frozen=True, eq=False)
class Calibration:
    """What scores mean, and how labels are wrong.

    Attributes
    ----------
    beta : float
        Sharpness: class probabilities are softmax(beta scores).
    matrix : Tensor of shape (K, K), float64
        T[k, j], the probability that a row of true class k is given label j.
    betas : Tensor of shape (draws,), float64
    matrices : Tensor of shape (draws, K, K), float64
        The same of bootstrapped rows.
    rates : Tensor of shape (draws,), float64
        Their shares of wrong labels.
    """

    beta: float
    matrix: Tensor
    betas: Tensor
    matrices: Tensor
    rates: Tensor

    def probabilities(self, scores: Tensor) -> Tensor:
        """Return P(true = k | x), (n, K), of rows whose given label is not looked at."""
        scores = scores.double()
        return _mean((beta * scores).softmax(1) for beta in self.betas[:MIXED])

    def posterior(self, scores: Tensor, given: Tensor) -> Tensor:
        """Return P(true = k | x, given label), (n, K).

        The mean over bootstrapped rows, as `probabilities` is: few rows that judge leave it open how sharp
        the scores are, and the single best answer is too sure.
        """
        scores = scores.double()
        return _mean(
            _posterior((beta * scores).softmax(1), T, given)
            for beta, T in zip(self.betas[:MIXED], self.matrices[:MIXED], strict=True)
        )


def calibrate(
    scores: Tensor,
    given: Tensor,
    *,
    groups: Tensor | None = None,
    beta: float | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Calibration:
    """Estimate sharpness and noise from rows with noisy labels.

    Parameters
    ----------
    scores : Tensor of shape (m, K)
        Of rows that the network has not seen.
    given : Tensor of shape (m,), int64
        Their labels, codes in 0..K-1.
    groups : Tensor of shape (m,), int64, optional
        Rows of one number are copies of one thing, which the bootstrap draws together.
    beta : float, optional
        A sharpness that is known already.
    draws : int
        Of the bootstrap, at least 1.
    seed : int
        Of the bootstrap.

    Raises
    ------
    InputError
        If there are no rows, or scores and labels do not fit together.
    """
    scores = _centred(scores, given)
    K = scores.shape[1]
    fixed = None if beta is None else np.log(beta)
    start = _start(scores, given, K)
    found = _maximise(scores, given, torch.ones(len(scores), dtype=torch.float64), start, fixed)
    groups = torch.arange(len(scores)) if groups is None else groups.unique(return_inverse=True)[1]
    count = int(groups.max()) + 1
    generator = np.random.default_rng(seed)
    betas, matrices, rates = [], [], []
    for _ in range(draws):
        drawn = np.bincount(generator.integers(count, size=count), minlength=count)
        weights = torch.from_numpy(drawn).double()[groups]
        log_beta, logits = _maximise(scores, given, weights, found, fixed, iterations=8)
        T = logits.softmax(1)
        q = _posterior((log_beta.exp() * scores).softmax(1), T, given)
        wrong = 1 - q.gather(1, given[:, None]).squeeze(1)
        betas.append(log_beta.exp())
        matrices.append(T)
        rates.append((weights * wrong).sum() / weights.sum())
    return Calibration(
        float(found[0].exp()),
        found[1].softmax(1),
        torch.stack(betas),
        torch.stack(matrices),
        torch.stack(rates),
    )


def calibrate_on_truth(scores: Tensor, true: Tensor) -> float:
    """Return the sharpness of the largest likelihood for rows whose labels are right."""
    K = _centred(scores, true).shape[1]
    return sharpness(scores, true, torch.eye(K, dtype=torch.float64))


def sharpness(scores: Tensor, given: Tensor, matrix: Tensor, *, start: float | None = None) -> float:
    """Return the sharpness of the largest likelihood where the transition matrix (K, K) is known."""
    scores = _centred(scores, given)
    begin = _start(scores, given, scores.shape[1])[0] if start is None else torch.tensor(start).double().log()
    logs = matrix.clamp(min=1e-18).log()
    weights = torch.ones(len(scores), dtype=torch.float64)
    return float(_maximise(scores, given, weights, (begin, logs), None, fit_matrix=False)[0].exp())


def _centred(scores: Tensor, labels: Tensor) -> Tensor:
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not len(scores):
        raise InputError(
            f"expected scores (m, K) and a label for each of m >= 1 rows, got {tuple(scores.shape)} and "
            f"{tuple(labels.shape)}"
        )
    scores = scores.double()
    return scores - scores.mean(1, keepdim=True)


def _start(scores: Tensor, given: Tensor, K: int) -> tuple[Tensor, Tensor]:
    """Return where the search begins: decided scores, and the noise that they would mean."""
    agree = float((scores.argmax(1) == given).double().mean())
    agree = min(max(agree, 1.5 / K), 0.95)
    T = torch.full((K, K), (1 - agree) / max(K - 1, 1), dtype=torch.float64)
    T.fill_diagonal_(agree)
    return (USUAL / (scores.std() + TINY)).log(), T.log()


def _maximise(
    scores: Tensor,
    given: Tensor,
    weights: Tensor,
    start: tuple[Tensor, Tensor],
    log_beta: float | None,
    *,
    iterations: int = 100,
    fit_matrix: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return the logarithm of beta and the logits of T's rows of the largest penalised likelihood."""
    K = scores.shape[1]
    usual = (USUAL / (scores.std() + TINY)).log()
    with torch.inference_mode(False), torch.enable_grad():
        sharpness = start[0].detach().clone() if log_beta is None else torch.tensor(log_beta).double()
        logits = start[1].detach().clone()
        free = [
            t.requires_grad_()
            for t, is_free in ((sharpness, log_beta is None), (logits, fit_matrix))
            if is_free
        ]
        optimizer = torch.optim.LBFGS(
            free,
            max_iter=iterations,
            tolerance_grad=1e-7,
            tolerance_change=1e-10,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            logs = torch.log_softmax(logits, 1)
            seen = torch.logsumexp(torch.log_softmax(sharpness.exp() * scores, 1) + logs.T[given], 1)
            total = -(weights * seen).sum() + (sharpness - usual).square() / 2
            if fit_matrix:
                off = logs.sum() - logs.diagonal().sum()
                total = total - SPREAD / max(K - 1, 1) * off
            total = total / weights.sum()
            total.backward()
            return total

        optimizer.step(loss)
    return sharpness.detach(), logits.detach()


def _mean(parts: Iterator[Tensor]) -> Tensor:
    total, count = next(parts).clone(), 1
    for part in parts:
        total += part
        count += 1
    return total / count


def _posterior(p: Tensor, T: Tensor, given: Tensor) -> Tensor:
    q = p * T[:, given].T
    return q / q.sum(1, keepdim=True)
