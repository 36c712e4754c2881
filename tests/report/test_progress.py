import time

import pytest

from layerprobe.report.progress import Board, Clock, Stage, describe, done_share, in_words, show_progress


@pytest.fixture
def board(tmp_path):
    return Board.create(tmp_path / "board", runs=2)


def test_a_board_holds_what_each_run_last_wrote(board):
    assert board.read() == [(Stage.WAITING, 0, 0.0)] * 2
    board.write(1, Stage.TRAINING, 3, 0.25)
    board.write(1, "probing", 7, 0.999)
    assert board.read() == [(Stage.WAITING, 0, 0.0), (Stage.PROBING, 7, 0.999)]


def test_a_run_only_ever_moves_forward():
    states = [(Stage.WAITING, 0.0), *((Stage.TRAINING, a / 10) for a in range(11)), (Stage.PROBING, 1.0)]
    shares = [done_share(stage, accuracy) for stage, accuracy in [*states, (Stage.DONE, 1.0)]]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == 1


def test_states_in_words():
    assert describe(Stage.WAITING, 0, 0.0) == "waiting"
    assert describe(Stage.TRAINING, 12, 0.5) == "training, epoch 12, 50.0 % of its labels learnt"
    assert describe(Stage.FAILED, 3, 0.25) == "failed, epoch 3, 25.0 % of its labels learnt"


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


def test_time_left_is_judged_by_the_pace_since_a_run_was_taken_up():
    clock = Clock()
    assert clock.left(0, now=100) == ""
    assert clock.left(0.5, now=110) == ""  # resumed half way: nothing to judge by yet
    assert clock.left(0.6, now=120) == "about 40 s left"
    assert clock.left(1, now=160) == ""


def test_without_a_terminal_each_run_gets_one_line_when_it_ends(board, capsys):
    with show_progress(board, ["first", "second"]):
        board.write(0, Stage.TRAINING, 1, 0.5)
        board.write(1, Stage.DONE, 9, 1.0)
    printed = capsys.readouterr()
    assert printed.err == "second: done, epoch 9, 100.0 % of its labels learnt\n"
    assert printed.out == ""


def test_without_a_terminal_a_long_run_gets_a_line_now_and_then(board, capsys):
    with show_progress(board, ["first", "second"], last_epochs=[4, 4], training_share=1, every=0):
        board.write(0, "training", 1, 0.1)
        time.sleep(0.5)
        board.write(0, "training", 3, 0.1)
        time.sleep(0.5)
        board.write(1, "failed", 2, 0.3)
    first, second, failed = capsys.readouterr().err.splitlines()
    assert first == "first: training, epoch 1, 10.0 % of its labels learnt"
    assert second.startswith("first: training, epoch 3, 10.0 % of its labels learnt, about ")
    assert failed == "second: failed, epoch 2, 30.0 % of its labels learnt"


def test_on_a_terminal_there_are_bars(board, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes stderr for a terminal
    with show_progress(board, ["first", "second"]):
        board.write(0, Stage.TRAINING, 4, 0.5)
    printed = capsys.readouterr().err
    assert "training, epoch 4" in printed
    assert "waiting" in printed
