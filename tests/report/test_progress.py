import pytest

from layerprobe.report.progress import Board, Stage, describe, done_share, show_progress


@pytest.fixture
def board(tmp_path):
    return Board.create(tmp_path / "board", runs=2)


def test_a_board_holds_what_each_run_last_wrote(board):
    assert board.read() == [(Stage.WAITING, 0, 0.0)] * 2
    board.write(1, Stage.TRAINING, 3, 0.25)
    board.write(1, Stage.PROBING, 7, 0.999)
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


def test_without_a_terminal_each_run_gets_one_line_when_it_ends(board, capsys):
    with show_progress(board, ["first", "second"]):
        board.write(0, Stage.TRAINING, 1, 0.5)
        board.write(1, Stage.DONE, 9, 1.0)
    printed = capsys.readouterr()
    assert printed.err == "second: done, epoch 9, 100.0 % of its labels learnt\n"
    assert printed.out == ""


def test_on_a_terminal_there_are_bars(board, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes stderr for a terminal
    with show_progress(board, ["first", "second"]):
        board.write(0, Stage.TRAINING, 4, 0.5)
    printed = capsys.readouterr().err
    assert "training, epoch 4" in printed
    assert "waiting" in printed
