"""The audit of layer outputs that something else has made."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from auditing.planted import clusters, corrupted
from layerprobe import audit_features
from layerprobe.auditing import read_rows
from layerprobe.errors import InputError, LayerprobeWarning
from layerprobe.probes import VeLPIC

K, N, M = 3, 300, 300
PROBES = ("ridge", "velpic")
RATE = 0.3


def planted(K=K, rate=RATE, seed=0):
    """An input, a layer that knows the classes better, and one that knows its rows' given labels by heart."""
    x, true = clusters(N + M, K, seed=seed, apart=4.0)
    given = corrupted(true, K, rate, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    by_heart = torch.randn(N + M, K, generator=generator)
    by_heart[:N] += 6 * torch.eye(K)[given[:N]]
    layers = {
        "input": clusters(N + M, K, seed=seed + 7, apart=2.5)[0],
        "middle": x,
        "last": by_heart,
        "output": 2 * by_heart,
    }
    rows, held = ({layer: X[part] for layer, X in layers.items()} for part in (slice(N), slice(N, None)))
    return rows, given[:N], held, given[N:], true[:N], true[N:]


ROWS, GIVEN, HELD, HELD_GIVEN, TRUE, HELD_TRUE = planted()


def run(rows=ROWS, given=GIVEN, held=HELD, held_given=HELD_GIVEN, **options):
    options = {"policy": "noisy_holdout", "holdout": (held, held_given), "probes": PROBES} | options
    return audit_features(rows, given, **options)


@pytest.fixture(scope="module")
def found():
    return run()


def test_first_audit_does_not_import_the_compiler_of_torch():
    """The import takes seconds; optimisers of torch cause it."""
    script = """
import sys, numpy as np, layerprobe
X = np.random.default_rng(0).normal(size=(150, 3)) + 3 * np.eye(3)[np.arange(150) % 3]
layerprobe.audit_features(X, np.arange(150) % 3)
assert "torch._dynamo" not in sys.modules
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_best_layer_is_first(found):
    best = found.layers.iloc[0]
    assert best["layer"] == "middle"
    assert best["chosen"]
    assert best["why"] == "the best candidate"
    assert best["gain"] == pytest.approx(best["criterion"] - found.controls["criterion"][0])
    assert best["gain_low"] > 0.1
    memory = found.layers[found.layers["layer"] == "last"]
    assert memory["criterion"].max() < 0.5 < best["criterion"]  # chance is a third
    assert "middle" in found.network_finding
    assert "better than the head" in found.network_finding
    assert found.advice == "review"
    assert "Audit of 300 rows" in repr(found)


def test_baselines_are_the_head_and_the_input(found):
    table = found.controls.set_index("control")
    assert list(table.index) == ["head", "raw input", "most frequent label", "decoder"]
    right = (HELD["output"].argmax(1) == HELD_GIVEN).double().mean()
    assert table["criterion"]["head"] == pytest.approx(float(right))
    assert table["beaten"].tolist() == [True, True, True, False]
    assert (table["low"] <= table["criterion"]).all()
    assert (table["criterion"] <= table["high"]).all()


def test_noise_interval_covers_the_rate(found):
    noise = found.noise
    assert noise.low <= RATE <= noise.high
    assert noise.low < noise.rate < noise.high
    assert noise.matrix.sum(1) == pytest.approx(np.ones(K))
    assert np.diagonal(noise.matrix) == pytest.approx([1 - RATE] * K, abs=0.12)
    draws = found.findings.calibration.matrices.numpy()  # 39 of 41 places are between them
    assert np.array_equal([noise.matrix_low, noise.matrix_high], [draws.min(0), draws.max(0)])
    assert noise.prior == pytest.approx([1 / 3] * 3, abs=0.08)


def test_precision_of_flags_equals_the_expected_precision():
    hits = flagged = announced = caught = wrong = 0
    for seed in range(4):
        rows, given, held, held_given, true, _ = planted(seed=10 * seed)
        found = run(rows, given, held, held_given)
        mask = found.issue_mask()
        bad = (given != true).numpy()
        hits, flagged = hits + bad[mask].sum(), flagged + mask.sum()
        announced += (1 - found.issues["label_score"])[mask].sum()
        caught, wrong = caught + bad[mask].sum(), wrong + bad.sum()
    assert hits / flagged == pytest.approx(announced / flagged, abs=0.06)
    assert caught / wrong > 0.8


def test_suggestions_and_predictions_are_right(found):
    suggested = found.issues["suggested_label"][found.issue_mask()]
    assert (suggested == TRUE.numpy()[found.issue_mask()]).mean() > 0.85
    assert (found.predict(HELD) == HELD_TRUE.numpy()).mean() > 0.85
    assert found.predict_scores(HELD).shape == (M, K)
    proba = found.predict_proba(HELD)
    assert proba.sum(1) == pytest.approx(np.ones(M))
    assert (found.classes[proba.argmax(1)] == found.predict(HELD)).all()


def test_each_row_is_scored_without_its_own_label():
    given = GIVEN.clone()
    given[4] = (given[4] + 1) % K
    rows, held = ({"middle": x["middle"]} for x in (ROWS, HELD))
    plain, flipped = (run(rows, y, held, probes=["ridge"]) for y in (GIVEN, given))
    scale = [audit.findings.ensemble.members[0].scale for audit in (plain, flipped)]
    assert [m.candidate for m in plain.findings.ensemble.members] == [
        m.candidate for m in flipped.findings.ensemble.members
    ]
    before, after = plain.scores * scale[0], flipped.scores * scale[1]
    torch.testing.assert_close(after[4], before[4], atol=1e-5, rtol=0)
    assert not torch.allclose(after, before, atol=1e-4)


def test_rows_may_come_in_any_order(found):
    order = np.random.default_rng(0).permutation(N)
    shuffled = run({layer: X[order] for layer, X in ROWS.items()}, GIVEN[order], index=order)
    back = shuffled.issues.set_index("index").loc[np.arange(N)].reset_index()
    assert (back["is_label_issue"] == found.issues["is_label_issue"]).all()
    assert (back["suggested_label"] == found.issues["suggested_label"]).all()
    assert np.abs(back["label_score"] - found.issues["label_score"]).max() < 1e-3
    assert shuffled.pred_probs == pytest.approx(found.pred_probs[order], abs=1e-3)
    assert shuffled.layers.equals(found.layers)
    assert set(shuffled.issue_indices()) == set(found.issue_indices())


def test_held_out_rows_may_come_in_any_order(found):
    order = torch.randperm(M, generator=torch.Generator().manual_seed(1))
    shuffled = run(held={layer: X[order] for layer, X in HELD.items()}, held_given=HELD_GIVEN[order])
    assert (shuffled.issue_mask() == found.issue_mask()).all()
    expected = found.issues["label_score"].to_numpy()
    assert shuffled.issues["label_score"].to_numpy() == pytest.approx(expected, abs=1e-4)
    assert (shuffled.noise.low, shuffled.noise.high) == pytest.approx((found.noise.low, found.noise.high))


@pytest.mark.parametrize("order", [(1, 2, 0), (2, 1, 0)])
def test_names_and_order_of_classes_do_not_matter(found, order):
    names = np.array(["cat", "dog", "owl"])  # code k becomes names[order[k]]
    renamed = names[np.array(order)]
    place = np.argsort(order)  # column j, the class names[j], is old class place[j]
    rows, held = ({**x, "output": x["output"][:, place]} for x in (ROWS, HELD))
    other = run(rows, renamed[GIVEN].tolist(), held, renamed[HELD_GIVEN])
    assert other.classes.tolist() == names.tolist()
    assert (other.issue_mask() == found.issue_mask()).all()
    assert (other.issues["suggested_label"] == renamed[found.issues["suggested_label"]]).all()
    assert np.abs(other.issues["label_score"] - found.issues["label_score"]).max() < 0.01
    assert other.predict(HELD).tolist() == renamed[found.predict(HELD)].tolist()
    assert other.layers["criterion"].tolist() == found.layers["criterion"].tolist()
    assert other.noise.matrix == pytest.approx(found.noise.matrix[place][:, place], abs=0.01)


def test_two_classes():
    rows, given, held, held_given, true, held_true = planted(K=2)
    found = run(rows, given, held, held_given, probes=("ridge", "velpic", "ncm"))
    assert found.pred_probs.shape == (N, 2)
    assert found.noise.rate == pytest.approx(RATE, abs=0.1)
    assert (found.predict(held) == held_true.numpy()).mean() > 0.9
    mask = found.issue_mask()
    assert ((given != true).numpy()[mask]).mean() > 0.8
    assert (found.issues["given_label"] != found.issues["suggested_label"])[mask].all()


def test_few_clean_labels_are_flagged():
    rows, given, held, held_given, *_ = planted(rate=0.0)
    found = run(rows, given, held, held_given)
    assert found.issue_mask().mean() == pytest.approx(found.noise.rate, abs=1 / N)
    assert found.noise.rate < 0.05
    assert found.advice == "review"


def test_evidence_states_kind_and_basis_of_every_number(found):
    evidence = found.evidence.set_index("quantity")
    by_one_estimator = [f"wrong labels by {name}" for name in found.noise.estimates]
    assert set(evidence.loc[by_one_estimator, "kind"]) == {"estimated"}
    assert evidence["value"][by_one_estimator].tolist() == list(found.noise.estimates.values())
    assert evidence["kind"].drop(by_one_estimator).to_dict() == {
        "wrong labels": "unknown",  # the decoder agrees with few of the given labels
        "flagged labels that are wrong": "unknown",
        "wrong labels that are flagged": "unknown",
        "gain per changed label": "unknown",
        "accuracy of the decoder": "measured",
        "gain of the decoder over the head": "measured",
    }
    assert np.isnan(evidence["value"]["wrong labels"])
    assert tuple(evidence.loc["wrong labels", ["low", "high"]]) == (found.noise.low, found.noise.high)
    low, high = evidence.loc["flagged labels that are wrong", ["low", "high"]]
    assert low <= 1 - found.issues["label_score"][found.issue_mask()].mean() <= high
    assert np.isnan(found.expected_precision)
    assert float(1 - found.issues["label_score"].mean()) == pytest.approx(found.noise.rate, abs=1e-6)
    repaired = found.relabel()
    assert np.isnan([repaired.wrong_before, repaired.wrong_after]).all()


def test_other_rules_flag_other_numbers_of_labels(found):
    assert found.with_flags(17).issue_mask().sum() == found.with_flags(np.int64(17)).issue_mask().sum() == 17
    with pytest.warns(LayerprobeWarning, match="by one estimate only; it is between .* and .*%"):
        sure = found.with_flags(0.97)  # the noise is unknown
    assert np.isnan(sure.expected_precision)
    assert np.isnan(sure.expected_recall)
    wrong, mask = 1 - sure.issues["label_score"], sure.issue_mask()
    assert wrong[mask].mean() >= 0.97 > wrong[mask].min()
    assert sure.precision_interval.low <= wrong[mask].mean() <= sure.precision_interval.high
    assert mask.sum() < found.issue_mask().sum()
    assert run(flags=17).issues.equals(found.with_flags(17).issues)
    with pytest.raises(InputError, match="flags is 'balanced'"):
        run(flags="most")


def test_verdict_and_force_are_deprecated(found):
    with pytest.warns(DeprecationWarning, match=r"use Audit\.advice"):
        assert found.verdict in ("repair", "keep")
    with pytest.warns(DeprecationWarning, match="no force="):
        assert found.relabel("all", force=True).changed.any()


def test_head_as_good_as_the_decoder_keeps_the_labels():
    rows, held = (
        {**x, "output": 5 * x["middle"][:, :K]} for x in (ROWS, HELD)
    )  # whose head reads the layer that knows
    found = run(rows, held=held)
    assert "gain over the head" in found.network_finding or "as good as" in found.network_finding
    assert found.recommendations.set_index("subject")["advice"].to_dict() == {
        "labels": "review",
        "predictions": "head",
        "network": "keep",
    }


def test_repair_corrects_more_than_it_breaks(found):
    true = TRUE.numpy()
    before = (GIVEN.numpy() != true).mean()
    for policy in ("confident", "all", "soft"):
        repaired = found.relabel(policy)
        after = (repaired.labels != true).mean()
        assert after < 0.5 * before
        assert repaired.targets.sum(1) == pytest.approx(np.ones(N))
    pruned = found.relabel("prune")
    assert (~pruned.kept == found.issue_mask()).all()
    assert (GIVEN.numpy() != true)[pruned.kept].mean() < 0.5 * before
    assert found.relabel("confident", margin=1.0).changed.sum() <= found.relabel("confident").changed.sum()


def test_index_names_the_rows(found):
    named = run(index=[f"{i}.png" for i in range(N)])
    assert named.issues["index"].is_unique
    assert named.issue_indices().tolist() == [f"{i}.png" for i in found.issue_indices()]
    scores = named.issues.set_index("index")["label_score"][named.issue_indices()]
    assert scores.is_monotonic_increasing
    assert named.issue_mask().sum() == len(scores)


FRAMES = [
    pd.DataFrame(part["middle"].numpy()).add_prefix("c").rename(lambda i: f"r{i}") for part in (ROWS, HELD)
]
SERIES = [pd.Series(y.numpy(), x.index) for y, x in zip((GIVEN, HELD_GIVEN), FRAMES, strict=True)]
(FRAME, HELD_FRAME), (LABELS, HELD_LABELS) = FRAMES, SERIES


@pytest.mark.parametrize(
    "call",
    [
        lambda: audit_features(FRAME, LABELS[::-1]),
        lambda: audit_features(FRAME, LABELS, holdout=(HELD_FRAME, HELD_LABELS[::-1])),
        lambda: audit_features(FRAME, LABELS, views=[FRAME[::-1] + 0.1]),
        lambda: audit_features(FRAME, LABELS).compare(features=FRAME, true_labels=LABELS[::-1]),
        lambda: audit_features(FRAME, LABELS).compare(features=FRAME[::-1]),
        lambda: read_rows(FRAME, LABELS[::-1]),
        lambda: read_rows((FRAME, HELD_LABELS), LABELS[::-1]),
    ],
    ids=["labels", "held-out labels", "view", "true labels", "compared features", "rows", "replaced labels"],
)
def test_labels_and_rows_of_pandas_in_different_orders_are_refused(call):
    with pytest.raises(InputError, match="same index in different orders"):
        call()


def test_policies_with_clean_labels():
    trusted = (HELD, HELD_TRUE)
    found = run(policy="trusted", holdout=None, trusted=trusted)
    assert found.layers["layer"][0] == "middle"
    assert found.controls["criterion"].iloc[-1] > 0.85  # of right labels
    assert found.noise.rate == pytest.approx(RATE, abs=0.08)
    split = run(policy="test_split", holdout=None, test=trusted)
    assert split.noise.rate == pytest.approx(RATE, abs=0.08)
    widths = [(audit.layers["high"] - audit.layers["low"]).max() for audit in (split, found)]
    assert widths[0] > 1.7 * widths[1]  # a fifth of the rows chooses


def views_of(rows, seed, own):
    """A view: the layer that knows the classes still does, the others have forgotten the row."""
    generator = torch.Generator().manual_seed(seed)
    seen = {layer: torch.randn(X.shape, generator=generator) for layer, X in rows.items()}
    return {**seen, "middle": own, "input": rows["input"] + seen["input"]}


def test_policy_unseen_views():
    fresh = [views_of(ROWS, i, clusters(N, K, seed=50 + i, apart=4.0)[0]) for i in range(2)]
    found = run(policy="unseen_views", holdout=None, views=fresh)
    assert found.layers["layer"][0] == "middle"
    assert "predicts better than the head on the views, " in found.network_finding
    head = found.controls.set_index("control")["criterion"]["head"]
    expected = [(v["output"].argmax(1) == GIVEN).double().mean() for v in fresh]
    assert head == pytest.approx(float(sum(expected)) / 2)
    assert found.noise.rate == pytest.approx(RATE, abs=0.1)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    shuffled = run(
        {layer: X[order] for layer, X in ROWS.items()},
        GIVEN[order],
        policy="unseen_views",
        holdout=None,
        views=[{layer: X[order] for layer, X in view.items()} for view in fresh],
    )
    assert (shuffled.issue_mask() == found.issue_mask()[order]).all()
    expected = found.issues["label_score"].to_numpy()[order]
    assert shuffled.issues["label_score"].to_numpy() == pytest.approx(expected, abs=1e-4)
    assert (shuffled.noise.low, shuffled.noise.high) == pytest.approx((found.noise.low, found.noise.high))


def test_accuracy_of_a_head_that_has_memorised_the_view_is_unknown():
    """The layer "last" and the head repeat the given labels on the view, as on the rows themselves."""
    rows = {**ROWS, "input": ROWS["middle"]}
    found = audit_features(rows, GIVEN, views=[{**rows, "middle": rows["middle"] + 0.1}], probes=PROBES)
    head = found.controls.iloc[0]
    assert np.isnan(head["criterion"])
    assert head[["low", "high", "beaten"]].tolist() == [0, 1, None]
    layers = found.layers.set_index("layer")
    assert layers.loc["last", "criterion"].isna().all()
    assert set(layers.loc["last", "why"]) == {"unknown: more than half of the labels are memorised on a view"}
    gain = found.evidence.set_index("quantity").loc["gain of the decoder over the head"]
    assert np.isnan(gain["value"])
    assert gain[["low", "high", "kind"]].tolist() == [-1, 1, "unknown"]
    assert "its accuracy is unknown" in found.network_finding
    assert found.recommendations["advice"][1] == "head"


def test_views_are_not_part_of_the_fitted_rows():
    fresh = [{"middle": clusters(N, K, seed=50 + i, apart=1.0)[0]} for i in range(2)]
    own = {"middle": clusters(N, K, seed=60, apart=1.0)[0]}
    found = run(own, GIVEN, policy="unseen_views", holdout=None, views=fresh, probes="velpic")
    alone = VeLPIC().fit(own["middle"], GIVEN)
    expected = sum(alone.score(view["middle"], GIVEN) for view in fresh) / 2
    assert found.controls["criterion"].iloc[-1] == pytest.approx(expected)
    averaged = VeLPIC().fit((own["middle"] + fresh[0]["middle"] + fresh[1]["middle"]) / 3, GIVEN)
    scores = averaged.decision_function(HELD["middle"])  # what it predicts by is fitted on all of them
    assert found.predict(HELD).tolist() == scores.argmax(1).tolist()


def test_early_stopping_baseline():
    found = run(history=[0.1, 0.9])
    table = found.controls.set_index("control")
    assert table["criterion"]["early stopping"] == 0.9
    assert not table["beaten"]["early stopping"]
    assert "early stopping" in found.network_finding


def test_progress_reports_each_step():
    steps = []
    found = run(progress=steps.append)
    assert list(dict.fromkeys(steps)) == list(found.cost)
    assert all(seconds >= 0 for seconds in found.cost.values())
    assert found.settings["layers"] == {"input": 6, "middle": 6, "last": 3}
    assert found.settings["policy"] == found.policy == "noisy_holdout"


def bad(layer, i, value):
    X = ROWS[layer].clone()
    X[i, 0] = value
    return {**ROWS, layer: X}


NO_HELD = {"policy": "unseen_views", "holdout": None}
BAD = {
    "NaN": ({"rows": bad("middle", 7, torch.nan)}, "'middle' contain NaN or infinity, first in row 7"),
    "infinity": ({"rows": bad("last", 3, torch.inf)}, "'last' contain NaN or infinity, first in row 3"),
    "NaN held out": ({"held": {**HELD, "middle": HELD["middle"] * torch.nan}}, "holdout of layer 'middle'"),
    "no layers": ({"rows": {}}, "expected features as a mapping of layer to array"),
    "an array": ({"rows": ROWS["middle"]}, "of the layers features as in training"),
    "one row": ({"rows": {"middle": ROWS["middle"][0]}}, r"\(n, d\)"),
    "maps": ({"rows": {"middle": torch.ones(N, 2, 2)}}, r"\(n, d\)"),
    "texts": ({"rows": {"middle": np.array([["a"]] * N)}}, "'middle' as numbers"),
    "ragged": ({"rows": {"middle": [[1.0], [1.0, 2.0]]}}, "'middle' as numbers"),
    "the output alone": ({"rows": {"output": ROWS["output"]}}, "besides the output"),
    "layers of different rows": (
        {"rows": {**ROWS, "last": ROWS["last"][1:]}},
        "same number of rows",
    ),
    "labels too short": ({"given": GIVEN[1:]}, "a label for each of 300 rows, got 299"),
    "labels out of range": ({"given": GIVEN + 1}, "labels hold 3"),
    "a class of one row": (
        {"given": [7, *(GIVEN[1:] % 2).tolist()], "rows": {"middle": ROWS["middle"]}},
        "got 1 of 7",
    ),
    "one class": ({"given": GIVEN * 0}, "all 300 labels are 0"),
    "only zeros": ({"rows": {k: 0 * v for k, v in ROWS.items()}}, "all 300 rows have the same content"),
    "held labels too short": ({"held_given": HELD_GIVEN[1:]}, "each of the 300 rows of holdout=, got 299"),
    "held labels unknown": ({"held_given": HELD_GIVEN + 1}, "labels of holdout= hold 3"),
    "held layer missing": ({"held": {"middle": HELD["middle"]}}, "as in training"),
    "held layer of another width": ({"held": {**HELD, "last": HELD["input"]}}, "as in training"),
    "held outputs of other classes": ({"held": {**HELD, "output": HELD["input"]}}, "3 outputs per row"),
    "held out as no pair": ({"holdout": HELD}, r"\(features, labels\)"),
    "overlap": (
        {"held": {k: torch.cat([ROWS[k][:2], v[2:]]) for k, v in HELD.items()}},
        "2 of the 300 rows of holdout= are among the training rows",
    ),
    "names too few": ({"index": [1, 2]}, "got 2 names"),
    "names twice": ({"index": [1, *range(1, N)]}, "299 different ones"),
    "views of fewer rows": (
        {**NO_HELD, "views": [{k: v[:5] for k, v in ROWS.items()}]},
        r"same 300 rows in views\[0\]",
    ),
    "views of other layers": (
        {**NO_HELD, "views": [{"middle": ROWS["middle"]}]},
        r"views\[0\] of the layers",
    ),
    "no views": (NO_HELD, "views of the training rows"),
    "in_sample": ({"policy": "in_sample"}, "already contain its label"),
    "loo": ({"policy": "loo"}, "already contain its label"),
    "cross_validation": ({"policy": "cross_validation"}, "already contain its label"),
    "no hold-out": ({"holdout": None}, "pass holdout="),
    "probes": ({"probes": ["best"]}, "best"),
    "history": ({"history": [61.0]}, "history="),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_error(case):
    options, message = BAD[case]
    with pytest.raises(InputError, match=message):
        run(**options)


@pytest.mark.parametrize("x", [HELD["middle"], {"last": HELD["last"]}, {"middle": HELD["middle"][:, :2]}])
def test_predict_requires_the_layers_of_the_decoder(found, x):
    with pytest.raises(InputError, match="middle"):
        found.predict(x)


def test_features_have_no_network_to_repair(found):
    assert found.example(0) is None
    with pytest.raises(InputError, match="made of features"):
        found.training_rows()


def test_noise_is_unknown_with_uninformative_features():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(900, 20)), rng.integers(3, size=900)
    found = audit_features({"a": x[:600]}, y[:600], policy="noisy_holdout", holdout=({"a": x[600:]}, y[600:]))
    assert "a closer estimate is not possible" in found.label_finding
    assert "do not separate the classes" in found.network_finding
    evidence = found.evidence.set_index("quantity")
    assert evidence["kind"]["wrong labels"] == "unknown"
    assert np.isnan(evidence["value"]["wrong labels"])


def test_issues_are_a_copy(found):
    frame = found.issues
    frame["label_score"] = 0.0
    assert found.issues["label_score"].max() > 0


def test_trusted_rows_beside_the_hold_out_measure_the_noise():
    """Half of the hold-out is verified: its rows are trusted, the others noisy."""
    half = len(HELD["middle"]) // 2
    noisy, verified = (
        {name: X[part] for name, X in HELD.items()} for part in (slice(half), slice(half, None))
    )
    found = audit_features(
        ROWS,
        GIVEN,
        policy="noisy_holdout",
        holdout=(noisy, HELD_GIVEN[:half]),
        trusted=(verified, HELD_TRUE[half:]),
    )
    assert found.noise.source == f"the held-out rows and {len(HELD_TRUE) - half} trusted rows"
    assert found.noise.rate == pytest.approx(found.noise.estimates["trusted rows"])
    assert found.noise.low <= float((GIVEN != TRUE).double().mean()) <= found.noise.high
    assert float(1 - found.issues["label_score"].mean()) == pytest.approx(found.noise.rate, abs=1e-6)
