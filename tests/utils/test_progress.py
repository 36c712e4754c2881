"""Progress of audit() and probe(): a callback, a terminal, a notebook, a file."""

import sys
import types

import pytest
import torch

import layerprobe
from layerprobe.errors import InputError
from layerprobe.utils import progress
from layerprobe.utils.progress import report_count, report_step, shows_progress

NET = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
X = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


@shows_progress
def work():
    report_step("first")
    for done in range(4):
        report_count("second", done, 4)
    report_count("third", 0, None)
    return "result"


def test_callback_gets_an_estimate_of_the_remaining_time(monkeypatch):
    seconds = iter(range(0, 1000, 10))
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(seconds))
    texts = []

    @shows_progress
    def count():
        for done in range(4):
            report_count("rows", done, 4)

    count(progress=texts.append)  # starts at 0 s; the counts are at 10, 20, 30 and 40 s
    assert texts == [
        "rows",
        "rows: 1 of 4, about 60 s left",
        "rows: 2 of 4, about 30 s left",
        "rows: 3 of 4, about 13 s left",
    ]


def test_probe_and_audit_report_their_steps_to_a_callback():
    texts = []
    layerprobe.probe(NET, (X, Y), probes="ncm", progress=texts.append)
    assert texts == ["layer outputs", "layers"]
    texts.clear()
    held = (X[40:], Y[40:])
    layerprobe.audit(
        NET,
        X[:30],
        Y[:30],
        policy="noisy_holdout",
        holdout=held,
        probes=["ncm", "ridge"],
        progress=texts.append,
    )
    assert texts[0] == "reading"
    assert {"layer outputs", "candidates", "decoder", "noise"} <= set(texts)


def test_nothing_is_printed_to_a_file_or_when_switched_off(capsys):
    for value in (True, False, None):
        assert work(progress=value) == "result"
    assert work() == "result"
    assert capsys.readouterr() == ("", "")


def test_terminal_shows_a_line(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert work() == "result"
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "third" in printed.err


def test_notebook_shows_a_bar_and_removes_it(monkeypatch):
    drawn = []
    handle = types.SimpleNamespace(update=drawn.append)
    display = types.SimpleNamespace(HTML=str, display=lambda html, display_id: handle)
    kernel = type("ZMQInteractiveShell", (), {})()
    package = types.SimpleNamespace(get_ipython=lambda: kernel, display=display)
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    work()
    assert drawn[0] == "<progress></progress> first"
    assert drawn[-1] == ""


def test_failing_work_ends_the_display():
    @shows_progress
    def fail():
        report_step("first")
        raise KeyError("x")

    texts = []
    with pytest.raises(KeyError):
        fail(progress=texts.append)
    report_step("outside")
    assert texts == ["first"]


@pytest.mark.parametrize("function", [layerprobe.probe, layerprobe.audit, layerprobe.audit_features])
def test_progress_of_a_wrong_type_is_refused(function):
    with pytest.raises(InputError, match="expected progress= as True, False or a function, got str"):
        function(NET, X, Y, progress="yes")
