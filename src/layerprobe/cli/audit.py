"""`layerprobe audit`: find wrong labels with the network that was trained on them."""

import sys
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from layerprobe.cli.commands import readable_options
from layerprobe.cli.jobs import one_job
from layerprobe.cli.options import DATA, DEFAULTS, MODEL, NetworkOptions
from layerprobe.cli.output import as_json
from layerprobe.errors import InputError
from layerprobe.utils.terminal import print_table, say

if TYPE_CHECKING:
    import pandas as pd

    from layerprobe.auditing import AuditPlan
    from layerprobe.auditing.result import Audit

SHOWN = 10  # rows of the printed table
POLICY = (
    "How layers and probes are chosen. noisy_holdout: by rows that the network was not trained on, with "
    "labels as noisy as the training labels. unseen_views: by views of the training rows. trusted: by a few "
    "rows with verified labels. test_split: by a test set with right labels, as in the paper."
)


@readable_options
def audit_labels(
    *,
    model: Annotated[str | None, arg(metavar="PKG.MOD:NAME", help=MODEL)] = None,
    data: Annotated[str | None, arg(metavar="PATH", help=DATA)] = None,
    policy: Annotated[str | None, arg(metavar="NAME", help=POLICY)] = None,
    predictions: Path | None = None,
    labels: Path | None = None,
    logits: bool = False,
    holdout: Annotated[str | None, arg(metavar="PATH")] = None,
    trusted: Annotated[str | None, arg(metavar="PATH")] = None,
    test: Annotated[str | None, arg(metavar="PATH")] = None,
    views: tuple[str, ...] = (),
    flags: str = "balanced",
    seed: int = 0,
    out: Path = Path("audit"),
    options: Annotated[NetworkOptions, arg(name="")] = DEFAULTS,
) -> None:
    """Find wrong labels with one trained network.

    Needs no clean labels. Chooses the layers and probes that predict best, compares their predictions with
    the given labels and flags the labels that are probably wrong. Writes report.html, review.html (the page
    for the command review), tasks.json (its sample for Label Studio), issues.csv, conflicts.csv (duplicates
    with other labels), layers.csv, controls.csv, noise.json and audit.safetensors. A view is a copy of an
    image, mirrored or shifted by two pixels; with --views, the outputs of the network are averaged over the
    views.

    This command runs your code: it imports the modules that --model and --inputs name, first from the current
    directory. Files given by --weights and --data cannot run code.

    With torchrun, several processes share the work: torchrun --standalone --nproc-per-node 2 -m layerprobe
    audit ...

    Without a network, out-of-sample predictions of any model can be audited: --predictions FILE --labels FILE
    in place of --model and --policy. With --data the report shows the rows.

    Args:
        predictions: Class probabilities or logits of each row by a model that was trained without the row: an
            .npy file (n, classes), or a .csv file with one column per class, named as the labels are, and
            possibly a column index with the names of the rows.
        labels: The given labels of these rows: an .npy file, or a .csv file with the column label. If both
            files have the column index, its names match the rows, in any order.
        logits: Read the predictions as logits. Without it they are logits if one of them is negative.
        holdout: The rows for the policy noisy_holdout.
        trusted: The rows for the policy trusted.
        test: The rows for the policy test_split.
        views: Any of flip, left, right, up, down. The policy unseen_views needs at least one.
        flags: How many labels to flag, the most suspicious first. balanced: about as many as are
            estimated to be wrong; a number between 0 and 1: as many as have this expected precision; a whole
            number: this many.
        seed: Seed of the random numbers.
        out: Folder for the results. It is replaced as a whole; files of other names in it are kept.
    """
    from layerprobe import auditing
    from layerprobe.auditing.dataset.readers import read_labels, read_predictions
    from layerprobe.auditing.method.policies import check_policy
    from layerprobe.utils.files import replaced_folder, require_folder

    with one_job(options.device) as first, ExitStack() as stack:
        others = {"holdout": holdout, "trusted": trusted, "test": test}
        if predictions is not None or labels is not None:
            if predictions is None or labels is None:
                raise InputError("an audit of predictions needs both --predictions and --labels")
            refused = {"model": model, "policy": policy, **others, "views": views or None}
            for name, value in refused.items():
                if value is not None:
                    raise InputError(f"--{name} does not belong to an audit of predictions; leave it out")
            if options.dry_run or options.weights is not None or options.layers:
                raise InputError("--dry-run, --weights and --layers do not belong to an audit of predictions")
        elif model is None or data is None or policy is None:
            raise InputError(
                "an audit of a network needs --model, --data and --policy; an audit of predictions "
                "needs --predictions and --labels"
            )
        else:
            check_policy(policy, others, views=bool(views))
        require_folder(out)
        folder = out
        if first and not options.dry_run:
            folder = stack.enter_context(replaced_folder(out))  # raises before the work
        arguments: dict[str, Any] = {
            "class_names": options.class_names or None,
            "flags": _flag_rule(flags),
            "seed": seed,
        }
        # On a terminal one line that changes; elsewhere each step is a line on stderr.
        progress = sys.stderr.isatty() or (lambda step: say(f"{step} ...", error=True))
        if predictions is not None and labels is not None:
            table, index = read_predictions(predictions)
            result = auditing.audit_predictions(
                table,
                read_labels(labels, options.label_column or "label", index),
                logits=logits or None,
                data=None if data is None else options.load_rows(data, None),
                index=index,
                progress=progress,
                **arguments,
            )
        elif model is not None and data is not None:
            network = options.load_model(model)
            rows = options.load_rows(data, network)
            for name, place in others.items():
                arguments[name] = None if place is None else options.load_rows(place, network)
            arguments |= {
                "policy": policy,
                "views": views,
                "layers": options.selected_layers,
                "pool": options.pool,
                "batch_size": options.batch_size,
            }
            if options.dry_run:
                _show_plan(auditing.plan_audit(network, rows, **arguments), json=options.json)
                return
            result = auditing.audit(network, rows, progress=progress, **arguments)
        if first:
            _write(result, folder)
            stack.close()
            if options.json:
                say(as_json(_summary(result)))
            else:
                _show(result, out)


