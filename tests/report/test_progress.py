import time

import pytest

from layerprobe.report.progress import TimeLeft, describe, done_share, in_words, show_progress
from layerprobe.runs.progress import Progress, follow_progress


def test_share_of_a_run_never_decreases():
    states = [Progress("waiting"), *(Progress("training", 1, a / 10) for a in range(11))]
    states += [Progress("probing", 9, 1.0), Progress("done", 9, 1.0)]
    shares = [done_share(progress) for progress in states]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == 1


def test_progress_in_words():
    assert describe(Progress("waiting")) == "waiting"
    assert describe(Progress("training", 12, 0.5)) == "training, epoch 12, 50.0 % of its labels learnt"
    assert describe(Progress("failed", 3, 0.25)) == "failed, epoch 3, 25.0 % of its labels learnt"
    assert describe(Progress("analysing", 3, 0.25)) == "experiment 3"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (99, "99 s"),
        (100, "2 min"),
        (5940, "99 min"),
        (6000, "1 h 40 min"),
        (200_000, "2 d 8 h"),
    ],
)
def test_durations_in_words(seconds, words):
    assert in_words(seconds) == words


def test_time_left_follows_from_the_pace_since_the_first_estimate():
    left = TimeLeft()
    assert left.in_words(0, now=100) == ""
    assert left.in_words(0.5, now=110) == ""  # resumed half way: no pace yet
    assert left.in_words(0.6, now=120) == "about 40 s left"
    assert left.in_words(1, now=160) == ""


def test_without_a_terminal_each_run_gets_one_line_when_it_ends(capsys):
    with show_progress(["first", "second"]) as report:
        report(0, Progress("training", 1, 0.5))
        report(1, Progress("done", 9, 1.0))
    printed = capsys.readouterr()
    assert printed.err == "second: done, epoch 9, 100.0 % of its labels learnt\n"
    assert printed.out == ""


def test_without_a_terminal_a_long_run_gets_lines_at_intervals(capsys, monkeypatch):
    monkeypatch.setattr("layerprobe.report.progress.INTERVAL", 0)
    with show_progress(["first", "second"], last_epochs=[4, 4], training_share=1) as report:
        report(0, Progress("training", 1, 0.1))
        time.sleep(0.01)
        report(0, Progress("training", 3, 0.1))
        report(1, Progress("failed", 2, 0.3))
    first, second, failed = capsys.readouterr().err.splitlines()
    assert first == "first: training, epoch 1, 10.0 % of its labels learnt"
    assert second.startswith("first: training, epoch 3, 10.0 % of its labels learnt, about ")
    assert failed == "second: failed, epoch 2, 30.0 % of its labels learnt"


def test_on_a_terminal_there_are_bars(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes stderr for a terminal
    with show_progress(["first", "second"]) as report:
        report(0, Progress("training", 4, 0.5))
    printed = capsys.readouterr().err
    assert "training, epoch 4" in printed
    assert "waiting" in printed


def test_followed_progress_reports_changes_and_nothing_after_an_end():
    read, reports = {0: Progress("training", 1, 0.5), 1: Progress("training", 7, 0.9)}, []
    with follow_progress(read.get, [0, 1], lambda *progress: reports.append(progress)) as update:
        update(0, Progress("done", 2, 0.6))
        update(0, Progress("done", 2, 0.6))
    assert reports == [(0, Progress("done", 2, 0.6)), (1, Progress("training", 7, 0.9))]
    with follow_progress(read.get, [0, 1], None) as update:
        update(0, Progress("done"))
