"""Every supported form of data becomes one labelled dataset."""

import re
from enum import Enum

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from layerprobe import auditing, capture
from layerprobe.auditing.dataset.labelled import LabelledDataset, read_rows
from layerprobe.errors import InputError
from layerprobe.layerwise.classes import Classes

N = 7
X = torch.arange(N * 12, dtype=torch.float32).reshape(N, 3, 2, 2) / 100
Y = np.array([2, 0, 1, 0, 2, 1, 1])
TEXTS = ["a man", "a plan", "", "canal", "Panama", "é", "a man"]
PIXELS = np.random.default_rng(0).integers(256, size=(N, 4, 5, 3)).astype(np.uint8)


class Items(Dataset):
    """Rows as pairs or, with an index, as triples."""

    def __init__(self, x, labels=Y, index=None):
        self.columns = [x, labels] + ([] if index is None else [index])

    def __len__(self):
        return len(self.columns[0])

    def __getitem__(self, i):
        return tuple(column[i] for column in self.columns)


class Stream(IterableDataset):
    def __iter__(self):
        return ((X[i], int(Y[i])) for i in range(N))


def together(rows, batch_size=3):
    """Return the inputs of all rows in row order."""
    whole = None
    for inputs, positions in rows.batches(batch_size):
        assert positions.dtype == np.int64
        whole = torch.zeros(rows.n, *inputs.shape[1:]) if whole is None else whole
        whole[positions] = inputs.float()
    return whole


