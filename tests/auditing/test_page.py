import re
from collections import Counter
from html import unescape

import numpy as np
import pandas as pd
import pytest

from auditing.synthetic import CLASSES, make_audit
from browsing import complaints, sent_requests
from layerprobe.auditing.report.gallery import suspects
from layerprobe.auditing.report.page import write_page
from layerprobe.errors import DataError

EVIL = '</td></style><script>alert("x")</script>'
NAMES = ["cat", "<b>dog</b>", EVIL, '"quoted\' & more"', "{} *", "x" * 80]


def show(audit, path):
    write_page(audit, path / "report.html")
    return (path / "report.html").read_text("utf-8")


def cells(page, heading):
    """Return the rows of cells of the first table after a heading."""
    table = unescape(page[page.index(f">{heading}<") :].partition("</table>")[0])
    return [re.findall(r"<td.*?>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", table)[1:]]


@pytest.mark.parametrize(
    ("advice", "said"),
    [
        ("review", "Review 100 rows before you change labels."),
        ("relabel", "Relabel."),
        ("keep", "Keep your labels."),
    ],
)
def test_page_shows_findings_advice_and_main_numbers(tmp_path, advice, said):
    audit = make_audit(advice=advice)
    page = show(audit, tmp_path)
    assert f'<p class="finding">{audit.label_finding}</p>' in page
    assert f'<p class="verdict">{audit.network_finding}</p>' in page
    assert f"<strong>{said}</strong> {audit.why}" in page
    assert cells(page, "All numbers and their basis")[0][:4] == [
        "wrong labels",
        "38.2",
        "36.0 to 40.5",
        "estimated",
    ]
    flagged = audit.issues["is_label_issue"].sum()
    tiles = re.findall(r"<div><dt>(.*?)</dt><dd>(.*?)<small>(.*?)</small>", page)
    assert tiles == [
        ("rows", "400", "10 classes"),
        ("wrong labels, estimated", "38.2 %", "36.0 to 40.5"),
        ("flagged labels", str(flagged), f"{flagged / 4:.1f} % of the rows"),
        ("flags that are right", "93.0 %", "estimated"),
    ]


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("noisy_holdout", "held-out rows that the network was not trained on"),
        ("unseen_views", "views of the training rows that the network was not trained on"),
        ("trusted", "the trusted rows, whose labels are assumed to be right"),
        ("test_split", "a part of the test data, whose labels are assumed to be right"),
    ],
)
def test_page_describes_the_policy(tmp_path, policy, said):
    audit = make_audit()
    audit.policy = policy
    page = show(audit, tmp_path)
    assert f"chosen by their accuracy on {said}" in page
    assert f"<dt>policy</dt><dd>{policy}</dd>" in page


def test_candidates_start_with_the_decoder_and_long_tables_are_folded(tmp_path):
    audit = make_audit()
    audit.layers["chosen"] = audit.layers.index == 4  # the worst candidate of the input
    page = show(audit, tmp_path)
    rows = cells(page, "Candidates")
    member, best = audit.layers.loc[4], audit.layers.loc[audit.layers["criterion"].idxmax()]
    assert len(rows) == 10
    assert rows[0][:4] == ["input", "VeLPIC", "\u2013", f"{100 * member['criterion']:.1f}"]
    assert rows[0][7] == "yes"
    assert rows[1][:6] == ["fc1", "ridge", "0.1", f"{100 * best['criterion']:.1f}", "64.3 to 67.7", "+21.0"]
    assert rows[1][6:8] == ["+19.3 to +22.7", "no"]
    assert len(cells(page, "The other candidates (20)")) == 20


def test_baselines_show_whether_they_are_beaten_and_missing_values_as_dashes(tmp_path):
    audit = make_audit()
    audit.controls.loc[4, ["criterion", "low", "high"]] = np.nan
    audit.controls["beaten"] = [True, True, False, True, None, False]
    rows = cells(show(audit, tmp_path), "Baselines")
    assert rows[0] == ["head", "45.0", "43.5 to 46.5", "yes"]
    assert rows[2] == ["raw input", "47.0", "45.5 to 48.5", "no"]
    assert rows[4:] == [
        ["early stopping", "\u2013", "\u2013", "\u2013"],
        ["decoder", "68.0", "66.5 to 69.5", "\u2013"],
    ]


