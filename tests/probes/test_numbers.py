"""Features far from zero and of extreme magnitudes; missing labels; features that are no numbers; weights."""

import enum
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import StandardScaler

from layerprobe.core.checks import widen
from layerprobe.errors import DegenerateWarning, InputError, LayerprobeError
from layerprobe.probes import MASC, QDA, NearestClassMean, available, create

rng = np.random.default_rng(0)
K, N = 4, 480
Y = np.arange(N) % K
BASE = (2 * rng.normal(size=(K, 20)))[Y] + rng.normal(size=(N, 20))
TRAIN, TEST = slice(0, 320), slice(320, None)
AT_OPTIMUM = [name for name in available() if name != "logistic_adam"]  # the paper's recipe


def squared_cosines(X, variance=0.99):
    """Return those of the test rows by singular value decompositions per class, in float64."""
    X = X.astype(np.float64)
    columns = []
    for k in range(K):
        _, s, vectors = np.linalg.svd(X[TRAIN][Y[TRAIN] == k], full_matrices=False)
        rank = int(np.argmax(np.cumsum(s**2) / (s**2).sum() > variance)) + 1
        rest = X[TEST] - X[TEST] @ vectors[:rank].T @ vectors[:rank]
        columns.append(1 - (rest**2).sum(1) / (X[TEST] ** 2).sum(1))
    return np.stack(columns, 1)


@pytest.mark.parametrize("offset", [1e2, 1e4, 3e4, 1e6])
@pytest.mark.parametrize("where", ["all", "one"])
@pytest.mark.parametrize("name", AT_OPTIMUM)
def test_features_far_from_zero(name, where, offset):
    X = BASE + offset if where == "all" else np.c_[BASE, np.full(N, offset)]
    X = X.astype(np.float32)
    for rows in (X, torch.from_numpy(X)):
        probe = create(name).fit(rows[TRAIN], Y[TRAIN])
        assert probe.score(rows[TEST], Y[TEST]) > 0.98
    wide = create(name).fit(X[TRAIN].astype(np.float64), Y[TRAIN])
    assert (wide.predict(X[TEST].astype(np.float64)) == probe.predict(X[TEST])).mean() > 0.98


def test_a_seed_of_logistic_adam_gives_equal_fits_in_float32_and_float64():
    X = BASE.astype(np.float32)
    narrow, wide = (create("logistic_adam", epochs=3).fit(rows, Y) for rows in (X, X.astype(np.float64)))
    np.testing.assert_allclose(narrow.coef_, wide.coef_, rtol=0, atol=1e-4)


@pytest.mark.parametrize("offset", [0, 1e3, 1e4, 1e5])
def test_angles_of_masc_far_from_zero_are_those_of_float64(offset):
    X = (BASE + offset).astype(np.float32)
    expected = squared_cosines(X)
    masc = create("masc").fit(X[TRAIN], Y[TRAIN])
    spread = 1 - expected.min()
    np.testing.assert_allclose(masc.squared_cosines(X[TEST]), expected, rtol=0, atol=max(0.02 * spread, 1e-6))
    best = np.sort(expected, 1)
    clear = best[:, -1] - best[:, -2] > 1e-3 * spread
    assert (masc.predict(X[TEST]) == expected.argmax(1))[clear].all()
    streamed = (
        create("masc").partial_fit(X[:100], Y[:100], classes=range(K)).partial_fit(X[100:320], Y[100:320])
    )
    assert (streamed.predict(X[TEST]) == masc.predict(X[TEST])).all()


def test_float64_is_used_only_where_it_is_needed():
    X = torch.from_numpy(BASE.astype(np.float32))
    assert widen(X).dtype == torch.float32
    assert widen(X + 1e4).dtype == torch.float64
    assert widen(1e20 * X).dtype == torch.float64
    assert widen(torch.ones(5, 3)).dtype == torch.float32  # no spread to resolve
    widen(torch.linspace(0.1, 7, 10, dtype=torch.float64).repeat(300, 1))  # without a warning
    with pytest.warns(DegenerateWarning, match="subtract the mean"):
        widen(X.double() + 1e10)


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [(1e-30, "f4"), (1e19, "f4"), (1e37, "f4"), (3e37, "f4"), (1e-130, "f8"), (1e-30, "f8"), (1e130, "f8")],
)
@pytest.mark.parametrize("name", AT_OPTIMUM)
def test_magnitudes_do_not_change_the_predictions(name, scale, dtype):
    X = (scale * BASE).astype(dtype)
    plain = create(name).fit(BASE[TRAIN], Y[TRAIN]).predict(BASE[TEST])
    with warnings.catch_warnings(action="error"):
        found = create(name).fit(X[TRAIN], Y[TRAIN]).predict(X[TEST])
    assert (found == plain).mean() > 0.98


