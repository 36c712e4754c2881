"""Datasets from paths (folders of images, CSV files, arrays) and from Hugging Face."""

import io
import json
import socket
import zipfile
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from layerprobe.auditing.dataset.labelled import read_rows
from layerprobe.auditing.dataset.readers import read_labels
from layerprobe.errors import DataError, InputError, LayerprobeWarning
from layerprobe.utils import memory_limit

PIXELS = np.random.default_rng(0).integers(256, size=(5, 4, 6, 3)).astype(np.uint8)
NAMES = ["ant", "bee", "bee", "<b>&\"'", "ant"]


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def tree(tmp_path):
    for i, (pixels, name) in enumerate(zip(PIXELS, NAMES, strict=True)):
        save(tmp_path / "images" / name / f"{i}.png", pixels)
    return tmp_path / "images"


def write_csv(folder, text):
    path = folder / "rows.csv"
    path.write_text(text, encoding="utf-8")
    return path


ORDER = [3, 0, 4, 1, 2]  # by class, then by path


def test_a_folder_of_images(tree):
    for path in (tree, str(tree)):
        rows = read_rows(path)
        assert rows.labels.tolist() == [NAMES[i] for i in ORDER]
        assert rows.index.tolist() == [f"{NAMES[i]}/{i}.png" for i in ORDER]
        assert [rows.example(i).tolist() for i in range(5)] == PIXELS[ORDER].tolist()
        (inputs, positions), *_ = rows.batches()
        torch.testing.assert_close(inputs, torch.tensor(PIXELS[ORDER]).permute(0, 3, 1, 2) / 255)
        assert positions.tolist() == [0, 1, 2, 3, 4]
    other = read_rows(tree, labels=[4, 3, 2, 1, 0], resize=8)
    assert other.labels.tolist() == [4, 3, 2, 1, 0]
    assert other.example(0).shape == (8, 8, 3)
    assert read_rows(tree, resize=(2, 3)).example(0).shape == (2, 3, 3)


def test_a_csv_of_paths_and_labels(tree, tmp_path):
    absolute = tree / "bee" / "1.png"
    path = write_csv(
        tmp_path,
        f'path,label,note\n{absolute},NA,x\nimages/ant/0.png,nan,\n"images/<b>&""\'/3.png","a, ""b""",\n',
    )
    rows = read_rows(path)
    assert rows.labels.tolist() == ["NA", "nan", 'a, "b"']
    assert rows.index.tolist() == [str(absolute), "images/ant/0.png", "images/<b>&\"'/3.png"]
    assert [rows.example(i).tolist() for i in range(3)] == PIXELS[[1, 0, 3]].tolist()
    path = write_csv(tmp_path, "file,class\nimages/ant/0.png,1\n")
    assert read_rows(path, path_column="file", label_column="class").labels.tolist() == [1]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (["0", "10", "2"], [0, 10, 2]),
        (["-1", "1", "1"], [-1, 1, 1]),
        (["07", "7", "1"], ["07", "7", "1"]),
        (["1.0", "2", "3"], ["1.0", "2", "3"]),
        (["1", "2", "99999999999999999999"], ["1", "2", "99999999999999999999"]),
    ],
)
def test_labels_in_a_csv_are_integers_if_all_are_written_as_integers(tmp_path, written, read):
    path = write_csv(tmp_path, "text,label\n" + "".join(f"t,{label}\n" for label in written))
    rows = read_rows(path, inputs=lambda texts: torch.zeros(len(texts), 2))
    assert rows.labels.tolist() == read


def test_a_csv_of_texts(tmp_path):
    path = write_csv(tmp_path, 'text,label,body\n"two\nlines",a,x\n"<i>é</i>",b,y\n')
    options = {"inputs": lambda texts: torch.tensor([[float(len(text))] for text in texts])}
    rows = read_rows(path, **options)
    assert [rows.example(i) for i in range(2)] == ["two\nlines", "<i>é</i>"]
    assert rows.labels.tolist() == ["a", "b"]
    assert rows.index.tolist() == [0, 1]
    assert next(rows.batches())[0].tolist() == [[9.0], [8.0]]
    other = read_rows(path, text_column="body", label_column="text", **options)
    assert [other.example(i) for i in range(2)] == ["x", "y"]


