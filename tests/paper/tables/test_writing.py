import io
import math

import pandas as pd
import pytest

from layerprobe.errors import InputError
from layerprobe.paper.tables import TABLES, caption, readable, to_latex, to_markdown, write_table

FRAME = pd.DataFrame(
    {
        "pair": ["cnn-mnist", "mlp_x|y"],
        "corruption": [0.2, math.nan],
        "variant": ["", "subset 100, noise cifar-10n:worst"],
        "scale": ["full", "small"],
        "nothing": ["", ""],
        "ours": [0.1 + 0.2, 0.5],
        "ours_spread": [0.0123, math.nan],
        "seeds": pd.array([3, 1], dtype="Int64"),
        "difference": [-1.26, math.nan],
        "verdict": ["reproduced", "not published"],
    }
)


def test_reading_rounds_to_one_decimal_in_percent_with_the_spread():
    table = readable(FRAME)
    assert list(table) == [
        "pair",
        "corruption",
        "variant",
        "scale",
        "ours (%)",
        "seeds",
        "difference (points)",
        "verdict",
    ]
    assert table.iloc[0].tolist() == [
        "cnn-mnist",
        "0.2",
        "",
        "full",
        "30.0 ± 1.2",
        "3",
        "-1.3",
        "reproduced",
    ]
    assert table.iloc[1].tolist() == ["mlp_x|y", "", "1", "small", "50.0", "1", "", "not published"]


def test_markdown_aligns_numbers_and_escapes_bars():
    lines = to_markdown(FRAME).splitlines()
    assert lines[0].startswith("| pair | corruption | variant | scale | ours (%) |")
    assert lines[1] == "| --- | ---: | --- | --- | ---: | ---: | ---: | --- |"
    assert lines[3].startswith(r"| mlp_x\|y |  | 1 |")
    assert len(lines) == 4


def test_latex_is_a_longtable_with_rules_and_escapes():
    text = to_latex(FRAME, "50 % & more_", "tab:x")
    assert r"\begin{longtable}{lrllrrrl}" in text
    assert r"\caption{50 \% \& more\_} \label{tab:x} \\" in text
    assert r"cnn-mnist & 0.2 &  & full & 30.0 $\pm$ 1.2 & 3 & -1.3 & reproduced \\" in text
    assert r"mlp\_x|y" in text
    assert r"ours (\%)" in text
    for rule in ("toprule", "midrule", "bottomrule"):
        assert f"\\{rule}" in text
    assert text.count("{") == text.count("}")


def test_the_caption_has_verdicts_scale_and_variants():
    text = caption("table3", FRAME)
    assert text.startswith(f"{TABLES['table3'].title}. Verdicts: 1 reproduced, 0 differ, 0 not run. ")
    assert "trained or tested on a part of the images or classes: a difference" in text
    assert text.endswith("Variant 1: subset 100, noise cifar-10n:worst.")
    assert "part of the images" not in caption("table3", FRAME[:1])
    assert "difference" not in caption("table6", FRAME.drop(columns="verdict"))


def test_three_files_are_written_and_the_csv_is_exact(tmp_path):
    paths = write_table("table3", FRAME, tmp_path / "new" / "tables")
    assert [path.name for path in paths] == ["table3.csv", "table3.md", "table3.tex"]
    again = pd.read_csv(io.StringIO(paths[0].read_text("utf-8")), dtype=str, keep_default_na=False)
    assert [float(value) for value in again["ours"]] == [0.1 + 0.2, 0.5]
    assert again["nothing"].tolist() == ["", ""]
    assert paths[1].read_text("utf-8").startswith(caption("table3", FRAME))
    assert r"\label{tab:table3}" in paths[2].read_text("utf-8")
    assert sorted(path.name for path in paths[0].parent.iterdir()) == [path.name for path in paths]


def test_table_without_rows_has_a_header_only():
    lines = to_markdown(FRAME[:0]).splitlines()
    assert len(lines) == 2
    assert "nothing" in lines[0]


def test_an_unknown_table_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"Expected a table of table1, .*got 'table9'"):
        write_table("table9", FRAME, tmp_path)
