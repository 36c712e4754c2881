"""Text for the terminal, JSON and messages of the command line."""

import json

import numpy as np
import pytest

from layerprobe.cli.output import as_json, shell_spelling
from layerprobe.utils.terminal import print_table, printable


def test_printable_escapes_control_characters_and_keeps_other_text():
    assert printable("\x1b[31m\tred\x9b\x7f\r") == "\\x1b[31m\\tred\\x9b\\x7f\\r"
    assert printable("a\u202eb\udce9") == "a\\u202eb\\udce9"
    for text in ("two\nlines", "Zürich, 猫, a\u200cb", "[red]", "C:\\x"):
        assert printable(text) == text


def test_a_column_that_is_cut_leaves_the_others_their_space(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    print_table(("index", "given", "text"), [("train/1.png", "travel", "word " * 20)], no_wrap="text")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert all(text in lines[3] for text in ("train/1.png", "travel", "word wo…"))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("pass holdout=", "pass --holdout"),
        (
            "choose fewer layers by layers=, pool them by pool=, or",
            "choose fewer layers by --layers, pool them by --pool, or",
        ),
        ("labels of test=: 3", "labels of --test: 3"),
        ("as in views=('flip', 'left')", "as in --views flip left"),
        ("use policy='trusted'.", "use --policy trusted."),
        ("give class_names=['Ankle boot', 'Bag'];", "give --class-names 'Ankle boot' Bag;"),
        ("list_layers(model, batch) shows all 8", "--layers '*' --dry-run shows all 8"),
        ("class_names has 3 names", "--class-names has 3 names"),
        ("batch_size= must be", "--batch-size must be"),
        ("give class_names=['a b', \"it's\", 'c']; then", "give --class-names 'a b' 'it'\"'\"'s' c; then"),
        ("give resize=(height, width).", "give --resize height width."),
        ("seed=3.", "--seed 3."),
        ("remove it by strip_prefix='model.'", "remove it by --strip-prefix model."),
        (
            "give inputs=, a function, for example inputs=lambda x: f(x, y=1)",
            "give --inputs, a function, as --inputs PKG.MOD:NAME",
        ),
        (
            "the data have no labels: give them as labels=, or as (x, y)",
            "the data have no labels: name their column by --label-column, or give x and y",
        ),
        ("learning_rate must be above 0", "--learning-rate must be above 0"),
        ("subset must be a whole number", "subset must be a whole number"),
        ("data/class_names.csv is empty", "data/class_names.csv is empty"),
        ("the test data and the policy", "the test data and the policy"),
    ],
)
def test_messages_name_shell_options(message, expected):
    assert shell_spelling(message) == expected


def test_json_of_numpy_values():
    document = {
        "a": np.float32(0.5),
        "b": np.array([1, 2]),
        3: float("nan"),
        "c": (np.inf, None, True),
        "d": ...,
    }
    assert json.loads(as_json(document)) == {
        "a": 0.5,
        "b": [1, 2],
        "3": None,
        "c": [None, None, True],
        "d": "Ellipsis",
    }
