"""The examples run, and show what they say. The site's build runs all of them, see docs/conf.py."""

import ast
import json
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


@pytest.fixture(autouse=True)
def without_windows(monkeypatch):
    import matplotlib

    matplotlib.use("agg")


def test_the_decoder_of_the_text_example_predicts_better_than_the_network():
    result = runpy.run_path(str(EXAMPLES / "audit_texts.py"))
    scores = result["scores"]
    assert scores["test accuracy, decoder"] > scores["test accuracy, network"] + 0.05
    assert scores["flags that are right"] > 0.8
    held, noisy, true = result["held"], result["noisy"], result["true"]
    for part in (held, ~held):  # as noisy as each other
        assert 0.3 < (noisy[part] != true[part]).mean() < 0.42


def test_the_gallery_lists_every_example():
    tree = ast.parse((EXAMPLES.parent / "docs" / "conf.py").read_text(encoding="utf-8"))
    (order,) = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "ORDER"
    ]
    assert sorted(ast.literal_eval(order)) == sorted(path.stem for path in EXAMPLES.glob("*.py"))


def source(cell):
    return "".join(cell["source"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": path.stem}
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            exec(compile(source(cell), f"{path.name}, cell {number}", "exec"), namespace)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_with_its_outputs(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < 1_000_000
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"display_data", "execute_result", "stream"}
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    assert sum("text/html" in output.get("data", {}) for output in outputs) >= 3
    assert not any(output.get("name") == "stderr" for output in outputs)
    assert str(Path.home()) not in text
    assert "site-packages" not in text