@pytest.mark.parametrize("content", ["text", "a"])
def test_the_column_index_of_a_csv_names_the_rows_if_it_identifies_them(tmp_path, content):
    inputs = (lambda texts: torch.tensor([[float(text)] for text in texts])) if content == "text" else None
    for names, index in (([7, 5], [7, 5]), (["r", "s"], ["r", "s"]), (["r", "r"], [0, 1])):
        lines = (f"{name},{i},{i}\n" for i, name in enumerate(names))
        path = write_csv(tmp_path, f"index,{content},label\n" + "".join(lines))
        repeated = pytest.warns(LayerprobeWarning, match="the column 'index' repeats values")
        with repeated if names == ["r", "r"] else nullcontext():
            rows = read_rows(path, inputs=inputs)
        assert rows.index.tolist() == index
        assert next(rows.batches())[0].tolist() == [[0.0], [1.0]]


def test_arrays_in_a_file(tmp_path):
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.savez(tmp_path / "data.npz", x=x, y=np.array(["a", "b", "a"]))
    rows = read_rows(tmp_path / "data.npz")
    assert rows.labels.tolist() == ["a", "b", "a"]
    assert next(rows.batches())[0].tolist() == x.tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path;label\na.png;1\n", "expected the column 'path', got 'path;label'.*path_column="),
        ("path,class\na.png,1\n", "expected the column 'label', got 'path', 'class'"),
        ("a,class\n1,2\n", "expected the column 'label', got 'a', 'class'"),
        (
            "a,note,label\n1,x,2\n",
            "or a column 'path' or 'text'; got 'x' in the column 'note', row 0",
        ),
        ("a,b,label\n", "has no rows"),
        ("path,label\n", "has no rows"),
        ("path,label\na.png,1\n,2\n", "is empty in 1 rows, the first is row 1"),
        ("path,label\na.png,\n", "is empty in 1 rows"),
        ("path,label\nmissing.png,1\n", "missing.png cannot be read as an image"),
        ("path,label\na,b,c,d\n1\n1,2,3,4,5\n", "cannot be read as a CSV file"),
        ("", "cannot be read as a CSV file"),
    ],
)
def test_an_unusable_csv_is_refused(tmp_path, text, message):
    save(tmp_path / "a.png", PIXELS[0])
    with pytest.raises(DataError, match=message):
        read_rows(write_csv(tmp_path, text))


def test_unreadable_paths_are_refused(tree, tmp_path):
    with pytest.raises(DataError, match=r"nowhere does not exist: expected a folder, a \.csv"):
        read_rows(tmp_path / "nowhere")
    (tmp_path / "a.pkl").write_text("")
    with pytest.raises(InputError, match=r"got a file '\.pkl'"):
        read_rows(tmp_path / "a.pkl")
    with pytest.raises(DataError, match="has no subfolders"):
        read_rows(tree / "bee")
    save(tree / "bee" / "big.png", np.zeros((9, 9), np.uint8))
    with pytest.raises(DataError, match=r"9x9 pixels.*resize="):
        read_rows(tree)
    (tree / "bee" / "big.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"big\.png cannot be read as an image"):
        read_rows(tree)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: np.savez(path, images=PIXELS), "expected the arrays x and y, got images"),
        (lambda path: np.savez(path, x=PIXELS, y=np.array([1, "a"], object)), "numbers and texts"),
        (lambda path: path.write_bytes(b"PK no archive"), "cannot be read as an .npz"),
        (lambda path: zipfile.ZipFile(path, "w").close(), "got none"),
        (lambda path: np.save(path.open("wb"), PIXELS), "cannot be read as an .npz"),
    ],
)
def test_an_unusable_npz_is_refused(tmp_path, write, message):
    write(tmp_path / "data.npz")
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / "data.npz")


