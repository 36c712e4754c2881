"""Collect the runs of a scale into results/SCALE.

python results/collect.py medium --root RUNS     # after `layerprobe reproduce` or `layerprobe paper analyse`
python results/collect.py medium                 # tables and figures again, from the rows that are committed
python results/collect.py small --root RUNS --rows-only

Adds the runs of this scale in RUNS to rows.csv.gz, history.csv and provenance.json, then makes from all rows
tables/ (CSV and Markdown), figures/ (PNG), claims.csv and claims.md, and the tables of docs/results.md.
Cells without a run are "not run".
"""

import argparse
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from layerprobe.errors import MissingRowsError
from layerprobe.figures import encode
from layerprobe.paper import published
from layerprobe.paper.claims import VERDICT_RULE, claims_table
from layerprobe.paper.experiments import EXPERIMENTS
from layerprobe.paper.figures import FIGURES
from layerprobe.paper.pairs import PAPER_PAIRS
from layerprobe.paper.plans import SCALES, SIZED_DEGREES, SIZED_PAIRS, plan
from layerprobe.paper.rows import COLUMNS, RUN, typed
from layerprobe.paper.selection import DEGREES, GROUP, LABELS, PAPER, TEST, means, select, training_images
from layerprobe.paper.tables import TABLES, readable
from layerprobe.report.reproduction import Results, record, write_tables
from layerprobe.runs.folders import is_done, read_run, run_folder

HERE = Path(__file__).parent
HISTORY = [*RUN, "epoch"]
PAGE = HERE.parent / "docs" / "results.md"
IMAGE_COLUMNS = {
    "network": "last_epoch",
    "best epoch": "best_epoch",
    "MASC, hidden layers": "masc_noisy_hidden",
    "MASC, raw input": "raw_input",
    "MASC, untrained, hidden layers": "untrained_noisy",
}


def collect(scale: str, root: Path) -> None:
    """Add the rows, histories and provenance of the runs of a scale to those that are committed."""
    wanted, folder = plan(["all"], SCALES[scale], PAPER_PAIRS), HERE / scale
    found = Results.of_runs(list(wanted.work), root)
    for problem in found.problems:
        print(problem)
    rows, history = combined(read(scale), found, [spec.key[:12] for spec in wanted.work])
    folder.mkdir(exist_ok=True)
    (folder / "rows.csv.gz").write_bytes(gzip.compress(rows.to_csv(index=False).encode(), mtime=0))
    history.to_csv(folder / "history.csv", index=False)
    path = folder / "provenance.json"
    runs = json.loads(path.read_text("utf-8"))["runs"] if path.exists() else {}
    done = [spec for spec in wanted.work if is_done(run_folder(root, spec))]
    runs |= {str(run_folder("", spec)): read_run(run_folder(root, spec)).record for spec in done}
    how = record(wanted, root, rows) | {"training_seconds": round(history["seconds"].sum()), "runs": runs}
    path.write_text(json.dumps(how, indent=1) + "\n", encoding="utf-8")


