import base64
import re
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from torch.utils.data import Dataset

from auditing.synthetic import make_audit
from layerprobe.auditing import audit_predictions
from layerprobe.auditing.report.gallery import cards_and_filters, suspects
from layerprobe.pages import render


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


def rendered(audit, rows):
    return render("gallery.html.j2", gallery=cards_and_filters(audit, rows))


def of_one(example, index="row-0"):
    audit = make_audit(n=1, example=lambda i: example)
    return rendered(audit, suspects(issues([0.1], [True]).assign(index=[index]), 1))


def pictures(html):
    return [Image.open(BytesIO(base64.b64decode(data))) for data in re.findall(r"base64,([^\"]+)", html)]


def test_suspects_are_flagged_rows_then_low_scores_then_early_rows():
    frame = issues([0.5, 0.1, 0.3, 0.3, 0.2], [True, False, True, True, False])
    assert suspects(frame, 60)["position"].tolist() == [2, 3, 0, 1, 4]
    assert suspects(frame, 2)["index"].tolist() == ["row-2", "row-3"]
    assert suspects(frame, 0).empty


def test_row_with_its_suggested_label_is_not_a_suspect():
    frame = issues([0.1, 0.2], [False, False], suggested=["a", "b"])
    assert suspects(frame, 60)["position"].tolist() == [1]


def test_positions_do_not_depend_on_the_index():
    frame = issues([0.2, 0.1], [True, True]).set_axis([7, 9])
    assert suspects(frame, 60)["position"].tolist() == [1, 0]


class CountedImages(Dataset):
    """Images that count how often one is read."""

    def __init__(self, n):
        self.images, self.reads = np.random.default_rng(0).random((n, 1, 4, 4), dtype=np.float32), 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        self.reads += 1
        return self.images[i], 0


def test_data_are_read_once_for_all_cards():
    rng = np.random.default_rng(1)
    y, images = rng.integers(3, size=300), CountedImages(300)
    audit = audit_predictions(rng.dirichlet(np.ones(3), 300), y, data=images)
    frame, before = suspects(audit.issues, 20), images.reads
    cards = cards_and_filters(audit, frame)["cards"]
    assert len(cards) == 20
    assert all(card["picture"] for card in cards)
    assert images.reads - before <= 2 * 300  # once for the rows, once for the range of their values


def test_card_shows_the_example_of_its_row():
    frame = issues([0.2, 0.1], [True, False])
    audit = make_audit(n=2, example=lambda i: np.full((2, 3), 10 + i, np.uint8))
    html = rendered(audit, suspects(frame, 60))
    assert [image.getpixel((0, 0)) for image in pictures(html)] == [10, 11]
    first, second = re.findall(r"<li.*?</li>", html, re.DOTALL)
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
def test_small_images_are_enlarged_by_an_integer_and_large_ones_shrunk(shape, kept, shown, sharp):
    html = of_one(np.zeros(shape, np.uint8))
    (image,) = pictures(html)
    assert image.size == kept
    assert image.mode == ("RGB" if len(shape) == 3 else "L")
    assert f'width="{shown[0]}" height="{shown[1]}"' in html
    assert ("class=small" in html) == sharp


def test_text_is_cut_at_300_characters_and_escaped():
    assert f">{'&lt;' * 300}</blockquote>" in of_one("<" * 300)
    assert f">{'&lt;' * 299}\u2026</blockquote>" in of_one("<" * 301)


def test_row_without_example_is_a_card_without_picture():
    html = of_one(None)
    assert "<img" not in html
    assert "row-0" in html


def test_card_is_named_by_its_index():
    assert 'alt="row 5"' in of_one(np.zeros((2, 2), np.uint8), index=5)
    assert 'alt="a &#34;b&#34;.png"' in of_one(np.zeros((2, 2), np.uint8), index='a "b".png')


def test_filters_number_classes_by_frequency():
    given, suggested = ["x{}", "y", "y"], ["z", "z", "z"]
    frame = suspects(issues([0.1, 0.2, 0.3], [True] * 3, given, suggested), 60)
    html = rendered(make_audit(n=3, example=lambda i: None), frame)
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
