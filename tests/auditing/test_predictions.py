"""The audit of out-of-sample predictions of any model, and of one embedding."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.model_selection import cross_val_predict

from layerprobe import Audit, audit, audit_features, audit_predictions
from layerprobe.auditing.findings import depends_on_labels
from layerprobe.cli import main
from layerprobe.errors import InputError, LayerprobeWarning

NAMES = np.array(["cat", "dog", "eel", "fox"])
N, K = 240, 4


def planted(rate=0.2, seed=0):
    """Logits of four classes, the true and the given class indices."""
    random = np.random.default_rng(seed)
    true = random.integers(0, K, N)
    logits = random.normal(size=(N, K))
    logits[np.arange(N), true] += 4
    wrong = random.random(N) < rate
    given = np.where(wrong, (true + random.integers(1, K, N)) % K, true)
    return logits, true, given


LOGITS, TRUE, GIVEN = planted()
PROBABILITIES = torch.tensor(LOGITS).softmax(1).numpy()


@pytest.fixture(scope="module")
def digits():
    """Out-of-fold probabilities of the digits by logistic regression."""
    X, true = load_digits(return_X_y=True)
    X = X / 16

    def predictions(rate, kind):
        random = np.random.default_rng(0)
        wrong = random.random(len(true)) < rate
        shift = random.integers(1, 10, len(true)) if kind == "uniform" else 1
        given = np.where(wrong & ((kind != "one class") | (true == 0)), (true + shift) % 10, true)
        model = LogisticRegression(max_iter=300)
        return cross_val_predict(model, X, given, cv=5, method="predict_proba"), given, given != true

    return predictions


@pytest.mark.parametrize(
    ("rate", "kind"), [(0.05, "uniform"), (0.2, "uniform"), (0.4, "uniform"), (0.05, "pair")]
)
def test_planted_noise_is_found_better_than_by_disagreement(digits, rate, kind):
    pred_probs, given, wrong = digits(rate, kind)
    found = audit_predictions(pred_probs, given)
    own = pred_probs[np.arange(len(given)), given]
    assert f1_score(wrong, found.issue_mask()) >= f1_score(wrong, pred_probs.argmax(1) != given)
    assert found.noise.rate == pytest.approx(wrong.mean(), abs=0.03)
    ranking, rival = (roc_auc_score(wrong, -score) for score in (found.issues["label_score"], own))
    if (rate, kind) == (0.05, "uniform") and ranking < rival - 1e-3:
        pytest.xfail(f"AUROC {ranking:.4f} is below that of self-confidence, {rival:.4f}, by more than .001")
    assert ranking >= rival - 1e-3
    cleanlab = pytest.importorskip("cleanlab.filter")
    flags = cleanlab.find_label_issues(given, pred_probs)
    assert f1_score(wrong, found.issue_mask()) >= f1_score(wrong, flags) - 0.05


def test_wrong_labels_before_and_after_a_repair_are_those_expected(digits):
    pred_probs, given, wrong = digits(0.2, "uniform")
    true, found = load_digits(return_X_y=True)[1], audit_predictions(pred_probs, given)
    for policy in ("confident", "all", "soft", "prune", "verified"):
        repaired = found.relabel(policy)
        after = (repaired.labels != true)[repaired.kept].mean()
        assert repaired.wrong_before == pytest.approx(wrong.mean(), abs=0.03)
        assert repaired.wrong_after == pytest.approx(after, abs=0.03)


def test_expected_shares_of_right_but_ambiguous_labels_are_unknown():
    """Whether any label is wrong is unknown, so that possibly no flag is right."""
    random = np.random.default_rng(0)
    logits = 1.5 * random.normal(size=(800, K)) + np.eye(K)[true := random.integers(K, size=800)]
    found = audit_predictions(logits, true)
    assert found.noise.low == 0
    assert found.issue_mask().any()
    assert found.precision_interval.low == 0
    repaired = found.relabel()
    assert np.isnan([repaired.wrong_before, repaired.wrong_after]).all()


@pytest.mark.parametrize(("rate", "kind"), [(0.4, "pair"), (0.5, "one class")])
def test_flags_are_better_than_disagreement_where_the_noise_is_unknown(digits, rate, kind):
    pred_probs, given, wrong = digits(rate, kind)
    found = audit_predictions(pred_probs, given)
    assert found.evidence["kind"][0] == "unknown"
    assert f1_score(wrong, found.issue_mask()) >= f1_score(wrong, pred_probs.argmax(1) != given)
    assert found.noise.low <= wrong.mean() <= found.noise.high


@pytest.mark.parametrize(
    "values",
    [LOGITS, PROBABILITIES.tolist(), np.log(PROBABILITIES), torch.tensor(LOGITS, requires_grad=True)],
    ids=["logits", "list", "log_probabilities", "tensor"],
)
def test_kinds_of_predictions_give_equal_results(values):
    expected = audit_predictions(PROBABILITIES, GIVEN).issues
    found = audit_predictions(values, torch.tensor(GIVEN)).issues
    assert np.allclose(found["label_score"], expected["label_score"], atol=0.02)
    assert (found["suggested_label"] == expected["suggested_label"]).mean() > 0.99


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounded_probabilities_are_probabilities(dtype):
    rounded = torch.tensor(PROBABILITIES).to(dtype)
    found, exact = audit_predictions(rounded, GIVEN), audit_predictions(PROBABILITIES, GIVEN)
    assert (found.issue_mask() == exact.issue_mask()).mean() > 0.98
    with pytest.raises(InputError, match="divide each row by its sum"):
        audit_predictions((torch.tensor(PROBABILITIES) * 1.01).to(dtype), GIVEN)


def test_columns_of_a_frame_are_the_classes_and_its_index_the_rows():
    order = [2, 0, 3, 1]
    frame = pd.DataFrame(PROBABILITIES[:, order], columns=NAMES[order], index=[f"r{i}" for i in range(N)])
    found = audit_predictions(frame, NAMES[GIVEN])
    assert found.classes.tolist() == NAMES[order].tolist()
    assert found.issues["index"].tolist() == frame.index.tolist()
    right = found.issues["is_label_issue"] == (GIVEN != TRUE)
    assert right.mean() > 0.95
    assert (found.predict(frame) == NAMES[PROBABILITIES.argmax(1)]).all()
    with pytest.raises(InputError, match="same index in different orders"):
        audit_predictions(frame, pd.Series(NAMES[GIVEN], index=frame.index)[::-1])
    with pytest.raises(InputError, match="rename the columns"):
        audit_predictions(frame, NAMES[GIVEN], class_names=["cat", "dog", "eel", "hen"])


@pytest.mark.parametrize(
    "labels",
    [
        [(int(k), "x") for k in GIVEN],
        GIVEN.astype(float),
        [str(k) for k in GIVEN],
        pd.Categorical(NAMES[GIVEN]),
    ],
    ids=["tuples", "floats", "digits", "categories"],
)
def test_labels_of_any_kind(labels):
    expected = audit_predictions(PROBABILITIES, GIVEN)
    found = audit_predictions(PROBABILITIES, labels)
    assert found.y.tolist() == expected.y.tolist()
    assert np.array_equal(found.issues["label_score"], expected.issues["label_score"])


def test_class_without_labels_can_be_suggested():
    given = np.where(GIVEN == 3, 0, GIVEN)
    found = audit_predictions(PROBABILITIES, NAMES[given], class_names=NAMES).issues
    assert (found["given_label"] != "fox").all()
    assert (found["suggested_label"][TRUE == 3] == "fox").mean() > 0.8


@pytest.mark.parametrize("options", [{}, {"class_names": NAMES[:2]}])
def test_labels_of_fewer_names_than_columns_are_refused_without_a_word_of_a_network(options):
    with pytest.raises(InputError, match=r"2 (different )?names for 4 outputs") as caught:
        audit_predictions(PROBABILITIES, NAMES[GIVEN % 2], **options)
    assert "network" not in str(caught.value)


def test_labels_of_one_class_are_refused():
    with pytest.raises(InputError, match="at least two classes, but all 240 labels are 'cat'"):
        audit_predictions(PROBABILITIES, NAMES[GIVEN * 0])


def test_columns_in_another_order_than_the_names_are_refused():
    names = NAMES[[3, 1, 0, 2]]  # of the columns; sorted names are NAMES
    spare = np.hstack([PROBABILITIES, np.zeros((N, 1))])
    with pytest.raises(InputError, match=r"agree with \d+% .* class_names=\['fox', 'dog', 'cat', 'eel'\]"):
        audit_predictions(PROBABILITIES, names[GIVEN])
    with pytest.raises(InputError, match=r"class_names=\[3, 1, 0, 2, 4\]"):
        audit_predictions(spare, np.array([3, 1, 0, 2])[GIVEN])
    found = audit_predictions(PROBABILITIES, names[GIVEN], class_names=names)
    assert f1_score(TRUE != GIVEN, found.issue_mask()) > 0.9
    kept = audit_predictions(PROBABILITIES, names[GIVEN], class_names=NAMES)  # the user's decision
    assert f1_score(TRUE != GIVEN, kept.issue_mask()) < 0.6


def test_columns_of_frames_have_names():
    polars = pytest.importorskip("polars")
    order = NAMES[[3, 1, 0, 2]].tolist()
    named = pd.DataFrame(PROBABILITIES, columns=NAMES)
    expected = audit_predictions(named, NAMES[GIVEN])
    other = polars.DataFrame({name: named[name].to_numpy() for name in order})
    found = audit_predictions(other, NAMES[GIVEN])
    assert found.classes.tolist() == order
    np.testing.assert_allclose(found.issues["label_score"], expected.issues["label_score"])
    for frame in (named[order], other):
        np.testing.assert_array_equal(expected.predict(frame), expected.predict(named))
        table = expected.compare("self_confidence", pred_probs=frame, true_labels=NAMES[TRUE])
        assert table["auroc"].iloc[2] == pytest.approx(table["auroc"].iloc[1])
    unnamed = polars.DataFrame(PROBABILITIES)
    assert audit_predictions(unnamed, NAMES[GIVEN]).classes.tolist() == NAMES.tolist()


def test_trusted_rows_of_texts_are_texts():
    texts = [f"text {i}" for i in range(N)]
    decisions = [{"index": i, "label": int(TRUE[i])} for i in (5, 2)]
    rows, labels = audit_predictions(PROBABILITIES, GIVEN, data=texts).apply(decisions).trusted_rows()
    assert rows == ["text 2", "text 5"]
    assert labels.tolist() == TRUE[[2, 5]].tolist()


def test_two_classes_by_one_column():
    given = (GIVEN > 1).astype(int)
    p = PROBABILITIES[:, 2:].sum(1)
    expected = audit_predictions(np.stack([1 - p, p], 1), given).issues["label_score"]
    for values in (p, p[:, None], np.log(p / (1 - p)), pd.Series(p)):
        assert np.allclose(audit_predictions(values, given).issues["label_score"], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (PROBABILITIES * 100, "rows sum to 1"),
        (1 / (1 + np.exp(-LOGITS)), "rows with other sums"),
        (np.where(PROBABILITIES > 0.99, np.nan, PROBABILITIES), "NaN or infinity"),
        (PROBABILITIES[:, :3] / PROBABILITIES[:, :3].sum(1, keepdims=True), "none of the 3 classes"),
        (PROBABILITIES[:50], "a label for each of 50 rows, got 240"),
        (PROBABILITIES[None], "of shape"),
        (NAMES[GIVEN], "as numbers"),
        (100 * PROBABILITIES[:, 0], "logits=True"),
    ],
)
def test_invalid_predictions_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        audit_predictions(values, GIVEN)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (PROBABILITIES.astype(np.float16), GIVEN),
        (1e4 * LOGITS, GIVEN),
        ((10 * LOGITS).astype(int), GIVEN),
        (PROBABILITIES, pd.Series(NAMES[GIVEN], dtype="string")),
        (PROBABILITIES, GIVEN.astype(np.int8)),
        (PROBABILITIES, torch.tensor(GIVEN).to(torch.uint8)),
        (np.eye(K, dtype=bool)[LOGITS.argmax(1)], GIVEN),
    ],
    ids=["float16", "large logits", "whole logits", "strings", "int8", "uint8", "one-hot"],
)
def test_unusual_numbers_and_labels_give_the_flags_of_usual_ones(values, labels):
    found = audit_predictions(values, labels)
    assert f1_score(TRUE != GIVEN, found.issue_mask()) > 0.93
    assert found.noise.low <= (TRUE != GIVEN).mean() <= found.noise.high


@pytest.mark.parametrize(
    "given",
    [GIVEN, np.where(np.random.default_rng(0).random(N) < 0.9, 0, GIVEN)],
    ids=["even", "one frequent"],
)
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_predictions_that_do_not_depend_on_the_labels_flag_nothing(given, noise):
    found = audit_predictions(noise * np.random.default_rng(1).normal(size=(N, K)), given, logits=True)
    assert found.evidence["kind"][0] == "unknown"
    assert found.issue_mask().sum() == 0
    assert found.with_flags(5).issue_mask().sum() == 5


def test_predictions_of_a_rare_class_depend_on_the_labels():
    """They need not be better than the most frequent label."""
    random = np.random.default_rng(0)
    y = torch.tensor(random.random(2000) < 0.05).long()
    p = torch.tensor(2 * y.numpy() - 1 + random.normal(size=2000)).sigmoid()
    assert float(((p > 0.5) == y).double().mean()) < 0.9 < float((y == 0).double().mean())
    assert depends_on_labels(torch.stack([1 - p, p], 1), y)
    assert not depends_on_labels(torch.stack([1 - p, p], 1), y[torch.from_numpy(random.permutation(2000))])


def test_dependence_on_the_labels_is_one_sided():
    """With two classes and 65 % wrong labels, correct predictions disagree with most of the labels."""
    true = np.random.default_rng(0).integers(0, 2, 2000)
    p = torch.nn.functional.one_hot(torch.from_numpy(true), 2).double()
    wrong = np.random.default_rng(1).random(2000)
    assert depends_on_labels(p, torch.from_numpy(np.where(wrong < 0.35, 1 - true, true)))
    assert not depends_on_labels(p, torch.from_numpy(np.where(wrong < 0.65, 1 - true, true)))


def test_zeros_keep_the_order_of_the_scores():
    hard = np.eye(K)[TRUE]
    found = audit_predictions(hard, GIVEN)
    assert (found.issue_mask() == (GIVEN != TRUE)).mean() > 0.95
    assert (found.scores.softmax(1).argmax(1).numpy() == TRUE).all()
    assert found.scores.softmax(1).amax(1).min() > 0.99


def test_predictions_of_the_training_rows_warn():
    with pytest.warns(LayerprobeWarning, match="100.0% of the given labels"):
        audit_predictions(0.9 * np.eye(K)[GIVEN] + 0.025, GIVEN)
    with pytest.warns(LayerprobeWarning, match="each without its row"):
        audit_features(np.eye(K)[GIVEN] + 0.01 * LOGITS, GIVEN)
    with warnings.catch_warnings(action="error"):
        audit_predictions(PROBABILITIES, GIVEN)


def test_predictions_are_reviewed_compared_and_saved(tmp_path):
    texts = [f"text {i} <b>" for i in range(N)]
    found = audit_predictions(PROBABILITIES, NAMES[GIVEN], data=texts)
    assert f"{(LOGITS.argmax(1) == GIVEN).mean():.1%}" in found.network_finding
    assert found.recommendations["subject"].tolist() == ["labels", "network"]
    found.report(tmp_path / "report.html")
    assert (
        "text 3 &lt;b&gt;" in (tmp_path / "report.html").read_text()
        or "&lt;b&gt;" in (tmp_path / "report.html").read_text()
    )
    assert "\\u003cb>" in (tmp_path / "review.html").read_text()
    table = found.compare(true_labels=NAMES[TRUE])
    assert set(table["detector"]) == {"audit", "self_confidence", "normalized_margin", "loss_gmm"}
    own = PROBABILITIES[np.arange(N), GIVEN]
    expected = roc_auc_score(GIVEN != TRUE, -own)
    assert table.set_index("detector")["auroc"]["self_confidence"] == pytest.approx(expected, abs=1e-6)
    assert "fine" in found.compare(features={"embedding": LOGITS})["detector"].tolist()
    sample = found.review_sample()
    reviewed = found.apply(pd.DataFrame({"index": sample["index"], "label": NAMES[TRUE[sample["index"]]]}))
    assert reviewed.review.noise.low <= (GIVEN != TRUE).mean() <= reviewed.review.noise.high
    with pytest.raises(InputError, match="no network"):
        reviewed.retrain()
    reviewed.save(tmp_path / "audit.safetensors")
    loaded = Audit.load(tmp_path / "audit.safetensors")
    pd.testing.assert_frame_equal(loaded.issues, reviewed.issues)
    assert np.array_equal(loaded.predict(LOGITS), NAMES[LOGITS.argmax(1)])
    assert len(reviewed.trusted_rows()[0]) == reviewed.verified.sum()


@pytest.mark.parametrize("mixed", [False, True])
def test_rows_of_a_table_are_shown_by_column(tmp_path, mixed):
    frame = pd.DataFrame({"age": np.arange(N) + 0.5, "height": LOGITS[:, 0]})
    if mixed:
        frame["city"] = "Bern"
    audit_predictions(PROBABILITIES, GIVEN, data=frame).report(tmp_path / "report.html")
    page = (tmp_path / "review.html").read_text()
    rows = json.loads(page.split('id="data">')[1].split("</script>")[0])["rows"]
    row = next(row for row in rows if row["index"] == rows[0]["index"])
    age = str(int(row["index"]) + 0.5)
    assert (
        (f"age: {age}\n" in row["text"] and "city: Bern" in row["text"])
        if mixed
        else (row["values"][0] == ["age", age])
    )
    with pytest.raises(InputError, match="240 rows of the audit, got 5"):
        audit_predictions(PROBABILITIES, GIVEN, data=frame[:5])


def test_one_embedding_needs_no_other_rows(tmp_path):
    random = np.random.default_rng(1)
    centres = 3 * random.normal(size=(K, 8))
    embedding = centres[TRUE] + random.normal(size=(N, 8))
    found = audit_features(embedding, NAMES[GIVEN], data=[f"text {i}" for i in range(N)])
    assert found.policy == "label_free"
    assert (found.issue_mask() == (GIVEN != TRUE)).mean() > 0.95
    assert found.noise.rate == pytest.approx((GIVEN != TRUE).mean(), abs=0.03)
    assert (found.predict(embedding) == NAMES[TRUE]).mean() > 0.95
    order = random.permutation(N)
    again = audit_features(embedding[order], NAMES[GIVEN][order])
    assert np.allclose(again.issues["label_score"], found.issues["label_score"].to_numpy()[order], atol=1e-9)
    found.report(tmp_path / "report.html")
    found.save(tmp_path / "audit.safetensors")
    assert Audit.load(tmp_path / "audit.safetensors").issues.equals(found.issues)
    pair = (embedding[:40], NAMES[GIVEN][:40])
    held = audit_features(embedding[40:], NAMES[GIVEN][40:], policy="noisy_holdout", holdout=pair)
    assert held.layers["layer"].unique().tolist() == ["features"]


def test_rows_to_show_in_another_order_are_refused():
    names = [f"r{i}" for i in range(N)]
    rows = pd.DataFrame({"text": [f"row {i}" for i in range(N)]}, index=names)
    found = audit_predictions(PROBABILITIES, GIVEN, index=names, data=rows)
    assert found.example(7) == "text: row 7"
    with pytest.raises(InputError, match="in another order: its row 0 is 'r239', that of the audit is 'r0'"):
        audit_predictions(PROBABILITIES, GIVEN, index=names, data=rows[::-1])
    with pytest.raises(InputError, match="in another order"):
        audit_features(pd.DataFrame(LOGITS, index=names), GIVEN, data=rows[::-1])
    unnamed = audit_predictions(PROBABILITIES, GIVEN, data=rows[::-1].reset_index(drop=True))
    assert unnamed.example(0) == "text: row 239"


def test_policies_belong_to_their_entry():
    with pytest.raises(InputError, match=r"got none, and no rows that select .*label_free needs features"):
        audit_features({"layer": LOGITS}, GIVEN)
    with pytest.raises(InputError, match="out_of_sample"):
        audit_features(LOGITS, GIVEN, policy="out_of_sample")
    with pytest.raises(InputError, match="label_free"):
        audit(torch.nn.Linear(2, 2), (torch.zeros(4, 2), [0, 1, 0, 1]), policy="label_free")
    with pytest.raises(InputError, match="expected at least 20 rows in the fifth that selects the probe"):
        audit_features(LOGITS[:50], GIVEN[:50])


@pytest.mark.parametrize(
    ("argument", "policy"),
    [("holdout", "noisy_holdout"), ("trusted", "trusted"), ("test", "test_split"), ("views", "unseen_views")],
)
def test_other_rows_choose_the_policy(argument, policy):
    rows, held = {"layer": LOGITS[60:]}, ({"layer": LOGITS[:60]}, TRUE[:60])
    given = {argument: [{"layer": LOGITS[60:] + 0.1}] if argument == "views" else held, "probes": "ncm"}
    found, named = (audit_features(rows, GIVEN[60:], **given, **more) for more in ({}, {"policy": policy}))
    assert found.policy == policy
    assert found.issues.equals(named.issues)


def permuted(values, order):
    """Columns in another order, and the labels that belong to it."""
    return values[:, order], np.argsort(order)[GIVEN]


@pytest.mark.parametrize("values", [LOGITS / 2, PROBABILITIES**0.5 / (PROBABILITIES**0.5).sum(1)[:, None]])
def test_order_of_the_classes_does_not_matter(values):
    order = np.array([2, 0, 3, 1])
    one = audit_predictions(values, GIVEN)
    columns, given = permuted(values, order)
    other = audit_predictions(columns, given, class_names=range(K))
    assert np.allclose(other.issues["label_score"], one.issues["label_score"], rtol=1e-9)
    assert np.allclose(other.noise_interval, one.noise_interval, rtol=1e-9)
    assert np.allclose(other.noise.matrix_low, one.noise.matrix_low[order][:, order], atol=1e-9)
    assert np.array_equal(order[other.suggested], one.suggested)
    one, other = (audit_features(X, y, class_names=range(K)) for X, y in ((values, GIVEN), (values, given)))
    assert np.allclose(other.issues["label_score"], one.issues["label_score"], rtol=1e-6)


def test_predictions_on_the_shell(tmp_path, capsys):
    labels, place = tmp_path / "labels.csv", tmp_path / "probs.csv"
    pd.DataFrame({"label": NAMES[GIVEN]}).to_csv(labels, index=False)
    frame = pd.DataFrame(PROBABILITIES, columns=NAMES)
    frame.insert(0, "index", [f"r{i}" for i in range(N)])
    frame.to_csv(place, index=False)
    arguments = [
        "audit",
        "--predictions",
        str(place),
        "--labels",
        str(labels),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*arguments, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    expected = audit_predictions(PROBABILITIES, NAMES[GIVEN])
    assert summary["issues"]["flagged"] == expected.issue_mask().sum()
    issues = pd.read_csv(tmp_path / "out" / "issues.csv")
    assert issues["index"].tolist() == [f"r{i}" for i in range(N)]
    assert (tmp_path / "out" / "review.html").exists()
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert len(tasks) == 100
    assert tasks[0]["data"]["index"] in set(frame["index"])
    shuffled = pd.DataFrame({"label": NAMES[GIVEN], "index": frame["index"]}).sample(frac=1, random_state=0)
    shuffled.to_csv(labels, index=False)
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["issues"] == summary["issues"]
    shuffled.assign(index=range(N)).to_csv(labels, index=False)
    assert main(arguments) == 2
    assert "got other names" in capsys.readouterr().err
    np.save(tmp_path / "logits.npy", LOGITS)
    np.save(tmp_path / "labels.npy", GIVEN)
    arguments[2], arguments[4] = str(tmp_path / "logits.npy"), str(tmp_path / "labels.npy")
    assert main(arguments) == 0
    assert "review.html" in capsys.readouterr().out
    for wrong in (arguments[:3], [*arguments, "--policy", "trusted"], ["audit", "--data", "x"]):
        assert main(wrong) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_arrays_in_any_memory_order_give_equal_audits():
    y = np.arange(60) % 3
    p = np.random.default_rng(0).dirichlet([1, 1, 1], 60) + 2 * np.eye(3)[y]
    p /= p.sum(1, keepdims=True)
    y[:12] = (y[:12] + 1) % 3
    reversed_memory = p[::-1, ::-1].copy()[::-1, ::-1]  # equal numbers, negative strides
    one, other = (audit_predictions(values, y) for values in (p, reversed_memory))
    pd.testing.assert_frame_equal(one.issues, other.issues)
