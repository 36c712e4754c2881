from html.parser import HTMLParser

import pandas as pd
import pytest
from matplotlib.figure import Figure

from browsing import complaints, sent_requests
from layerprobe.pages import write_html

EVIL = '</td><script>alert("x")</script>'


@pytest.fixture
def report(tmp_path):
    figure = Figure()
    figure.subplots().plot([0, 1], [1, 2])
    path = tmp_path / "report.html"
    write_html(
        path,
        "report.html.j2",
        title="A <b>title</b> & more",
        finding=f"A finding {EVIL}",
        figures={'A "caption"': figure},
        tables={
            "First": pd.DataFrame(
                {"name": ["a", EVIL], EVIL: [1, 20], "share": [0.5, None], "rate": [1.0, 0.125]}
            )
        },
        leading={},
        appendix={"Long": pd.DataFrame({"number": range(50)})},
        provenance={"seeds": {"noise": 3, "init": 4}, EVIL: EVIL},
    )
    return path


class Reader(HTMLParser):
    """Collects tags, attributes and the text of table cells."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.cells, self.cell = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in {"src", "href", "data", "action"}]
        if tag == "td":
            self.cell = ""

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data

    def handle_endtag(self, tag):
        if tag == "td":
            self.cells.append(self.cell)
            self.cell = None


def test_report_is_self_contained_and_escaped(report):
    page = Reader(report.read_text("utf-8"))
    assert "script" not in page.tags
    assert len(page.links) == 2  # the empty icon and the figure
    assert all(link.startswith("data:") for link in page.links)
    assert "b" not in page.tags
    assert page.cells[4] == EVIL
    assert "noise 3, init 4" in report.read_text("utf-8")


def test_numbers_share_decimals_per_column_and_missing_ones_are_dashes(report):
    page = Reader(report.read_text("utf-8"))
    assert page.cells[:4] == ["a", "1", "0.5", "1.000"]
    assert page.cells[5:8] == ["20", "\u2013", "0.125"]


@pytest.mark.browser
def test_browser_shows_the_report_without_error_or_request(report, browser):
    from selenium.webdriver.common.by import By

    browser.get(report.as_uri())
    assert browser.title == "A <b>title</b> & more"
    assert len(browser.find_elements(By.CSS_SELECTOR, "section table tbody tr")) == 2
    image = browser.find_element(By.TAG_NAME, "img")
    assert browser.execute_script("return arguments[0].complete && arguments[0].naturalWidth > 0", image)
    assert not browser.find_element(By.CSS_SELECTOR, "details table").is_displayed()
    browser.find_element(By.TAG_NAME, "summary").click()
    assert browser.find_element(By.CSS_SELECTOR, "details table").is_displayed()
    assert complaints(browser) == []
    first, *others = sent_requests(browser)
    assert first == report.as_uri()
    assert all(url.startswith("data:") for url in others)