FORMS = {
    "arrays": lambda: read_rows(X.numpy(), Y),
    "pair": lambda: read_rows((X, torch.tensor(Y))),
    "double": lambda: read_rows((X.double(), Y.tolist())),
    "dict of arrays": lambda: read_rows({"x": X, "labels": Y}, inputs=lambda batch: batch["x"]),
    "Dataset": lambda: read_rows(Items(X)),
    "TensorDataset": lambda: read_rows(TensorDataset(X), labels=Y),
    "stream": lambda: read_rows(Stream()),
    "loader": lambda: read_rows(DataLoader(Items(X), batch_size=2)),
    "list of batches": lambda: read_rows([(X[:5], Y[:5]), (X[5:], Y[5:])]),
    "shuffled, indexed": lambda: read_rows(
        DataLoader(Items(X, index=np.arange(N)), batch_size=2, shuffle=True)
    ),
    "rows": lambda: read_rows(read_rows((X, Y))),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_gives_the_same_rows(form):
    rows = form()
    assert isinstance(rows, LabelledDataset)
    assert rows.n == len(rows) == N
    assert rows.labels.tolist() == Y.tolist()
    assert rows.index.tolist() == list(range(N))
    torch.testing.assert_close(together(rows), X)
    torch.testing.assert_close(together(rows), X)  # a second time
    assert np.array_equal(rows.fingerprints(), read_rows((X, Y)).fingerprints())


def test_capture_accepts_the_batches():
    rows = read_rows(DataLoader(Items(X, index=np.arange(N)[::-1].copy()), batch_size=2, shuffle=True))
    batches = ((inputs, rows.labels[positions], positions) for inputs, positions in rows.batches())
    captured = capture(nn.Sequential(nn.Flatten(), nn.ReLU()), batches, "1")
    order = captured.indices.argsort()
    assert captured.labels[order].tolist() == Y[::-1].tolist()
    torch.testing.assert_close(captured.outputs["1"][order], X.flatten(1).flip(0))


def test_inputs_of_several_tensors():
    data = {"ids": torch.arange(N * 2).reshape(N, 2), "mask": torch.ones(N, 2), "label": Y}
    rows = read_rows(data)
    inputs, positions = next(rows.batches(4))
    assert inputs["ids"].tolist() == data["ids"][:4].tolist()
    assert set(inputs) == {"ids", "mask"}
    assert positions.tolist() == [0, 1, 2, 3]
    (x, z), _ = next(read_rows([((X, X[:, 0]), Y)]).batches())
    torch.testing.assert_close(x, X)
    torch.testing.assert_close(z, X[:, 0])
    pairs = DataLoader([((X[i], X[i, 0]), int(Y[i])) for i in range(N)], batch_size=3)  # collated to lists
    rows, added = read_rows(pairs), read_rows(pairs, inputs=lambda parts: parts[0] + parts[1][:, None])
    (x, z), _ = next(rows.batches())
    torch.testing.assert_close(z, X[:3, 0])
    torch.testing.assert_close(together(added), X + X[:, :1])
    assert len(set(rows.fingerprints().tolist())) == N
    assert rows.example(1).shape == (2, 2, 3)


def test_a_batch_is_a_copy():
    rows = read_rows((X, Y))
    for inputs, _ in rows.batches():
        inputs.zero_()
    torch.testing.assert_close(together(rows), X)


def test_indices_are_the_ids_and_the_order_of_rows():
    index = np.array([40, 30, 10, 20, 60, 50, 70])
    rows = read_rows(DataLoader(Items(X, index=index), batch_size=3, shuffle=True))
    assert rows.index.tolist() == sorted(index)
    assert rows.labels.tolist() == Y[np.argsort(index)].tolist()
    torch.testing.assert_close(together(rows), X[np.argsort(index)])
    names = read_rows((X, Y, np.array(list("gfedcba"))))
    assert names.index.tolist() == list("abcdefg")
    assert names.labels.tolist() == Y[::-1].tolist()


def test_given_labels_replace_those_of_the_data():
    other = [f"class {code}" for code in Y]
    assert read_rows((X, np.zeros(N)), other).labels.tolist() == other
    rows = read_rows((X, Y))
    assert read_rows(rows, other).labels.tolist() == other
    assert rows.labels.tolist() == Y.tolist()
    by_index = np.array(["none"] * 10, object)
    index = np.array([9, 8, 7, 6, 5, 4, 3])
    by_index[index] = other
    indexed = read_rows(DataLoader(Items(X, index=index), shuffle=True), by_index)
    assert indexed.labels.tolist() == other[::-1]
    assert indexed.index.tolist() == [3, 4, 5, 6, 7, 8, 9]
    torch.testing.assert_close(together(indexed), X.flip(0))


@pytest.mark.parametrize(
    "labels",
    [list("cabacbb"), np.array(list("cabacbb")), pd.Series(list("cabacbb"), index=range(5, 12))],
)
def test_labels_may_be_texts(labels):
    for rows in (
        read_rows(X, labels),
        read_rows((X, labels)),
        read_rows([(X[:2], labels[:2]), (X[2:], labels[2:])]),
    ):
        assert rows.labels.tolist() == list("cabacbb")


def test_inputs_converts_texts_and_pixels():
    seen = []

    def lengths(texts):
        seen.append(texts)
        return {"lengths": torch.tensor([[len(text)] for text in texts])}

    for data in (
        (TEXTS, Y),
        (np.array(TEXTS), Y),
        (pd.Series(TEXTS), Y),
        DataLoader(Items(TEXTS)),
        Items(TEXTS),
    ):
        rows = read_rows(data, inputs=lengths, batch_size=N)
        got = [int(length) for inputs, _ in rows.batches() for length in inputs["lengths"]]
        assert got == [len(text) for text in TEXTS]
        assert all(isinstance(texts, list) and isinstance(texts[0], str) for texts in seen)
        assert rows.labels.tolist() == Y.tolist()
        assert [rows.example(i) for i in range(N)] == TEXTS
    assert read_rows(TEXTS, Y, inputs=lengths).n == N

    rows = read_rows((PIXELS, Y), inputs=lambda pixels: pixels[:, :2, :, 0].flatten(1).float())
    np.testing.assert_array_equal(together(rows).numpy(), PIXELS[:, :2, :, 0].reshape(N, -1))
    assert np.array_equal(rows.example(3), PIXELS[3])


def test_pixels_become_scaled_tensors_with_channels_first():
    expected = torch.tensor(PIXELS).permute(0, 3, 1, 2) / 255
    pictures = Items([Image.fromarray(image) for image in PIXELS])
    for data in ((PIXELS, Y), (torch.tensor(PIXELS), Y), pictures):
        rows = read_rows(data)
        torch.testing.assert_close(together(rows), expected, rtol=0, atol=0)
        assert next(rows.batches())[0].is_contiguous()
        assert np.array_equal(rows.example(2), PIXELS[2])
        assert np.array_equal(rows.fingerprints(), read_rows((expected, Y)).fingerprints())
    grey = read_rows((PIXELS[..., 0], Y))
    torch.testing.assert_close(together(grey), expected[:, :1], rtol=0, atol=0)
    assert np.array_equal(grey.example(0), PIXELS[0, :, :, 0])
    untouched = read_rows((PIXELS, Y), inputs=lambda pixels: pixels)
    assert next(untouched.batches())[0].dtype == torch.uint8


def test_a_dataset_of_pillow_images_may_have_indices():
    index = np.arange(N)[::-1] * 2
    rows = read_rows(Items([Image.fromarray(image) for image in PIXELS], index=index))
    assert rows.index.tolist() == sorted(index)
    assert rows.labels.tolist() == Y[::-1].tolist()
    assert np.array_equal(rows.example(0), PIXELS[-1])


@pytest.mark.parametrize("scale", [lambda x: x, lambda x: 2 * x - 1, lambda x: (x - MEAN) / STD])
@pytest.mark.parametrize("as_data", [lambda x: (x, Y), lambda x: DataLoader(Items(x), batch_size=2)])
def test_scaled_images_are_displayed_as_pixels(scale, as_data):
    pixels = PIXELS.copy()
    pixels[0, 0, 0], pixels[1, 0, 0] = 0, 255  # the whole range in every channel
    rows = read_rows(as_data(scale(torch.tensor(pixels).permute(0, 3, 1, 2) / 255)))
    shown = rows.examples(range(N))
    assert all(np.array_equal(one, image) for one, image in zip(shown, pixels, strict=True))
    assert shown[0].dtype == np.uint8
    grey = read_rows(as_data(scale(torch.tensor(pixels).permute(0, 3, 1, 2) / 255)[:, :1]))
    assert np.array_equal(grey.example(5), pixels[5, :, :, 0])


MEAN, STD = torch.tensor([0.4, 0.5, 0.6])[:, None, None], torch.tensor([0.2, 0.3, 0.1])[:, None, None]


def test_rows_that_are_neither_image_nor_text_have_no_display():
    assert read_rows((torch.zeros(N, 9), Y)).example(0) is None
    assert read_rows((torch.zeros(N, 9, dtype=torch.int64), Y)).example(0) is None
    assert read_rows((torch.zeros(N, 4, 5, 5), Y)).example(0) is None
    assert read_rows({"ids": torch.zeros(N, 9, dtype=torch.int64), "labels": Y}).example(0) is None
    flat = read_rows((torch.full((N, 1, 4, 4), 3.0), Y)).example(0)
    assert np.array_equal(flat, np.zeros((4, 4), np.uint8))


def test_examples_of_an_indexed_loader_and_of_no_row():
    index = np.array([40, 30, 10, 20, 60, 50, 70])
    loader = DataLoader(Items(TEXTS, index=index), batch_size=2, shuffle=True)
    rows = read_rows(loader, inputs=lambda texts: torch.zeros(len(texts), 1))
    assert rows.examples([6, 0, 6]) == [TEXTS[6], TEXTS[2], TEXTS[6]]
    assert rows.examples([]) == []
    with pytest.raises(InputError, match=r"0\.\.6, got 7"):
        rows.example(7)


def test_class_names_of_the_data_are_kept_for_class_indices():
    data = TensorDataset(X, torch.tensor(Y))
    data.classes = ["ant", "bee", "cat"]
    assert read_rows(data).class_names == read_rows(DataLoader(data)).class_names == ("ant", "bee", "cat")
    data.classes = ["ant", "bee"]
    assert read_rows(data).class_names is None
    levels = ["low", "medium", "high"]
    for labels in (pd.Categorical.from_codes(Y, levels), pd.Series(pd.Categorical.from_codes(Y, levels))):
        for rows in (read_rows((X, labels)), read_rows(X, labels)):
            assert rows.class_names == tuple(levels)
            assert rows.labels.tolist() == [levels[k] for k in Y]
    assert read_rows((X, Y)).class_names is None


def once():
    yield X, Y


LATE_NAN = X.clone()
LATE_NAN[5, 0, 1, 1] = torch.nan


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (once(), {}, "readable more than once, got a generator"),
        (DataLoader(Items(X), shuffle=True), {}, "may shuffle and gives no indices.*shuffle=False"),
        (DataLoader(Items(X), sampler=[2, 1, 0]), {}, "may shuffle and gives no indices"),
        (DataLoader(Items(X, index=Y), shuffle=True), {}, "its third item is no index, since it repeats"),
        (DataLoader(Items(X, index=X), shuffle=True), {}, "may shuffle and gives no indices"),
        ((X, Y[:5]), {}, r"the lengths \{'0': 7, '1': 5\}"),
        (X, {}, "the data have no labels"),
        (X, {"labels": Y[:5]}, "expected 7 labels, one per row, got 5"),
        (
            X,
            {"labels": np.zeros((N, 3))},
            r"expected one label per row, of shape \(n,\), got the shape \(7, 3\)",
        ),
        ((X, Y, np.arange(N)), {"labels": Y[:6]}, "has 6 labels, but the indices go to 6"),
        ((X, Y, np.array(list("abcdefg"))), {"labels": Y}, "rows have ids such as 'a'"),
        ((X, [0, 1, None, 1, 0, None, 1]), {}, "2 labels are missing.*row 2"),
        ((X, np.array([0, 1, 1, np.nan, 1, 1, 0])), {}, "1 labels are missing.*row 3"),
        ((LATE_NAN, Y), {"batch_size": 2}, "the data hold NaN, first in row 5"),
        ([({"x": LATE_NAN, "mask": X}, Y)], {}, "the data hold NaN, first in row 5"),
        ((X[:0], Y[:0]), {}, "the data is empty"),
        ([(X[:0], Y[:0])], {}, "expected at least one row, got none"),
        ([], {}, "at least one batch, got none"),
        (5, {}, "expected arrays .* got int"),
        ((X, Y), {"batch_size": 0}, "batch_size of at least 1, got 0"),
        ((TEXTS, Y), {}, "the data are texts.*inputs="),
        (DataLoader(Items(TEXTS)), {}, "the data are texts.*inputs="),
        ((np.array(["a", np.nan] + 5 * ["b"], object), Y), {"inputs": len}, "expected texts only, got nan"),
        ((TEXTS, Y), {"inputs": lambda t: torch.zeros(1, 3)}, "return 7 rows for 7, got 1"),
        ((X, Y), {"inputs": lambda x: x[1:].numpy()}, "return 7 rows for 7, got 6"),
        ((X, Y), {"label_column": "y"}, "label_column does not apply to data of the type tuple"),
        ((X, Y), {"resize": 3}, "resize does not apply to data of the type tuple"),
        (read_rows((X, Y)), {"inputs": len}, "this dataset was read before"),
    ],
)
def test_unusable_data_raise_one_clear_error(data, options, message):
    with pytest.raises(InputError, match=message):
        read_rows(data, **options)


