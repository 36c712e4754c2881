from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from layerprobe.errors import InputError
from layerprobe.figures import accuracy_over_layers, encode, save, training_history


def lines(ax):
    return [np.asarray(line.get_ydata(), dtype=float) for line in ax.lines]


def drawn(ax, y):
    return any(len(line) == len(y) and np.allclose(line, y) for line in lines(ax))


def test_one_panel_per_label_set(planted):
    noisy, true = accuracy_over_layers(planted()).axes
    assert noisy.get_title(loc="left") == "MASC fitted on noisy labels"
    assert true.get_title(loc="left") == "MASC fitted on true labels"
    assert drawn(noisy, [0.70, 0.80, 0.60])
    assert drawn(true, [0.97, 0.98, 0.96])
    assert not drawn(true, [0.70, 0.80, 0.60])
    for ax in (noisy, true):
        assert [label.get_text() for label in ax.get_xticklabels()] == ["input", "fc1", "fc2", "network"]
        for own in (1.0, 0.46, 0.54):
            assert drawn(ax, [own, own])


def test_shade_is_the_range_over_seeds(planted):
    (noisy, _) = accuracy_over_layers(planted()).axes
    corners = [np.unique(shade.get_paths()[0].vertices[:, 1].round(6)) for shade in noisy.collections]
    assert any(np.allclose(y, [0.59, 0.61, 0.69, 0.71, 0.79, 0.81]) for y in corners)


def test_another_probe_with_one_label_set_and_no_network(planted):
    rows = planted(seeds=1, fits=("noisy",), network={})
    figure = accuracy_over_layers(rows, "ncm")
    (ax,) = figure.axes
    assert drawn(ax, [0.88, 0.75, 0.50])
    assert len(ax.lines) == 3
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["test", "training, noisy labels", "training, true labels"]


def test_a_network_without_an_accuracy_is_not_drawn(planted):
    rows = planted(seeds=1, fits=("noisy",))
    rows.loc[rows["probe"] == "network", "accuracy"] = np.nan
    figure = accuracy_over_layers(rows)
    assert "network itself" not in [text.get_text() for text in figure.legends[0].get_texts()]
    assert "network" not in [label.get_text() for label in figure.axes[0].get_xticklabels()]


def test_curves_differ_in_colour_and_in_marker(planted):
    handles = accuracy_over_layers(planted()).legends[0].legend_handles[:3]
    assert len({handle.get_color() for handle in handles}) == 3
    assert len({handle.get_marker() for handle in handles}) == 3


@pytest.mark.parametrize("seeds", [1, 3])
def test_texts_are_inside_the_page_and_outside_the_axes(planted, seeds):
    figure = accuracy_over_layers(planted(seeds=seeds), title="A title")
    figure.draw_without_rendering()
    page = figure.bbox
    texts = [*figure.texts, *figure.legends, *(ax.get_yaxis().label for ax in figure.axes)]
    texts += [label for ax in figure.axes for label in [*ax.get_xticklabels(), ax.title]]
    for text in texts:
        box = text.get_window_extent()
        assert box.x0 >= page.x0 - 1
        assert box.x1 <= page.x1 + 1
        assert box.y0 >= page.y0 - 1
        assert box.y1 <= page.y1 + 1
    legend = figure.legends[0].get_window_extent()
    for ax in figure.axes:
        assert not legend.overlaps(ax.get_window_extent())


def test_files_are_reproducible(planted, tmp_path):
    first = save(accuracy_over_layers(planted()), tmp_path / "a.b")
    second = save(accuracy_over_layers(planted()), tmp_path / "second")
    assert [path.name for path in first] == ["a.b.png", "a.b.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_svg_has_no_external_reference(planted):
    root = ElementTree.fromstring(encode(accuracy_over_layers(planted())))
    links = [value for node in root.iter() for name, value in node.attrib.items() if name.endswith("href")]
    assert links
    assert all(link.startswith("#") for link in links)


def test_unknown_probe_error_lists_the_available_probes(planted):
    with pytest.raises(InputError, match=r"'qda'.*masc, ncm, knn"):
        accuracy_over_layers(planted(), "qda")


@pytest.fixture
def history():
    """Make the histories of runs: seed s ends after 3 + s epochs; seeds lie 2 points apart."""

    def make(pairs=("mlp-mnist",), degrees=(0.4,), seeds=2):
        lines = [
            (pair, p, seed, epoch, 0.2 * epoch + 0.02 * seed, 0.1 * epoch, 0.9 - p - 0.02 * seed)
            for pair in pairs
            for p in degrees
            for seed in range(seeds)
            for epoch in range(1, 4 + seed)
        ]
        columns = ["pair", "corruption", "seed", "epoch", "train_accuracy", "true_accuracy", "test_accuracy"]
        return pd.DataFrame(lines, columns=columns)

    return make


def test_history_shows_means_and_keeps_the_last_accuracy_of_stopped_runs(history):
    (ax,) = training_history(history()).axes
    assert ax.get_title(loc="left") == "mlp-mnist, p = 0.4"
    assert drawn(ax, [0.21, 0.41, 0.61, (0.6 + 0.82) / 2])
    assert drawn(ax, [0.1, 0.2, 0.3, 0.35])
    assert drawn(ax, [0.49] * 4)
    shade = np.unique(ax.collections[0].get_paths()[0].vertices[:, 1].round(6))
    assert np.allclose(shade, [0.48, 0.5])


def test_history_has_one_panel_per_pair_and_degree_in_the_order_of_the_rows(history):
    figure = training_history(history(pairs=("mlp-mnist", "cnn-mnist"), degrees=(0.8, 0.0)))
    titles = [ax.get_title(loc="left") for ax in figure.axes if ax.axison]
    assert titles == ["mlp-mnist, p = 0.8", "mlp-mnist, p = 0", "cnn-mnist, p = 0.8", "cnn-mnist, p = 0"]


def test_history_of_one_unnamed_run(history):
    figure = training_history(history(seeds=1).drop(columns=["pair", "corruption", "seed"]))
    (ax,) = figure.axes
    assert drawn(ax, [0.2, 0.4, 0.6])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["test", "training, noisy labels", "training, true labels"]


def test_both_figures_use_the_same_colours(planted, history):
    def colours(figure):
        (legend,) = figure.legends
        names = [text.get_text() for text in legend.get_texts()]
        return {
            name: handle.get_color() for name, handle in zip(names[:3], legend.legend_handles, strict=False)
        }

    assert colours(training_history(history())) == colours(accuracy_over_layers(planted()))


def test_incomplete_history_raises(history):
    with pytest.raises(InputError, match="missing: rows"):
        training_history(history()[:0])
    with pytest.raises(InputError, match="true_accuracy"):
        training_history(history().drop(columns="true_accuracy"))


def test_save_writes_the_given_formats(planted, tmp_path):
    pages = [save(accuracy_over_layers(planted()), tmp_path / name, formats=("pdf",)) for name in "ab"]
    (first,), (second,) = pages
    assert first.name == "a.pdf"
    assert first.read_bytes().startswith(b"%PDF")
    assert first.read_bytes() == second.read_bytes()
    assert b"CreationDate" not in first.read_bytes()


def test_unknown_format_raises_before_any_file_is_written(planted, tmp_path):
    with pytest.raises(InputError, match="png, svg, pdf; got gif"):
        save(accuracy_over_layers(planted()), tmp_path / "a", formats=("png", "gif"))
    assert not list(tmp_path.iterdir())
