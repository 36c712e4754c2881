"""Audit.compare: the audit beside published detectors, on the same rows, layers and views."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from auditing.planted import clusters, corrupted
from layerprobe import Audit, History, audit, audit_features, baselines
from layerprobe.errors import InputError

FEATURE_DETECTORS = ["fine", "deep_knn", "simifeat_vote", "simifeat_rank", "hoc"]
HEAD_DETECTORS = ["self_confidence", "normalized_margin", "loss_gmm"]
X, TRUE = clusters(300)
GIVEN = corrupted(TRUE, 3, 0.2)
H, H_TRUE = clusters(120, seed=1)
LAYERS = {"input": X[:, :3], "fc": X}
HOLDOUT = ({"input": H[:, :3], "fc": H}, corrupted(H_TRUE, 3, 0.2, seed=1))


@pytest.fixture(scope="module")
def of_features():
    return audit_features(LAYERS, GIVEN, policy="noisy_holdout", holdout=HOLDOUT)


def row(table, detector, layer):
    return table.set_index(["detector", "layer"]).loc[(detector, layer)]


def test_network_audit_has_one_row_per_detector_and_input(audited, digits):
    table = audited.compare(true_labels=digits.true)
    assert table.columns.tolist() == ["detector", "layer", "overlap", "flagged", "agreement", "auroc"]
    layers = list(dict.fromkeys(audited.layers["layer"]))
    pairs = {("audit", "decoder"), *((d, "output") for d in HEAD_DETECTORS)}
    pairs |= {(d, layer) for d in FEATURE_DETECTORS for layer in layers}
    assert set(zip(table["detector"], table["layer"], strict=True)) == pairs
    wrong = (digits.given != digits.true).numpy()
    assert table["auroc"][0] == pytest.approx(roc_auc_score(wrong, -audited.issues["label_score"]))
    assert table["flagged"][0] == pytest.approx(audited.issue_mask().mean())


def test_scores_are_those_of_the_detector_on_the_outputs_of_the_layer(audited, digits, memorised):
    with torch.inference_mode():
        fc1 = memorised.fc1(memorised.linear1(digits.x.flatten(1)))
        p = memorised(digits.x).softmax(1)
    wrong, flags = (digits.given != digits.true).numpy(), audited.issue_mask()
    table = audited.compare(["fine", "self_confidence"], true_labels=digits.true)
    for name, layer, values in (("fine", "fc1", fc1), ("self_confidence", "output", p)):
        found, line = baselines.create(name).detect(values.numpy(), digits.given), row(table, name, layer)
        lowest = found.scores.argsort(kind="stable")[: flags.sum()]
        assert line["auroc"] == pytest.approx(roc_auc_score(wrong, -found.scores), abs=1e-3)
        assert line["overlap"] == pytest.approx(flags[lowest].mean(), abs=0.02)
        assert line["flagged"] == pytest.approx(found.flags.mean(), abs=0.01)
        assert line["agreement"] == pytest.approx((found.flags == flags).mean(), abs=0.01)


def test_detectors_read_outputs_averaged_over_the_views_of_the_audit(digits, memorised):
    views = {"darker": lambda x: 0.9 * x}
    found = audit(
        memorised, (digits.x, digits.given), policy="noisy_holdout", holdout=digits.holdout, views=views,
        layers=["fc1"], controls=False,
    )  # fmt: skip
    with torch.inference_mode():
        both = [memorised.fc1(memorised.linear1(x.flatten(1))) for x in (digits.x, 0.9 * digits.x)]
    score = baselines.create("fine").score((sum(both) / 2).numpy(), digits.given)
    wrong = (digits.given != digits.true).numpy()
    table = found.compare("fine", true_labels=digits.true)
    assert row(table, "fine", "fc1")["auroc"] == pytest.approx(roc_auc_score(wrong, -score), abs=1e-3)


def test_features_are_given_again(of_features):
    table = of_features.compare(features=LAYERS, true_labels=TRUE)
    assert set(table["detector"]) == {"audit", *FEATURE_DETECTORS}
    assert set(table["layer"]) == {"decoder", "input", "fc"}
    assert (table["auroc"] > 0.8).all()
    with pytest.raises(InputError, match="holds no layer outputs to compare on: pass features="):
        of_features.compare()
    for wrong in ({"fc": X}, {"input": X, "fc": X}, {k: v[:-1] for k, v in LAYERS.items()}):
        with pytest.raises(InputError, match=r"expected features of the 300 audited rows.*got"):
            of_features.compare(features=wrong)


def test_one_embedding_is_given_as_in_the_audit():
    found = audit_features(X, GIVEN)
    table = found.compare("fine", features=X, true_labels=TRUE)
    named = found.compare("fine", features={"features": X}, true_labels=TRUE)
    assert table.equals(named)
    assert row(table, "fine", "features")["auroc"] > 0.8


def test_views_of_features_are_averaged(of_features):
    shifted = {k: v + 1 for k, v in LAYERS.items()}
    mean = {k: v + 0.5 for k, v in LAYERS.items()}
    by_views = of_features.compare("fine", features=LAYERS, views=[shifted], true_labels=TRUE)
    by_mean = of_features.compare("fine", features=mean, true_labels=TRUE)
    np.testing.assert_allclose(by_views["auroc"], by_mean["auroc"], atol=1e-3)


def test_probabilities_and_histories_add_rows(of_features):
    p = np.full((300, 3), 0.1) + 0.7 * np.eye(3)[TRUE]
    history = {"early": np.log(p)[None], "late": np.log(p)[None]}
    table = of_features.compare(features=LAYERS, pred_probs=p, history=history, true_labels=TRUE)
    assert row(table, "self_confidence", "pred_probs")["auroc"] == 1
    for name in ("aum", "data_maps", "mean_margin"):
        assert row(table, name, "early")["auroc"] == row(table, name, "late")["auroc"] == 1
    assert np.isnan(row(table, "aum", "late")["flagged"])


def test_a_recorded_training_has_the_means_of_its_epochs(of_features):
    logits = torch.randn(4, 300, 3, generator=torch.Generator().manual_seed(0)) + 2 * torch.eye(3)[TRUE]
    recorded = History(GIVEN, progress=False)
    for epoch in logits:
        recorded.update(torch.arange(300), epoch)
        recorded.epoch()
    found, expected = (
        of_features.compare(features=LAYERS, history=history, true_labels=TRUE).query("layer == 'history'")
        for history in (recorded, logits)
    )
    assert found["detector"].tolist() == ["aum", "data_maps"]
    np.testing.assert_allclose(found["auroc"], expected["auroc"][:2], atol=1e-4)
    with pytest.raises(InputError, match="holds no history for the detectors mean_margin"):
        of_features.compare("mean_margin", features=LAYERS, history=recorded)
    other_order = History(GIVEN.flip(0), progress=False)
    with pytest.raises(InputError, match="in their order, got one of 300 labels that are others"):
        of_features.compare("aum", features=LAYERS, history=other_order)


def test_true_labels_may_be_known_for_some_rows(of_features):
    some = TRUE.tolist()
    some[100:] = [None] * 100 + [np.nan] * 100
    auroc = of_features.compare("fine", features=LAYERS, true_labels=some)["auroc"]
    score = baselines.create("fine").score(X.numpy(), GIVEN)[:100]
    wrong = (GIVEN != TRUE).numpy()[:100]
    assert auroc.iloc[-1] == pytest.approx(roc_auc_score(wrong, -score), abs=1e-3)
    assert of_features.compare("fine", features=LAYERS)["auroc"].isna().all()
    with pytest.raises(InputError, match="one entry for each of 300 rows, got 299"):
        of_features.compare("fine", features=LAYERS, true_labels=TRUE[1:])
    with pytest.raises(InputError, match="at least one known label"):
        of_features.compare("fine", features=LAYERS, true_labels=[None] * 300)


def test_a_label_of_no_class_counts_as_wrong():
    names = np.array(["cat", "dog", "eel"])
    holdout = (HOLDOUT[0], names[HOLDOUT[1]])
    found = audit_features(LAYERS, names[GIVEN], policy="noisy_holdout", holdout=holdout)
    true = names[TRUE].astype(object)
    true[:3] = "fox"
    assert found.compare("hoc", features=LAYERS, true_labels=true)["auroc"].between(0.5, 1).all()


def test_true_labels_may_be_texts_or_floats(of_features):
    expected = of_features.compare("fine", features=LAYERS, true_labels=TRUE)["auroc"]
    for true in (TRUE.numpy().astype(str), TRUE.double().numpy()):
        np.testing.assert_array_equal(
            of_features.compare("fine", features=LAYERS, true_labels=true)["auroc"], expected
        )
    with pytest.raises(InputError, match="true_labels hold 'ant', and none of the classes 0, 1, 2"):
        of_features.compare("fine", features=LAYERS, true_labels=["ant"] * 300)


def test_labels_of_rows_of_none_of_the_classes_are_wrong(of_features):
    named = [int(k) for k in TRUE[:120]]
    for i in range(5):
        named[i] = "none of the classes"
    reviewed = of_features.apply([{"index": i, "label": one} for i, one in enumerate(named)])
    expected = of_features.compare("fine", features=LAYERS, true_labels=named + [None] * 180)
    np.testing.assert_array_equal(reviewed.compare("fine", features=LAYERS)["auroc"], expected["auroc"])


def test_a_named_detector_needs_its_input(of_features):
    with pytest.raises(InputError, match="holds no history for the detectors aum: pass them to compare"):
        of_features.compare(["fine", "aum"], features=LAYERS)
    with pytest.raises(InputError, match="expected a label for each of 299 rows, got 300"):
        of_features.compare("aum", features=LAYERS, history=np.zeros((2, 299, 3)))


def test_a_loaded_audit_is_compared_by_features(of_features, tmp_path):
    of_features.save(tmp_path / "audit.safetensors")
    loaded = Audit.load(tmp_path / "audit.safetensors")
    expected = of_features.compare("fine", features=LAYERS)
    np.testing.assert_allclose(loaded.compare("fine", features=LAYERS)["overlap"], expected["overlap"])


def test_decisions_of_a_review_are_the_right_labels(of_features):
    reviewed = of_features.apply([{"index": i, "label": int(TRUE[i])} for i in range(120)])
    some = TRUE.tolist()
    some[120:] = [None] * 180
    expected = of_features.compare("fine", features=LAYERS, true_labels=some)
    found = reviewed.compare("fine", features=LAYERS)
    assert found["auroc"].notna().all()
    np.testing.assert_array_equal(found["auroc"], expected["auroc"])
    np.testing.assert_array_equal(found["overlap"], expected["overlap"])
