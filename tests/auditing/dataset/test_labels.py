"""Labels as class indices in the order of the network's outputs."""

from enum import Enum

import numpy as np
import pytest
import torch

from layerprobe.auditing.dataset.labelled import Classes
from layerprobe.errors import InputError

Fruit = Enum("Fruit", ["PEAR", "APPLE"])
NAMES = np.array(["owl", "cat", "owl", "dog"])


def test_integers_are_indices_of_the_outputs():
    classes = Classes.from_labels(np.array([2, 0, 2]), 4, None)
    assert classes.names.tolist() == [0, 1, 2, 3]
    assert classes.indices(np.array([3, 0]), "labels").tolist() == [3, 0]


@pytest.mark.parametrize("outputs", [3, None])
def test_names_are_outputs_in_sorted_order(outputs):
    classes = Classes.from_labels(NAMES, outputs, None)
    assert classes.names.tolist() == ["cat", "dog", "owl"]
    assert classes.indices(NAMES, "labels").tolist() == [2, 0, 2, 1]


def test_integers_without_a_network_are_names():
    classes = Classes.from_labels(np.array([7, -1, 7]), None, None)
    assert classes.names.tolist() == [-1, 7]
    assert classes.indices(np.array([7, -1, 7]), "labels").tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    "names", [["owl", "dog", "cat"], ("owl", "dog", "cat"), np.array(["owl", "dog", "cat"])]
)
def test_class_names_are_in_the_order_of_the_outputs(names):
    classes = Classes.from_labels(NAMES, 3, names)
    assert classes.indices(NAMES, "labels").tolist() == [0, 2, 0, 1]
    assert classes.indices(np.array([0, 2]), "labels").tolist() == [
        0,
        2,
    ]  # indices are accepted as well


def test_class_names_may_be_numbers():
    classes = Classes.from_labels(np.array([30, 10]), 2, [30, 10])
    assert classes.indices(np.array([10, 30]), "labels").tolist() == [1, 0]


@pytest.mark.parametrize(
    ("labels", "outputs", "names", "message"),
    [
        (NAMES, 4, None, "3 different names and the network 4 outputs"),
        (NAMES, 3, ["a", "b"], "2 names for 3 outputs"),
        (NAMES, 3, [], "0 names for 3 outputs"),
        (NAMES, None, ["owl", "owl", "cat"], "different classes"),
        (np.array(["owl", "owl"]), None, None, "at least two"),
    ],
)
def test_labels_that_do_not_fit_the_outputs_are_refused(labels, outputs, names, message):
    with pytest.raises(InputError, match=message):
        Classes.from_labels(labels, outputs, names)


@pytest.mark.parametrize(
    ("labels", "outputs", "names", "message"),
    [
        (np.array([0, 4]), 4, None, "rows hold 4, which is none of the 4 classes 0, 1, 2, 3"),
        (np.array([0, -1]), 4, None, "rows hold -1"),
        (np.array([0, 3]), 3, ["a", "b", "c"], r"rows must lie in 0\.\.2, got 0\.\.3"),
        (np.array(["cat", "cow"]), 3, NAMES[[0, 1, 3]], "rows hold 'cow'"),
        (np.array([0.0, 0.5]), 4, None, "rows hold 0.5"),
    ],
)
def test_an_unknown_label_is_refused(labels, outputs, names, message):
    known = np.array([0, 1]) if names is None else NAMES
    with pytest.raises(InputError, match=message):
        Classes.from_labels(known, outputs, names).indices(labels, "rows")


@pytest.mark.parametrize("few", [0, 1])
def test_fewer_than_two_rows_of_a_class_are_refused(few):
    classes = Classes.from_labels(NAMES, 3, None)
    enough = torch.tensor([0, 0, 1, 1, 2, 2])
    classes.check_counts(enough)
    with pytest.raises(InputError, match=f"two rows of every class, got {few} of"):
        classes.check_counts(enough[: 4 + few])


def test_surrogates_are_escaped_in_names_and_labels():
    for dtype in (str, object):
        labels = np.array(["b", "a\ud800", "b"], dtype)
        classes = Classes.from_labels(labels, 2, None)
        assert classes.names.tolist() == ["a\\ud800", "b"]
        assert classes.indices(labels, "labels").tolist() == [1, 0, 1]
    named = Classes.from_labels(labels, 2, ["b", "a\ud800"])
    assert named.indices(labels, "labels").tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    "labels",
    [
        [str(k) for k in range(12)],  # sorted as texts: 0, 1, 10, 11, 2
        [Fruit.PEAR, Fruit.APPLE, Fruit.PEAR],
    ],
)
def test_an_unclear_order_of_classes_needs_class_names(labels):
    array = np.array(labels)
    outputs = len(set(labels))
    with pytest.raises(InputError, match=r"order of the classes .* is not clear: give .* class_names="):
        Classes.from_labels(array, outputs, None)
    names = list(dict.fromkeys(labels))
    assert Classes.from_labels(array, outputs, names).indices(array, "labels")[:2].tolist() == [0, 1]
    assert len(Classes.from_labels(array, None, None)) == outputs
