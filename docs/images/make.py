"""Make the pictures of the documentation: ``python docs/images/make.py``.

report.png and review.png show the run of docs/audit.md, method.png the geometry of MASC. Needs Chromium
and its driver.
"""

import io
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patches import Arc
from PIL import Image
from selenium.webdriver.common.by import By

from layerprobe import MASC
from layerprobe.data import load

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from browsing import start_chromium  # noqa: E402


def screenshot(browser, name: str, width: int, height: int) -> None:
    """Save the upper part of the page that the browser shows, with 64 colours."""
    browser.set_window_size(width, height + 140)  # the frame of the window
    image = (
        Image.open(io.BytesIO(browser.get_screenshot_as_png()))
        .convert("RGB")
        .crop((0, 0, width - 15, height - 6))
    )
    image.quantize(64).save(FOLDER / f"{name}.png", optimize=True)


def draw_pages() -> None:
    """Run the first example of docs/audit.md and take pictures of its two pages."""
    page = (FOLDER.parent / "audit.md").read_text(encoding="utf-8")
    namespace: dict = {}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], namespace)
    with tempfile.TemporaryDirectory() as folder:
        namespace["audit"].report(f"{folder}/audit.html")
        browser = start_chromium(Path(folder) / "profile")
        try:
            browser.get(f"file://{folder}/audit.html")
            screenshot(browser, "report", 900, 800)
            browser.get(f"file://{folder}/review.html")
            for _ in range(20):  # to a row with a suggestion
                body = browser.find_element(By.TAG_NAME, "body")
                if "Suggest" in body.text.split("Row ")[1]:
                    break
                body.send_keys("g")
            screenshot(browser, "review", 900, 630)
        finally:
            browser.quit()


def draw_method() -> None:
    """Draw two subspaces with the angles of a query, and the rule of the number of components."""
    rng = np.random.default_rng(0)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    angles = {}
    for name, direction, color in (("1", 20, "#0072B2"), ("2", 75, "#D55E00")):
        turn = np.deg2rad(direction)
        axis = np.array([np.cos(turn), np.sin(turn)])
        rows = rng.uniform(1.9, 3.6, 30)[:, None] * axis + rng.normal(0, 0.16, (30, 2))
        left.plot(*rows.T, "o", color=color, markersize=4, label=f"rows $X_{name}$")
        left.plot(*-rows.T, "o", color=color, markersize=4, fillstyle="none", alpha=0.6)
        left.plot(*np.outer([-3.8, 3.8], axis).T, color=color)
        left.text(*(4.4 * axis), f"$U_{name}$", color=color, fontsize=13, ha="center", va="center")
        angles[direction] = (name, color)
    query = np.deg2rad(42)
    left.annotate(
        "",
        3.6 * np.array([np.cos(query), np.sin(query)]),
        (0, 0),
        arrowprops={"arrowstyle": "-|>", "color": "black"},
    )
    left.text(3.75 * np.cos(query), 3.75 * np.sin(query), "$x$", fontsize=13)
    for direction, (name, color) in angles.items():
        low, high = sorted((direction, 42))
        left.add_patch(Arc((0, 0), 2.4, 2.4, theta1=low, theta2=high, color=color, linewidth=2))
        middle = np.deg2rad((low + high) / 2)
        left.text(
            1.6 * np.cos(middle),
            1.6 * np.sin(middle),
            rf"$\theta_{name}$",
            color=color,
            ha="center",
            va="center",
        )
    left.set(
        title=r"$\theta_1 < \theta_2$: class 1 is predicted",
        xlim=(-4.6, 4.6),
        ylim=(-4.4, 4.6),
        aspect="equal",
    )
    left.legend(loc="lower right", frameon=False)
    left.set_axis_off()

    digits = load("digits")
    pixels = digits.train_images.reshape(-1, 64) / 8.0 - 1
    subspaces = MASC(variance=0.99).fit(pixels, digits.train_labels).subspaces_
    for k, color in ((0, "#0072B2"), (8, "#D55E00")):
        share = (subspaces.eigenvalues[k].cumsum(0) / subspaces.eigenvalues[k].sum()).numpy()
        rank = subspaces.ranks[k]
        right.plot(np.arange(1, 65), share, color=color, label=f"digit {k}: $r_k$ = {rank}")
        right.plot(rank, share[rank - 1], "o", color=color)
    right.axhline(0.99, color="#888888", linestyle="--")
    right.text(1, 0.992, "v = 0.99", color="#666666", va="bottom")
    right.set(
        title="choice of the number of components",
        xlabel="number of components r",
        ylabel="share of the variance of class k",
        ylim=(0.8, 1.01),
    )
    right.legend(loc="lower right", frameon=False)
    figure.savefig(FOLDER / "method.png", dpi=110)


if __name__ == "__main__":
    draw_method()
    draw_pages()