def test_audit_of_features_has_no_gain_and_no_baselines(tmp_path):
    audit = make_audit()
    audit.controls = audit.controls[:0]
    audit.layers[["gain", "gain_low", "gain_high"]] = np.nan
    page = show(audit, tmp_path)
    assert cells(page, "Candidates")[0][5:7] == ["\u2013", "\u2013"]
    assert re.search(r"<h2>Baselines</h2>\s*<p>[^<]*</p>\s*<p>None.</p>", page)
    assert "dashed line" not in page
    assert "dashed line" in show(make_audit(), tmp_path)


def test_flagged_labels_are_counted_per_pair_and_per_class(tmp_path):
    audit = make_audit(CLASSES[:3])
    page = show(audit, tmp_path)
    flagged = audit.issues[audit.issues["is_label_issue"]]
    pairs = Counter(zip(flagged["given_label"], flagged["suggested_label"], strict=True)).most_common()
    rows = cells(page, "The most frequent pairs of flagged labels")
    assert [(*row[:2], int(row[2])) for row in rows] == [(*pair, count) for pair, count in pairs]
    given = audit.issues["given_label"].value_counts()
    assert rows[0][3] == f"{100 * pairs[0][1] / given[pairs[0][0][0]]:.1f}"
    classes = cells(page, "Classes")
    assert [(row[0], row[1]) for row in classes] == [("1", "T-shirt"), ("2", "Trouser"), ("3", "Pullover")]
    assert [int(row[2]) for row in classes] == [given[name] for name in CLASSES[:3]]
    assert sum(int(row[5]) for row in classes) == len(flagged)


def test_page_without_flags(tmp_path):
    audit = make_audit()
    audit.issues["is_label_issue"] = False
    audit.issues["suggested_label"] = audit.issues["given_label"]
    audit.evidence.loc[1, "value"] = np.nan
    page = show(audit, tmp_path)
    assert re.search(r"<h2>The most frequent pairs of flagged labels</h2>\s*<p>None.</p>", page)
    assert "No rows are shown." in page
    assert "<dt>flags that are right</dt><dd>\u2013<small>" in page


def test_page_sums_the_cost_and_lists_the_settings(tmp_path):
    page = show(make_audit(), tmp_path)
    rows = cells(page, "Method and cost")
    assert rows[-2:] == [["leave-one-out", "1.2"], ["all", "48.2"]]
    assert "<dt>versions</dt><dd>layerprobe 0.1.0, torch 2.13.0</dd>" in page


def test_number_of_cards_is_limited(tmp_path):
    assert show(make_audit(), tmp_path).count('<li class="card') == 60


def test_text_from_the_data_is_escaped(tmp_path):
    audit = make_audit(NAMES, layers=[EVIL, "fc1"], example=lambda i: EVIL)
    audit.label_finding = audit.network_finding = audit.why = EVIL
    audit.issues["index"] = EVIL
    audit.cost = audit.settings = {EVIL: 1.0}
    audit.layers["why"] = audit.controls["control"] = EVIL
    page = show(audit, tmp_path)
    assert "<script" not in page
    assert page.count("</style>") == 1
    assert "<b>" not in page
    assert NAMES[3] in unescape(page)


def test_style_holds_one_filter_rule_per_class_and_no_name(tmp_path):
    audit = make_audit(["x{}", "y"], layers=["fc1"])
    style = show(audit, tmp_path).partition("<style>")[2].partition("</style>")[0]
    assert style.count(":checked) .card:not") == 4
    assert ".gallery:has(#given-0:checked) .card:not(.g0) { display: none; }" in style
    assert "{}" not in style


def test_surrogates_in_a_name_are_replaced(tmp_path):
    audit = make_audit()
    # How Python reads a file name that is not UTF-8.
    audit.issues["index"] = pd.Series(["caf\udce9.png"] * audit.n, dtype=object)
    assert "caf?.png" in show(audit, tmp_path)


def test_page_is_reproducible(tmp_path):
    assert show(make_audit(), tmp_path) == show(make_audit(), tmp_path)