def test_options_that_do_not_apply_are_refused(tree, tmp_path):
    np.savez(tmp_path / "data.npz", x=PIXELS, y=np.arange(5))
    table = write_csv(tmp_path, "path,text,label\nimages/ant/0.png,t,1\n")
    for path, options, message in (
        (tree, {"path_column": "p"}, "path_column does not apply to the folder of images"),
        (tree, {"label_column": "p"}, "label_column does not apply to the folder"),
        (tmp_path / "data.npz", {"text_column": "p"}, "text_column does not apply to the .npz file"),
        (tmp_path / "data.npz", {"resize": 3}, "resize does not apply to the .npz file"),
        (table, {"path_column": "path", "text_column": "text"}, "leave out path_column or text_column"),
        (tree, {"resize": 0}, "resize must be one or two integers"),
    ):
        with pytest.raises(InputError, match=message):
            read_rows(path, **options)


ImageFeature = type("Image", (), {})  # the name of the feature type in the package datasets
TEXT = SimpleNamespace(dtype="string")


class FakeHub:
    """The used part of a Hugging Face dataset: features, a length, columns."""

    def __init__(self, **columns):
        self.features = {name: feature for name, (feature, _) in columns.items()}
        self.columns = {name: values for name, (_, values) in columns.items()}

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name):
        return self.columns[name]


CLASSES = SimpleNamespace(names=["ant", "bee"], dtype="int64")
PICTURES = [Image.fromarray(pixels) for pixels in PIXELS]


def zeros(texts):
    return torch.zeros(len(texts), 2)


def test_hub_datasets_are_read_by_their_features():
    rows = read_rows(
        FakeHub(img=(ImageFeature(), PICTURES), note=(TEXT, ["t"] * 5), y=(CLASSES, [0, 1, 1, 0, 1]))
    )
    assert rows.labels.tolist() == [0, 1, 1, 0, 1]
    assert rows.class_names == ("ant", "bee")
    assert np.array_equal(rows.example(3), PIXELS[3])
    texts = FakeHub(body=(TEXT, ["a", "b"]), id=(SimpleNamespace(dtype="int64"), [7, 8]), y=(CLASSES, [1, 0]))
    rows = read_rows(texts, inputs=zeros)
    assert rows.examples([0, 1]) == ["a", "b"]
    assert rows.class_names == ("ant", "bee")
    assert read_rows(texts, ["x", "y"], inputs=zeros).labels.tolist() == ["x", "y"]
    named = FakeHub(a=(TEXT, ["a", "b"]), b=(TEXT, ["c", "d"]))
    rows = read_rows(named, inputs=zeros, text_column="b", label_column="a")
    assert rows.examples([0, 1]) == ["c", "d"]
    assert rows.labels.tolist() == ["a", "b"]
    assert rows.class_names is None


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ({"train": FakeHub(a=(TEXT, ["a"]))}, {}, "one split of the dataset, got all of train"),
        (FakeHub(a=(TEXT, ["a"])), {}, "label column is not clear: choose one of a by label_column="),
        (FakeHub(a=(TEXT, ["a"])), {"label_column": "y"}, "label column does not exist"),
        (
            FakeHub(a=(TEXT, ["a"]), b=(TEXT, ["a"]), y=(CLASSES, [0])),
            {},
            "text column is not clear.*a, b, y",
        ),
        (FakeHub(a=(TEXT, ["a"]), y=(CLASSES, [-1])), {}, "1 of 1 labels are negative"),
        (
            FakeHub(a=(ImageFeature(), PICTURES), b=(ImageFeature(), PICTURES), y=(CLASSES, [0] * 5)),
            {},
            r"image column is not clear: a, b.*select_columns",
        ),
        (
            FakeHub(a=(TEXT, ["a"]), y=(CLASSES, [0])),
            {"resize": 3},
            "resize does not apply to a Hugging Face dataset",
        ),
        (FakeHub(a=(TEXT, ["a"]), y=(CLASSES, [0])), {}, "the data are texts"),
    ],
)
def test_unusable_hub_datasets_are_refused(data, options, message):
    with pytest.raises(InputError, match=message):
        read_rows(data, **options)


