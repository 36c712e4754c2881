"""`layerprobe review`: measure the labels of an audit by the decisions of a reviewer."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from layerprobe.cli.commands import readable_options
from layerprobe.cli.output import as_json
from layerprobe.errors import DataError, InputError
from layerprobe.utils.terminal import print_table, say

if TYPE_CHECKING:
    from layerprobe.auditing import Audit
    from layerprobe.auditing.review.measuring import Review


@readable_options
def measure_review(
    folder: Annotated[Path, Positional, arg(metavar="FOLDER")],
    *,
    decisions: tuple[Path, ...] = (),
    labels_out: Path | None = None,
    tasks_out: Path | None = None,
    n: int | None = None,
    seed: int | None = None,
    json: bool = False,
) -> None:
    """Measure the labels of an audit by a reviewer's decisions.

    `layerprobe audit` writes review.html. Decide there on the rows of the random sample, export the
    decisions, and pass the file to this command. It prints the share of wrong labels among all and among the
    flagged labels, and whether relabelling helps, each with its 95 % interval.

    Args:
        folder: Folder that `layerprobe audit --out` wrote.
        decisions: Files of decisions, .json or .csv: exports of review.html, tables with the columns index
            and label, or annotations of Label Studio.
        labels_out: CSV file for the labels: verified ones, suggestions where relabelling is measured to help,
            and otherwise the given ones. A row that belongs to none of the classes has no label. Texts that
            begin with =, +, - or @ have an apostrophe in front, so that no spreadsheet evaluates them.
        tasks_out: JSON file for the tasks of a random sample for Label Studio, without images and texts;
            tasks.json in the folder has them, for the sample of n=100 and seed=0.
        n: Rows of the random sample; 100 if the files do not say.
        seed: Seed of the random sample; 0 if the files do not say.
        json: Print the results as JSON on stdout, and nothing else.
    """
    from layerprobe.auditing import Audit
    from layerprobe.utils.files import write_csv

    if not decisions and tasks_out is None:
        raise InputError("there is nothing to do: pass --decisions FILE, or --tasks-out FILE")
    path = folder / "audit.safetensors" if folder.is_dir() else folder
    if not path.is_file():
        raise DataError(f"{path} does not exist: expected the folder that `layerprobe audit --out` wrote.")
    audit = Audit.load(path)
    design = {"n": n, "seed": seed}
    for path in decisions:
        audit = audit.apply(path, **design)
    if audit.review is not None:
        made = audit.review.decisions
        design = {"n": made.sample_size, "seed": made.sample_seed}
    if tasks_out is not None:
        audit.label_studio_tasks(tasks_out, **{k: v for k, v in design.items() if v is not None})
    if labels_out is not None:
        write_csv(_labels(audit), labels_out)
    if json:
        say(as_json(_summary(audit)))
    elif audit.review is not None:
        _show(audit.review, audit.why)
    for file, what in ((tasks_out, "tasks"), (labels_out, "labels")):
        if file is not None and not json:
            say(f"The {what} are in {file}.")


def _labels(audit: "Audit") -> Any:
    """Return one row per training row: index, label, and where the label is from."""
    import numpy as np
    import pandas as pd

    from layerprobe.auditing.review.decisions import NONE

    repaired = audit.relabel("confident" if audit.advice == "relabel" else "verified")
    source = np.where(audit.verified.numpy(), "verified", np.where(repaired.changed, "suggested", "given"))
    frame = pd.DataFrame({"index": audit.index, "label": repaired.labels, "source": source})
    return frame.assign(
        label=frame["label"].where(repaired.kept, ""), source=frame["source"].where(repaired.kept, NONE)
    )


def _summary(audit: "Audit") -> dict[str, Any]:
    review = audit.review
    if review is None:
        return {}
    names = ("noise", "left", "wrong_decisions", "outside", "precision", "recall", "gain", "errors")
    return {
        "finding": audit.finding,
        "evidence": audit.evidence.to_dict("records"),
        "advice": review.advice,
        "why": review.why,
        "reviewed": review.reviewed,
        "undecided": review.undecided,
        "verified": int(audit.verified.sum()),
        **{name: getattr(review, name)._asdict() for name in names},
        "pairs": review.pairs,
        "different": review.different,
        "strata": review.strata.to_dict("records"),
    }


def _show(review: "Review", why: str) -> None:
    """Print the measurements of a review."""
    from layerprobe.auditing.review.measuring import percent

    rows = [
        ("wrong labels before the review", percent(review.noise)),
        ("wrong labels that are left after the review", percent(review.left)),
        ("rows of none of the classes", percent(review.outside)),
        ("flagged labels that are wrong, before the review", percent(review.precision)),
        ("wrong labels that are flagged, before the review", percent(review.recall)),
        ("errors of the reviewer", percent(review.errors) + ("" if review.pairs else ", assumed")),
    ]
    if review.reviewed:
        title = f"Measured on {review.reviewed:,} reviewed {'row' if review.reviewed == 1 else 'rows'}"
        print_table(("measurement", "value and 95 % interval"), rows, title=title)
    if review.undecided:
        say(f"Undecided rows of the sample: {review.undecided:,}.")
    if review.different:
        say(f"{review.different:,} of {review.pairs:,} rows with several labels have different ones.")
    say(f"Advice: {review.advice}. {why}")
