"""The most suspicious rows as cards to look at, filtered by class without a script."""

import base64
from collections import Counter
from collections.abc import Hashable, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd

from layerprobe.auditing.issues import score_text
from layerprobe.errors import InputError
from layerprobe.pages import Html, text

__all__ = ["STYLE", "cards", "filter_rules", "suspects"]

LETTERS = 300  # of a text that is shown
SIDE = 128  # pixels of a picture on the page: two of them go side by side on a narrow screen
STYLE = """
.gallery { display: flex; flex-direction: column; gap: 1rem; }
.filter { border: 1px solid var(--line); border-radius: 8px; background: var(--card); min-width: 0;
  margin: 0; padding: .35rem .8rem .6rem; font-size: .9rem; }
.filter legend { color: var(--soft); padding: 0 .35rem; }
.filter div { display: flex; flex-wrap: wrap; gap: .15rem 1.1rem; max-height: 8rem; overflow-y: auto; }
.filter label { cursor: pointer; overflow-wrap: anywhere; padding: .1rem .2rem; border-radius: 4px; }
.filter label:has(:focus-visible) { outline: 2px solid var(--accent); }
.filter label:has(:checked) { font-weight: 650; }
.filter input { accent-color: var(--accent); margin: 0 .3rem 0 0; outline: none; }
.filter span, .card small { color: var(--soft); font-weight: 400; }
/* The count follows the cards in the source, as a counter must, and precedes them on the page. */
.gallery { counter-reset: shown; }
.card { counter-increment: shown; }
.count { order: 1; margin: 0; }
.count::before { content: counter(shown); font-weight: 650; }
.cards { order: 2; list-style: none; margin: 0; padding: 0; display: grid; gap: .75rem;
  grid-template-columns: repeat(auto-fill, minmax(9.1rem, 1fr)); }
.cards.texts { grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .45rem;
  display: flex; flex-direction: column; gap: .4rem; min-width: 0; overflow-wrap: anywhere;
  font-size: .9rem; line-height: 1.35; break-inside: avoid; }
.card .frame { height: 128px; display: flex; align-items: center; justify-content: center; }
.card img { max-width: 100%; max-height: 100%; object-fit: contain; }
.card img.small { image-rendering: pixelated; }
.card blockquote { margin: 0; padding: 0; white-space: pre-wrap; }
.card p { margin: auto 0 0; }
@media print { .filter { display: none; } .gallery { display: block; } }
"""


def suspects(issues: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return the most suspicious rows: flagged ones first, low scores first, ties in the order of the rows.

    Parameters
    ----------
    issues : DataFrame
        An audit's `issues`, one line a row.
    most : int
        How many to return. Rows whose given label is the suggested one are never among them.

    Returns
    -------
    DataFrame
        Lines of `issues` with one column more, `position`: which of the audit's rows it is.

    Raises
    ------
    InputError
        If `most` is negative.
    """
    if most < 0:
        raise InputError(f"most is how many rows the page shows: expected 0 or more, got {most}")
    placed = issues.assign(position=np.arange(len(issues)))
    placed = placed[placed["given_label"] != placed["suggested_label"]]
    ranks = ["is_label_issue", "label_score", "position"]
    return placed.sort_values(ranks, ascending=[False, True, True])[:most]


def cards(audit: Any, rows: pd.DataFrame) -> Html:
    """Return cards of rows with a filter by given and one by suggested class, and how many they leave.

    Parameters
    ----------
    audit : Audit
        Its `example` is called with the position of each row.
    rows : DataFrame
        What :func:`suspects` returns.
    """
    codes = {side: _by_frequency(rows[f"{side}_label"].tolist()) for side in ("given", "suggested")}
    examples = [audit.example(position) for position in rows["position"].tolist()]
    items = "".join(
        _card(row, example, f"g{codes['given'][row.given_label]} s{codes['suggested'][row.suggested_label]}")
        for row, example in zip(rows.itertuples(index=False), examples, strict=True)
    )
    filters = "".join(_filter(side, rows[f"{side}_label"].tolist(), codes[side]) for side in codes)
    kind = "cards texts" if any(isinstance(example, str) for example in examples) else "cards"
    count = f'<p class="count"> of {len(rows)} rows shown</p>'
    return Html(f'<div class="gallery">{filters}<ul class="{kind}">{items}</ul>{count}</div>')


def filter_rules(rows: pd.DataFrame) -> str:
    """Return the CSS rules by which a checked filter hides the cards of other classes."""
    return "".join(
        f".gallery:has(#{side}-{code}:checked) .card:not(.{side[0]}{code}) {{ display: none; }}\n"
        for side in ("given", "suggested")
        for code in range(rows[f"{side}_label"].nunique())
    )


def _by_frequency(labels: Sequence[Hashable]) -> dict[Hashable, int]:
    """Return a number for each label, the most frequent one first, ties in the order in which they come."""
    return {label: code for code, (label, _) in enumerate(Counter(labels).most_common())}


def _filter(side: str, labels: Sequence[Hashable], codes: dict[Hashable, int]) -> Html:
    """Return one choice for each class and one for all of them."""
    counts = Counter(labels)
    options = [(f"{side}-all", "all", len(labels), " checked")]
    options += [(f"{side}-{code}", text(label), counts[label], "") for label, code in codes.items()]
    # Without autocomplete="off", a reloaded page may keep a filter that it no longer shows.
    choices = "".join(
        f'<label><input type="radio" name="{side}" id="{name}" autocomplete="off"{checked}>'
        f"{words} <span>{count}</span></label>"
        for name, words, count, checked in options
    )
    return Html(
        f'<fieldset class="filter"><legend>{side.capitalize()} label</legend><div>{choices}</div></fieldset>'
    )


def _card(row: Any, example: np.ndarray | str | None, codes: str) -> Html:
    """Return the card of one row."""
    index = text(row.index if isinstance(row.index, str) else f"row {row.index}")
    flagged = "" if row.is_label_issue else ", not flagged"
    return Html(
        f'<li class="card {codes}">{_shown(example, index)}'
        f"<p>{text(row.given_label)} \u2192 <strong>{text(row.suggested_label)}</strong><br>"
        f"<small>score {text(score_text(row.label_score))}{flagged}<br>{index}</small></p></li>"
    )


def _shown(example: np.ndarray | str | None, index: Html) -> Html:
    """Return a row as a person sees it: a text, cut; a picture; nothing."""
    if example is None:
        return Html("")
    if isinstance(example, str):
        cut = example if len(example) <= LETTERS else f"{example[: LETTERS - 1]}\u2026"
        return Html(f'<blockquote dir="auto">{text(cut)}</blockquote>')
    return Html(f'<div class="frame">{_picture(example, index)}</div>')


def _picture(pixels: np.ndarray, index: Html) -> Html:
    """Return an embedded picture: a small one is enlarged by a whole factor, its pixels kept sharp."""
    from PIL import Image

    image = Image.fromarray(pixels)
    factor = SIDE // max(image.size)
    if factor == 0:
        image.thumbnail((SIDE, SIDE))
    width, height = (max(factor, 1) * length for length in image.size)
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Html(
        f'<img alt="{index}" width="{width}" height="{height}"{" class=small" if factor > 1 else ""} '
        f'src="data:image/png;base64,{data}">'
    )