class Changing:
    """An iterable of batches with other batches in each pass."""

    def __init__(self, *versions):
        self.versions = list(versions)

    def __iter__(self):
        return iter(self.versions.pop(0))


SWAPPED = np.array([0, 2, 1, 0, 2, 1, 1])


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ([(X, SWAPPED)], "another order, other rows or other labels"),
        ([(X[:5], Y[:5])], "expected 7 rows as in the first, got 5"),
        ([(X, Y), (X, Y)], "another order, other rows"),
        ([(X, None)], "other labels"),
    ],
)
def test_data_that_change_between_two_passes_are_refused(second, message):
    rows = read_rows(Changing([(X, Y)], [(X, Y)], second))
    with pytest.raises(InputError, match=message):
        list(rows.batches())


def test_an_index_missing_from_the_first_pass_is_refused():
    same = [(X, Y, np.arange(N))]
    rows = read_rows(Changing(same, same, [(X, Y, np.arange(N) + 1)]))
    with pytest.raises(InputError, match=re.escape("changed between two passes")):
        list(rows.batches())


def test_fingerprints_depend_on_content_and_not_on_form():
    hashes = read_rows((X, Y)).fingerprints()
    assert hashes.dtype == np.uint64
    assert len(set(hashes.tolist())) == N
    flat = read_rows(DataLoader(Items(X.double().flatten(1), np.zeros(N, int)), batch_size=3))
    assert np.array_equal(flat.fingerprints(), hashes)  # no label, no shape, no batch, no precision
    changed = X.clone()
    changed[4, 0, 0, 0] += 0.01
    assert (read_rows((changed, Y)).fingerprints() != hashes).tolist() == [i == 4 for i in range(N)]
    assert (
        read_rows((-torch.zeros(1, 3), [0])).fingerprints()
        == read_rows((torch.zeros(1, 3), [0])).fingerprints()
    )
    index = np.arange(N)[::-1].copy()
    indexed = read_rows(DataLoader(Items(X, index=index), batch_size=2, shuffle=True))
    assert np.array_equal(indexed.fingerprints(), hashes[::-1])


