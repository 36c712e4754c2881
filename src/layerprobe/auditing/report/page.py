"""An audit as one HTML file: what it found, on what grounds, the rows to look at, what it cost."""

from collections import Counter
from collections.abc import Mapping
from itertools import repeat
from pathlib import Path
from typing import Any

import pandas as pd

from layerprobe.auditing.report import gallery
from layerprobe.auditing.report.charts import CRITERIA, MANY, layer_chart, noise_chart, percent
from layerprobe.figures import PROBE_TITLES
from layerprobe.pages import (
    Html,
    facts_part,
    figure_part,
    folded,
    paragraph,
    section,
    table_part,
    text,
    write_html,
)

__all__ = ["write_page"]

SIGNED = "{:+.1f}"
FEW = 10  # rows of a table before the rest is folded
PAIRS = 200  # of classes, at most, in the table of flagged labels
BEATEN = "A layer is worth using only if it beats each of these simpler answers by more than chance."
VERDICTS = {"repair": "Repair the labels.", "keep": "Keep your labels."}
CHOICES = {
    "noisy_holdout": "held-out rows that the network never saw, against labels as noisy as the others",
    "unseen_views": "views of the training rows that the network never saw, against their own noisy labels, "
    "what it still remembers of them taken out",
    "trusted": "the trusted rows, whose labels are taken as right",
    "test_split": "a part of the test data, whose labels are taken as right, as in the paper",
}
STYLE = """
.verdict { max-width: 46rem; margin: 1.25rem 0 0; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(9.1rem, 1fr)); gap: .75rem; margin-top: 1.5rem; }
.tiles div { border: 1px solid var(--line); border-radius: 8px; background: var(--card);
  padding: .6rem .9rem; }
.tiles dd { font-size: 1.25rem; font-weight: 650; margin: 0; }
.tiles small { display: block; color: var(--soft); font-size: .8rem; font-weight: 400; }
section > p { max-width: 46rem; margin: 0 0 1rem; }
section details { margin-top: 1rem; }
section summary { font-size: .95rem; }
"""


def write_page(audit: Any, path: str | Path, *, most: int = 60) -> None:
    """Write an audit as one HTML file that loads nothing and runs nothing.

    Parameters
    ----------
    audit : Audit
        What to show.
    path : path
        The file to write, all or nothing.
    most : int
        How many of the most suspicious rows to show; 0 leaves the data themselves out of the file.

    Raises
    ------
    InputError
        If `most` is negative.
    DataError
        If the folder does not exist.
    """
    rows = gallery.suspects(audit.issues, most)
    parts = [
        paragraph(audit.finding, "finding"),
        Html(f'<p class="verdict"><strong>{VERDICTS[audit.verdict]}</strong> {text(audit.why)}</p>'),
        _tiles(audit),
        figure_part(_layers_caption(audit), layer_chart(audit)),
        section("Controls", paragraph(BEATEN), *_few("The other controls", _controls(audit))),
        section("Which classes are mixed up", figure_part(_noise_caption(audit), noise_chart(audit))),
        section("The most frequent pairs of flagged labels", *_few("The other pairs", _pairs(audit))),
        _rows(audit, rows),
        section("Layers, probes and strengths", *_few("The other candidates", _layers(audit))),
        folded("Classes", table_part(_classes(audit))),
        section("What was done, and what it cost", paragraph(_how(audit)), table_part(_cost(audit))),
        section("Settings", facts_part({"policy": audit.policy, **audit.settings})),
    ]
    style = STYLE + gallery.STYLE + gallery.filter_rules(rows)
    write_html(path, "Label audit", parts, style=style)


def _tiles(audit: Any) -> Html:
    """Return the numbers to begin with."""
    flagged = int(audit.issues["is_label_issue"].sum())
    noise = audit.noise
    tiles: Mapping[str, tuple[str, str]] = {
        "rows": (f"{audit.n:,}", f"{len(audit.classes):,} classes"),
        "estimated wrong labels": (percent(noise.rate), _interval(noise.low, noise.high)),
        "flagged labels": (f"{flagged:,}", f"{percent(flagged / audit.n)} of the rows"),
        "flags that are right": (percent(audit.expected_precision), "expected"),
    }
    shown = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}<small>{text(more)}</small></dd></div>"
        for name, (value, more) in tiles.items()
    )
    return Html(f'<dl class="tiles">{shown}</dl>')


def _layers_caption(audit: Any) -> str:
    has_head = "head" in audit.controls["control"].tolist()
    head = " A layer left of the dashed line knows less than the head." if has_head else ""
    left_out = " Only the best layers are drawn." if audit.layers["layer"].nunique() > MANY else ""
    return (
        f"Accuracy on {CRITERIA[audit.policy]}: the best candidate of each layer, and below the layers "
        f"the controls. Bars are 95 % intervals.{head}{left_out}"
    )


