"""The review page in a browser: by keyboard, across a reload, and back into the audit."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from auditing.planted import clusters, corrupted
from browsing import complaints, sent_requests
from layerprobe import audit_features, audit_predictions
from layerprobe.errors import InputError

EVIL = '</script><img src="https://example.org/x.png" onerror="alert(1)">'
NAMES = np.array(["ant", f"bee {EVIL}", "=cat " + "x" * 80, *(f"class {k}" for k in range(3, 30))])
N = 400


class Examples:
    """Rows of one kind for display, in the place of a dataset."""

    n = N
    columns = None

    def __init__(self, example):
        self.example = example

    def examples(self, positions):
        return [self.example(int(i)) for i in positions]

    def batches(self):
        yield torch.arange(8.0 * N).reshape(N, 8), np.arange(N)


def picture(i):
    return np.full((8, 8), i % 256, np.uint8)


def text(i):
    return f"Row {i} {EVIL} " + "word " * 40


@pytest.fixture(scope="module")
def audit():
    X, true = clusters(N, 30, 30, apart=4.0)
    held, held_true = clusters(300, 30, 30, seed=1, apart=4.0)
    given = corrupted(true, 30, 0.25, seed=4)
    return audit_features(
        {"fc1": X},
        NAMES[given],
        policy="noisy_holdout",
        holdout=({"fc1": held}, NAMES[corrupted(held_true, 30, 0.25, seed=5)]),
        probes=["ncm"],
        class_names=NAMES.tolist(),
        index=np.array([f"{EVIL} {i}" for i in range(N)]),
    )


@pytest.fixture
def opened(audit, browser, tmp_path):
    """Open the page of an audit with rows of one kind; return a function that presses keys."""
    from selenium.webdriver.common.action_chains import ActionChains

    def open_page(example=text, **options):
        path = tmp_path / "review.html"
        replace(audit, rows=Examples(example)).review_page(path, **options)
        browser.execute_cdp_cmd(
            "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
        )
        browser.get(path.as_uri())
        return lambda *keys: ActionChains(browser).send_keys(*keys).perform()

    return open_page


def shown(browser, name):
    return browser.find_element("id", name).text


def downloaded(folder, name):
    for _ in range(100):
        if (folder / name).exists() and not list(folder.glob("*.crdownload")):
            return folder / name
        time.sleep(0.05)
    raise AssertionError(f"{name} was not downloaded")


@pytest.mark.browser
def test_keys_decide_and_undo_and_decisions_are_kept_after_a_reload(audit, opened, browser):
    from selenium.webdriver.common.keys import Keys

    press = opened()
    sample = audit.review_sample()
    assert shown(browser, "name") == f"Row {sample['index'][0]}"
    press("g", "s", "c")
    press("o", "class 1", Keys.ARROW_DOWN, Keys.ENTER)  # class 10, class 11, ...
    assert "4 of 110 decided" in shown(browser, "phase")
    press("z")
    assert "3 of 110 decided" in shown(browser, "phase")
    assert shown(browser, "place") == "4 of 410"
    press("o", "class 1", Keys.ARROW_DOWN, Keys.ENTER)
    browser.refresh()
    press("n")
    assert "5 of 110 decided" in shown(browser, "phase")
    assert shown(browser, "place") == "6 of 410"
    decided = []
    for _ in range(5):
        press(Keys.ARROW_LEFT)
        decided.insert(0, shown(browser, "decision").removeprefix("Decided: "))
    chosen = [sample["given_label"][0], sample["suggested_label"][1], "cannot say", "class 11"]
    assert decided == [*chosen, "none of the classes"]
    assert complaints(browser) == []


@pytest.mark.browser
@pytest.mark.parametrize("kind", ["json", "csv"])
def test_export_is_applied_and_imported_again(audit, opened, browser, tmp_path, kind):
    press = opened(n=20, seed=2)
    sample = audit.review_sample(20, seed=2)
    press(*"gs" * 9, *"gngs")
    assert "The random sample is complete" in shown(browser, "phase")
    press("g")  # the row that is most likely wrong
    browser.find_element("id", kind).click()
    path = downloaded(tmp_path, f"decisions.{kind}")
    reviewed = audit.apply(path)
    assert (reviewed.review.reviewed, reviewed.review.pairs) == (20, 2)
    assert reviewed.verified.sum() >= 20
    assert reviewed.index[reviewed.outside.numpy()].tolist() == [sample["index"][19]]
    by_row = reviewed.issues.set_index("index")["given_label"]
    for place in (0, 2, 4):
        index = sample["index"][place]
        if not (sample["index"] == index).sum() > 1:
            assert by_row[index] == sample["given_label"][place]

    browser.execute_script("localStorage.clear()")
    browser.refresh()
    assert "0 of 22 decided" in shown(browser, "phase")
    browser.find_element("id", "import").send_keys(str(path))
    time.sleep(0.3)
    assert "23 decisions imported" in shown(browser, "status")
    assert "complete" in shown(browser, "phase")
    assert complaints(browser) == []


@pytest.mark.browser
def test_page_runs_no_markup_and_sends_nothing(opened, browser):
    opened()
    assert EVIL in browser.find_element("css selector", "#content .text").text
    assert [url for url in sent_requests(browser) if not url.startswith(("file:", "data:"))] == []
    assert browser.execute_script("return document.querySelectorAll('img, iframe, object').length") == 0
    assert complaints(browser) == []
    injected = "const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
    browser.execute_script(f"{injected} document.body.append(s)")
    assert browser.execute_script("return window.ran") is None


@pytest.mark.browser
def test_filters_grid_and_hidden_suggestion(audit, opened, browser):
    from selenium.webdriver.support.select import Select

    press = opened(picture)
    issues = audit.issues
    different = issues[issues["given_label"] != issues["suggested_label"]]
    given, suggested = different[["given_label", "suggested_label"]].value_counts().index[0]
    for name, label in (("given", given), ("suggested", suggested)):
        Select(browser.find_element("id", name)).select_by_value(str(NAMES.tolist().index(label)))
    both = (issues["given_label"] == given) & (issues["suggested_label"] == suggested)
    rows = issues["index"][both]
    repeats = audit.review_sample()[lambda frame: frame["repeat"]]["index"].isin(rows).sum()
    assert shown(browser, "place").endswith(f"of {both.sum() + repeats}")
    browser.execute_script("document.activeElement.blur()")
    press("v")
    cells = browser.find_elements("css selector", ".cell img")
    assert len(cells) == min(24, both.sum() + repeats)
    press("h")
    assert suggested not in browser.find_element("css selector", ".cell p").text
    press("v")
    assert browser.find_element("css selector", "#take strong").text == "hidden"
    press("s")
    assert browser.find_element("css selector", "#take strong").text == suggested
    assert "0 of 110" in shown(browser, "phase")
    press("s")
    assert browser.execute_script("return Object.values(localStorage).join()").count("[[") == 1
    assert complaints(browser) == []


@pytest.mark.browser
@pytest.mark.parametrize("example", [picture, text, lambda i: None])
def test_page_fits_a_phone(opened, browser, example):
    opened(example)
    if example(0) is None:
        assert browser.find_element("css selector", ".values").text.startswith("0 ")
    device = {"width": 400, "height": 850, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 400


def test_number_of_rows_is_limited(audit, tmp_path):
    audit.review_page(tmp_path / "review.html", n=30, most=5)
    page = (tmp_path / "review.html").read_text("utf-8")
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert (len(data["rows"]), len(data["queue"])) == (35, 38)
    with pytest.raises(InputError, match="of at least 0, got -1"):
        audit.review_page(tmp_path / "review.html", most=-1)


def test_report_writes_the_review_page_beside_it(audit, tmp_path):
    audit.report(tmp_path / "report.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "review.html"]


@pytest.mark.browser
def test_filter_shows_conflicting_duplicates(browser, tmp_path):
    from selenium.webdriver.support.ui import Select

    random = np.random.default_rng(0)
    texts = [f"row {i} {EVIL}" for i in range(190)] + [f"row {i} {EVIL}" for i in range(10)]
    given = random.integers(0, 3, 200)
    given[190:] = (given[:10] + 1) % 3
    logits = random.normal(size=(200, 3)) + 2 * np.eye(3)[given]
    audit_predictions(logits, NAMES[given], class_names=NAMES[:3], data=texts).review_page(
        tmp_path / "review.html", most=5
    )
    browser.get((tmp_path / "review.html").as_uri())
    Select(browser.find_element("id", "show")).select_by_value("twins")
    assert 5 <= int(shown(browser, "place").split()[2]) <= 20  # of the 20 rows of ten pairs
    for _ in range(3):
        row = int(shown(browser, "name").split()[1])
        twin = row + 190 if row < 10 else row - 190
        assert shown(browser, "twin") == f"Equal content, labelled {NAMES[given[twin]]}: row {twin}"
        browser.find_element("id", "next").click()
    Select(browser.find_element("id", "show")).select_by_value("all")
    assert complaints(browser) == []
