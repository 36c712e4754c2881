"""The examples in README and docs run, their links exist, and architecture.md lists every file."""

import re
from pathlib import Path

import pandas as pd
import pytest

from layerprobe.paper.figures import FIGURES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "results" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(page, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": page.stem}
    for block in blocks:  # in order, in one namespace, as a reader would
        exec(compile(block, f"{page.name} example", "exec"), namespace)


def anchors(path):
    """Return the anchors of the headings of a Markdown page."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    if include := re.search(r"```\{include\} (\S+)", path.read_text(encoding="utf-8")):
        return anchors(path.parent / include[1])
    headings = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_exist(page):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if "://" not in link and not (
            target.exists() and (not anchor or target.suffix != ".md" or anchor in anchors(target))
        ):
            broken.append(link)
    assert broken == []


def test_architecture_lists_every_file():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([\w/]+\.py)` \|", text, re.MULTILINE)
    source = ROOT / "src" / "layerprobe"
    files = [path for path in source.rglob("*.py") if path.stem not in {"__init__", "__main__"}]
    assert sorted(listed) == sorted(path.relative_to(source).as_posix() for path in files)


def table_rows(page, first):
    """Return the cells of the rows of the table on a page whose first row begins with `first`."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    table = text[text.index(f"| {first}") :].split("\n\n")[0]
    return [[cell.strip(" `") for cell in line.strip("|").split(" | ")] for line in table.splitlines()]


def test_related_work_shows_the_measured_auroc():
    rows = pd.read_csv(ROOT / "results" / "audit" / "detectors.csv")
    rows["detector"] = rows["detector"].str.split(",").str[0]  # with the best of its hyperparameters
    best = rows.groupby(["dataset", "noise", "seed", "detector"], sort=False)["auroc"].max().reset_index()
    means = best.pivot_table("auroc", ["dataset", "noise"], "detector", sort=False)
    (_, *names), _, *shown = table_rows("related.md", "data, noise")
    expected = [
        [f"{dataset}, {noise}".lower(), *(f"{value:.3f}".removeprefix("0") for value in values)]
        for (dataset, noise), values in zip(means.index, means[names].to_numpy(), strict=True)
    ]
    assert sorted([row[0].lower(), *row[1:]] for row in shown) == sorted(expected)


def test_audit_page_shows_how_the_reviews_were_measured():
    summary = pd.read_csv(ROOT / "results" / "audit" / "trust_summary.csv").set_index(
        ["by", "reviewed", "error"]
    )
    cells = {row[0]: row[2:] for row in table_rows("audit.md", "question")}
    for column, error in enumerate((0.0, 0.03)):
        measured = summary.loc["all", 100, error]
        shown = " ".join(row[column] for row in cells.values())
        for name in ("noise_held", "precision_held", "advice_right", "advice_wrong"):
            assert f"{100 * measured[name]:.1f}" in shown, name
        for name in ("noise_error", "precision_error"):
            assert f"{measured[name]:.3f}".removeprefix("0") in shown, name


def test_the_experiments_of_an_example_are_those_that_its_figures_need():
    page = (ROOT / "docs/reproduction.md").read_text("utf-8")
    pattern = r"^layerprobe paper analyse (.*)\nlayerprobe paper figures (.*)$"
    (match,) = re.findall(pattern, page, re.MULTILINE)
    experiments, figures = match
    needed = {need for name in figures.split() for need in FIGURES[name].needs}
    assert needed == set(experiments.split())
