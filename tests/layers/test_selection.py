"""Layers by name and by pattern."""

import pytest
import torch
from torch import nn

from layerprobe.errors import InputError, LayerError
from layerprobe.layers import capture


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        ("act", ["act"]),
        (["output", "input"], ["input", "output"]),
        ("fc?", ["fc1", "fc2", "fc3"]),
        (["fc[12]", "F.*"], ["fc1", "fc2", "F.relu"]),
        (("fc1" for _ in "1"), ["fc1"]),
        (["fc1", "fc*"], ["fc1", "fc2", "fc3"]),
    ],
)
def test_names_and_globs_in_order_of_execution(mlp, x, layers, names):
    assert list(capture(mlp, x, layers).outputs) == names


def test_name_with_brackets_matches_itself(x):
    model = nn.Sequential()
    model.add_module("act[0]", nn.ReLU())
    torch.testing.assert_close(capture(model, x, "act[0]").outputs["act[0]"], x.relu())


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            "fc9",
            r"no layer matches 'fc9'; near it are ('fc\d'(, )?){3}; list_layers\(model, batch\) shows all 7",
        ),
        (["act", "zzzzzz"], "no layer matches 'zzzzzz'; list_layers"),
        ("conv*", r"no layer matches 'conv\*'"),
    ],
)
def test_error_for_an_unknown_pattern_names_similar_layers(mlp, x, layers, message):
    with pytest.raises(LayerError, match=message):
        capture(mlp, x, layers)
    with pytest.raises(LookupError):
        capture(mlp, x, layers)


def test_patterns_of_pool_that_match_no_chosen_layer(mlp, x):
    with pytest.raises(LayerError, match=r"no layer matches 'nope'.* shows all 7"):
        capture(mlp, x, "fc1", pool={"nope": "mean"})
    with pytest.raises(LayerError, match=r"pool= has 'fc2', which matches none of the chosen layers, 'fc1':"):
        capture(mlp, x, "fc1", pool={"fc2": "mean"})


def test_no_pattern_at_all(mlp, x):
    with pytest.raises(InputError, match="at least one layer or pattern"):
        capture(mlp, x, [])


def test_layer_that_lacks_rows_in_a_later_batch(x):
    class Fixed(nn.Module):
        def forward(self, x):
            return torch.relu(x[:4])

    message = r"'F.relu' gave rows in batch 1 but not in batch 2: no dimension of its shape \(4, 4\)"
    with pytest.raises(LayerError, match=message):
        capture(Fixed(), [x[:4], x[:6]], "F.relu")
    assert list(capture(Fixed(), [x[:6], x[:4]]).outputs) == ["input"]  # decided by the first batch
