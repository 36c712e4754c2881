"""The site that ``make docs`` builds: links, names, and how it opens in a browser."""

import importlib
import pkgutil
import zlib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import layerprobe
from browsing import complaints

ROOT = Path(__file__).parents[1]
SITE = ROOT / "docs" / "_build" / "html"
INTERNAL = {"layerprobe.cli"}

pytestmark = pytest.mark.skipif(not (SITE / "index.html").exists(), reason="the site is not built: make docs")


class Page(HTMLParser):
    """Links and anchors of one page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if "id" in attributes:
            self.anchors.add(attributes["id"])
        self.links += [attributes[name] for name in ("href", "src") if attributes.get(name)]


def test_internal_links_exist():
    pages = {path: Page(path) for path in SITE.rglob("*.html") if "_static" not in path.parts}
    assert len(pages) > 100
    broken = []
    for path, page in pages.items():
        for link in page.links:
            url = urlsplit(link)
            if url.scheme or url.netloc or link.startswith(("data:", "mailto:", "javascript:")):
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            inside = target in pages and "_modules" not in path.parts  # those lead to the top of a page
            if not target.exists() or (inside and unquote(url.fragment) not in {"", *pages[target].anchors}):
                broken.append(f"{path.relative_to(SITE)}: {link}")
    assert broken == []


def documented():
    """Return the full names that have an entry of the interface on the site."""
    inventory = (SITE / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(inventory).decode().splitlines()
    return {name for name, kind, *_ in map(str.split, lines) if kind.startswith("py:")}


def test_every_public_name_is_documented():
    packages = [layerprobe.__name__] + [
        module.name
        for module in pkgutil.walk_packages(layerprobe.__path__, "layerprobe.")
        if module.ispkg and module.name not in INTERNAL
    ]
    names = documented()
    public = [
        (package, name)
        for package in packages
        for name in getattr(importlib.import_module(package), "__all__", ())
    ]
    missing = [f"{p}.{name}" for p, name in public if not {f"{p}.{name}", f"layerprobe.{name}"} & names]
    assert missing == []


def test_examples_were_run():
    images = list((SITE / "_images").glob("sphx_glr_*"))
    examples = list((ROOT / "examples").glob("*.py"))
    for path in examples:
        text = (SITE / "gallery" / f"{path.stem}.html").read_text(encoding="utf-8")
        assert "sphx-glr-script-out" in text or "sphx-glr-single-img" in text or "output_subarea" in text, (
            path
        )
    assert len(images) >= len(examples)


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("page", ["index", "audit", "gallery/audit_digits", "generated/layerprobe.audit"])
def test_page_fits_the_screen(browser, page, width):
    browser.set_window_size(width, 900)
    browser.get((SITE / f"{page}.html").as_uri())
    wide = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 1
    assert [entry for entry in complaints(browser) if "[PST]" not in entry["message"]] == []  # of the theme