def test_a_saved_data_set_needs_the_library(tmp_path, monkeypatch):
    (tmp_path / "state.json").write_text("{}")
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DataError, match=r"not installed: pip install 'layerprobe\[hf\]'"):
        read_rows(tmp_path)


@pytest.fixture
def datasets():
    return pytest.importorskip("datasets", reason="needs the extra [hf]")


def test_images_of_the_real_library(datasets, tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    data = datasets.Dataset.from_dict({"image": PICTURES, "label": [1, 0, 0, 1, 1]}, features=features)
    data.save_to_disk(tmp_path / "set")
    for given in (data, tmp_path / "set"):
        rows = read_rows(given)
        assert rows.labels.tolist() == [1, 0, 0, 1, 1]
        assert rows.class_names == ("a", "b")
        assert [image.tolist() for image in rows.examples(range(5))] == PIXELS.tolist()


def test_texts_of_the_real_library(datasets, tmp_path):
    data = datasets.Dataset.from_dict({"text": ["one", "two"], "kind": ["x", "y"]})
    data.save_to_disk(tmp_path / "set")
    for given in (data, tmp_path / "set"):
        rows = read_rows(given, label_column="kind", inputs=zeros)
        assert rows.examples([1, 0]) == ["two", "one"]
        assert rows.labels.tolist() == ["x", "y"]
    datasets.DatasetDict({"train": data}).save_to_disk(tmp_path / "dict")
    with pytest.raises(DataError, match="holds the splits train: give the folder of one split"):
        read_rows(tmp_path / "dict", label_column="kind", inputs=zeros)
    rows = read_rows(tmp_path / "dict" / "train", label_column="kind", inputs=zeros)
    assert rows.n == 2
    (tmp_path / "set" / "state.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as a saved dataset"):
        read_rows(tmp_path / "set", label_column="kind", inputs=zeros)


def test_names_that_are_not_utf8_are_escaped(tmp_path):
    for name in ("caf\udce9", "tea"):
        save(tmp_path / "images" / name / f"{name}.png", PIXELS[0])
    rows = read_rows(tmp_path / "images")
    assert rows.index.tolist() == ["caf\\udce9/caf\\udce9.png", "tea/tea.png"]
    assert rows.labels.tolist() == ["caf\\udce9", "tea"]
    table = pd.DataFrame({"index": rows.index, "label": rows.labels})
    assert table.to_csv(index=False).encode().count(b"\\udce9") == 3


def saved_images(datasets, folder, cells):
    """Write a saved dataset whose image column holds these cells of {"bytes", "path"} as they are."""
    import pyarrow as pa  # comes with datasets

    struct = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = datasets.Features({"image": struct, "label": datasets.ClassLabel(names=["a", "b"])})
    labels = [i % 2 for i in range(len(cells))]
    datasets.Dataset.from_dict({"image": cells, "label": labels}, features).save_to_disk(folder)
    info = json.loads((folder / "dataset_info.json").read_text())
    info["features"]["image"] = {"_type": "Image"}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    for shard in folder.glob("*.arrow"):  # the schema in the file has the features, too
        table = pa.ipc.open_stream(shard.read_bytes()).read_all().replace_schema_metadata(None)
        with pa.OSFile(str(shard), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)


def test_a_saved_dataset_reads_no_address_and_no_other_file(datasets, tmp_path):
    save(tmp_path / "secret.png", PIXELS[0])
    content = (tmp_path / "secret.png").read_bytes()
    saved_images(datasets, tmp_path / "good", [{"bytes": content, "path": "http://a.invalid/x.png"}] * 4)
    rows = read_rows(tmp_path / "good")
    assert np.array_equal(rows.example(2), PIXELS[0])
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.2)
    address = f"http://127.0.0.1:{server.getsockname()[1]}/x.png"
    for number, path in enumerate((address, str(tmp_path / "secret.png"), "file:///etc/hosts", None)):
        saved_images(datasets, tmp_path / f"bad{number}", [{"bytes": None, "path": path}] * 4)
        with pytest.raises(DataError, match=r"row 0 of .* names .* in place of holding an image"):
            read_rows(tmp_path / f"bad{number}")
    with server, pytest.raises(TimeoutError):
        server.accept()
    saved_images(datasets, tmp_path / "script", [{"bytes": b"%!PS-Adobe-3.0 EPSF-3.0", "path": "a.png"}] * 4)
    with pytest.raises(DataError, match="cannot be read as an image"):
        read_rows(tmp_path / "script")