def test_fingerprints_of_texts_and_of_padded_tokens():
    def tokens(texts, to=None):
        to = to or max(map(len, texts))
        ids = torch.tensor([[ord(c) for c in text] + [1] * (to - len(text)) for text in texts])
        mask = torch.tensor([[1] * len(text) + [0] * (to - len(text)) for text in texts])
        return {"input_ids": ids, "attention_mask": mask}

    texts = [text or "_" for text in TEXTS]
    hashes = read_rows((texts, Y), inputs=tokens).fingerprints()
    assert hashes[0] == hashes[-1]
    assert len(set(hashes.tolist())) == N - 1
    assert np.array_equal(
        read_rows((texts, Y), inputs=lambda t: torch.zeros(len(t), 1)).fingerprints(), hashes
    )
    narrow = [(tokens(texts[i : i + 1]), Y[i : i + 1]) for i in range(N)]
    wide = [(tokens(texts, 20), Y)]
    padded = read_rows(wide).fingerprints()
    assert np.array_equal(read_rows(narrow).fingerprints(), padded)
    assert len(set(padded.tolist())) == N - 1


class Augmented(Items):
    """A dataset that adds random numbers to each row."""

    def __getitem__(self, i):
        x, y, *index = super().__getitem__(i)
        return x + torch.randn(3, 2, 2), y, *index


