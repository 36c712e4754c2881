"""An audit, and the plan of one, in words, tables and JSON."""

import json as jsonlib
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from layerprobe.auditing.plan import Plan
    from layerprobe.auditing.result import Audit

__all__ = ["as_json", "noise_of", "show_audit", "show_plan", "summary"]

_SHOWN = 10


def noise_of(audit: "Audit") -> dict[str, Any]:
    """Return the estimated noise."""
    noise = audit.noise
    return {
        "rate": noise.rate,
        "low": noise.low,
        "high": noise.high,
        "classes": audit.classes,
        "matrix": noise.matrix,
        "prior": noise.prior,
    }


def summary(audit: "Audit") -> dict[str, Any]:
    """Return what an audit found, in short."""
    return {
        "finding": audit.finding,
        "verdict": audit.verdict,
        "why": audit.why,
        "policy": audit.policy,
        "rows": audit.n,
        "chosen": audit.layers[audit.layers["chosen"]].to_dict("records"),
        "controls": audit.controls.to_dict("records"),
        "noise": noise_of(audit),
        "issues": {
            "flagged": int(audit.issues["is_label_issue"].sum()),
            "expected_precision": audit.expected_precision,
            "most_suspicious": audit.issues.iloc[_most_suspicious(audit)].to_dict("records"),
        },
        "seconds": audit.cost,
        "settings": audit.settings,
    }


def _most_suspicious(audit: "Audit") -> "np.ndarray":
    """Return the positions of the flagged rows with the lowest scores, the lowest first."""
    import numpy as np

    flagged = np.flatnonzero(audit.issues["is_label_issue"])
    scores = audit.issues["label_score"].to_numpy()[flagged]
    return flagged[np.argsort(scores, kind="stable")][:_SHOWN]


def as_json(value: Any) -> str:
    """Write NumPy's values as JSON, and what is no finite number as null."""
    return jsonlib.dumps(_plain(value), indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """Turn NumPy's values into Python's, and what is no number into null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # arrays, tensors and scalars
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def show_audit(audit: "Audit", out: Path) -> None:
    """Print the finding, the verdict, and the rows whose labels are the most suspicious."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from layerprobe.auditing.issues import score_text

    print(f"{audit.finding}\nVerdict: {audit.verdict}. {audit.why}")
    flagged = int(audit.issues["is_label_issue"].sum())
    if flagged:
        table = Table(title=f"The most suspicious of {flagged:,} flagged labels", title_justify="left")
        for name in ("index", "given", "suggested"):
            table.add_column(name)
        table.add_column("score", justify="right")
        positions = _most_suspicious(audit)
        examples = [audit.example(int(i)) for i in positions]
        texts = [" ".join(text.split()) if isinstance(text, str) else "" for text in examples]
        if any(texts):
            table.add_column("text", no_wrap=True, overflow="ellipsis")
        for i, text in zip(positions, texts, strict=True):
            row = audit.issues.iloc[i]
            cells = [row["index"], row["given_label"], row["suggested_label"], score_text(row["label_score"])]
            # As Text, what is in brackets is no markup.
            table.add_row(*(Text(str(cell)) for cell in ([*cells, text] if any(texts) else cells)))
        Console().print(table)
        print(f"About {100 * audit.expected_precision:.0f} % of the flagged labels should be wrong.")
    print(f"Everything is in {out}; begin with {out / 'report.html'}.")


def show_plan(plan: "Plan", *, json: bool) -> None:
    """Print what an audit would do."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if json:
        print(as_json({**asdict(plan), "tried": plan.tried}), end="")
        return
    table = Table(title="Layers", title_justify="left")
    table.add_column("layer")
    table.add_column("features", justify="right")
    for layer, dimension in plan.layers.items():
        table.add_row(Text(layer), f"{dimension:,}")
    Console().print(table)
    probes = (
        f"{name} at {len(strengths)} strengths" if strengths else name
        for name, strengths in plan.candidates.items()
    )
    judges = f"{plan.held_out:,} rows that judge" if plan.held_out else "views of them as judges"
    print(f"{plan.rows:,} training rows of {len(plan.classes)} classes, {judges}.")
    print(f"{plan.tried} candidates: {', '.join(probes)}, on each layer.")
    print(f"{plan.passes} passes of the network over all rows, its untrained copy among them.")
    print(f"{plan.memory / 1e9:.2f} GB for the layers' outputs. Nothing was done.")