def test_tokenised_and_streamed_datasets_are_read(datasets):
    ids = np.arange(12).reshape(6, 2)
    columns = {"text": ["words"] * 6, "input_ids": ids.tolist(), "attention_mask": (ids * 0 + 1).tolist()}
    data = datasets.Dataset.from_dict({**columns, "label": [0, 1] * 3})
    labelled = data.cast_column("label", datasets.ClassLabel(names=["ant", "bee"]))
    for form in (data, data.with_format("torch"), labelled, data.select_columns(["input_ids", "label"])):
        rows = read_rows(form)
        inputs, _ = next(rows.batches())
        assert inputs["input_ids"].tolist() == ids.tolist()
        assert rows.labels.tolist() == [0, 1] * 3
    assert read_rows(labelled).class_names == ("ant", "bee")
    streamed = labelled.select_columns(["input_ids", "label"]).to_iterable_dataset()
    rows = read_rows(streamed)
    assert rows.labels.tolist() == [0, 1] * 3
    assert rows.class_names == ("ant", "bee")
    with pytest.raises(InputError, match="different shapes: pad them"):
        read_rows(datasets.Dataset.from_dict({"input_ids": [[1], [1, 2]], "label": [0, 1]}))


def test_a_csv_of_numbers(tmp_path):
    rows = read_rows(write_csv(tmp_path, "a,b,label\n1,2.5,cat\n-3,4e2,dog\n"))
    inputs, _ = next(rows.batches())
    assert inputs.tolist() == [[1, 2.5], [-3, 400]]
    assert rows.labels.tolist() == ["cat", "dog"]
    with pytest.raises(DataError, match=r"expected numbers .*got 'x' in the column 'b', row 1"):
        read_rows(write_csv(tmp_path, "a,b,label\n1,2.5,cat\n-3,x,dog\n"))


def test_headers_of_arrays_are_checked_against_the_file(tmp_path):
    def header(shape, dtype="<f8"):
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
        return stream.getvalue()

    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", header((10**12, 3)) + b"\0" * 48)
        archive.writestr("y.npy", header((2,), "<i8") + b"\0" * 16)
    with pytest.raises(DataError, match=r"states 24,000,000,000,000 bytes of float64 .*, but 48 follow"):
        read_rows(tmp_path / "a.npz")
    (tmp_path / "b.npy").write_bytes(header((10**12,), "<i8"))
    with pytest.raises(DataError, match=r"but 0 follow"):
        read_labels(tmp_path / "b.npy")
    np.save(tmp_path / "c.npy", np.array(["a", 1], object))
    with pytest.raises(DataError, match=r"Python objects.*run code.*astype"):
        read_labels(tmp_path / "c.npy")


def test_an_npz_that_does_not_fit_into_memory_is_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((10**6, 2)), y=np.zeros(10**6, int))
    monkeypatch.setattr(memory_limit, "free_memory", lambda: 10**7)
    with pytest.raises(InputError, match=r"a\.npz need 22\.9 MiB of memory"):
        read_rows(tmp_path / "a.npz")