def _flag_rule(text: str) -> str | float | int:
    """Return the value of --flags; `check_flag_rule` refuses other texts."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def _show_plan(plan: "AuditPlan", *, json: bool) -> None:
    """Print the plan of an audit."""
    if json:
        say(as_json({**asdict(plan), "tried": plan.tried}))
        return
    rows = [(layer, f"{dimension:,}") for layer, dimension in plan.layers.items()]
    print_table(("layer", "features"), rows, right=("features",), title="Layers")
    probes = (
        f"{name} with {len(values)} hyperparameter values" if values else name
        for name, values in plan.candidates.items()
    )
    selection = f"{plan.held_out:,} rows" if plan.held_out else "views of the training rows"
    say(f"{plan.rows:,} training rows of {len(plan.classes)} classes; selection by {selection}.")
    say(f"{plan.tried} candidates: {', '.join(probes)}, on each layer.")
    say(f"{plan.passes} passes of the network over all rows, including those of its untrained copy.")
    say(f"{plan.memory / 1e9:.2f} GB for the outputs of the layers. Nothing was computed.")


def _noise(audit: "Audit") -> dict[str, Any]:
    noise = audit.noise
    wrong = audit.evidence.set_index("quantity").loc["wrong labels"]
    stated = {"rate": wrong["value"], "low": wrong["low"], "high": wrong["high"], "kind": wrong["kind"]}
    return {**stated, "classes": audit.classes, "matrix": noise.matrix, "prior": noise.prior}


def _summary(audit: "Audit") -> dict[str, Any]:
    """Return the results of an audit in short."""
    return {
        "finding": audit.finding,
        "advice": audit.advice,
        "why": audit.why,
        "recommendations": audit.recommendations.to_dict("records"),
        "evidence": audit.evidence.to_dict("records"),
        "policy": audit.policy,
        "rows": audit.n,
        "chosen": audit.layers[audit.layers["chosen"]].to_dict("records"),
        "controls": audit.controls.to_dict("records"),
        "noise": _noise(audit),
        "issues": {
            "flagged": int(audit.issues["is_label_issue"].sum()),
            "expected_precision": audit.expected_precision,
            "conflicts": len(audit.conflicts),
            "most_suspicious": _most_suspicious(audit).to_dict("records"),
        },
        "seconds": audit.cost,
        "settings": audit.settings,
    }


def _most_suspicious(audit: "Audit") -> "pd.DataFrame":
    """Return the flagged rows with the lowest scores, the lowest first; their index is the position."""
    issues = audit.issues.reset_index(drop=True)
    return issues[issues["is_label_issue"]].sort_values("label_score", kind="stable").head(SHOWN)


def _write(audit: "Audit", out: Path) -> None:
    """Write the report, the tables and the audit."""
    from layerprobe.utils.files import replace_file, write_csv

    audit.save(out / "audit.safetensors")
    for name in ("issues", "conflicts", "layers", "controls"):
        write_csv(getattr(audit, name), out / f"{name}.csv")
    replace_file(out / "noise.json", (as_json(_noise(audit)) + "\n").encode())
    audit.label_studio_tasks(out / "tasks.json")
    audit.report(out / "report.html")


def _show(audit: "Audit", out: Path) -> None:
    """Print the findings, the advice and the rows with the most suspicious labels."""
    from layerprobe.auditing.findings import score_text

    say(f"{audit.label_finding}\n{audit.network_finding}\nAdvice: {audit.advice}. {audit.why}")
    flagged = int(audit.issues["is_label_issue"].sum())
    if flagged:
        rows = _most_suspicious(audit)
        examples = audit.examples(rows.index)
        texts = [" ".join(text.split()) if isinstance(text, str) else "" for text in examples]
        columns = ("index", "given", "suggested", "score", "text")[: 5 if any(texts) else 4]
        scores = map(score_text, rows["label_score"])
        cells = zip(rows["index"], rows["given_label"], rows["suggested_label"], scores, texts, strict=True)
        title = f"The most suspicious of {flagged:,} flagged labels"
        lines = (line[: len(columns)] for line in cells)
        print_table(columns, lines, right=("score",), title=title, no_wrap="text")
        _, value, low, high, kind, _ = audit.evidence.iloc[1]
        share = f"Between {low:.0%} and {high:.0%}" if kind == "unknown" else f"About {value:.0%}"
        say(f"{share} of the flagged labels are expected to be wrong.")
    say(f"All results are in {out}; start with {out / 'report.html'}.")
