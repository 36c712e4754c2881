import pytest
import torch

from layerprobe.core import linalg


def moment(d):
    X = torch.randn(2 * d, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return X.T @ X


def check_pairs(matrix):
    eigenvalues, basis = linalg.eigenpairs(matrix)
    torch.testing.assert_close(eigenvalues, torch.linalg.eigvalsh(matrix).flip(0), rtol=1e-10, atol=0)
    U = basis(5)
    torch.testing.assert_close(matrix @ U, U * eigenvalues[:5], rtol=0, atol=1e-8 * float(eigenvalues[0]))


def test_failed_fast_path_is_replaced_by_the_plain_one(monkeypatch):
    calls = []

    def fail(matrix):
        calls.append(len(matrix))
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(linalg, "serves_eigh_leading", lambda matrix: True)
    monkeypatch.setattr(linalg, "eigh_leading", fail)
    check_pairs(moment(linalg.WIDE))
    assert calls == [linalg.WIDE]


def test_eigenvalues_that_are_not_finite_are_computed_again(monkeypatch):
    solve, calls = torch.linalg.eigh, []

    def silent(matrix):
        calls.append(len(matrix))
        values, vectors = solve(matrix)
        return (values * torch.nan if len(calls) == 1 else values), vectors

    monkeypatch.setattr(torch.linalg, "eigh", silent)
    check_pairs(moment(30))
    assert calls == [30, 30]


def test_failure_of_the_plain_path_on_a_cpu_is_an_error(monkeypatch):
    def fail(matrix):
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "eigh", fail)
    with pytest.raises(torch.linalg.LinAlgError, match="did not converge"):
        linalg.eigenpairs(moment(30))