def _noise_caption(audit: Any) -> str:
    return (
        "Estimated noise: of the rows of each true class (down), how many in a hundred were given each label "
        "(across). Without noise only the diagonal would be dark."
    )


def _rows(audit: Any, rows: pd.DataFrame) -> Html:
    """Return the gallery with its explanation."""
    heading = "The most suspicious rows"
    if rows.empty:
        return section(heading, paragraph("None are shown."))
    explained = (
        "Given label \u2192 suggested label. A low score means that the given label is unlikely. Flagged "
        "rows come first, then the lowest scores. The two filters hold together."
    )
    return section(heading, paragraph(explained), gallery.cards(audit, rows))


def _few(rest: str, frame: pd.DataFrame) -> list[Html]:
    """Return a table, of a long one the first rows and the others folded."""
    if frame.empty:
        return [paragraph("None.")]
    first, others = frame[:FEW], frame[FEW:]
    fold = [] if others.empty else [folded(f"{rest} ({len(others):,})", table_part(others))]
    return [table_part(first), *fold]


def _layers(audit: Any) -> pd.DataFrame:
    """Return the candidates, the decoder's members first, then the best."""
    frame = audit.layers.sort_values(["chosen", "criterion"], ascending=False, kind="stable")
    return pd.DataFrame(
        {
            "layer": frame["layer"],
            "probe": frame["probe"].map(lambda name: PROBE_TITLES.get(name, name)),
            "strength": ["\u2013" if pd.isna(value) else f"{value:g}" for value in frame["strength"]],
            "accuracy, %": (100 * frame["criterion"]).round(1),
            "95 % interval": list(map(_interval, frame["low"], frame["high"])),
            "gain, points": (100 * frame["gain"]).map(SIGNED.format).where(frame["gain"].notna(), "\u2013"),
            "its 95 % interval": list(map(_interval, frame["gain_low"], frame["gain_high"], repeat(SIGNED))),
            "chosen": frame["chosen"].map({True: "yes", False: "no"}),
            "why": frame["why"],
        }
    )


def _controls(audit: Any) -> pd.DataFrame:
    """Return the controls; nothing can beat itself, so the decoder has a dash."""
    frame = audit.controls
    beaten = frame["beaten"].map({True: "yes", False: "no"}).fillna("\u2013")
    return pd.DataFrame(
        {
            "control": frame["control"],
            "accuracy, %": (100 * frame["criterion"]).round(1),
            "95 % interval": list(map(_interval, frame["low"], frame["high"])),
            "beaten by the decoder": beaten.mask(frame["control"] == "decoder", "\u2013"),
        }
    )


def _pairs(audit: Any) -> pd.DataFrame:
    """Return how many labels of each pair of classes are flagged, the 200 most frequent pairs in order."""
    flagged = audit.issues[audit.issues["is_label_issue"].astype(bool)]
    pairs = Counter(zip(flagged["given_label"], flagged["suggested_label"], strict=True)).most_common(PAIRS)
    given = Counter(audit.issues["given_label"])
    return pd.DataFrame(
        [(ours, theirs, count, round(100 * count / given[ours], 1)) for (ours, theirs), count in pairs],
        columns=["given label", "suggested label", "flagged", "of the rows so labelled, %"],
    )


def _classes(audit: Any) -> pd.DataFrame:
    """Return the classes, numbered as in the chart of the noise."""
    names = audit.classes.tolist()
    labels = audit.issues["given_label"]
    given, flagged = Counter(labels), Counter(labels[audit.issues["is_label_issue"].astype(bool)])
    return pd.DataFrame(
        {
            "no.": range(1, len(names) + 1),
            "class": names,
            "rows so labelled": [given[name] for name in names],
            "share, %": [round(100 * given[name] / audit.n, 1) for name in names],
            "share of the true class, estimated, %": [round(100 * share, 1) for share in audit.noise.prior],
            "flagged": [flagged[name] for name in names],
        }
    )


def _how(audit: Any) -> str:
    return (
        f"Layers, probes and strengths were chosen by their accuracy on {CHOICES[audit.policy]}. The score "
        "of a row comes from fits that never saw this row's own label, and the flags from the estimated "
        "noise of each pair of classes."
    )


def _cost(audit: Any) -> pd.DataFrame:
    steps = {**audit.cost, "all": sum(audit.cost.values())}
    return pd.DataFrame(
        {"step": list(steps), "seconds": [round(float(value), 1) for value in steps.values()]}
    )


def _interval(low: float, high: float, form: str = "{:.1f}") -> str:
    return "\u2013" if pd.isna(low) else f"{form} to {form}".format(100 * low, 100 * high)
