"""The second moment: rows in any layout, and how exact sums of float32 products are."""

import pytest
import torch

from layerprobe.core.linalg import BLOCK, SecondMoment, eigenpairs, rounding_error


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moments_of_rows_that_lie_in_memory_in_any_way(dtype):
    whole = torch.randn(300, 90, dtype=dtype, generator=torch.Generator().manual_seed(0))
    laid_out = {
        "rows": whole,
        "columns": whole.T.contiguous().T,
        "every second": whole[::2, ::2],
        "a part": whole[5:, 7:],
        "one row": whole[:1],
        "one row, repeated": whole[:1].expand(BLOCK + 1, 90),
        "one column": whole[:, 3:4],
        "one number": whole[:1, :1],
        "one column, repeated": whole[:, :1].expand(300, 40),
        "transposed part": whole[:50].T[3:],
        "a row of a transposed part": whole.T[4:5],
    }
    for name, X in laid_out.items():
        expected = X.double().contiguous().clone().T @ X.double()
        found = SecondMoment(X.shape[1]).add(X).matrix()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4, msg=name)


@pytest.mark.parametrize("d", [40, 300])
@pytest.mark.parametrize(
    "change",
    [
        lambda X: X,
        lambda X: X + 100,
        lambda X: (2 * X).exp(),
        lambda X: X.relu(),
        lambda X: X * torch.logspace(0, -4, X.shape[1]),
        lambda X: 1 + 0.01 * X,
    ],
    ids=["normal", "far", "log-normal", "relu", "decaying", "nearly equal"],
)
def test_float32_products_move_shares_by_less_than_the_rounding_error(change, d):
    X = change(torch.randn(5000, d, generator=torch.Generator().manual_seed(d)))
    shares = []
    for rows in (X, X.double()):
        moment = SecondMoment(d).add(rows).matrix()
        values, _ = eigenpairs(moment)
        shares.append(values.cumsum(0) / values.sum())
    error = rounding_error(moment.diagonal(), len(X), torch.float32) / float(moment.trace())
    assert 0 < (shares[0] - shares[1]).abs().max() < error / 2