@pytest.mark.parametrize("index", [None, np.arange(N)[::-1].copy()])
def test_random_augmentation_is_refused(index):
    for data in (
        Augmented(X, index=index),
        DataLoader(Augmented(X, index=index), 3, shuffle=index is not None),
    ):
        with pytest.raises(InputError, match=r"content of the data changed between two passes.*augmentation"):
            read_rows(data)


def test_a_third_item_that_identifies_no_rows_is_ignored():
    for group in (Y, np.arange(N) / 2, X[:, 0, 0], np.array(list("aabbccd"))):
        for data in ((X, Y, group), Items(X, index=group), DataLoader(Items(X, index=group), 3)):
            rows = read_rows(data)
            assert rows.index.tolist() == list(range(N))
            assert rows.labels.tolist() == Y.tolist()
            torch.testing.assert_close(together(rows), X)


def test_an_iterable_dataset_is_read_without_its_workers():
    for workers in (0, 1, 2):
        assert read_rows(DataLoader(Stream(), batch_size=2, num_workers=workers)).n == N


def test_the_index_of_pandas_names_the_rows():
    frame = pd.DataFrame(X.flatten(1).numpy(), index=list("gfedcba"))
    for rows in (read_rows((frame, Y)), read_rows(frame, Y), read_rows(frame.assign(label=Y))):
        assert rows.index.tolist() == list("gfedcba")
        torch.testing.assert_close(together(rows).reshape(X.shape), X)
    assert read_rows((pd.concat([frame, frame]), [*Y, *Y])).index.tolist() == list(range(2 * N))
    levels = frame.set_axis(pd.MultiIndex.from_product([["a"], range(N)]))
    assert read_rows((levels, Y)).index.tolist() == [f"('a', {i})" for i in range(N)]


