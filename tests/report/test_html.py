import json
import shutil
from html.parser import HTMLParser

import pandas as pd
import pytest

from layerprobe.figures import accuracy_over_layers
from layerprobe.report import write_report

FLAGS = [
    "headless=new",
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
]
EVIL = '</td><script>alert("x")</script>'


@pytest.fixture
def report(planted, tmp_path):
    path = tmp_path / "report.html"
    write_report(
        path,
        title="A <b>title</b> & more",
        finding=f"A finding {EVIL}",
        figures={'A "caption"': accuracy_over_layers(planted())},
        tables={
            "First": pd.DataFrame(
                {"name": ["a", EVIL], EVIL: [1, 20], "share": [0.5, None], "rate": [1.0, 0.125]}
            )
        },
        appendix={"Long": planted()},
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


def test_it_is_self_contained_and_every_text_is_escaped(report):
    page = Reader(report.read_text("utf-8"))
    assert "script" not in page.tags
    assert len(page.links) == 2  # the empty icon and the figure
    assert all(link.startswith("data:") for link in page.links)
    assert "b" not in page.tags
    assert page.cells[4] == EVIL
    assert "noise 3, init 4" in report.read_text("utf-8")


def test_numbers_have_the_decimals_that_their_column_needs_and_missing_ones_a_dash(report):
    page = Reader(report.read_text("utf-8"))
    assert page.cells[:4] == ["a", "1", "0.5", "1.000"]
    assert page.cells[5:8] == ["20", "\u2013", "0.125"]


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on the path")
def test_chromium_shows_it_without_a_complaint_or_a_request(report, tmp_path):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in FLAGS:
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        browser.get("about:blank")
        browser.get_log("performance")  # forget what the browser asked for at its own start
        browser.get(report.as_uri())
        assert browser.title == "A <b>title</b> & more"
        assert len(browser.find_elements(By.CSS_SELECTOR, "section table tbody tr")) == 2
        image = browser.find_element(By.TAG_NAME, "img")
        assert browser.execute_script("return arguments[0].complete && arguments[0].naturalWidth > 0", image)
        assert not browser.find_element(By.CSS_SELECTOR, "details table").is_displayed()
        browser.find_element(By.TAG_NAME, "summary").click()
        assert browser.find_element(By.CSS_SELECTOR, "details table").is_displayed()
        assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []
        messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    finally:
        browser.quit()
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert sent[0] == report.as_uri()
    assert all(url.startswith("data:") for url in sent[1:])
