"""Weights in files become finished runs, whose rows are those of the ordinary runs with these weights."""

import json
from dataclasses import replace

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from layerprobe.cli import main
from layerprobe.data import load
from layerprobe.errors import DataError, InputError
from layerprobe.networks import CNN, load_published
from layerprobe.networks.weights import names_by_shape, without_prefix
from layerprobe.paper import PAIRS, RunSpec, execute, load_model, read_run, register_pair, run_folder
from layerprobe.paper.analysis import analyse, gather
from layerprobe.paper.released import import_weights, released_files
from layerprobe.paper.rows import MEASURE
from layerprobe.paper.tables import TABLES
from layerprobe.runs.data import run_data

DEGREES = (0.0, 0.6)
EXPERIMENTS = [
    "noisy_subspaces",
    "true_subspaces",
    "latent_memorisation",
    "probes",
    "weight_edit",
    "similarity",
]
SECONDS = ["experiment_seconds", "seconds"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Root of two ordinary runs with the published noise, and a folder of their weights under other names."""
    root, folder = tmp_path_factory.mktemp("ours"), tmp_path_factory.mktemp("released")
    for p in DEGREES:
        spec = RunSpec.of("mlp-digits", p, 1, protocol="published", max_epochs=3)
        execute(spec, root)
        ours = load_model(run_folder(root, spec)).state_dict()
        theirs = {f"module.layers.{key.replace('linear', 'dense')}": value for key, value in ours.items()}
        if p:
            torch.save(theirs, folder / f"{p}_run1.pth")
        else:
            save_file(theirs, folder / "0_run1.safetensors")
    return root, folder


def released_spec(pair, degree, run):
    return RunSpec.of(pair, degree, run, protocol="published", weights="published")


def specs_of(pair="mlp-digits", run=1, degrees=DEGREES):
    return [released_spec(pair, p, run) for p in degrees]


def test_rows_equal_those_of_the_ordinary_runs(trained, tmp_path):
    root, folder = trained
    ours = [RunSpec.of("mlp-digits", p, 1, protocol="published", max_epochs=3) for p in DEGREES]
    import_weights(folder, specs_of(), tmp_path)
    for specs, place in ((ours, root), (specs_of(), tmp_path)):
        for spec in specs:
            analyse(spec, place, EXPERIMENTS)
    here, there = gather(ours, root), gather(specs_of(), tmp_path)
    assert set(there["variant"]) == {"shuffle False, noise published, weights published"}
    assert not set(here["variant"]) & set(there["variant"])  # no table takes a mean over both
    both = [frame.loc[~frame["metric"].isin(SECONDS), ["corruption", *MEASURE]] for frame in (here, there)]
    assert len(both[0]) > 500
    pd.testing.assert_frame_equal(*(frame.reset_index(drop=True) for frame in both))
    table = TABLES["table1"].build(pd.concat([here, there], ignore_index=True), pd.DataFrame())
    lines = table[(table["pair"] == "mlp-digits") & (table["corruption"] > 0)]
    assert lines["seeds"].tolist() == [1, 1]
    assert lines["masc"].iloc[0] == lines["masc"].iloc[1]


def test_names_may_have_the_prefix_of_the_file(trained, tmp_path):
    _, folder = trained
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    layers = ("linear1", "linear2", "linear3", "head")
    names = {name: f"module.layers.{name.replace('linear', 'dense')}" for name in layers}
    (tmp_path / "names.json").write_text(json.dumps(names))
    import_weights(tmp_path, specs_of(), tmp_path / "runs")
    spec = specs_of()[1]
    theirs = torch.load(folder / "0.6_run1.pth", weights_only=True)
    ours = load_model(run_folder(tmp_path / "runs", spec)).state_dict()
    assert torch.equal(ours["linear2.weight"], theirs["module.layers.dense2.weight"])


def test_command_imports_measures_and_writes(trained, tmp_path, monkeypatch, capsys):
    _, folder = trained
    monkeypatch.chdir(tmp_path)
    command = ["reproduce", "latent", "similarity", "--pair", "mlp-digits", "--weights", str(folder)]
    assert main([*command, "--jobs", "1"]) == 2
    assert "0.2_run1, 0.4_run1, 0.8_run1 missing" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    for name in ("retraining", "table2", "optimizers"):
        assert main([*command[:1], name, *command[3:]]) == 2
        assert f"{name}: it needs training" in capsys.readouterr().err
    assert main([*command[:1], "latent", "figure31", *command[3:], "--jobs", "1"]) == 0
    assert "figure31 is left out: it needs training" in capsys.readouterr().err
    rows = pd.read_csv(tmp_path / "reproduction" / "rows.csv")
    assert set(rows["variant"]) == {"shuffle False, noise published, weights published"}
    capsys.readouterr()
    assert main(["paper", "status"]) == 0
    assert "below target" not in capsys.readouterr().out
    assert main(["reproduce", "--weights", str(folder)]) == 2
    assert "name one --pair" in capsys.readouterr().err


def test_import_is_repeatable_and_refuses_other_weights(trained, tmp_path):
    _, folder = trained
    import_weights(folder, specs_of(), tmp_path / "runs")
    import_weights(folder, specs_of(), tmp_path / "runs")
    run = read_run(run_folder(tmp_path / "runs", specs_of()[1]))
    assert run.done
    assert run.history.empty
    assert run.record["weights"]["file"] == "0.6_run1.pth"
    assert run.record["weights"]["names"]["linear1"] == "layers.dense1"
    analyse(run.spec, tmp_path / "runs", ["noisy_subspaces", "controls"])
    rows = gather([run.spec], tmp_path / "runs").query("probe == 'network' and split == 'test'")
    assert rows["setting"].tolist() == ["", "last_epoch"]  # the baseline of the figure of gains
    assert len(set(rows["value"])) == 1
    other = tmp_path / "other"
    other.mkdir()
    weights = torch.load(folder / "0.6_run1.pth", weights_only=True)
    torch.save({key: value + 1 for key, value in weights.items()}, other / "0.6_run1.pth")
    torch.save(weights, other / "0.4_run1.pth")
    with pytest.raises(DataError, match=r"has other weights than 0\.6_run1\.pth"):
        import_weights(other, specs_of(degrees=(0.4, 0.6)), tmp_path / "runs")
    assert not run_folder(tmp_path / "runs", *specs_of(degrees=(0.4,))).exists()  # nothing was written


def _spoiled(key, value):
    def spoil(weights):
        weights[key] = value(weights[key])

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            _spoiled("module.layers.head.weight", lambda w: w * torch.nan),
            r"0\.6_run1\.pth: .*not finite in float32: .*head\.weight",
        ),
        (_spoiled("module.layers.head.weight", lambda w: w[:5]), r"0\.6_run1\.pth: .*weights of this MLP"),
        (
            lambda weights: weights.pop("module.layers.head.bias"),
            r"missing: linear1\.weight, .* and 3 more; unexpected: .* and 2 more",
        ),
    ],
)
def test_wrong_weights_are_one_message_and_write_nothing(spoil, message, trained, tmp_path):
    _, folder = trained
    weights = torch.load(folder / "0.6_run1.pth", weights_only=True)
    spoil(weights)
    torch.save(weights, tmp_path / "0.6_run1.pth")
    with pytest.raises(InputError, match=message) as caught:
        import_weights(tmp_path, specs_of(degrees=(0.6,)), tmp_path / "runs")
    assert "\n" not in str(caught.value)
    assert ("names" in str(caught.value)) == ("not finite" not in str(caught.value))
    assert not (tmp_path / "runs").exists()


def test_folder_without_weights_is_refused(tmp_path):
    (tmp_path / "0.4_run1.txt").touch()
    with pytest.raises(DataError, match=r"as 0\.4_run1\.pth .*found none"):
        released_files(tmp_path)


def test_a_pickled_network_is_read_after_its_conversion(tmp_path):
    model = PAIRS["mlp-digits"].network()
    torch.save(model, tmp_path / "0.6_run1.pth")
    with pytest.raises(DataError, match=r"0\.6_run1\.weights\.pt"):
        import_weights(tmp_path, specs_of(degrees=(0.6,)), tmp_path / "runs")
    torch.save(model.state_dict(), tmp_path / "0.6_run1.weights.pt")
    with pytest.raises(DataError, match=r"two files of one run, .*: remove one"):
        released_files(tmp_path)
    (tmp_path / "0.6_run1.pth").unlink()
    import_weights(tmp_path, specs_of(degrees=(0.6,)), tmp_path / "runs")


def test_a_part_of_the_images_is_refused_without_naming_a_subset(monkeypatch):
    part = load("digits").subset(500)
    monkeypatch.setattr("layerprobe.runs.data.load", lambda *_: part)
    with pytest.raises(InputError, match="are present: get the whole set"):
        run_data(released_spec("mlp-digits", 0.6, 1))
    register_pair(replace(PAIRS["mlp-digits"], name="fewer", train_size=400))
    try:
        with pytest.raises(InputError, match="500 of 'digits' are present: name a subset, or make a pair"):
            run_data(RunSpec.of("fewer", 0.6, 1))
    finally:
        del PAIRS["fewer"]


def test_published_weights_cannot_be_trained(tmp_path):
    with pytest.raises(InputError, match="not trained; import them"):
        execute(released_spec("mlp-digits", 0.6, 1), tmp_path)
    with pytest.raises(InputError, match="weights must be None, or 'published'"):
        RunSpec.of("mlp-digits", 0.6, 1, weights="published")


def test_equal_shapes_need_names(tmp_path):
    torch.manual_seed(0)
    theirs = {key.replace("linear", "dense"): value for key, value in CNN(1, 28).state_dict().items()}
    model = CNN(1, 28)
    assert names_by_shape(model, theirs) is None  # linear2 and linear3 are both 250 x 250
    torch.save(theirs, tmp_path / "0.4_run1.pth")
    spec = released_spec("cnn-mnist", 0.4, 1)
    with pytest.raises(InputError, match=r"missing: linear1.*: layer of the weights}, in names\.json"):
        import_weights(tmp_path, [spec], tmp_path / "runs")
    names = {f"linear{i}": f"dense{i}" for i in (1, 2, 3)}
    load_published(model, theirs, names)
    assert torch.equal(model.state_dict()["linear3.weight"], theirs["dense3.weight"])
    (tmp_path / "names.json").write_text(json.dumps(["linear1"]))
    with pytest.raises(DataError, match="expected a JSON mapping"):
        import_weights(tmp_path, [spec], tmp_path / "runs")


def test_prefixes_are_removed_only_if_the_names_do_not_fit():
    model = torch.nn.Sequential()
    model.add_module("model", torch.nn.Linear(2, 1))
    own = model.state_dict()
    assert list(without_prefix(model, own)) == ["model.weight", "model.bias"]
    wrapped = {f"module.{key}": value for key, value in own.items()}
    assert list(without_prefix(model, wrapped)) == ["model.weight", "model.bias"]
