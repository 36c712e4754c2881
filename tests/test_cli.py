from importlib.metadata import version

import pytest

from layerprobe import data, demo
from layerprobe.cli import main
from layerprobe.errors import DataError


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"layerprobe {version('layerprobe')}\n"


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_names_every_command(capsys, arguments):
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "demo" in printed
    assert "data" in printed


def test_the_demos_help_explains_every_option(capsys):
    assert main(["demo", "--help"]) == 0
    printed = capsys.readouterr().out
    for option in ("--corruption", "--seeds", "--variance", "--out", "--json"):
        assert option in printed
    assert "(default: 0.6)" in printed
    assert "report.html" in printed


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["dmo"], "dmo"),
        (["demo", "--corrupt", "1"], "--corruption"),
        (["demo", "--seeds", "many"], "many"),
        (["data", "fetch"], "NAME"),
    ],
)
def test_a_mistyped_command_is_named(capsys, arguments, named):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert named in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["data", "fetch", "nope"], "nope"),
        (["demo", "--corruption", "2"], "got 2.0"),
        (["demo", "--out", __file__], "is a file"),
    ],
)
def test_what_cannot_be_is_one_line_without_a_traceback(capsys, arguments, named):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("layerprobe: ")
    assert named in printed.err
    assert len(printed.err.splitlines()) == 1
    assert printed.out == ""


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DataError("gone"), 2, "gone"),
        (PermissionError("no"), 2, "no"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_exit_codes(capsys, monkeypatch, error, code, said):
    def fail(*_):
        raise error

    monkeypatch.setattr(demo, "run_demo", fail)
    assert main(["demo"]) == code
    assert capsys.readouterr().err == f"layerprobe: {said}\n"


def test_a_mistake_in_the_code_is_not_hidden(monkeypatch):
    monkeypatch.setattr(demo, "run_demo", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["demo"])


def test_fetch_asks_for_the_named_set_and_prints_its_folder(capsys, monkeypatch, tmp_path):
    asked = []

    def fetch(name, root, *, progress):
        asked.append((name, root, progress))
        return tmp_path / name

    monkeypatch.setattr(data, "fetch", fetch)
    assert main(["data", "fetch", "mnist", "--root", str(tmp_path)]) == 0
    assert asked == [("mnist", tmp_path, True)]
    assert capsys.readouterr().out == f"{tmp_path / 'mnist'}\n"
