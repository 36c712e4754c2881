"""fit_layer, predictions and count_correct against probes fitted by hand."""

import numpy as np
import pytest
import torch
from sklearn.tree import DecisionTreeClassifier

from layerprobe import MASC
from layerprobe.errors import InputError
from layerprobe.layerwise import LabelSets, count_correct, fit_layer, predictions
from layerprobe.probes import KNN, Ridge, create

generator = torch.Generator().manual_seed(0)
TRUE = torch.arange(300) % 3
X = 2 * torch.randn(3, 8, generator=generator)[TRUE] + torch.randn(300, 8, generator=generator)
NOISY = torch.where(torch.rand(300, generator=generator) < 0.2, (TRUE + 1) % 3, TRUE)
SETS = LabelSets.of({"noisy": NOISY, "true": TRUE})
PROBES = {
    "masc": MASC(0.9),
    "half": MASC(0.5),
    "ridge": Ridge(),
    "knn": KNN(),
    "tree": DecisionTreeClassifier(),
}


def by_hand(name, labels):
    probe = create("masc", variance=0.5) if name == "half" else PROBES[name]
    return probe.fit(X if name != "tree" else X.numpy(), labels.numpy())


def test_fitted_probes_predict_as_probes_fitted_by_hand():
    fitted = fit_layer("fc", PROBES, SETS, X)
    assert [(one.name, one.fitted_on) for one in fitted] == [
        (name, labels) for name in PROBES for labels in ("noisy", "true")
    ]
    for position, predicted, seconds in predictions(fitted, X):
        one = fitted[position]
        expected = np.asarray(by_hand(one.name, {"noisy": NOISY, "true": TRUE}[one.fitted_on]).predict(X))
        assert (predicted.numpy() == expected).mean() >= 0.99  # sums of batches round differently
        assert seconds >= 0
        assert torch.equal(predicted, one.predict(X))


def test_labels_of_no_class_are_never_correct():
    fitted = fit_layer("fc", {"ncm": create("ncm")}, LabelSets.of({"true": TRUE}), X)
    y = torch.stack([TRUE, torch.full_like(TRUE, -1)])
    accuracies = count_correct(fitted, X, y)
    right, unknown = accuracies.shares[0]
    assert right == create("ncm").fit(X, TRUE).score(X, TRUE)
    assert unknown == 0


def test_classes_of_one_set_alone_have_their_own_indices():
    labels = LabelSets.of({"first": ["a", "b"] * 150, "second": ["c", "b"] * 150})
    assert labels.classes.tolist() == ["a", "b", "c"]
    assert labels.changed == 0.5
    first, second = fit_layer("fc", {"ncm": create("ncm")}, labels, X)
    assert (first.classes.tolist(), second.classes.tolist()) == (["a", "b"], ["b", "c"])
    assert set(second.predict(X).tolist()) == {1, 2}


def test_sums_without_rows_fit_only_probes_that_need_no_rows():
    with pytest.raises(InputError, match=r"probe 'knn' on layer 'fc'.* needs rows"):
        fit_layer("fc", {"knn": KNN()}, SETS)


@pytest.mark.parametrize("name", ["masc", "ncm", "ridge"])
def test_a_single_row_is_fitted(name):
    labels = LabelSets.of({"given": ["cat"]})
    (fitted,) = fit_layer("fc", {name: create(name)}, labels, torch.ones(1, 3))
    assert fitted.classes.tolist() == ["cat"]
    assert fitted.predict(torch.ones(2, 3)).tolist() == [0, 0]
