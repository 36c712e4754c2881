import json

import pytest
import safetensors
import safetensors.torch
import torch

from layerprobe.core import Subspaces, fit_subspaces
from layerprobe.errors import DataError, InputError

generator = torch.Generator().manual_seed(0)
X = torch.randn(60, 7, generator=generator)
CODES = torch.arange(60) % 3


def fitted(classes=("a", 2, None)):
    return fit_subspaces(X, CODES, 3, variance=0.9, classes=classes)


def test_saved_subspaces_are_loaded(tmp_path):
    before = fitted()
    before.save(tmp_path / "s.safetensors")
    after = Subspaces.load(tmp_path / "s.safetensors")
    assert (after.classes, after.ranks, after.counts) == (before.classes, before.ranks, before.counts)
    assert torch.equal(after.squared_cosines(X), before.squared_cosines(X))
    assert after.ranks_at(variance=0.5) == before.ranks_at(variance=0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["s.safetensors"]


def test_failed_save_keeps_the_old_file(tmp_path):
    path = tmp_path / "s.safetensors"
    fitted().save(path)
    content = path.read_bytes()
    with pytest.raises(InputError, match="strings and numbers"):
        fitted(classes=("a", ("b",), "c")).save(path)
    assert path.read_bytes() == content


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"folder .*nowhere does not exist"):
        fitted().save(tmp_path / "nowhere" / "s")


def test_unusable_path_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "folder", tmp_path / "file" / "s"):
        with pytest.raises(DataError, match=f"{place} cannot be written"):
            fitted().save(place)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def bad_files(folder):
    fitted().save(folder / "good")
    blob = (folder / "good").read_bytes()
    files = {
        "cut short": blob[: len(blob) // 2],
        "empty": b"",
        "another kind": safetensors.torch.save({"x": X}),
        "no JSON": safetensors.torch.save({"x": X}, {"layerprobe": "{"}),
        "no tensors": safetensors.torch.save({"x": X}, {"layerprobe": '{"kind": "layerprobe.subspaces.1"}'}),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "folder").mkdir()
    return [*files, "folder", "missing"]


def test_a_file_that_is_no_subspaces_is_refused_by_name(tmp_path):
    for name in bad_files(tmp_path):
        with pytest.raises(DataError, match=name):
            Subspaces.load(tmp_path / name)


def header_of(change):
    return lambda header, tensors: change(header)


def replaced(name, values):
    return lambda header, tensors: tensors.update({name: values})


@pytest.mark.parametrize(
    "change",
    [
        header_of(lambda header: header.update(ranks=[1, 2])),
        header_of(lambda header: header.update(ranks=[1, 2, 900])),
        header_of(lambda header: header.update(ranks=[1, -2, 1])),
        header_of(lambda header: header.update(ranks=[1, "2", 1])),
        header_of(lambda header: header.update(ranks=7)),
        header_of(lambda header: header.update(counts=[1, 2.5, 1])),
        header_of(lambda header: header.update(counts=None)),
        header_of(lambda header: header.update(full_ranks=[True, 1, 1])),
        header_of(lambda header: header.update(classes=["a", "a", None])),
        header_of(lambda header: header.update(classes=["a", ["b"], None])),
        header_of(lambda header: header.update(classes={"a": 1})),
        header_of(lambda header: header.update(classes=3)),
        header_of(lambda header: header.update(classes=[])),
        replaced("vectors.1", torch.full((7, 4), torch.nan)),
        replaced("vectors.1", torch.eye(7)[:, :4] * 3),
        replaced("vectors.1", torch.eye(8)[:, :4]),
        replaced("vectors.1", torch.ones(7)),
        replaced("vectors.1", torch.ones(7, 2, dtype=torch.int64)),
        replaced("eigenvalues.1", torch.ones(1)),
        replaced("eigenvalues.1", torch.full((7,), torch.inf)),
        replaced("eigenvalues.1", torch.ones(7, 7)),
        replaced("eigenvalues.1", torch.ones(7, dtype=torch.int64)),
    ],
)
def test_a_file_with_other_contents_is_refused(tmp_path, change):
    fitted().save(tmp_path / "s")
    with safetensors.safe_open(tmp_path / "s", framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    (key,) = metadata
    header = json.loads(metadata[key])
    change(header, tensors)
    tensors = {name: values.contiguous() for name, values in tensors.items()}
    safetensors.torch.save_file(tensors, tmp_path / "s", {key: json.dumps(header)})
    with pytest.raises(DataError, match=str(tmp_path / "s")):
        Subspaces.load(tmp_path / "s")
