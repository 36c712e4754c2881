"""Views keep the label, the shape and the type."""

import pytest
import torch

from layerprobe.errors import InputError
from layerprobe.layers.views import VIEWS, apply_view, resolve_views

X = torch.arange(2 * 3 * 5 * 4, dtype=torch.float32).reshape(2, 3, 5, 4)


def test_flip_is_its_own_inverse():
    seen = apply_view("flip", VIEWS["flip"], X)
    assert torch.equal(seen[..., 0], X[..., -1])
    assert torch.equal(apply_view("flip", VIEWS["flip"], seen), X)


@pytest.mark.parametrize(
    ("name", "dim", "sign"), [("left", 3, -1), ("right", 3, 1), ("up", 2, -1), ("down", 2, 1)]
)
def test_shifts_move_by_two_pixels_and_repeat_the_edge(name, dim, sign):
    seen = apply_view(name, VIEWS[name], X)
    size = X.shape[dim]
    places = (torch.arange(size) - 2 * sign).clamp(0, size - 1)
    assert torch.equal(seen, X.index_select(dim, places))


def test_left_and_right_are_mirror_images():
    flip = VIEWS["flip"]
    assert torch.equal(VIEWS["left"](flip(X)), flip(VIEWS["right"](X)))


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize(
    "x", [X[0], X[..., :2], X[:, :, :2], X.flatten(1), (X, X), {"x": X}], ids=lambda x: type(x).__name__
)
def test_views_by_name_are_for_images_of_more_than_two_pixels(name, x):
    with pytest.raises(InputError, match=f"{name!r} is for images"):
        apply_view(name, VIEWS[name], x)


def test_views_are_found_by_name():
    assert resolve_views("flip") == {"flip": VIEWS["flip"]}
    assert list(resolve_views(["up", "down"])) == ["up", "down"]
    assert resolve_views(()) == {}
    named = resolve_views({"mirror": "flip", "own": torch.neg})
    assert named == {"mirror": VIEWS["flip"], "own": torch.neg}


def test_callables_are_named_by_their_function():
    class Blur:
        def __call__(self, x):
            return x

    def darker(x):
        return x / 2

    assert list(resolve_views([darker, Blur(), "flip"])) == ["darker", "Blur", "flip"]
    assert list(resolve_views(darker)) == ["darker"]


@pytest.mark.parametrize("views", ["turn", ["flip", "flip"], [lambda x: x, lambda x: -x], {"a": 3}, [None]])
def test_invalid_views_are_refused(views):
    with pytest.raises(InputError, match="views"):
        resolve_views(views)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[..., :3],
        lambda x: x[:1],
        lambda x: x.double(),
        lambda x: x.numpy(),
        lambda x: None,
        lambda x: (x,),
    ],
    ids=["smaller", "fewer", "wider", "array", "none", "tuple"],
)
def test_a_view_keeps_shape_and_type(view):
    with pytest.raises(InputError, match="'mine' must keep shape and type"):
        apply_view("mine", view, X)


def test_a_view_of_several_inputs_keeps_their_rows():
    tokens = {"ids": torch.ones(4, 6), "mask": torch.ones(4, 6)}
    cut = apply_view("cut", lambda x: {key: value[:, :5] for key, value in x.items()}, tokens)
    assert cut["ids"].shape == (4, 5)  # a text may lose words
    for view in (lambda x: {key: value[:3] for key, value in x.items()}, lambda x: None, lambda x: {}):
        with pytest.raises(InputError, match="'mine' must keep the number of rows"):
            apply_view("mine", view, tokens)
