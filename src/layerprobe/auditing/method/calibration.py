"""Calibrate scores to class probabilities, by rows with noisy labels.

Scores s (n, K) of rows that the network was not trained on, and their given labels g, follow the model

    P(true = k | x) = softmax(beta z)_k,    P(g = j | true = k) = T[k, j],

where z is the log odds of the rank of a score among the scores of all rows and classes. An increasing change
of the scores does not change z. A gap, added to the highest 1 / K of the scores, keeps scores apart that
separate the classes; the likelihood chooses it. There is one inverse temperature beta (temperature scaling,
Guo et al., ICML 2017) and one noise transition matrix T for all rows (Patrini et al., CVPR 2017). Both
maximise the likelihood of the given labels, sum_k softmax(beta z)_k T[k, g]. Where the scores are confident,
disagreement can only be noise; this identifies beta and T. On rows that the network was trained on they are
not identifiable: there it has learnt to agree with the given labels. Uncertainty comes from the bootstrap
over rows (Efron, 1979).

With many classes L-BFGS over all entries of T is too slow. The likelihood of a row is then a sum over its few
most probable classes and its given label, maximised by the EM algorithm (Dempster et al., 1977), whose counts
are sparse; the other classes count as one, with the mean of their rows of T. The cost is linear in K.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from layerprobe.errors import InputError

DRAWS = 40  # of the bootstrap
AVERAGED_DRAWS = 15  # of these; probabilities are averaged over them
MANY = 64  # with more classes the likelihood of a row is a sum over its CANDIDATES, and draws are fewer
CANDIDATES = 32  # classes of a row with the highest scores; the others share the rest of the probability
DRAWS_OF_MANY = 20
AVERAGED_DRAWS_OF_MANY = 5
SHRINKAGE = 10.0  # rows
CHUNK = 4096  # rows whose probabilities are computed at a time
PSEUDO_ROWS = 1.0  # per class, spread as uniform noise; they regularise rows of T of small classes
EPSILON = 1e-12
CONVERGED = 1e-3  # change of log beta and of the mean diagonal of T, far below the bootstrap's spread
STEP = 0.02  # of log beta, for differences
KNOTS = 10_000  # of the ranks
GAPS = (0.0, 1.0, 2.0, 4.0, 8.0)  # log odds
PRIOR_BETA = 3.0  # prior mean of beta for scores of unit variance; it counts where rows are few
MAX_ROWS = 10_000  # calibration is fitted on at most so many rows: half a point of standard error


@dataclass(frozen=True, eq=False)
class RankScale:
    """Log odds of the ranks of scores."""

    reference: Tensor  # (q,), float64: sorted scores at evenly spaced ranks
    gap: float = 0.0  # added to the log odds of the highest 1 / K of the scores

    @classmethod
    def of(cls, scores: Tensor, gap: float = 0.0) -> "RankScale":
        """Return the scale of scores.

        Parameters
        ----------
        scores : Tensor (m, K)
            Of all rows and classes.
        gap : float
        """
        ordered = scores.double().flatten().sort().values
        return cls(ordered[evenly_spaced(len(ordered), KNOTS)], gap)

    def log_odds(self, scores: Tensor) -> Tensor:
        """Return z of scores (n, K), float64.

        Equal scores of the reference have their mean rank. Scores between two of them have ranks between
        theirs, and scores beyond the ends have the first or last rank.
        """
        values, counts = np.unique(self.reference.numpy(), return_counts=True)
        ranks = counts.cumsum() - (counts - 1) / 2
        ranks = np.interp(scores.double().numpy(), values, ranks) / (len(self.reference) + 1)
        z = torch.from_numpy(ranks).logit()
        return z + self.gap * (z > np.log(max(scores.shape[1] - 1, 1)))


@dataclass(frozen=True, eq=False)
class Calibration:
    """Estimated inverse temperature and transition matrix, with their bootstrap distributions."""

    beta: float  # class probabilities are softmax(beta z) with the log odds z of the ranks
    matrix: Tensor  # (K, K), float64: T[k, j], the probability that a row of true class k is given label j
    betas: Tensor  # (draws,), float64: of each bootstrap sample
    matrices: Tensor  # (draws, K, K), float64
    rates: Tensor  # (draws,), float64: share of wrong labels in each bootstrap sample
    scale: RankScale | None = None  # from scores to z; None: the scores themselves

    def probabilities(self, scores: Tensor) -> Tensor:
        """Return P(true = k | x) for scores (n, K), without using the given labels."""
        betas, _ = self._averaged()
        chunks = self._log_odds(scores).split(CHUNK)
        return torch.cat([_mean((beta * z).softmax(1) for beta in betas) for z in chunks])

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
        betas, matrices = self._averaged()
        by_label = matrices.transpose(1, 2).contiguous()  # (draws, given, true)
        parts = []
        for z, given in zip(self._log_odds(scores).split(CHUNK), y.split(CHUNK), strict=True):
            draws = zip(betas, by_label, strict=True)
            parts.append(_mean(_normalised((beta * z).softmax(1) * T[given]) for beta, T in draws))
        return torch.cat(parts)

    def noise_rate(self, scores: Tensor, y: Tensor) -> float:
        """Return the mean probability that a given label is wrong; see `posterior`.

        Parameters
        ----------
        scores : Tensor (n, K)
        y : Tensor (n,), int64
        """
        return float(1 - self.posterior(scores, y).gather(1, y[:, None]).mean())

    def refitted(self, scores: Tensor, y: Tensor) -> "Calibration":
        """Return this transition matrix with inverse temperatures that are fitted to other scores.

        Parameters
        ----------
        scores : Tensor (m, K)
        y : Tensor (m,), int64
            Given labels.
        """
        scale = RankScale.of(scores, 0.0 if self.scale is None else self.scale.gap)
        z = scale.log_odds(scores)
        beta = _inverse_temperature(z, y, self.matrix)
        betas = [_inverse_temperature(z, y, T, start=beta) for T in self.matrices[:AVERAGED_DRAWS]]
        return replace(self, beta=beta, betas=torch.tensor(betas, dtype=torch.float64), scale=scale)

    def _log_odds(self, scores: Tensor) -> Tensor:
        return scores.double() if self.scale is None else self.scale.log_odds(scores)

    def _averaged(self) -> tuple[Tensor, Tensor]:
        """Return the inverse temperatures and matrices of the bootstrap samples to average over."""
        draws = AVERAGED_DRAWS if len(self.matrix) <= MANY else AVERAGED_DRAWS_OF_MANY
        return self.betas[:draws], self.matrices[:draws]


def with_wrong_share(posterior: Tensor, y: Tensor, share: float) -> Tensor:
    """Return probabilities by which the mean share of wrong labels is as given.

    The log odds of the given labels move by one number, found by bisection. The order of the rows stays, and
    the other classes keep their proportions.

    Parameters
    ----------
    posterior : Tensor (n, K)
        P(true = k | row, given label).
    y : Tensor (n,), int64
        Given labels.
    share : float
        In [0, 1].
    """
    # Small probabilities keep their order; those near 1 stay below it, as others are divided by 1 - own.
    own = posterior.gather(1, y[:, None]).squeeze(1).double().clamp(1e-300, 1 - 1e-9)
    log_odds = own.logit()
    low, high = -60.0, 60.0
    for _ in range(60):
        middle = (low + high) / 2
        if float((log_odds + middle).sigmoid().mean()) < 1 - share:
            low = middle
        else:
            high = middle
    moved = (log_odds + low).sigmoid()
    others = posterior.double() * ((1 - moved) / (1 - own))[:, None]
    return others.scatter(1, y[:, None], moved[:, None])


def calibrate(
    scores: Tensor,
    y: Tensor,
    *,
    known: tuple[float, float] | None = None,
    ranks: bool = True,
    draws: int | None = None,
    seed: int = 0,
) -> Calibration:
    """Estimate the inverse temperature and the transition matrix from rows with noisy labels.

    Parameters
    ----------
    scores : Tensor of shape (m, K)
        Class scores of rows that the network was not trained on, comparable between rows.
    y : Tensor of shape (m,), int64
        Their given labels, 0..K-1.
    known : (float, float), optional
        Inverse temperature and gap, if they are known, see :func:`calibrate_clean`.
    ranks : bool
        Whether the log odds of the ranks replace the scores; without them `known` is not used.
    draws : int, optional
        Number of bootstrap samples, at least 1. Default: 40, or 20 with many classes.
    seed : int
        Of the bootstrap.

    Raises
    ------
    InputError
        If there are no rows, or the numbers of scores and labels differ.
    """
    _check(scores, y)
    K = scores.shape[1]
    if draws is None:
        draws = DRAWS if K <= MANY else DRAWS_OF_MANY
    fixed = None if known is None else np.log(known[0])
    ones = torch.ones(len(scores), dtype=torch.float64)
    maximise: Any = _maximise if K <= MANY else _maximise_truncated
    best = -np.inf
    for gap in known[1:] if known is not None else GAPS if ranks else GAPS[:1]:
        candidate = RankScale.of(scores, gap) if ranks else None
        z = scores.double() if candidate is None else candidate.log_odds(scores)
        candidates = z if K <= MANY else _Truncated.of(z, y)
        point = maximise(candidates, y, ones, _start(z, y), fixed)
        likelihood = float(_own_and_all(candidates, y, *point)[1].log().sum())
        if gap and likelihood <= best:
            break
        best, scale, rows, fitted = likelihood, candidate, candidates, point
    count = len(scores)
    generator = np.random.default_rng(seed)
    betas, matrices, rates = [], [], []
    for _ in range(draws):
        drawn = np.bincount(generator.integers(count, size=count), minlength=count)
        weights = torch.from_numpy(drawn).double()
        log_beta, logits = maximise(rows, y, weights, fitted, fixed, iterations=8)
        own, total = _own_and_all(rows, y, log_beta, logits)
        betas.append(log_beta.exp())
        matrices.append(logits.softmax(1))
        rates.append((weights * (1 - own / total)).sum() / weights.sum())
    return Calibration(
        float(fitted[0].exp()),
        fitted[1].softmax(1),
        torch.stack(betas),
        torch.stack(matrices),
        torch.stack(rates),
        scale,
    )


def calibrate_clean(scores: Tensor, y: Tensor) -> tuple[float, RankScale]:
    """Return the maximum-likelihood inverse temperature and scale for rows with true labels.

    Parameters
    ----------
    scores : Tensor (m, K)
    y : Tensor (m,), int64
    """
    _check(scores, y)
    identity = torch.eye(scores.shape[1], dtype=torch.float64)
    best, found = -np.inf, (PRIOR_BETA, RankScale.of(scores))
    for gap in GAPS:
        scale = RankScale.of(scores, gap)
        z = scale.log_odds(scores)
        beta = _inverse_temperature(z, y, identity)
        likelihood = float((beta * z).log_softmax(1).gather(1, y[:, None]).sum())
        if likelihood <= best:
            break
        best, found = likelihood, (beta, scale)
    return found


def _own_and_all(
    rows: "Tensor | _Truncated", y: Tensor, log_beta: Tensor, logits: Tensor
) -> tuple[Tensor, Tensor]:
    """Return P(true = g, given label g) and P(given label g) of each row, two tensors (m,)."""
    T = logits.softmax(1)
    if isinstance(rows, _Truncated):
        inside, rest = rows.joint(log_beta, rows.columns(T, y))
        return inside[:, 0], inside.sum(1) + rest
    joint = (log_beta.exp() * rows).softmax(1) * T[:, y].T
    return joint.gather(1, y[:, None]).squeeze(1), joint.sum(1)


def _inverse_temperature(scores: Tensor, y: Tensor, matrix: Tensor, *, start: float | None = None) -> float:
    """Return the maximum-likelihood inverse temperature for a known transition matrix (K, K), float64.

    `scores` are log odds of ranks.
    """
    begin = _start(scores, y)[0] if start is None else torch.tensor(start).double().log()
    logs = matrix.clamp(min=1e-18).log()
    weights = torch.ones(len(scores), dtype=torch.float64)
    return float(_maximise(scores, y, weights, (begin, logs), None, fit_matrix=False)[0].exp())


def _check(scores: Tensor, y: Tensor) -> None:
    if scores.ndim != 2 or y.shape != scores.shape[:1] or not len(scores):
        raise InputError(
            f"expected scores (m, K) and a label for each of m >= 1 rows, got {tuple(scores.shape)} and "
            f"{tuple(y.shape)}"
        )


def _start(scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the start of the search: the prior temperature, and uniform noise from the disagreement."""
    K = scores.shape[1]
    agree = min(max(float((scores.argmax(1) == y).double().mean()), 1.5 / K), 0.95)
    T = torch.full((K, K), (1 - agree) / max(K - 1, 1), dtype=torch.float64).fill_diagonal_(agree)
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
    prior, n, pseudo = _prior_log_beta(scores), weights.sum(), PSEUDO_ROWS / max(K - 1, 1)
    fixed = start[0] if log_beta is None else torch.tensor(log_beta).double()
    free = ([fixed.reshape(1)] if log_beta is None else []) + ([start[1].flatten()] if fit_matrix else [])

    def parameters(values: Tensor) -> tuple[Tensor, Tensor]:
        log_temperature = values[0] if log_beta is None else fixed
        return log_temperature, values[-K * K :].reshape(K, K) if fit_matrix else start[1]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        log_temperature, logits = parameters(torch.from_numpy(flat))
        beta, logs = log_temperature.exp(), logits.log_softmax(1)
        log_p = (beta * scores).log_softmax(1)
        joint = log_p + logs.T[y]
        likelihood = joint.logsumexp(1)
        total = -(weights * likelihood).sum() + (log_temperature - prior).square() / 2
        # Fisher's identity: the gradient is that of the complete data, in the mean over the posterior.
        posterior = weights[:, None] * (joint - likelihood[:, None]).exp()
        gradient = []
        if log_beta is None:
            slope = ((posterior - weights[:, None] * log_p.exp()) * scores).sum()
            gradient.append((log_temperature - prior - beta * slope).reshape(1))
        if fit_matrix:
            total = total - pseudo * (logs.sum() - logs.diagonal().sum())
            counts = torch.full((K, K), pseudo, dtype=torch.float64).fill_diagonal_(0)
            counts += torch.zeros_like(counts).index_add_(0, y, posterior).T  # of true and given label
            gradient.append((counts.sum(1, keepdim=True) * logs.exp() - counts).flatten())
        return float(total / n), (torch.cat(gradient) / n).numpy()

    # Not torch.optim, whose first step imports torch._dynamo for seconds.
    options = {"maxiter": iterations, "maxcor": 50, "gtol": 1e-7, "ftol": 1e-12}
    found = minimize(loss, torch.cat(free).numpy(), jac=True, method="L-BFGS-B", options=options)
    return parameters(torch.from_numpy(found.x))


