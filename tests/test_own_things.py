"""Pairs, data sets, noises, probes and experiments of users: registered, named, from installed packages."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.linear_model import LinearRegression
from sklearn.naive_bayes import GaussianNB

import layerprobe
from layerprobe import data, probes
from layerprobe.cli import main
from layerprobe.data import ImageSet, register_dataset, register_noise
from layerprobe.data.noise import REGISTRY as NOISES
from layerprobe.errors import DataError, InputError, LayerprobeWarning, UnknownNameError
from layerprobe.networks import MLP
from layerprobe.paper import PAIRS, RunSpec, execute, read_run, register_pair, run_data, run_folder
from layerprobe.paper.analysis import analyse, gather
from layerprobe.paper.experiments import (
    EXPERIMENTS,
    EXTENSIBLE,
    further,
    probes_of,
    register_experiment,
)
from layerprobe.paper.rows import tidy
from layerprobe.paper.run_outputs import FinishedRun
from layerprobe.probes import create, register_probe
from layerprobe.utils.registry import Registry

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")
MODULE = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.partition("## On the shell")[0], re.DOTALL))
ONE_RUN = ["--corruption", "0.4", "--seeds", "0"]
DIGITS = PAIRS["mlp-digits"]


def without_spaces(text):
    return " ".join(text.split())


@pytest.fixture
def own_study(tmp_path, monkeypatch):
    """The module of docs/extending.md in the current directory."""
    (tmp_path / "own_study.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("own_study", None)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a module with entry points, as an installer would; return nothing."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def make(name, source, points):
        (site / f"{name}.py").write_text(textwrap.dedent(source))
        folder = site / f"{name}-2.5.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.5\n")
        (folder / "entry_points.txt").write_text(
            "".join(
                f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in own.items())
                for group, own in points.items()
            )
        )
        importlib.invalidate_caches()
        for registry in Registry.every.values():
            registry.__dict__.pop("_points", None)

    yield make
    for registry in Registry.every.values():
        registry.__dict__.pop("_points", None)


# --- registries -------------------------------------------------------------------------------------------


def test_registered_probe_is_available_and_recorded():
    register_probe("bayes", GaussianNB)
    assert "bayes" in probes.available()
    assert isinstance(create("bayes", var_smoothing=0.1), GaussianNB)
    assert probes.REGISTRY.origin("bayes")["module"] == __name__
    assert probes.REGISTRY.origin("masc") == {}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: register_probe("masc", GaussianNB), "layerprobe has a probe 'masc' of its own"),
        (lambda: register_probe("bayes", GaussianNB()), "expected a class with fit, predict, get_params"),
        (lambda: register_probe("a/b", GaussianNB), "without '/'"),
        (lambda: register_pair(replace(DIGITS, name="cnn-mnist")), "has a pair 'cnn-mnist' of its own"),
        (lambda: register_pair("cnn-mnist"), "expected the name of a pair|expected a layerprobe.paper.Pair"),
        (lambda: register_dataset("mnist", print), "has a image set 'mnist' of its own|of its own"),
        (lambda: register_dataset("mine", 3), "expected a function from a folder to an ImageSet"),
        (lambda: register_noise("published", print), "of its own"),
        (lambda: register_noise("uniform", print), "of its own"),
        (lambda: register_noise("salt", 3), "expected a function of labels"),
        (lambda: register_noise("salt", lambda labels, degree: labels), "expected a function of labels"),
        (lambda: register_dataset("mine", lambda: None), "expected a function from a folder"),
        (lambda: register_experiment("mine", lambda: None), "expected a function from a finished run"),
        (lambda: register_probe("line", LinearRegression), "classifier of scikit-learn"),
        (lambda: register_probe("means", KMeans), "classifier of scikit-learn"),
        (lambda: register_experiment("probes", print), "of its own"),
        (lambda: register_experiment("my-rows", print), "letters, digits and _"),
        (lambda: create("marsc"), "There is no probe 'marsc'. Did you mean masc"),
        (lambda: data.load("mmist"), "There is no image set 'mmist'. Did you mean mnist"),
    ],
)
def test_invalid_registration_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_registering_again_replaces_the_earlier_object():
    register_noise("none", lambda labels, *_: labels)
    register_noise("none", lambda labels, *_: labels * 0)
    _, labels = run_data(RunSpec.of("mlp-digits", 0.4, 0, noise="none"))
    assert set(labels) == {0}


def test_keys_of_runs_do_not_depend_on_registrations():
    before = RunSpec.of("mlp-digits", 0.4, 0).key
    register_probe("bayes", GaussianNB)
    register_pair(replace(DIGITS, name="mine"))
    assert RunSpec.of("mlp-digits", 0.4, 0).key == before
    assert RunSpec.of("mlp-digits", 0.6, 0).folder_name == "p0.6-s0-6656bc5121ad"  # of a released version


# --- entry points -----------------------------------------------------------------------------------------


def test_entry_point_is_imported_at_its_first_use_only(install):
    install(
        "plugin_a",
        """
        from sklearn.naive_bayes import GaussianNB
        """,
        {"layerprobe.probes": {"bayes": "plugin_a:GaussianNB"}},
    )
    assert "masc" in probes.REGISTRY
    create("masc")
    assert "plugin_a" not in sys.modules
    assert isinstance(create("bayes"), GaussianNB)
    assert probes.REGISTRY.origin("bayes") == {"module": "plugin_a", "package": "plugin_a", "version": "2.5"}


def test_broken_entry_point_is_one_warning_and_one_error(install, capsys):
    install("plugin_b", "import no_such_module", {"layerprobe.probes": {"broken": "plugin_b:Probe"}})
    with pytest.raises(UnknownNameError, match=r"probe 'broken' of plugin_b 2.5 cannot be used: ModuleNot"):
        create("broken")
    with pytest.warns(LayerprobeWarning, match=r"plugin_b 2\.5"):
        assert "broken" not in probes.available()
    assert "broken" not in probes.available()  # a second warning would be an error
    assert main(["paper", "train", "--pair", "mlp-digits", *ONE_RUN, "--dry-run"]) == 0
    assert "plugin_b" not in capsys.readouterr().err


@pytest.mark.parametrize("value", ["plugin_c:missing", "plugin_c:NUMBER", "plugin_c:fails()"])
def test_entry_point_of_a_wrong_object_is_one_message(value, install, capsys):
    install("plugin_c", "NUMBER = 3", {"layerprobe.pairs": {"strange": value}})
    assert main(["paper", "train", "--pair", "strange", *ONE_RUN, "--dry-run"]) == 2
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0
    assert "the pair 'strange' of plugin_c 2.5 cannot be used" in said


def test_entry_point_cannot_take_a_name_of_the_package(install):
    install("plugin_d", "X = int", {"layerprobe.probes": {"masc": "plugin_d:X", "other": "plugin_d:X"}})
    with pytest.warns(LayerprobeWarning, match="'masc' of plugin_d 2.5 is ignored: layerprobe has this name"):
        assert "other" in probes.REGISTRY
    assert create("masc").__class__.__name__ == "MASC"


# --- runs -------------------------------------------------------------------------------------------------


def small_set(folder):
    digits = data.load("digits")
    return replace(
        digits,
        name="small",
        train_images=digits.train_images[:200],
        train_labels=digits.train_labels[:200],
        train_index=np.arange(200),
    )


def test_noise_of_the_user_labels_runs_and_its_seed_is_that_of_the_run():
    register_noise(
        "shift",
        lambda labels, p, k, seed: (labels + (np.random.default_rng(seed).random(len(labels)) < p)) % k,
    )
    specs = [RunSpec.of("mlp-digits", p, seed, noise="shift") for p, seed in ((0.5, 0), (0.5, 1), (0, 0))]
    (images, half), (_, other), (_, none) = map(run_data, specs)
    assert 0.4 < (half != images.train_labels).mean() < 0.6
    assert (half != other).any()
    assert (none == images.train_labels).all()
    assert {spec.noise_seed is None for spec in specs} == {False}


def test_pair_flip_is_a_noise_of_runs():
    images, labels = run_data(RunSpec.of("mlp-digits", 1.0, 0, noise="pair_flip"))
    np.testing.assert_array_equal(labels, (images.train_labels + 1) % 10)


def shuffled_in_place(labels):
    np.random.default_rng().shuffle(labels)
    return labels


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (lambda labels, *_: labels[:5], "one integer for each of the 1437 labels"),
        (lambda labels, *_: labels / 2, "one integer for each"),
        (lambda labels, *_: labels + 1, r"the noise 'wrong': labels must lie in 0\.\.9"),
        (lambda labels, *_: np.random.default_rng().permutation(labels), "the same labels for the same"),
        (lambda labels, *_: shuffled_in_place(labels), "the same labels for the same"),
    ],
)
def test_wrong_labels_of_a_noise_are_refused(noise, message):
    register_noise("wrong", noise)
    with pytest.raises(InputError, match=message):
        run_data(RunSpec.of("mlp-digits", 0.4, 0, noise="wrong"))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (partial(MLP, 64, num_classes=7), r"'digits': the labels have 10 classes.* got the shape \(2, 7\)"),
        (lambda: Scores(64), "the network must return logits .* got dict"),
        (partial(MLP, 63), r"layer 'linear1' \(Linear\) cannot be computed for an input of shape \(2, 64\)"),
        (lambda: named_layers(MLP(64), {"fc1": "absent"}), "MLP.probed_layers: .*absent"),
        (lambda: named_layers(MLP(64), ["fc1"]), "MLP.probed_layers: expected a mapping"),
    ],
)
def test_networks_are_tried_before_the_first_run_is_started(network, message, tmp_path, capsys):
    register_pair(replace(DIGITS, name="tried", build=network))
    place = ["--pair", "tried", "--jobs", "1", "--root", str(tmp_path / "runs")]
    for command in (["reproduce", "table1", "--out", str(tmp_path / "out")], ["paper", "train"]):
        assert main([*command, *place]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert re.search(rf"Nothing was started. The network of tried on images of .*{message}", said)
    assert not (tmp_path / "runs").exists()


class Scores(MLP):
    def forward(self, x):
        return {"logits": super().forward(x)}


def named_layers(network, names):
    network.probed_layers = names
    return network


def test_run_records_origins_and_is_not_called_damaged_without_them(tmp_path, capsys):
    register_dataset("small", small_set)
    register_pair(replace(DIGITS, name="small-digits", dataset="small", train_size=200))
    register_noise("same", lambda labels, *_: labels)
    spec = RunSpec.of("small-digits", 0.4, 0, noise="same", max_epochs=1)
    run = execute(spec, tmp_path)
    origins = run.record["sessions"][0]["origins"]
    assert {kind: origin["module"] for kind, origin in origins.items()} == {
        "pair": __name__,
        "dataset": __name__,
        "noise": __name__,
    }
    assert all(origin.keys() & {"version", "sha256"} for origin in origins.values())
    assert (
        "origins" not in execute(RunSpec.of("mlp-digits", 0, 0, max_epochs=1), tmp_path).record["sessions"][0]
    )
    del PAIRS["small-digits"]
    with pytest.raises(DataError, match=r"not damaged.*There is no pair 'small-digits'.*was made with"):
        read_run(run.folder)
    assert main(["paper", "status", "--root", str(tmp_path), "--json"]) == 0
    (row,) = [one for one in json.loads(capsys.readouterr().out)["runs"] if one["pair"] == "small-digits"]
    assert row["state"] == "unreadable"
    assert "not damaged" in row["reason"]
    shutil.rmtree(tmp_path / "mlp-digits")
    assert main(["paper", "analyse", "--root", str(tmp_path)]) == 2
    assert "name at least one experiment: noisy_subspaces," in capsys.readouterr().err
    assert main(["paper", "analyse", "controls", "--root", str(tmp_path)]) == 2
    assert "There is no pair 'small-digits'" in capsys.readouterr().err


def test_experiments_refuse_data_that_changed(tmp_path):
    register_noise("fickle", lambda labels, *_: labels)
    spec = RunSpec.of("mlp-digits", 0.4, 0, noise="fickle", max_epochs=1, subset=100)
    execute(spec, tmp_path)
    register_noise("fickle", lambda labels, *_: (labels + 1) % 10)
    with pytest.raises(DataError, match=r"data differ.*labels_sha256"):
        FinishedRun.of(spec, tmp_path)


def test_reader_that_returns_no_image_set_is_refused():
    register_dataset("odd", lambda folder: 3)
    with pytest.raises(InputError, match="must return an ImageSet, got int"):
        data.load("odd")


def test_dataset_reader_gets_its_folder(tmp_path):
    given = []
    register_dataset("here", lambda folder: given.append(folder) or small_set(folder))
    assert isinstance(data.load("here", tmp_path), ImageSet)
    assert given == [tmp_path / "here"]


# --- experiments and probes -------------------------------------------------------------------------------


def dead_units(finished):
    return tidy(
        {"experiment": "dead_units", "layer": layer, "metric": "dead", "value": 0.5}
        for layer in finished.outputs
    )


def test_further_probe_by_hand(tmp_path):
    register_probe("bayes", GaussianNB)
    register_experiment("dead_units", dead_units)
    spec = RunSpec.of("mlp-digits", 0.4, 0, subset=200, test_subset=100, max_epochs=2)
    execute(spec, tmp_path)
    analyse(spec, tmp_path, ["probes-bayes", "dead_units"])
    rows = gather([spec], tmp_path)
    finished = FinishedRun.of(spec, tmp_path)
    measured = rows[(rows["probe"] == "bayes") & (rows["split"] == "test")].set_index(["layer", "fitted_on"])
    for layer, outputs in finished.outputs.items():
        for given, labels in finished.label_sets.items():
            by_hand = GaussianNB().fit(outputs.train.numpy(), labels)
            expected = by_hand.score(outputs.test.numpy(), finished.test_labels)
            assert measured.loc[(layer, given), "value"] == pytest.approx(expected)
    assert len(measured) == 2 * len(finished.outputs)
    assert set(rows["experiment"]) == {"probes", "dead_units"}
    record = read_run(run_folder(tmp_path, spec)).record["experiments"]
    assert {name: origin["module"] for name, origin in record.items()} == {
        "probes-bayes": __name__,
        "dead_units": __name__,
    }


def test_wrong_rows_of_an_experiment_are_refused(tmp_path):
    spec = RunSpec.of("mlp-digits", 0.4, 0, subset=200, test_subset=100, max_epochs=1)
    execute(spec, tmp_path)
    register_experiment("mine", lambda finished: tidy([{"experiment": "yours", "metric": "x", "value": 1}]))
    with pytest.raises(layerprobe.LayerprobeError, match=r"'mine' must return rows.*'yours'"):
        analyse(spec, tmp_path, ["mine"])
    register_experiment("mine", lambda finished: finished.outputs["absent"])
    with pytest.raises(layerprobe.LayerprobeError, match=r"'absent' \(test_own_things\.py, line \d+"):
        analyse(spec, tmp_path, ["mine"])
    endless = {"experiment": "mine", "metric": "x", "value": np.inf}
    register_experiment("mine", lambda finished: tidy([endless]))
    with pytest.raises(layerprobe.LayerprobeError, match="must return finite numbers"):
        analyse(spec, tmp_path, ["mine"])
    register_experiment("mine", lambda finished: tidy([{"experiment": "mine", "metrik": "x", "value": 1}]))
    with pytest.raises(layerprobe.LayerprobeError, match=r"rows have the columns .*; got 'metrik'"):
        analyse(spec, tmp_path, ["mine"])
    assert gather([spec], tmp_path).empty


def test_statement_on_probes_is_equal_in_help_messages_and_docs(capsys):
    table = probes_of().to_dict("records")
    lines = [
        f"| {row['experiment']} | {row['probes']} | {row['further']} |".replace("|  |", "| |")
        for row in table
    ]
    assert [line for line in lines if line not in PAGE] == []
    main(["paper", "analyse", "--help"])
    named = capsys.readouterr().out
    assert [row["experiment"] for row in table if row["experiment"] not in named] == []
    assert without_spaces(EXTENSIBLE) in without_spaces(PAGE)
    main(["reproduce", "--help"])
    shown = without_spaces(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out))
    assert without_spaces(EXTENSIBLE) in shown
    with pytest.raises(InputError, match=re.escape(EXTENSIBLE)):
        further(["ridge"], ["noisy_subspaces"])
    assert main(["reproduce", "table1", "--pair", "mlp-digits", "--probes", "ridge", "--dry-run"]) == 2
    assert without_spaces(EXTENSIBLE) in without_spaces(capsys.readouterr().err)


def test_experiments_fit_the_probes_that_the_table_states(tmp_path):
    register_probe("bayes", GaussianNB)
    specs = [RunSpec.of("mlp-digits", p, 0, subset=100, test_subset=50, max_epochs=2) for p in (0.0, 0.6)]
    for spec in specs:
        execute(spec, tmp_path, checkpoints=True)
    for spec in specs:
        analyse(spec, tmp_path, list(EXPERIMENTS))
    rows = gather(specs, tmp_path)
    rows = rows[~rows["probe"].isin(["network", ""])]
    measured = rows.groupby("experiment")["probe"].agg(set).to_dict()
    stated = {
        row["experiment"]: set(row["probes"].split(", ")) - {"none"} for _, row in probes_of().iterrows()
    }
    assert measured == {name: names for name, names in stated.items() if names}


# --- the shell, workers and an installed wheel ------------------------------------------------------------

SHELL = [
    line.split()[1:]
    for line in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)[0].splitlines()
    if line.startswith("layerprobe ")
]


@pytest.mark.timeout(600)  # every process that starts imports torch, slowly on a busy machine
def test_page_runs_on_the_shell_in_worker_processes(own_study, capfd):
    reproduce, train, analysis, tabulate, status = SHELL
    assert main([*reproduce, "--jobs", "1"]) == 0
    tables = own_study / "reproduction" / "tables"
    assert "net-stripes" in (tables / "table1.csv").read_text()
    assert "median" in (tables / "probes.csv").read_text()
    assert main([*train, "--jobs", "1"]) == 0
    assert main([*analysis, "--jobs", "1"]) == 0
    assert len(list(own_study.glob("runs/net-stripes/*/rows/dead_units.csv"))) == 11
    assert len(list(own_study.glob("runs/net-stripes/*/rows/probes-median.csv"))) == 11
    assert main(tabulate) == 0
    assert "noise neighbour" in (own_study / "tables" / "probes.csv").read_text()
    capfd.readouterr()
    assert main([*status, "--json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)["runs"]
    assert (row["state"], row["variant"]) == ("done", "noise neighbour")
    record = read_run(own_study / "runs" / row["folder"]).record
    origins = record["sessions"][0]["origins"]
    assert {origin["module"] for origin in origins.values()} == {"own_study"}
    assert len(origins["noise"]["sha256"]) == 64  # a module without a version


def test_noise_that_no_module_registers_is_named_for_runs_in_a_folder(own_study, capfd):
    (own_study / "my_noise.py").write_text("def same(labels, *_):\n    return labels\n")
    run = "--pair mlp-digits --corruption 0.4 --seeds 0 --max-epochs 1 --subset 100 --noise my_noise:same"
    assert main(["paper", "train", *run.split(), "--jobs", "1"]) == 0
    del NOISES["same"]  # as in a new process
    analysis = ["paper", "analyse", "noisy_subspaces", "--jobs", "1"]
    assert main(analysis) == 2
    assert "--noise PKG.MOD:NAME" in capfd.readouterr().err
    assert main([*analysis, "--noise", "my_noise:same"]) == 0
    del NOISES["same"]
    assert main(["paper", "tables", "layers", "--noise", "my_noise:same"]) == 0
    assert "noise same" in (own_study / "tables" / "layers.csv").read_text()
    assert main([*analysis, "--noise", "uniform"]) == 2
    assert "expected PKG.MOD:NAME" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pair", "own_study:Net"], "expected a layerprobe.paper.Pair as 'Net', got Net"),
        (["--pair", "own_study:STRIPE"], "has no 'STRIPE'. Did you mean STRIPES?"),
        (["--pair", "no_such:PAIR"], "no module 'no_such'"),
        (["--pair", "own_study:STRIPES", "--noise", "own_study:STRIPES"], "expected a function of labels"),
    ],
)
def test_wrong_reference_prints_one_line(options, message, own_study, capsys):
    assert main(["paper", "train", *options, *ONE_RUN, "--dry-run"]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said


def test_probe_command_takes_a_class_of_the_user(own_study):
    Path("task.py").write_text(
        "import numpy as np, torch\nfrom torch import nn\n"
        "x = np.random.default_rng(0).normal(size=(60, 5)).astype('float32')\n"
        "data = (x, (x[:, 0] > 0).astype(int))\n"
        "torch.manual_seed(0)\nmodel = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))\n"
    )
    assert (
        main(["probe", "--model", "task:model", "--data", "task:data", "--probes", "own_study:Median"]) == 0
    )
    assert "median" in (own_study / "probe" / "rows.csv").read_text()


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return a function that runs Python with layerprobe and own_study installed from wheels."""
    for package in ("hatchling", "pip"):
        pytest.importorskip(package, reason=f"building a wheel needs {package}")
    folder = tmp_path_factory.mktemp("wheels")
    study = folder / "study"
    study.mkdir()
    (study / "own_study.py").write_text(MODULE)
    (study / "pyproject.toml").write_text(re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[0])
    target = folder / "target"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    for source in (ROOT, study):
        subprocess.run([*pip, "wheel", *offline, "--wheel-dir", folder, source], check=True)
    wheels = sorted(folder.glob("*.whl"))
    assert len(wheels) == 2
    subprocess.run([*pip, "install", *offline, "--target", target, *wheels], check=True)
    keep = [
        place
        for place in sys.path
        if place.endswith("site-packages") and place != sysconfig.get_path("purelib")
    ]

    def run(*arguments, cwd):
        path = os.pathsep.join([str(target), *keep])
        env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.timeout(600)
