"""The most suspicious rows as cards, with a filter by class that needs no script."""

import base64
from collections import Counter
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd

from layerprobe.auditing.findings import by_suspicion, score_text

CHARACTERS = 300  # of a text that a card shows
SIDE = 128  # pixels of a picture on the page: two of them fit side by side on a narrow screen


@dataclass(frozen=True)
class Picture:
    """A PNG image to embed, with its size in pixels on the page; an enlarged one keeps sharp pixels."""

    base64: str
    width: int
    height: int
    enlarged: bool

    @classmethod
    def of_pixels(cls, pixels: np.ndarray, side: int = SIDE) -> "Picture":
        """Encode pixels as a picture.

        Parameters
        ----------
        pixels : ndarray of shape (h, w) or (h, w, 3), uint8
        side : int
            Size in pixels up to which small images are enlarged; larger ones are shrunk to it.
        """
        from PIL import Image

        image = Image.fromarray(pixels)
        factor = side // max(image.size)
        if factor == 0:
            image.thumbnail((side, side))
        width, height = (max(factor, 1) * length for length in image.size)
        buffer = BytesIO()
        image.save(buffer, format="PNG")
        return cls(base64.b64encode(buffer.getvalue()).decode("ascii"), width, height, factor > 1)


def cards_and_filters(audit: Any, rows: pd.DataFrame) -> dict[str, Any]:
    """Return the "cards" of rows and, per side "given" or "suggested", the labels of its filter.

    The labels have their numbers of cards: the most frequent first, ties in the order of the cards. The
    classes of a card are positions in the filters.

    Parameters
    ----------
    audit : Audit
    rows : DataFrame
        The result of :func:`suspects`.
    """
    sides = ("given", "suggested")
    filters = {side: Counter(rows[f"{side}_label"].tolist()).most_common() for side in sides}
    numbers = {side: {label: i for i, (label, _) in enumerate(filters[side])} for side in sides}
    cards = []
    row: Any
    examples = audit.examples(rows["position"])
    for row, example in zip(rows.itertuples(index=False), examples, strict=True):
        text = example if isinstance(example, str) else None
        if text is not None and len(text) > CHARACTERS:
            text = f"{text[: CHARACTERS - 1]}\u2026"
        cards.append(
            {
                "name": row.index if isinstance(row.index, str) else f"row {row.index}",
                "given": row.given_label,
                "suggested": row.suggested_label,
                "given_class": numbers["given"][row.given_label],
                "suggested_class": numbers["suggested"][row.suggested_label],
                "score": score_text(row.label_score),
                "flagged": bool(row.is_label_issue),
                "text": text,
                "picture": Picture.of_pixels(example) if isinstance(example, np.ndarray) else None,
            }
        )
    return {"cards": cards, "filters": filters}


def suspects(issues: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return the most suspicious rows: flagged rows first, low scores first, ties in the order of the rows.

    They have one more column, `position`: the position among the rows of the audit.

    Parameters
    ----------
    issues : DataFrame
        The table `issues` of an audit.
    most : int
        Maximal number of rows. Rows whose given label equals the suggested label are left out.
    """
    placed = issues.assign(position=np.arange(len(issues))).iloc[by_suspicion(issues)]
    return placed[placed["given_label"] != placed["suggested_label"]][:most]