def test_failed_write_leaves_no_file(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        write_page(make_audit(), tmp_path / "missing" / "report.html")
    assert not list(tmp_path.iterdir())


def shown(browser):
    cards = browser.find_elements("css selector", ".card")
    return [card for card in cards if card.is_displayed()]


def count(browser):
    """Return what the count says, as assistive technology reads it."""
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    names = [node.get("name", {}).get("value", "") for node in nodes if node["role"]["value"] == "StaticText"]
    return int(names[next(i for i, name in enumerate(names) if name.endswith("rows shown")) - 1])


@pytest.fixture
def page(tmp_path):
    """Write the page of an audit whose names and texts hold markup; return it with the rows it shows."""
    audit = make_audit(NAMES, example=lambda i: f"Row {i} {EVIL} " + "W" * 90)
    path = tmp_path / "report.html"
    write_page(audit, path)
    return path, suspects(audit.issues, 60)


@pytest.mark.browser
def test_filters_show_the_rows_of_a_class_and_their_number(page, browser):
    path, rows = page
    browser.get(path.as_uri())
    assert len(shown(browser)) == count(browser) == 60
    given, suggested = EVIL, "<b>dog</b>"
    choices = {
        (
            label.find_element("css selector", "input").get_attribute("name"),
            label.text.rpartition(" ")[0],
        ): label
        for label in browser.find_elements("css selector", ".filter label")
    }
    choices["given", given].click()
    of_given = rows["given_label"] == given
    assert len(shown(browser)) == count(browser) == of_given.sum() > 0
    choices["suggested", suggested].click()
    both = rows[of_given & (rows["suggested_label"] == suggested)]
    assert len(shown(browser)) == len(both) > 0
    assert count(browser) == len(both)
    assert all(f"{given} \u2192 {suggested}" in card.text for card in shown(browser))
    assert all(f"Row {i} " in card.text for i, card in zip(both["position"], shown(browser), strict=True))
    choices["given", "all"].click()
    choices["suggested", "all"].click()
    assert len(shown(browser)) == count(browser) == 60


@pytest.mark.browser
def test_filters_work_by_keyboard_with_visible_focus(page, browser):
    from selenium.webdriver.common.keys import Keys

    path, rows = page
    browser.get(path.as_uri())
    start = browser.find_element("id", "given-all")
    start.send_keys(Keys.ARROW_RIGHT)
    first = browser.switch_to.active_element
    assert first.get_attribute("id") == "given-0"
    assert len(shown(browser)) == rows["given_label"].value_counts().iloc[0]
    label = first.find_element("xpath", "..")
    assert label.value_of_css_property("outline-style") == "solid"
    first.send_keys(Keys.TAB)
    assert browser.switch_to.active_element.get_attribute("name") == "suggested"


@pytest.mark.browser
def test_browser_reports_no_error_no_request_and_no_markup_from_the_data(page, browser):
    path, _ = page
    browser.get(path.as_uri())
    loaded = "return [...document.images].every(image => image.complete && image.naturalWidth > 0)"
    assert browser.execute_script(loaded)
    assert browser.find_elements("css selector", "script, main b") == []
    assert complaints(browser) == []
    first, *others = sent_requests(browser)
    assert first == path.as_uri()
    assert others  # the charts
    assert all(url.startswith("data:") for url in others)


@pytest.mark.browser
@pytest.mark.parametrize("example", [None, lambda i: "W" * 400], ids=["pictures", "texts"])
def test_page_fits_a_narrow_screen(tmp_path, browser, example):
    write_page(make_audit([*NAMES, *CLASSES], example=example), tmp_path / "report.html")
    narrow = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", narrow)
    browser.get((tmp_path / "report.html").as_uri())
    browser.execute_script("for (const fold of document.querySelectorAll('details')) fold.open = true")
    assert browser.execute_script("return window.innerWidth") == 360
    page = "document.documentElement"
    assert browser.execute_script(f"return {page}.scrollWidth <= {page}.clientWidth")
    widest = "return Math.max(...[...document.querySelectorAll('.card, .filter, .filter label')].map(e => "
    assert browser.execute_script(widest + "e.getBoundingClientRect().right))") <= 345
