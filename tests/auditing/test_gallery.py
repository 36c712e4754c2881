import base64
import re
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from auditing.synthetic import make_audit
from layerprobe.auditing.report.gallery import cards, filter_rules, suspects
from layerprobe.errors import InputError


def issues(score, flagged, given=None, suggested=None):
    n = len(score)
    columns = {
        "index": [f"row-{i}" for i in range(n)],
        "given_label": given or ["a"] * n,
        "suggested_label": suggested or ["b"] * n,
        "label_score": score,
        "is_label_issue": flagged,
        "margin": 0.0,
    }
    return pd.DataFrame(columns)


def of_one(example, index="row-0"):
    audit = make_audit(n=1, example=lambda i: example)
    return cards(audit, suspects(issues([0.1], [True]).assign(index=[index]), 1))


def pictures(html):
    return [Image.open(BytesIO(base64.b64decode(data))) for data in re.findall(r"base64,([^\"]+)", html)]


def test_flagged_rows_come_first_then_low_scores_then_early_rows():
    frame = issues([0.5, 0.1, 0.3, 0.3, 0.2], [True, False, True, True, False])
    assert suspects(frame, 60)["position"].tolist() == [2, 3, 0, 1, 4]
    assert suspects(frame, 2)["index"].tolist() == ["row-2", "row-3"]
    assert suspects(frame, 0).empty


def test_a_row_whose_label_is_the_suggested_one_is_not_suspicious():
    frame = issues([0.1, 0.2], [False, False], suggested=["a", "b"])
    assert suspects(frame, 60)["position"].tolist() == [1]


def test_a_negative_number_of_rows_is_refused():
    with pytest.raises(InputError, match="expected 0 or more, got -1"):
        suspects(issues([0.1], [True]), -1)


def test_positions_are_those_of_the_rows_whatever_the_frame_is_indexed_by():
    frame = issues([0.2, 0.1], [True, True]).set_axis([7, 9])
    assert suspects(frame, 60)["position"].tolist() == [1, 0]


def test_a_card_shows_the_example_of_its_row():
    frame = issues([0.2, 0.1], [True, False])
    audit = make_audit(n=2, example=lambda i: np.full((2, 3), 10 + i, np.uint8))
    html = cards(audit, suspects(frame, 60))
    assert [image.getpixel((0, 0)) for image in pictures(html)] == [10, 11]
    first, second = re.findall(r"<li.*?</li>", html)
    assert "row-0" in first
    assert "score 0.200" in first
    assert "not flagged" not in first
    assert "score 0.100, not flagged" in second


@pytest.mark.parametrize(
    ("shape", "kept", "shown", "sharp"),
    [
        ((28, 28), (28, 28), (112, 112), True),
        ((32, 20, 3), (20, 32), (80, 128), True),
        ((128, 100), (100, 128), (100, 128), False),
        ((600, 300, 3), (64, 128), (64, 128), False),
    ],
)
def test_small_pictures_grow_by_a_whole_factor_and_large_ones_shrink(shape, kept, shown, sharp):
    html = of_one(np.zeros(shape, np.uint8))
    (image,) = pictures(html)
    assert image.size == kept
    assert image.mode == ("RGB" if len(shape) == 3 else "L")
    assert f'width="{shown[0]}" height="{shown[1]}"' in html
    assert ("class=small" in html) == sharp


def test_a_text_is_cut_at_300_letters_and_escaped():
    assert f">{'&lt;' * 300}</blockquote>" in of_one("<" * 300)
    assert f">{'&lt;' * 299}\u2026</blockquote>" in of_one("<" * 301)


def test_a_row_that_cannot_be_shown_is_a_card_without_a_picture():
    html = of_one(None)
    assert "<img" not in html
    assert "row-0" in html


def test_a_number_is_a_row_and_a_name_is_itself():
    assert 'alt="row 5"' in of_one(np.zeros((2, 2), np.uint8), index=5)
    assert 'alt="a &quot;b&quot;.png"' in of_one(np.zeros((2, 2), np.uint8), index='a "b".png')


def test_rules_name_classes_by_numbers_the_most_frequent_first():
    given, suggested = ["x{}", "y", "y"], ["z", "z", "z"]
    frame = suspects(issues([0.1, 0.2, 0.3], [True] * 3, given, suggested), 60)
    rules = filter_rules(frame)
    assert rules.count("display: none") == 3
    assert ".gallery:has(#given-0:checked) .card:not(.g0) { display: none; }" in rules
    assert "{}" not in rules
    html = cards(make_audit(n=3, example=lambda i: None), frame)
    assert re.findall(r'id="given-(\w+)"[^>]*>(\S+) <span>(\d)', html) == [
        ("all", "all", "3"),
        ("0", "y", "2"),
        ("1", "x{}", "1"),
    ]
    assert [kind.split()[1:] for kind in re.findall(r'class="(card .*?)"', html)] == [
        ["g1", "s0"],
        ["g0", "s0"],
        ["g0", "s0"],
    ]