def test_installed_package_is_found_by_name(installed, tmp_path):
    where = "import layerprobe, own_study; print(layerprobe.__file__, own_study.__file__)"
    assert installed("-c", where, cwd=tmp_path).count("target") == 2
    command = [word.replace("own_study:STRIPES", "net-stripes") for word in SHELL[1]]
    command = [word.replace("own_study:", "") for word in command]
    installed("-m", "layerprobe", *command, "--jobs", "1", cwd=tmp_path)
    (record,) = tmp_path.glob("runs/net-stripes/*/run.json")
    origins = json.loads(record.read_text())["sessions"][0]["origins"]
    origin = {"module": "own_study", "package": "own-study", "version": "1.0"}
    assert origins == {"pair": origin, "dataset": origin, "noise": origin}
    listed = "from layerprobe import data, probes; print(probes.available()[-1], data.available()[-1])"
    assert installed("-c", listed, cwd=tmp_path).split() == ["median", "stripes"]


@pytest.mark.timeout(600)
def test_page_runs_from_the_wheel(installed, tmp_path):
    last = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[-1]
    script = tmp_path / "script.py"
    script.write_text(last.replace('if __name__ != "own_study":', 'if __name__ == "__main__":'))
    assert (
        "median" not in last.partition("train_grid([spec]")[0]
    )  # nothing registers: it comes from entry points
    out = installed(str(script), cwd=tmp_path)
    assert out.count("hidden") >= 3
