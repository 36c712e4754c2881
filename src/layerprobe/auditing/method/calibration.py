"""Calibration: class probabilities from scores, together with the transition matrix of the label noise.

Scores s (n, K) of rows that the network was not trained on, and their given labels g, follow the model

    P(true = k | x) = softmax(beta s)_k,    P(g = j | true = k) = T[k, j],

with one inverse temperature beta (temperature scaling, Guo et al., ICML 2017) and one noise transition matrix
T for all rows (Patrini et al., CVPR 2017). Both maximise the likelihood of the given labels, sum_k
softmax(beta s)_k T[k, g]. Where the scores are confident, disagreement can only be noise; this identifies
beta and T. On rows that the network was trained on they are not identifiable: there it has learnt to agree
with the given labels. Uncertainty comes from the bootstrap over rows (Efron, 1979).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from layerprobe.errors import InputError

__all__ = [
    "AVERAGED_DRAWS",
    "Calibration",
    "calibrate",
    "inverse_temperature",
    "inverse_temperature_of_clean",
]

DRAWS = 40  # of the bootstrap
AVERAGED_DRAWS = 15  # of these; probabilities are averaged over them
PSEUDO_ROWS = 1.0  # per class, spread as uniform noise; they regularise rows of T of small classes
EPSILON = 1e-12
PRIOR_BETA = 3.0  # prior mean of beta for scores of unit variance; it counts where rows are few


@dataclass(frozen=True, eq=False)
class Calibration:
    """Estimated inverse temperature and transition matrix, with their bootstrap distributions.

    Attributes
    ----------
    beta : float
        Inverse temperature: class probabilities are softmax(beta scores).
    matrix : Tensor of shape (K, K), float64
        T[k, j], the probability that a row of true class k is given label j.
    betas : Tensor of shape (draws,), float64
    matrices : Tensor of shape (draws, K, K), float64
        The same for each bootstrap sample.
    rates : Tensor of shape (draws,), float64
        Share of wrong labels in each bootstrap sample.
    """

    beta: float
    matrix: Tensor
    betas: Tensor
    matrices: Tensor
    rates: Tensor

    def probabilities(self, scores: Tensor) -> Tensor:
        """Return P(true = k | x), (n, K), without using the given labels.

        Parameters
        ----------
        scores : Tensor (n, K)
        """
        scores = scores.double()
        betas = self.betas[:AVERAGED_DRAWS]
        return _running_sum((beta * scores).softmax(1) for beta in betas) / len(betas)

    def posterior(self, scores: Tensor, y: Tensor) -> Tensor:
        """Return P(true = k | x, given label), (n, K), averaged over bootstrap samples.

        With few held-out rows the temperature is uncertain, and the maximum-likelihood estimate alone is
        overconfident.

        Parameters
        ----------
        scores : Tensor (n, K)
        y : Tensor (n,), int64
            Given labels.
        """
        scores = scores.double()
        betas, matrices = self.betas[:AVERAGED_DRAWS], self.matrices[:AVERAGED_DRAWS]
        draws = zip(betas, matrices, strict=True)
        return _running_sum(_posterior((beta * scores).softmax(1), T, y) for beta, T in draws) / len(betas)


def calibrate(
    scores: Tensor,
    y: Tensor,
    *,
    groups: Tensor | None = None,
    beta: float | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Calibration:
    """Estimate the inverse temperature and the transition matrix from rows with noisy labels.

    Parameters
    ----------
    scores : Tensor of shape (m, K)
        Class scores of rows that the network was not trained on.
    y : Tensor of shape (m,), int64
        Their given labels, 0..K-1.
    groups : Tensor of shape (m,), int64, optional
        Views of one row share a number; the bootstrap draws them together.
    beta : float, optional
        A known inverse temperature.
    draws : int
        Number of bootstrap samples, at least 1.
    seed : int
        Of the bootstrap.

    Returns
    -------
    Calibration

    Raises
    ------
    InputError
        If there are no rows, or the numbers of scores and labels differ.
    """
    scores = _centred(scores, y)
    fixed = None if beta is None else np.log(beta)
    ones = torch.ones(len(scores), dtype=torch.float64)
    fitted = _maximise(scores, y, ones, _start(scores, y), fixed)
    groups = torch.arange(len(scores)) if groups is None else groups.unique(return_inverse=True)[1]
    count = int(groups.max()) + 1
    generator = np.random.default_rng(seed)
    betas, matrices, rates = [], [], []
    for _ in range(draws):
        drawn = np.bincount(generator.integers(count, size=count), minlength=count)
        weights = torch.from_numpy(drawn).double()[groups]
        log_beta, logits = _maximise(scores, y, weights, fitted, fixed, iterations=8)
        T = logits.softmax(1)
        q = _posterior((log_beta.exp() * scores).softmax(1), T, y)
        wrong = 1 - q.gather(1, y[:, None]).squeeze(1)
        betas.append(log_beta.exp())
        matrices.append(T)
        rates.append((weights * wrong).sum() / weights.sum())
    return Calibration(
        float(fitted[0].exp()),
        fitted[1].softmax(1),
        torch.stack(betas),
        torch.stack(matrices),
        torch.stack(rates),
    )


def inverse_temperature_of_clean(scores: Tensor, y: Tensor) -> float:
    """Return the maximum-likelihood inverse temperature for rows with true labels.

    Parameters
    ----------
    scores : Tensor (m, K)
    y : Tensor (m,), int64
    """
    K = _centred(scores, y).shape[1]
    return inverse_temperature(scores, y, torch.eye(K, dtype=torch.float64))


def inverse_temperature(scores: Tensor, y: Tensor, matrix: Tensor, *, start: float | None = None) -> float:
    """Return the maximum-likelihood inverse temperature for a known transition matrix.

    Parameters
    ----------
    scores : Tensor (m, K)
    y : Tensor (m,), int64
        Given labels.
    matrix : Tensor (K, K), float64
    start : float, optional
        Where the search starts.
    """
    scores = _centred(scores, y)
    begin = _start(scores, y)[0] if start is None else torch.tensor(start).double().log()
    logs = matrix.clamp(min=1e-18).log()
    weights = torch.ones(len(scores), dtype=torch.float64)
    return float(_maximise(scores, y, weights, (begin, logs), None, fit_matrix=False)[0].exp())


def _centred(scores: Tensor, y: Tensor) -> Tensor:
    if scores.ndim != 2 or y.shape != scores.shape[:1] or not len(scores):
        raise InputError(
            f"expected scores (m, K) and a label for each of m >= 1 rows, got {tuple(scores.shape)} and "
            f"{tuple(y.shape)}"
        )
    scores = scores.double()
    return scores - scores.mean(1, keepdim=True)


def _start(scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the start of the search: the prior temperature, and uniform noise from the disagreement."""
    K = scores.shape[1]
    agree = float((scores.argmax(1) == y).double().mean())
    agree = min(max(agree, 1.5 / K), 0.95)
    T = torch.full((K, K), (1 - agree) / max(K - 1, 1), dtype=torch.float64)
    T.fill_diagonal_(agree)
    return _prior_log_beta(scores), T.log()