@pytest.mark.parametrize("scale", [1e160, 1e300, 1e-160, 1e-300])
@pytest.mark.parametrize("name", available())
def test_magnitudes_whose_squares_float64_cannot_hold_are_refused(name, scale):
    with pytest.raises(InputError, match="Rescale X"):
        create(name).fit(scale * BASE, Y)


@pytest.mark.parametrize("name", ["masc", "ncm", "knn"])
@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e200, 1e300])
def test_length_of_a_query_does_not_change_the_cosines(name, scale):
    probe = create(name).fit(BASE[TRAIN], Y[TRAIN])
    assert (probe.predict(scale * BASE[TEST]) == probe.predict(BASE[TEST])).all()


@pytest.mark.parametrize("name", ["qda", "ridge", "logistic", "velpic", "whitened_knn"])
def test_queries_that_overflow_are_refused_or_right(name):
    probe = create(name).fit(BASE[TRAIN], Y[TRAIN])
    far = BASE[TEST] * 1e300
    if name in ("qda",):
        with pytest.raises(InputError, match="overflow"):
            probe.predict(far)
    else:
        assert (probe.predict(far) == probe.predict(BASE[TEST] * 1e100)).all()


Kind = enum.Enum("Kind", "a b c d")
NAMES = np.array(["ant", "bee", "cat", "dog"])
FORMS = {
    "Int64": lambda y: pd.Series(y, dtype="Int64"),
    "shuffled index": lambda y: pd.Series(y, index=np.arange(len(y))[::-1]),
    "string": lambda y: pd.Series(NAMES[y], dtype="string"),
    "category": lambda y: pd.Series(NAMES[y]).astype("category"),
    "Categorical": lambda y: pd.Categorical(NAMES[y]),
    "big-endian": lambda y: y.astype(">i4"),
    "uint8": lambda y: y.astype(np.uint8),
    "objects": lambda y: NAMES[y].astype(object),
    "StringDType": lambda y: NAMES[y].astype(np.dtypes.StringDType()),
    "Enum": lambda y: [list(Kind)[k] for k in y],
    "whole floats": lambda y: y.astype(float),
    "list of tensors": lambda y: list(torch.from_numpy(y)),
    "datetime": lambda y: pd.to_datetime(pd.Series(y), unit="D").to_numpy(),
    "column": lambda y: pd.DataFrame({"label": y})["label"],
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_of_any_form_are_four_classes(form):
    labels = FORMS[form](Y)
    probe = create("ncm").fit(BASE[TRAIN], labels[TRAIN])
    assert len(probe.classes_) == 4
    assert (
        probe.predict_indices(BASE[TEST]).numpy()
        == create("ncm").fit(BASE[TRAIN], Y[TRAIN]).predict(BASE[TEST])
    ).all()
    assert probe.score(BASE[TEST], labels[TEST]) > 0.98


@pytest.mark.parametrize(
    "labels",
    [
        [None if i == 5 else str(k) for i, k in enumerate(Y)],
        [float("nan") if i == 5 else float(k) for i, k in enumerate(Y)],
        pd.Series(Y, dtype="Int64").mask(np.arange(N) == 5),
        pd.Series(Y > 1, dtype="boolean").mask(np.arange(N) == 5),
        pd.Series(NAMES[Y]).mask(np.arange(N) == 5),
        pd.Series(NAMES[Y], dtype="string").mask(np.arange(N) == 5),
        pd.Categorical(np.where(np.arange(N) == 5, None, NAMES[Y].astype(object))),
        np.ma.masked_array(Y, np.arange(N) == 5),
        torch.where(torch.arange(N) == 5, torch.nan, torch.from_numpy(Y).float()),
    ],
    ids=["None", "NaN", "Int64", "boolean", "object", "string", "Categorical", "masked", "tensor"],
)
def test_a_missing_label_is_an_error_with_its_row(labels):
    with pytest.raises(InputError, match=r"1 labels are missing .* of 480 rows, the first is row 5"):
        create("masc").fit(BASE, labels)


@pytest.mark.parametrize(
    "labels",
    [
        [[k] * (1 + i % 2) for i, k in enumerate(Y)],
        [[k, k] for k in Y],
        np.eye(4)[Y],
        (k for k in Y),
        dict(enumerate(Y)),
        {1, 2},
        3,
        "abc",
        [{k} for k in Y],
        torch.empty(N, device="meta"),
        torch.eye(4)[torch.from_numpy(Y)].to_sparse(),
        Y + 0.5,
    ],
    ids=[
        "ragged",
        "lists",
        "one-hot",
        "generator",
        "dict",
        "set",
        "int",
        "str",
        "sets",
        "meta",
        "sparse",
        "real",
    ],
)
def test_labels_of_another_form_than_one_per_row_are_refused(labels):
    with pytest.raises(InputError, match=r"label|y must|y should"):
        create("ncm").fit(BASE, labels)


FRAME = pd.DataFrame(BASE[:, :3], columns=["a", "b", "c"])


@pytest.mark.parametrize(
    "X",
    [
        FRAME.assign(d=pd.Categorical(NAMES[Y])),
        FRAME.assign(d=pd.Categorical(Y)),
        FRAME.assign(d=NAMES[Y]),
        FRAME.assign(d=pd.to_datetime(pd.Series(Y), unit="D")),
        FRAME.astype("Float64").mask(FRAME > 4),
        np.array([["1", "2"]] * N),
        np.full((N, 2), "2020-01-01", dtype="datetime64[D]"),
        np.full((N, 2), 1, dtype="timedelta64[s]"),
        [[1.0] * (1 + i % 2) for i in range(N)],
        [[Kind.a, Kind.b]] * N,
        np.ma.masked_array(BASE, BASE > 3),
        torch.empty(N, 3, device="meta"),
        torch.from_numpy(BASE).to_sparse(),
        torch.nested.nested_tensor([torch.ones(2)] * N),
        torch.quantize_per_tensor(torch.from_numpy(BASE).float(), 0.1, 0, torch.qint8),
        BASE + 1j,
        torch.from_numpy(BASE) + 1j,
        None,
        "rows",
        BASE[:, 0],
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:.*quantiz.*")
def test_features_that_are_no_numbers_raise_one_family_of_errors(X):
    fitted = create("ncm").fit(BASE[:, :2], Y)
    for call in (lambda: create("ncm").fit(X, Y), lambda: fitted.predict(X)):
        with pytest.raises(InputError):
            call()


def test_features_in_other_types_are_the_same_numbers():
    whole = np.rint(10 * BASE)
    expected = create("ncm").fit(whole, Y).predict(whole)
    for X in (whole.astype(">f8"), whole.astype(">f4"), whole.astype(int), whole.astype(object)):
        assert (create("ncm").fit(X, Y).predict(X) == expected).all()
    frame = pd.DataFrame(whole.astype(int)).astype("Int64")
    frame.columns = frame.columns.astype(str)
    assert (create("ncm").fit(frame, Y).predict(frame) == expected).all()
    assert create("ncm").fit(BASE > 0, Y).score(BASE > 0, Y) > 0.8


def test_one_family_catches_all_errors_of_a_probe():
    name = "lda"
    for call in (
        lambda: create(name).predict(BASE),
        lambda: create(name).fit(np.where(BASE > 3, np.nan, BASE), Y),
        lambda: create(name).fit(BASE, Y[:-1]),
        lambda: create(name).fit(BASE, Y).score(BASE, Y, sample_weight=np.full(N, np.nan)),
        lambda: create(name).fit(BASE, Y).score(BASE, Y, sample_weight=[-1.0] * N),
        lambda: create(name).fit(BASE, Y).score(BASE, NAMES[Y]),
        lambda: create("masc").partial_fit(BASE, Y, classes=[0, 1, 2, np.nan]),
        lambda: create("masc").partial_fit(BASE, Y, classes=3),
    ):
        with pytest.raises(LayerprobeError):
            call()


@pytest.mark.parametrize("name", AT_OPTIMUM)
def test_row_of_weight_two_equals_two_rows(name):
    weights = rng.integers(0, 4, N)
    weights[: 2 * K] = 1
    weighted = create(name).fit(BASE[TRAIN], Y[TRAIN], sample_weight=weights[TRAIN])
    repeated = np.repeat(np.arange(N), weights)
    repeated = repeated[repeated < 320]
    expected = create(name).fit(BASE[repeated], Y[repeated])
    scores, truth = weighted.decision_function(BASE[TEST]), expected.decision_function(BASE[TEST])
    np.testing.assert_allclose(scores, truth, rtol=1e-3 if name == "logistic" else 1e-6, atol=1e-3)
    with pytest.raises(InputError, match="weight 0"):
        create(name).fit(BASE, Y, sample_weight=(Y > 0).astype(float))


@pytest.mark.parametrize("name", available())
def test_probabilities_work_in_scikit_learn(name):
    for classes in (2, K):
        rows = classes > Y
        probe = create(name).fit(BASE[rows], Y[rows])
        p = probe.predict_proba(BASE[rows])
        assert p.shape == (rows.sum(), classes)
        np.testing.assert_allclose(p.sum(1), 1)
        assert p.min() >= 0
        assert (p.argmax(1) == probe.predict_indices(BASE[rows]).numpy()).all()
        if name == "logistic_adam":
            continue
        auc = roc_auc_score(Y[rows], p[:, 1] if classes == 2 else p, multi_class="ovr")
        assert auc > (0.9 if name == "masc" else 0.98)
    votes = VotingClassifier([("a", create(name)), ("b", create("lda"))], voting="soft").fit(BASE, Y)
    assert votes.score(BASE, Y) > 0.95
    calibrated = CalibratedClassifierCV(create(name), cv=3).fit(BASE, NAMES[Y])
    assert calibrated.predict_proba(BASE).shape == (N, K)


@pytest.mark.parametrize("shrinkage", ["auto", 0.3, None])
def test_weights_of_quadratic_discriminants(shrinkage):
    weights = rng.integers(1, 4, N)
    repeated = np.repeat(np.arange(N), weights)
    X = BASE * np.arange(1, BASE.shape[1] + 1) + 3
    weighted = QDA(shrinkage).fit(X, Y, sample_weight=weights)
    expected = QDA(shrinkage).fit(X[repeated], Y[repeated])
    np.testing.assert_allclose(weighted.decision_function(X), expected.decision_function(X), rtol=1e-6)
    np.testing.assert_allclose(
        QDA(shrinkage).fit(X, Y, sample_weight=np.ones(N)).decision_function(X),
        QDA(shrinkage).fit(X, Y).decision_function(X),
        rtol=1e-6,
    )


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", ["lda", "logistic"])
def test_a_feature_that_is_constant_in_the_fit_has_no_effect(name, dtype):
    y, n = np.where(np.arange(N) < 40, 0, Y), 311  # means of rows and classes that are rounded
    X = np.c_[BASE, np.tile([0.1, -0.4242, 1 / 3, 7.7, -55.3], (N, 1))].astype(dtype)
    others = X[n:] + np.r_[np.zeros(BASE.shape[1]), np.ones(5)].astype(dtype)
    plain = create(name).fit(X[:n, :-5], y[:n]).decision_function(X[n:, :-5])
    found = create(name).fit(X[:n], y[:n]).decision_function(others)
    np.testing.assert_allclose(found, plain, rtol=0, atol=1e-5 * np.abs(plain).max())


def test_weights_of_quadratic_discriminants_with_a_constant_feature():
    X, weights = np.c_[BASE, np.full(N, 0.1)], np.arange(N) % 5 % 3 + 1
    repeated = np.repeat(np.arange(N), weights)
    weighted, expected = QDA().fit(X, Y, sample_weight=weights), QDA().fit(X[repeated], Y[repeated])
    np.testing.assert_allclose(weighted.decision_function(X), expected.decision_function(X), rtol=1e-6)


@pytest.mark.parametrize("name", ["knn", "whitened_knn"])
def test_fractional_weights_vote_until_k_votes_are_cast(name):
    X, y = np.eye(6) + 0.3, np.array([0, 1, 0, 1, 0, 1])
    weights = np.array([0.5, 1.0, 1.5, 1.0, 2.0, 1.0])
    probe = create(name, n_neighbors=2).fit(X, y, sample_weight=weights)
    query = np.array([[9.0, 5, 4, 3, 2, 1]]) + 0.3  # the nearest rows are 0, 1, 2: 0.5 + 1.0 + 0.5 votes
    np.testing.assert_allclose(probe.predict_proba(query), [[0.5, 0.5]], atol=1e-3)
    if name == "knn":
        with pytest.raises(InputError, match="n_neighbors=2 in total"):
            create(name, n_neighbors=2).fit(X, y, sample_weight=weights / 8)


@pytest.mark.parametrize("name", ["masc", "ncm", "velpic", "ridge"])
@pytest.mark.parametrize("classes", [2, 10])
def test_probabilities_of_scores_are_calibrated(name, classes):
    X, y = load_digits(return_X_y=True)
    X, y = X[y < classes].astype(np.float32), y[y < classes]
    half = len(X) // 2
    probe = create(name).fit(X[:half], y[:half])
    p = probe.predict_proba(X[half:])
    assert (probe.classes_[p.argmax(1)] == probe.predict(X[half:])).all()
    assert p.max(1).mean() == pytest.approx(probe.score(X[half:], y[half:]), abs=0.03)
    loss = log_loss(y[half:], p)
    for factor in (0.3, 3):  # a temperature far from it is worse, unless nearly all rows are right
        scaled = (factor * probe.beta_ * torch.as_tensor(probe.class_scores(X[half:])).double()).softmax(1)
        assert loss < log_loss(y[half:], scaled.numpy()) or loss < 0.04


def test_probabilities_follow_the_fit():
    X, y = load_digits(return_X_y=True)
    whole = MASC(variance=0.9).fit(X[:900], y[:900])
    parts = MASC(variance=0.9)
    for start in range(0, 900, 37):
        parts.partial_fit(X[start : min(start + 37, 900)], y[start : min(start + 37, 900)], classes=range(10))
    assert parts.beta_ == pytest.approx(whole.beta_, rel=1e-6)
    np.testing.assert_allclose(parts.predict_proba(X[900:]), whole.predict_proba(X[900:]), atol=1e-5)
    own = MASC(variance=0.5).fit(X[:900], y[:900])
    assert whole.at(0.5).beta_ == pytest.approx(own.beta_, rel=1e-6)
    assert whole.beta_ != pytest.approx(own.beta_, rel=0.05)
    whole.fit_indices(torch.tensor(X), torch.tensor(y), np.arange(10))
    with pytest.raises(InputError, match="sums over rows"):
        whole.predict_proba(X)


def test_equal_rows_and_single_rows_have_probabilities():
    X = np.repeat([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [3, 3, 1], axis=0)
    y = np.array(["a", "a", "b", "b", "b", "a", "c"])  # equal rows with different labels, a class of one row
    for name in ("masc", "ncm", "velpic", "ridge"):
        probe = create(name).fit(X, y)
        p = probe.predict_proba(X)
        np.testing.assert_allclose(p.sum(1), 1)
        assert (probe.classes_[p.argmax(1)] == probe.predict(X)).all()
    assert (NearestClassMean().fit(X, ["a"] * 7).predict_proba(X) == 1).all()


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("n", [150, 320])
def test_logistic_regression_is_at_the_optimum_of_scikit_learn(n, offset):
    X = 0.3 * BASE + offset + rng.normal(size=BASE.shape)
    scaler = StandardScaler().fit(X[:n])
    expected = LogisticRegression(max_iter=5000, tol=1e-8).fit(scaler.transform(X[:n]), Y[:n])
    probe = create("logistic").fit(X[:n], Y[:n])
    np.testing.assert_allclose(
        probe.predict_proba(X[TEST]), expected.predict_proba(scaler.transform(X[TEST])), atol=2e-3
    )
    with pytest.warns(DegenerateWarning, match="did not converge"):
        clone(probe).set_params(max_iter=2).fit(X, Y)
