import json
import shutil

import pandas as pd
import pytest
import torch

from layerprobe.cli import main
from layerprobe.errors import DataError, InputError
from layerprobe.figures import save
from layerprobe.paper import RunSpec, execute
from layerprobe.paper.figures import FIGURES
from layerprobe.paper.plans import SCALES, StudyScale, plan, released_scale
from layerprobe.paper.tables import TABLES
from layerprobe.report import reproduction
from layerprobe.report.reproduction import (
    Results,
    announce,
    check_data,
    finding,
    reproduce,
    write_all,
    write_figures,
    write_tables,
)

TINY = StudyScale("small", 1, {"mlp-digits": {"subset": 64, "test_subset": 50, "max_epochs": 2}})


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Everything there is to reproduce, on runs of two epochs."""
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("reproduction")
    wanted = plan(
        ["table1", "table5", "table3", "noisy_subspaces", "latent", "dynamics"], TINY, ["mlp-digits"]
    )
    failed = reproduce(wanted, place / "runs", place / "out", jobs=2)
    return wanted, place, failed


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_reproduce_trains_measures_and_writes(done):
    wanted, place, failed = done
    assert failed == []
    out = place / "out"
    for name in ("table1", "table5", "table3", "latent"):
        assert all((out / "tables" / f"{name}.{ending}").exists() for ending in ("csv", "md", "tex"))
    for name in ("noisy_subspaces", "latent", "dynamics"):
        assert all((out / "figures" / f"{name}.{ending}").exists() for ending in ("png", "svg", "pdf"))
    record = json.loads((out / "provenance.json").read_text())
    assert record["scale"] == "small"
    assert {run["state"] for run in record["runs"]} == {"done"}
    assert len(record["runs"]) == len(wanted.work)
    page = (out / "report.html").read_text("utf-8")
    assert "Small scale" in page
    assert "Table 1" in page


def test_second_call_computes_nothing(done):
    wanted, place, _ = done
    before = files(place / "runs")
    assert reproduce(wanted, place / "runs", place / "out", jobs=1) == []
    assert files(place / "runs") == before


def test_removed_rows_are_measured_again(done):
    wanted, place, _ = done
    path = next((place / "runs").glob("*/p0.4-s0-*/rows/noisy_subspaces.csv"))
    rows = pd.read_csv(path)
    path.unlink()
    reproduce(wanted, place / "runs", place / "out", jobs=1)
    again = pd.read_csv(path)
    took = rows["metric"] == "experiment_seconds"
    pd.testing.assert_frame_equal(again[~took], rows[~took])


def test_as_is_writes_existing_results_without_training(tmp_path, capsys, monkeypatch):
    root, out = tmp_path / "runs", tmp_path / "out"
    command = [
        "reproduce",
        "table2",
        "supplementary_table1",  # it needs no run
        "--pair",
        "mlp-digits",
        "--as-is",
        "--root",
        str(root),
        "--out",
        str(out),
    ]
    assert main(command) == 2
    assert "nothing to write" in capsys.readouterr().err
    assert not root.exists()
    assert not out.exists()
    monkeypatch.setitem(SCALES, "small", TINY)
    execute(TINY.spec("mlp-digits", 0.4, 0), root)
    assert main(command) == 0
    assert set(pd.read_csv(out / "tables" / "table2.csv")["corruption"]) == {0.4}
    assert len(list(root.glob("*/*"))) == 1
    assert main([*command, "--dry-run"]) == 2
    next(root.glob("*/*/history.csv")).write_text("epoch")
    capsys.readouterr()
    assert main(command) == 1
    assert "mlp-digits, p = 0.4, seed 0: " in (said := capsys.readouterr().err)
    assert said.count("files are damaged") == 1
    assert "All results are in" in said
    command.remove("supplementary_table1")
    assert main(command) == 1
    assert "All results are in" not in capsys.readouterr().err  # the page is of the call before


def test_as_is_reads_runs_in_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    root, out, written = tmp_path / "runs", tmp_path / "out", []
    monkeypatch.setattr("layerprobe.utils.files.require_folder", written.append)
    main(["reproduce", "table1", "--pair", "mlp-digits", "--as-is", "--root", str(root), "--out", str(out)])
    assert written == [out]


def test_table_shows_only_its_own_runs(done):
    _, place, _ = done
    table = pd.read_csv(place / "out" / "tables" / "table1.csv")
    assert sorted(table["corruption"].unique()) == [0.2, 0.4, 0.6, 0.8]  # not the clean runs of "latent"
    assert set(table["verdict"]) == {"not published"}


def test_missing_experiments_are_left_out_with_a_reason(done):
    _, place, _ = done
    results = Results.of_root(place / "runs")
    written = write_tables(results, ["cost", "table1"], place / "few")
    assert list(written.made) == ["table1"]
    assert "cost" in written.left_out["cost"]
    written = write_figures(results, ["probes"], place / "few")
    assert "probes" in written.left_out["probes"]
    with pytest.raises(InputError, match="table9"):
        write_tables(results, ["table9"], place / "few")
    with pytest.raises(InputError, match="no readable run in"):
        Results.of_root(place / "nothing")
    with pytest.raises(InputError, match="no readable run of mlp-mnist in"):
        Results.of_root(place / "runs", ["mlp-digits", "mlp-mnist"])


def test_rows_without_a_column_raise_and_are_not_left_out(done):
    _, place, _ = done
    results = Results.of_root(place / "runs")
    damaged = Results(results.rows.drop(columns="variant"), results.history)
    with pytest.raises(InputError, match=r"thresholds cannot be made: .*missing.*variant"):
        write_figures(damaged, ["thresholds"], place / "damaged")


def test_failed_run_is_reported_and_the_rest_is_written(tmp_path, monkeypatch):
    wanted = plan(["table1"], TINY, ["mlp-digits"])
    spoilt = next(iter(wanted.work))
    folder = reproduction.run_folder(tmp_path / "runs", spoilt)
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("no record")
    failed = reproduce(wanted, tmp_path / "runs", tmp_path / "out", jobs=1)
    assert [outcome.spec for outcome in failed] == [spoilt]
    table = pd.read_csv(tmp_path / "out" / "tables" / "table1.csv")
    assert spoilt.corruption not in set(table["corruption"])
    assert len(table) == 3  # one line for each of the other degrees


def test_finding_counts_cells():
    columns = ["corruption", "network", "masc", "masc_hidden"]
    cells = [(0.2, 0.5, 0.6, 0.5), (0.4, 0.5, 0.4, 0.4), (0.6, 0.5, 0.52, 0.52), (1.0, 0.1, 0.2, 0.2)]
    said = finding({"table1": pd.DataFrame(cells, columns=columns)})
    assert "by more than 2 points, in 1 of 3 cells" in said
    assert "in 0 of them on a hidden layer too" in said


def test_data_are_checked_before_the_first_run(tmp_path, capsys):
    wanted = plan(["table1"], SCALES["small"], ["mlp-mnist", "cnn-cifar10", "mlp-digits"])
    with pytest.raises(DataError, match=r"Nothing was started.*mnist.*cifar-10"):
        reproduce(wanted, tmp_path / "runs", tmp_path / "out", jobs=1, data_root=tmp_path)
    assert not (tmp_path / "runs").exists()
    train = ["paper", "train", "--pair", "mlp-digits", "mlp-mnist", "--jobs", "1", "--data", str(tmp_path)]
    assert main([*train, "--root", str(tmp_path / "runs")]) == 2
    assert "Nothing was started" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_network_of_each_options_is_tried_before_the_first_run():
    specs = [RunSpec.of("mlp-digits", 0.4, 0, options=options) for options in ({}, {"num_classes": 7})]
    check_data(specs[:1])
    with pytest.raises(DataError, match=r"Nothing was started.*10 classes.*shape \(2, 7\)"):
        check_data(specs)


def test_report_begins_with_table_1(done):
    _, place, _ = done
    page = (place / "out" / "report.html").read_text("utf-8")
    parts = (
        "<h2>Table 1: ",
        "<figcaption>Noisy subspaces",
        "<figcaption>Latent",
        "<figcaption>Test accuracy over",
    )
    heads = [page.index(start) for start in (*parts, "<h2>Table 3: ")]
    assert heads == sorted(heads)
    assert "run the scale medium or full" in page


def test_announcement_states_work_time_and_disk_space(done, tmp_path):
    wanted, place, _ = done
    said = announce(wanted, tmp_path, 2)
    assert "missing" in said
    assert "GB" in said
    assert "experiments to do" in said
    assert "need --scale medium or full" in said
    assert "nothing to train" in announce(wanted, place / "runs", 2)


def test_a_pair_without_settings_at_a_scale_is_not_called_a_part(tmp_path):
    whole = StudyScale("small", 1, {})
    said = announce(plan(["table1"], whole, ["mlp-digits"]), tmp_path, 1)
    assert said.startswith("Scale full. ")
    assert "need --scale" not in said
    write_all(plan(["supplementary_table1"], whole, ["mlp-digits"]), tmp_path / "runs", tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "memorization, full scale" in page
    assert json.loads((tmp_path / "out" / "provenance.json").read_text("utf-8"))["scale"] == "full"
    assert "fixed subsets" not in page


def test_published_weights_are_not_trained(tmp_path):
    wanted = plan(["table1"], released_scale("mlp-digits", [1]), ["mlp-digits"])
    assert "nothing to train" in announce(wanted, tmp_path, 1)


def test_dry_run_prints_the_plan_and_writes_nothing(capsys, tmp_path):
    root = tmp_path / "runs"
    command = ["reproduce", "table1", "figure27", "--pair", "mlp-digits", "--root", str(root), "--dry-run"]
    command.append("--json")
    assert main(command) == 0
    printed = capsys.readouterr()
    assert len(json.loads(printed.out)["runs"]) == 4 * SCALES["small"].seeds
    assert "Scale small" in printed.err
    assert "figure27 is left out: it shows other pairs" in printed.err
    assert not root.exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["reproduce", "tabel1"], "tabel1"), (["paper", "tables", "--root", "no"], "no readable run")],
)
def test_invalid_name_or_folder_is_reported(capsys, arguments, named):
    assert main(arguments) == 2
    assert named in capsys.readouterr().err


def test_tables_and_figures_commands(done, tmp_path, capsys):
    _, place, _ = done
    for kind, registry in (("tables", TABLES), ("figures", FIGURES)):
        out = tmp_path / kind
        assert main(["paper", kind, "--root", str(place / "runs"), "--out", str(out)]) == 0
        written = {path.stem for path in out.iterdir()}
        printed = capsys.readouterr()
        assert written
        for name in registry:
            assert name in written or f"{name} is left out" in printed.err


def test_figures_are_saved_in_the_given_formats(done, tmp_path):
    _, place, _ = done
    drawn = FIGURES["thresholds"].draw(Results.of_root(place / "runs").rows)
    assert [path.suffix for path in save(drawn, tmp_path / "f", formats=("pdf", "png"))] == [".pdf", ".png"]


def test_analyse_command_measures_an_experiment_on_finished_runs(done, tmp_path, capsys):
    _, place, _ = done
    for run in (place / "runs").glob("*/p0*-*"):
        shutil.copytree(run, tmp_path / "runs" / run.parent.name / run.name)
    command = ["paper", "analyse", "flipped_rows", "--root", str(tmp_path / "runs"), "--jobs", "1"]
    assert main(command) == 0
    measured = sorted(path.parts[-3][:4] for path in tmp_path.glob("runs/*/*/rows/flipped_rows.csv"))
    assert measured == ["p0.2", "p0.4", "p0.6", "p0.8"]  # without noise no label is flipped
    before = files(tmp_path)
    assert main(command) == 0
    assert files(tmp_path) == before
    assert capsys.readouterr().out.endswith("0 of 5 finished runs measured.\n")
    for run in tmp_path.glob("runs/*/p0-*"):
        shutil.copytree(run, tmp_path / "clean" / run.parent.name / run.name)
    assert main([*command[:3], "--root", str(tmp_path / "clean")]) == 0
    assert "flipped_rows applies to none of these runs" in capsys.readouterr().out
    assert main([*command[:2], "flips", *command[3:]]) == 2
    assert "flipped_rows" in capsys.readouterr().err
    for place, pairs, named in (("nothing", [], ""), ("runs", ["mlp-digits", "mlp-mnist"], " of mlp-mnist")):
        chosen = ["--pair", *pairs] if pairs else []
        assert main([*command[:3], *chosen, "--root", str(tmp_path / place)]) == 2
        assert f"no finished run{named} in" in capsys.readouterr().err
