"""An audit as one HTML file: the finding, its evidence, the most suspicious rows and the cost."""

from collections import Counter
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from layerprobe.auditing.method.policies import POLICIES
from layerprobe.auditing.report.charts import MANY, layer_chart, noise_chart, percent
from layerprobe.auditing.report.gallery import cards_and_filters, suspects
from layerprobe.figures import PROBE_TITLES
from layerprobe.pages import write_html

REVIEW_PAGE = "review.html"  # in the folder of the report, which links to it
CARDS = 60  # most suspicious rows that are shown
SIGNED = "{:+.1f}"
PAIRS = 200  # largest number of pairs of classes in the table of flagged labels
DASH = "\u2013"
ADVICE = {
    "review": "Review 100 rows before you change labels.",
    "relabel": "Relabel.",
    "keep": "Keep your labels.",
}


def write_page(audit: Any, path: str | Path) -> None:
    """Write an audit as one self-contained HTML file.

    Parameters
    ----------
    audit : Audit
    path : path
        The file to write, all or nothing.
    """
    write_html(
        path,
        "audit.html.j2",
        title="Label audit",
        audit=audit,
        advice=ADVICE[audit.advice],
        review_page=REVIEW_PAGE,
        evidence=_evidence(audit),
        tiles=_tiles(audit),
        measured_on=POLICIES[audit.policy].rows,
        has_head="head" in audit.controls["control"].tolist(),
        layers_left_out=audit.layers["layer"].nunique() > MANY,
        layer_chart=layer_chart(audit),
        noise_chart=noise_chart(audit),
        reviewed=audit.review is not None and audit.review.reviewed,
        baselines=_baselines(audit),
        pairs=_pairs(audit),
        conflicts=_conflicts(audit),
        gallery=cards_and_filters(audit, suspects(audit.issues, CARDS)),
        candidates=_candidates(audit),
        classes=_classes(audit),
        cost=_cost(audit),
        settings={"policy": audit.policy, **audit.settings},
    )


def _tiles(audit: Any) -> dict[str, tuple[str, str]]:
    """Return the main numbers: name, value and note."""
    flagged = int(audit.issues["is_label_issue"].sum())
    evidence = audit.evidence.set_index("quantity")
    name, before = "wrong labels", ""
    if "wrong labels that are left" in evidence.index:  # the labels that the other tiles are about
        name = "wrong labels that are left"
        if pd.notna(known := audit.review.noise.value):
            before = f"; {percent(known)} before the review"
    rate, low, high, kind = evidence.loc[name, ["value", "low", "high", "kind"]]
    flags = evidence.loc["flagged labels that are wrong"]
    precision, least, most, precision_kind = flags[["value", "low", "high", "kind"]]
    note = precision_kind if pd.isna(least) else f"{precision_kind}, {_interval(least, most)}"
    return {
        "rows": (f"{audit.n:,}", f"{len(audit.classes):,} classes"),
        f"{name}, {kind}": (percent(rate), _interval(low, high) + before),
        "flagged labels": (f"{flagged:,}", f"{percent(flagged / audit.n)} of the rows"),
        "flags that are right": (percent(precision), note),
    }


def _evidence(audit: Any) -> pd.DataFrame:
    frame = audit.evidence
    percents = (100 * frame["value"]).map("{:.1f}".format).where(frame["value"].notna(), DASH)
    intervals = list(map(_interval, frame["low"], frame["high"]))
    columns = {"number": frame["quantity"], "value, %": percents, "95 % interval": intervals}
    return pd.DataFrame({**columns, "kind": frame["kind"], "basis": frame["basis"]})


def _candidates(audit: Any) -> pd.DataFrame:
    """Return the candidates: the members of the decoder first, then by accuracy."""
    frame = audit.layers.sort_values(["chosen", "criterion"], ascending=False, kind="stable")
    return pd.DataFrame(
        {
            "layer": frame["layer"],
            "probe": frame["probe"].map(lambda name: PROBE_TITLES.get(name, name)),
            "hyperparameter": [DASH if pd.isna(value) else f"{value:g}" for value in frame["strength"]],
            "accuracy, %": (100 * frame["criterion"]).round(1),
            "95 % interval": list(map(_interval, frame["low"], frame["high"])),
            "gain, points": (100 * frame["gain"]).map(SIGNED.format).where(frame["gain"].notna(), DASH),
            "95 % interval of the gain": list(
                map(_interval, frame["gain_low"], frame["gain_high"], repeat(SIGNED))
            ),
            "chosen": frame["chosen"].map({True: "yes", False: "no"}),
            "reason": frame["why"],
        }
    )


def _baselines(audit: Any) -> pd.DataFrame:
    """Return the baselines and, last, the decoder, which cannot beat itself."""
    frame = audit.controls
    beaten = frame["beaten"].map({True: "yes", False: "no"}).fillna(DASH)
    return pd.DataFrame(
        {
            "baseline": frame["control"],
            "accuracy, %": (100 * frame["criterion"]).round(1),
            "95 % interval": list(map(_interval, frame["low"], frame["high"])),
            "beaten by the decoder": beaten.mask(frame["control"] == "decoder", DASH),
        }
    )


def _pairs(audit: Any) -> pd.DataFrame:
    """Return the number of flagged labels per pair of classes, the most frequent pairs first."""
    flagged = audit.issues[audit.issues["is_label_issue"].astype(bool)]
    pairs = Counter(zip(flagged["given_label"], flagged["suggested_label"], strict=True)).most_common(PAIRS)
    given = Counter(audit.issues["given_label"])
    return pd.DataFrame(
        [(one, other, count, round(100 * count / given[one], 1)) for (one, other), count in pairs],
        columns=["given label", "suggested label", "flagged", "share of the given label, %"],
    )


def _conflicts(audit: Any) -> pd.DataFrame:
    """Return the rows that have a duplicate with another label, each pair once."""
    frame = audit.conflicts
    seen = set(zip(frame["other_index"], frame["index"], strict=True))
    pairs = zip(frame["index"], frame["other_index"], strict=True)
    once = [pair not in seen or str(pair[0]) <= str(pair[1]) for pair in pairs]
    frame = frame[np.array(once, bool)][:PAIRS]
    return pd.DataFrame(
        {
            "row": frame["index"].astype(str),
            "given label": frame["given_label"],
            "other row": frame["other_index"].astype(str),
            "its label": frame["other_label"],
            "similarity, %": (100 * frame["similarity"]).round(1),
            "group": frame["group"],
        }
    )


def _classes(audit: Any) -> pd.DataFrame:
    """Return the classes, numbered as in the chart of the noise."""
    names, labels = audit.classes.tolist(), audit.issues["given_label"]
    given, flagged = Counter(labels), Counter(labels[audit.issues["is_label_issue"].astype(bool)])
    return pd.DataFrame(
        {
            "no.": range(1, len(names) + 1),
            "class": names,
            "rows with this label": [given[name] for name in names],
            "share of the rows, %": [round(100 * given[name] / audit.n, 1) for name in names],
            "estimated share of the true class, %": [round(100 * share, 1) for share in audit.noise.prior],
            "flagged": [flagged[name] for name in names],
        }
    )


def _cost(audit: Any) -> pd.DataFrame:
    steps = {**audit.cost, "all": sum(audit.cost.values())}
    return pd.DataFrame(
        [(step, round(float(s), 1)) for step, s in steps.items()], columns=["step", "seconds"]
    )


def _interval(low: float, high: float, form: str = "{:.1f}") -> str:
    return DASH if pd.isna(low) else f"{form} to {form}".format(100 * low, 100 * high)