def _prior_log_beta(scores: Tensor) -> Tensor:
    return (PRIOR_BETA / (scores.std() + EPSILON)).log()


def _maximise(
    scores: Tensor,
    y: Tensor,
    weights: Tensor,
    start: tuple[Tensor, Tensor],
    log_beta: float | None,
    *,
    iterations: int = 100,
    fit_matrix: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return log beta and the logits of the rows of T that maximise the penalised likelihood (L-BFGS)."""
    K = scores.shape[1]
    prior = _prior_log_beta(scores)
    with torch.inference_mode(False), torch.enable_grad():
        log_temperature = start[0].detach().clone() if log_beta is None else torch.tensor(log_beta).double()
        logits = start[1].detach().clone()
        parameters = [log_temperature] if log_beta is None else []
        parameters += [logits] if fit_matrix else []
        optimizer = torch.optim.LBFGS(
            [parameter.requires_grad_() for parameter in parameters],
            max_iter=iterations,
            tolerance_grad=1e-7,
            tolerance_change=1e-10,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            logs = torch.log_softmax(logits, 1)
            likelihood = torch.logsumexp(torch.log_softmax(log_temperature.exp() * scores, 1) + logs.T[y], 1)
            total = -(weights * likelihood).sum() + (log_temperature - prior).square() / 2
            if fit_matrix:
                off_diagonal = logs.sum() - logs.diagonal().sum()
                total = total - PSEUDO_ROWS / max(K - 1, 1) * off_diagonal
            total = total / weights.sum()
            total.backward()
            return total

        optimizer.step(loss)
    return log_temperature.detach(), logits.detach()


def _running_sum(parts: Iterator[Tensor]) -> Tensor:
    total = next(parts).clone()
    for part in parts:
        total += part
    return total


def _posterior(p: Tensor, T: Tensor, y: Tensor) -> Tensor:
    q = p * T[:, y].T
    return q / q.sum(1, keepdim=True)