class Level(Enum):
    LOW, MEDIUM, HIGH = "z", "a", "m"


def test_enumerations_and_categories_keep_their_order():
    members = [list(Level)[k] for k in Y]
    rows = read_rows(X, members)
    assert rows.class_names == tuple(Level)
    classes = Classes.from_labels(rows.labels, 3, None, rows.class_names)
    assert classes.indices(rows.labels, "labels").tolist() == Y.tolist()
    for levels in (["low", "medium", "high"], [30, 10, 20]):
        for ordered in (False, True):
            column = pd.Series(pd.Categorical.from_codes(Y, levels, ordered=ordered))
            rows = read_rows((X, column))
            classes = Classes.from_labels(rows.labels, 3, None, rows.class_names)
            assert classes.indices(rows.labels, "labels").tolist() == Y.tolist()


@pytest.mark.parametrize("spelling", [str, float, lambda k: f"{k:02d}", lambda k: f"{k}.0", int, np.int8])
def test_whole_numbers_are_indices_of_the_outputs_in_any_spelling(spelling):
    y = np.array([11, 2, 10, 0, 9, 1, 4])  # classes 3, 5, 6, 7, 8 have no rows
    rows = read_rows(X, [spelling(k) for k in y])
    classes = Classes.from_labels(rows.labels, 12, None)
    assert classes.indices(rows.labels, "labels").tolist() == y.tolist()
    assert len(classes) == 12


def test_missing_labels_are_counted():
    texts = np.array(list("abcabca"))
    for labels in (
        pd.Series(Y, dtype="Int64").mask(np.arange(N) == 5),
        pd.Series(Y > 0, dtype="boolean").mask(np.arange(N) == 5),
        pd.Series(texts, dtype="string").mask(np.arange(N) == 5),
        [None if i == 5 else label for i, label in enumerate(texts.tolist())],
    ):
        for read in (lambda: read_rows(X, labels), lambda: read_rows((X, labels))):  # noqa: B023
            with pytest.raises(InputError, match=r"1 .*label.* missing.*5"):
                read()


def test_the_old_name_of_the_class_warns_once_per_use():
    with pytest.deprecated_call(match="Rows is deprecated: use LabelledDataset"):
        assert auditing.Rows is LabelledDataset


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
        (NAMES, 4, None, "3 different names for 4 outputs"),
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
    [[Fruit.PEAR, Fruit.APPLE, Fruit.PEAR], [(1,), "a", (1,)]],
)
def test_an_unclear_order_of_classes_needs_class_names(labels):
    array = np.array([*labels, None], dtype=object)[:-1]
    outputs = len(set(labels))
    with pytest.raises(InputError, match=r"order of the classes .* is not clear: give .* class_names="):
        Classes.from_labels(array, outputs, None)
    names = list(dict.fromkeys(labels))
    assert Classes.from_labels(array, outputs, names).indices(array, "labels")[:2].tolist() == [0, 1]
    assert len(Classes.from_labels(array, None, None)) == outputs


@pytest.mark.parametrize("first", [0, 1])
def test_held_out_labels_may_be_numbers_or_texts(first):
    texts = np.array([str(k + first) for k in (0, 1, 2, 1, 0)])
    classes = Classes.from_labels(texts, 3, None)
    assert classes.indices(np.array([first + 1, first]), "labels").tolist() == [1, 0]
    numbers = Classes.from_labels(np.array([0, 1, 2]), 3, None)
    assert numbers.indices(np.array(["2", "0.0"]), "labels").tolist() == [2, 0]