def combined(before: Results, found: Results, keys: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows and histories of two results, in the order of the keys of their runs.

    A network that was trained again with the same history keeps the rows of experiments that were not
    repeated. With another history, as on another kind of processor, it is another network and keeps none.
    """
    numbers = ["epoch", "loss", "train_accuracy", "test_accuracy"]
    old, new = (
        {key: run[numbers].to_numpy(float) for key, run in results.history.groupby("key")}
        for results in (before, found)
    )
    other = [key for key, run in new.items() if key in old and not np.array_equal(run, old[key])]
    repeated, measured = (pd.MultiIndex.from_frame(r.rows[["key", "experiment"]]) for r in (found, before))
    kept = before.rows[~(measured.isin(repeated) | before.rows["key"].isin(other))]
    history = pd.concat([before.history[~before.history["key"].isin(list(new))], found.history])
    orders = {"key": pd.Index(keys), "experiment": pd.Index(EXPERIMENTS)}  # runs without a plan come first
    return tuple(
        frame.sort_values(
            [name for name in orders if name in frame],
            key=lambda column: orders[column.name].get_indexer(column),
            kind="stable",
            ignore_index=True,
        )
        for frame in (pd.concat([kept, found.rows]), history)
    )


def read(scale: str) -> Results:
    """Return the results that are committed."""
    rows, history = (
        pd.read_csv(path, dtype=str, keep_default_na=False) if path.exists() else pd.DataFrame(columns=empty)
        for path, empty in ((HERE / scale / "rows.csv.gz", COLUMNS), (HERE / scale / "history.csv", HISTORY))
    )
    numbers = history.drop(columns=RUN).astype(float).astype({"epoch": int})
    return Results(typed(rows[COLUMNS]), pd.concat([typed(history[RUN]), numbers], axis=1))


def write(scale: str) -> None:
    """Write tables, figures and claims from the committed rows."""
    wanted, results, folder = plan(["all"], SCALES[scale], PAPER_PAIRS), read(scale), HERE / scale
    for old in [*(folder / "tables").glob("*"), *(folder / "figures").glob("*")]:
        old.unlink()
    for name in wanted.targets:
        own = results.only(wanted.shown[name])
        if name in TABLES:
            made = write_tables(own, [name], folder / "tables", PAPER_PAIRS)
            (folder / "tables" / f"{name}.tex").unlink(missing_ok=True)
            report(made.left_out)
        if name in FIGURES:
            draw(name, own, folder / "figures" / f"{name}.png")
    table = claims_table(results.rows)
    table.to_csv(folder / "claims.csv", index=False)
    (folder / "claims.md").write_text(f"{VERDICT_RULE}\n\n{markdown(table)}", encoding="utf-8")
    if scale == "medium":
        PAGE.write_text(page(PAGE.read_text("utf-8"), results), encoding="utf-8")


def draw(name: str, results: Results, path: Path) -> None:
    """Write a figure as PNG with 256 colours, which keeps the repository small and the colours of lines."""
    beside = published.table1() if FIGURES[name].published else None
    try:
        if reason := results.lacks(FIGURES[name]):
            raise MissingRowsError(reason)
        figure = FIGURES[name].draw(results.rows, results.history, published=beside)
    except MissingRowsError as error:
        report({name: str(error)})
        return
    path.parent.mkdir(exist_ok=True)
    image = Image.open(io.BytesIO(encode(figure, "png", dpi=100))).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def report(left_out: dict[str, str]) -> None:
    for name, reason in left_out.items():
        print(f"{name} is left out: {reason}")


def page(text: str, results: Results) -> str:
    """Return docs/results.md with its generated parts renewed."""
    wanted = plan(["table1"], SCALES["medium"], PAPER_PAIRS)
    grid = results.only(list(wanted.work))
    cells = TABLES["table1"].build(grid.rows, grid.history)
    parts = {
        "claims": markdown(claims_table(results.rows).drop(columns="rule")),
        "table1": markdown(readable(cells, "table1").drop(columns=["variant", "scale"], errors="ignore")),
        "relabelling": markdown(relabelling(grid)),
        "labels": markdown(labels_by_layer(grid, cells)),
        "corrected": markdown(corrected(grid)),
        "images": markdown(by_images(results)),
    }
    for name, table in parts.items():
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, rest = text.split(start)
        text = f"{before}{start}\n{table}{end}{rest.split(end)[1]}"
    return text


def relabelling(results: Results) -> pd.DataFrame:
    """Return Tables 7 and 8 and retraining with early stopping side by side, in percent."""
    keys = [*GROUP, "fitted_on"]
    table = TABLES["retraining"].build(results.rows, results.history)
    table = table[(table["setting"] == "early_stopping") & table["corruption"].isin(DEGREES)]
    for name, what in (("table7", "corrected"), ("table8", "broken")):
        shares = TABLES[name].build(results.rows, results.history)
        of_labels = [
            shares.rename(columns={f"{what}_{labels}": what}).assign(fitted_on=labels)[[*keys, what]]
            for labels in LABELS
        ]
        table = table.merge(pd.concat(of_labels), on=keys)
    numbers = {
        "wrong labels corrected (%)": "corrected",
        "right labels broken (%)": "broken",
        "network before (%)": "before",
        "after retraining (%)": "last_epoch",
        "MASC (%)": "masc",
    }
    shown = table[["pair", "corruption", "fitted_on"]].set_axis(["pair", "p", "subspaces"], axis=1)
    return shown.assign(**{title: table[name].map(percent) for title, name in numbers.items()})


def labels_by_layer(results: Results, table1: pd.DataFrame) -> pd.DataFrame:
    """Return relabelling by noisy subspaces per cell, at the layers best for prediction and for labels.

    The layer best for prediction is that of Table 1. "wrong after" is the share of wrong labels afterwards.
    """
    table = TABLES["flipped"].build(results.rows, results.history)
    table = table[(table["probe"] == "masc") & (table["fitted_on"] == "noisy")].reset_index(drop=True)
    wrong = table["flipped_share"]
    table["after"] = wrong * (1 - table["flipped_true"]) + (1 - wrong) * (1 - table["unflipped"])
    predicting = table1.set_index(["pair", "corruption"])["layer"]
    lines = []
    for (pair, p), layers in table.groupby(["pair", "corruption"], sort=False):
        at = layers.set_index("layer")
        line = {"pair": pair, "p": p, "wrong (%)": percent(at["flipped_share"].iloc[0])}
        for purpose, layer in (("prediction", predicting[pair, p]), ("labels", at["after"].idxmin())):
            line |= {
                f"{purpose}: layer": layer,
                f"{purpose}: corrected (%)": percent(at["flipped_true"][layer]),
                f"{purpose}: broken (%)": percent(1 - at["unflipped"][layer]),
                f"{purpose}: wrong after (%)": percent(at["after"][layer]),
            }
        lines.append(line)
    return pd.DataFrame(lines)


def corrected(results: Results) -> pd.DataFrame:
    """Return MASC with the noise taken out beside its baselines, in percent, of the runs that have it."""
    key = results.rows["key"]
    rows = results.rows[key.isin(key[results.rows["experiment"] == "corrected_subspaces"])]
    table = TABLES["corrected"].build(rows, results.history)
    retrained = TABLES["corrected_retraining"].build(rows, results.history)
    best = means(select(rows, "controls", setting="best_epoch", **TEST), GROUP, "best_epoch")
    table = table.merge(best[[*GROUP, "best_epoch"]], on=GROUP, how="left")
    shares = {"corrected": "labels_corrected", "broken": "labels_broken", "last_epoch": "retrained"}
    table = table.merge(retrained.rename(columns=shares)[[*GROUP, *shares.values()]], on=GROUP, how="left")
    columns = {
        "network": "network",
        "its best epoch": "best_epoch",
        "MASC (layer)": "masc",
        "one component (layer)": "masc_1pc",
        "noise taken out (layer)": "corrected",
        "p 0.1 too low": "p_too_low",
        "p 0.1 too high": "p_too_high",
        "wrong labels corrected": "labels_corrected",
        "right labels broken": "labels_broken",
        "network, retrained": "retrained",
    }
    shown = table[["pair", "corruption"]].set_axis(["pair", "p"], axis=1)
    shown = shown.assign(**{title: table[name].map(percent) for title, name in columns.items()})
    for title, name in columns.items():
        if "layer" in title:
            shown[title] += " (" + table[f"{name}_layer"] + ")"
    return shown.replace("nan", "")


def by_images(results: Results) -> pd.DataFrame:
    """Return the test accuracies of the figure training_images by number of images, in percent."""
    runs = plan(["training_images"], SCALES["medium"], PAPER_PAIRS).shown["training_images"]
    own = results.only(
        [spec for spec in runs if spec.pair in SIZED_PAIRS and spec.corruption in SIZED_DEGREES]
    )
    rows = own.rows.assign(images=training_images(own.rows))
    raw = select(rows, "noisy_subspaces", layer="input", fitted_on="noisy", **PAPER, **TEST)
    accuracies = [
        TABLES["controls"].build(own.rows, own.history).dropna(subset="ours"),
        means(raw, GROUP).assign(quantity="raw_input", layer="input"),
    ]
    cells = pd.concat(accuracies).merge(rows[[*GROUP, "images"]].drop_duplicates())
    lines = []
    for (pair, p, images), cell in cells.groupby(["pair", "corruption", "images"], sort=False):
        ours = cell.set_index("quantity")
        line = {"pair": pair, "p": p, "images": images, "seeds": int(cell["seeds"].min())}
        line |= {name: percent(ours["ours"][quantity]) for name, quantity in IMAGE_COLUMNS.items()}
        hidden = ours["layer"]["masc_noisy_hidden"]
        lines.append(line | {"MASC, hidden layers": f"{line['MASC, hidden layers']} ({hidden})"})
    places = {name: place for place, name in enumerate(SIZED_PAIRS)}
    table = pd.DataFrame(lines).sort_values(["pair", "p", "images"], key=lambda of: of.replace(places))
    return table.assign(images=table["images"].map("{:,.0f}".format))


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def markdown(table: pd.DataFrame) -> str:
    lines = [list(table), ["---"] * table.shape[1], *table.to_numpy().tolist()]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("scale", choices=list(SCALES))
    parser.add_argument("--root", type=Path)
    parser.add_argument("--rows-only", action="store_true")
    arguments = parser.parse_args()
    if arguments.root:
        collect(arguments.scale, arguments.root)
    if not arguments.rows_only:
        write(arguments.scale)
