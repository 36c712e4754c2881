"""Rows with the same or nearly the same features and other labels."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits

from layerprobe import Audit, audit, audit_features, audit_predictions
from layerprobe.auditing.dataset.conflicts import find_conflicts
from layerprobe.errors import DataError


def prints(n):
    return np.random.default_rng(9).permutation(n).astype(np.uint64)


def pairs(found):
    return set(map(tuple, np.sort(np.stack([found.positions, found.others], 1), 1).tolist()))


@pytest.mark.parametrize(("n", "d", "noise"), [(2000, 5, 0.01), (2000, 20, 0.1), (3000, 200, 0.3)])
def test_planted_near_duplicates_are_found_with_few_false_pairs(n, d, noise):
    random = np.random.default_rng(0)
    X, y = random.normal(size=(n, d)), random.integers(0, 4, n)
    source = random.choice(n, 50, replace=False)
    twins = X[source] + noise * random.normal(size=(50, d))
    same = X[source[:20]] + noise * random.normal(size=(20, d))  # third copies, with the label of the first
    rows = torch.tensor(np.concatenate([X, twins, same]))
    labels = torch.tensor(np.concatenate([y, (y[source] + 1) % 4, y[source[:20]]]))
    found = find_conflicts(rows, labels, prints(len(rows)))
    planted = {(int(i), n + k) for k, i in enumerate(source)}
    assert len(planted & pairs(found)) >= 45
    wrong = [pair for pair in pairs(found) if pair[1] < n]
    assert len(wrong) <= 3
    scaled = find_conflicts(1e4 * rows + 7, labels, prints(len(rows)))
    assert len(pairs(found) ^ pairs(scaled)) <= 1
    assert (labels[found.positions] != labels[found.others]).all()
    assert ((found.similarity > 0.5) & (found.similarity < 1)).all()


def test_distances_agree_with_brute_force():
    random = np.random.default_rng(1)
    X = random.normal(size=(300, 8))
    X[150:200] = X[:50] + 0.02 * random.normal(size=(50, 8))
    y = random.integers(0, 2, 300)
    found = find_conflicts(torch.tensor(X), torch.tensor(y), prints(300))
    Z = (X - X.mean(0)) / X.std(0)
    distance = np.linalg.norm(Z[:, None] - Z[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    scale = np.sort(distance, 1)[:, 2]  # all rows are references here
    for i, j, similarity in zip(found.positions, found.others, found.similarity, strict=True):
        other = np.where(y != y[i], distance[i], np.inf)
        assert j == other.argmin()
        assert similarity == pytest.approx(1 - distance[i, j] / min(scale[i], scale[j]), abs=1e-4)
    assert len(found) > 20


@pytest.mark.parametrize("dimensions", [2, 10])
def test_rows_without_duplicates_have_few_conflicts(dimensions):
    random = np.random.default_rng(2)
    found = [
        len(pairs(find_conflicts(torch.tensor(X), torch.tensor(random.integers(0, 9, 1500)), prints(1500))))
        for X in random.normal(size=(5, 1500, dimensions))
    ]
    assert sum(found) <= 10
    X, y = load_digits(return_X_y=True)
    assert len(find_conflicts(torch.tensor(X), torch.tensor(y), prints(len(y)))) == 0


def test_equal_rows_conflict_in_groups():
    X = torch.arange(10.0)[:, None].repeat(1, 3)
    hashes = np.array([1, 1, 2, 3, 2, 4, 4, 4, 5, 6], np.uint64)
    y = torch.tensor([0, 1, 0, 0, 0, 0, 1, 2, 0, 1])
    found = find_conflicts(None, y, hashes)
    assert found.positions.tolist() == [0, 1, 5, 6, 7]
    assert found.group.tolist() == [0, 0, 1, 1, 1]
    assert (hashes[found.positions] == hashes[found.others]).all()
    assert (y[found.positions] != y[found.others]).all()
    assert (found.similarity == 1).all()
    constant = find_conflicts(torch.ones_like(X), torch.arange(10) % 2, np.ones(10, np.uint64))
    assert len(constant) == 10
    assert len(find_conflicts(X[:1], y[:1], hashes[:1])) == 0


@pytest.fixture(scope="module")
def planted():
    random = np.random.default_rng(3)
    true = random.integers(0, 3, 200)
    X = 4 * np.eye(3, 6)[true] + random.normal(size=(200, 6))
    X[190:] = X[:10]  # equal
    X[180:190] = X[10:20] + 1e-4 * random.normal(size=(10, 6))
    given = true.copy()
    given[180:] = (true[np.r_[10:20, 0:10]] + 1) % 3
    given[:20] = true[:20]
    return X.astype(np.float32), given


def test_conflicts_of_an_audit_are_shown_reviewed_and_saved(planted, tmp_path):
    X, given = planted
    names = np.array([f"r{i}" for i in range(200)])
    labels = np.array(["ant", "bee", "<b>cow"])[given]
    found = audit_features(X, labels, index=names, data=[f"text {i}" for i in range(200)])
    table = found.conflicts
    assert list(table) == ["index", "given_label", "other_index", "other_label", "similarity", "group"]
    partner = dict(zip(table["index"], table["other_index"], strict=True))
    for i in range(10):
        assert partner[f"r{i}"] == f"r{190 + i}"
        assert partner[f"r{180 + i}"] == f"r{10 + i}"
    assert len(table) == 40
    assert table["similarity"].is_monotonic_decreasing
    assert (table["similarity"] == 1).sum() == 20
    assert table["group"].nunique() == 20
    found.report(tmp_path / "report.html")
    report = (tmp_path / "report.html").read_text()
    assert "40 rows have the same" in report
    assert "&lt;b&gt;cow" in report
    rows = json.loads((tmp_path / "review.html").read_text().split('id="data">')[1].split("</script>")[0])[
        "rows"
    ]
    twins = {row["index"]: row["twin"] for row in rows if "twin" in row}
    assert set(twins) == set(partner)
    near = [twin for twin in twins.values() if twin["similarity"] < 1]  # equal content is not repeated
    assert len(near) == 20
    assert all(twin["text"] == f"text {twin['index'][1:]}" for twin in near)
    found.save(tmp_path / "audit.safetensors")
    pd.testing.assert_frame_equal(Audit.load(tmp_path / "audit.safetensors").conflicts, table)
    decisions = [
        {"index": name, "label": found.issues["given_label"][int(other[1:])]}
        for name, other in partner.items()
        if int(name[1:]) >= 180
    ]
    assert found.apply(decisions).conflicts.empty


def test_predictions_conflict_by_their_rows(planted):
    X, given = planted
    predictions = np.full((200, 3), 0.1)
    predictions[np.arange(200), given] = 0.8
    predictions[:60] = 1 / 3
    assert audit_predictions(predictions, given).conflicts.empty
    assert len(audit_predictions(predictions, given, data=X).conflicts) == 40
    texts = [f"text {i % 190}" for i in range(200)]
    found = audit_predictions(predictions, given, data=texts).conflicts
    assert set(found["index"]) == {*range(10), *range(190, 200)}


def test_damaged_conflicts_are_refused(planted, tmp_path):
    X, given = planted
    found = audit_features(X, given)
    found.conflict_set.others[0] = 1000
    found.save(tmp_path / "audit.safetensors")
    with pytest.raises(DataError, match="conflicts"):
        Audit.load(tmp_path / "audit.safetensors")


def test_inputs_of_a_network_conflict(planted):
    X, given = planted
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    held = (X[:40] + 1, given[:40])
    found = audit(model, torch.tensor(X), given, policy="noisy_holdout", holdout=held, controls=False)
    assert len(found.conflicts) == 40
    assert found.conflicts["index"].dtype.kind == "i"