@dataclass(frozen=True, eq=False)
class _Truncated:
    """Scores of the given label and of the other CANDIDATES of each row; log Z interpolated over log beta."""

    classes: Tensor  # (m, c), int64: the given label first
    scores: Tensor  # (m, c)
    log_z: Callable[[float], np.ndarray]  # from log beta to log sum_k exp(beta s_k) over all classes, (m,)
    ends: tuple[float, float]  # range of log beta

    @classmethod
    def of(cls, scores: Tensor, y: Tensor) -> "_Truncated":
        from scipy.interpolate import CubicSpline

        own = y[:, None]
        best = scores.scatter(1, own, -torch.inf).topk(CANDIDATES, 1)
        classes = torch.cat([own, best.indices], 1)
        middle = float(_prior_log_beta(scores))
        nodes = np.linspace(middle - 3, middle + 3, 31)
        values = [torch.logsumexp(float(np.exp(node)) * scores, 1).numpy() for node in nodes]
        return cls(
            classes, scores.gather(1, classes), CubicSpline(nodes, np.stack(values)), (nodes[0], nodes[-1])
        )

    def columns(self, T: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return T[k, y] of the candidates (m, c), and the mean of all other classes (m,)."""
        others = (T.sum(0) - T.diagonal()) / (len(T) - 1)
        return T[self.classes, y[:, None]], others[y]

    def joint(self, log_beta: Tensor, columns: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return p_k T[k, y] of the candidates (m, c), and of all other classes together (m,)."""
        p = (log_beta.exp() * self.scores - torch.from_numpy(self.log_z(float(log_beta)))[:, None]).exp()
        return p * columns[0], (1 - p.sum(1)).clamp(min=0) * columns[1] + EPSILON


def _maximise_truncated(
    rows: _Truncated,
    y: Tensor,
    weights: Tensor,
    start: tuple[Tensor, Tensor],
    log_beta: float | None,
    *,
    iterations: int = 60,
) -> tuple[Tensor, Tensor]:
    """Return log beta and log T of the largest likelihood, by EM steps with discounted counts.

    Each step is followed by one of Newton's method for log beta, with differences for derivatives.
    """
    K = len(start[1])
    lowest, highest = rows.ends
    prior = (lowest + highest) / 2
    T = start[1].softmax(1)
    point = start[0].detach().clone() if log_beta is None else torch.tensor(log_beta).double()
    point = point.clamp(lowest + STEP, highest - STEP)
    cells = (rows.classes * K + y[:, None]).flatten()
    columns = rows.columns(T, y)
    wrong = 0.0
    for _ in range(iterations):
        inside, rest = rows.joint(point, columns)
        share = weights / (inside.sum(1) + rest)
        counts = torch.zeros(K * K, dtype=torch.float64)
        counts = counts.index_add_(0, cells, (inside * share[:, None]).flatten()).view(K, K)
        T = _discounted(counts, float((rest * share).sum()) / K)
        columns, before, wrong, move = rows.columns(T, y), wrong, float(T.diagonal().mean()), 0.0
        if log_beta is None:
            at = [rows.joint(point + step, columns) for step in (-STEP, 0.0, STEP)]
            logs = [float((weights * (inside.sum(1) + rest).log()).sum()) for inside, rest in at]
            below, here, above = (
                log - float(point + step - prior) ** 2 / 2
                for log, step in zip(logs, (-STEP, 0.0, STEP), strict=True)
            )
            slope, curvature = (above - below) / (2 * STEP), (above - 2 * here + below) / STEP**2
            move = float(np.clip(-slope / curvature if curvature < 0 else np.sign(slope), -0.5, 0.5))
            point = (point + move).clamp(lowest + STEP, highest - STEP)
        if abs(move) < CONVERGED and abs(wrong - before) < CONVERGED:
            break
    return point, T.log()


def _discounted(counts: Tensor, more: float) -> Tensor:
    """Return T from expected counts (K, K) of true and given label, and `more` wrong labels per true class.

    Absolute discounting (Ney et al., 1994): a row of each pair of classes, which uniform noise explains, is
    spread over all wrong labels. The share of wrong labels per class is shrunk to that of all classes.
    """
    K, right = len(counts), counts.diagonal()
    wrong = counts.clone().fill_diagonal_(0)
    total = wrong.sum(1) + more
    rate = total.sum() / (total.sum() + right.sum())
    rates = (total + SHRINKAGE * rate) / (total + right + SHRINKAGE)
    kept = (wrong - 1).clamp(min=0)
    spread = (total - kept.sum(1)) / (K - 1)
    T = (kept + spread[:, None]) * (rates / total.clamp(min=EPSILON))[:, None]
    return T.clamp(min=EPSILON).diagonal_scatter(1 - rates)


def _mean(parts: Iterator[Tensor]) -> Tensor:
    """Return the mean of tensors of one shape, one at a time."""
    total, count = next(parts).clone(), 1
    for part in parts:
        total += part
        count += 1
    return total / count


def _normalised(q: Tensor) -> Tensor:
    return q / q.sum(1, keepdim=True)


def evenly_spaced(n: int, most: int = MAX_ROWS) -> Tensor:
    """Return evenly spaced positions in 0..n-1, int64.

    Parameters
    ----------
    n, most : int
        Number of rows, and the largest number of positions.
    """
    return torch.linspace(0, n - 1, min(n, most), dtype=torch.float64).round().long()
