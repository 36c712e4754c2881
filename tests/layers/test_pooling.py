"""From layer outputs of any shape to rows."""

import pytest
import torch
from torch import nn

from layerprobe.errors import InputError, LayerError
from layerprobe.layers import capture

IMAGES = torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(6, 7, 3, generator=torch.Generator().manual_seed(1))
ROWS = torch.randn(6, 3, generator=torch.Generator().manual_seed(2))
SCALARS = torch.randn(6, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("x", "pool", "rows"),
    [
        (IMAGES, None, IMAGES.reshape(6, 60)),
        (IMAGES, "mean", IMAGES.mean((2, 3))),
        (IMAGES, "max", IMAGES.amax((2, 3))),
        (IMAGES, lambda x: x[:, :, 0], IMAGES[:, :, 0].reshape(6, 15)),
        (TOKENS, None, TOKENS.reshape(6, 21)),
        (TOKENS, "mean", TOKENS.mean(1)),
        (TOKENS, "max", TOKENS.amax(1)),
        (TOKENS, "first", TOKENS[:, 0]),
        (TOKENS, "last", TOKENS[:, 6]),
        (TOKENS, {"out*": "mean", "input": "last", "*": "max"}, TOKENS[:, 6]),
        (TOKENS, {"output": "mean"}, TOKENS.reshape(6, 21)),
        (ROWS, "mean", ROWS),
        (ROWS, "first", ROWS),
        (SCALARS, None, SCALARS[:, None]),
        (SCALARS, "max", SCALARS[:, None]),
    ],
)
def test_pool(x, pool, rows):
    class Half(nn.Module):
        def forward(self, x):
            return x / 2

    captured = capture(Half(), x, ["input", "output"], pool=pool, batch_size=4)
    torch.testing.assert_close(captured.outputs["input"], rows)


def test_compact_averages_large_feature_maps_by_blocks():
    class Same(nn.Module):
        def forward(self, x):
            return x * 1

    images = torch.randn(2, 16, 16, 16)
    rows = capture(Same(), images, "input", pool="compact").outputs["input"]
    torch.testing.assert_close(rows, nn.functional.adaptive_avg_pool2d(images, 8).flatten(1))
    small = capture(Same(), IMAGES, "input", pool="compact").outputs["input"]
    torch.testing.assert_close(small, IMAGES.flatten(1))


def test_compact_averages_tokens_under_the_attention_mask():
    class Text(nn.Module):
        def forward(self, x, attention_mask):
            return x * 1

    mask = (torch.arange(7) < torch.tensor([1, 2, 3, 4, 5, 7])[:, None]).long()
    batch = {"x": TOKENS, "attention_mask": mask}
    rows = capture(Text(), batch, "output", pool="compact").outputs["output"]
    expected = torch.stack(
        [tokens[: int(kept.sum())].mean(0) for tokens, kept in zip(TOKENS, mask, strict=True)]
    )
    torch.testing.assert_close(rows, expected)


def test_a_convolution_after_pooling_and_flattening():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    with torch.no_grad():
        maps = model(IMAGES)  # (6, 8, 2, 3)
    torch.testing.assert_close(capture(model, IMAGES, "1").outputs["1"], maps.flatten(1))
    torch.testing.assert_close(capture(model, IMAGES, "1", pool="mean").outputs["1"], maps.mean((2, 3)))


def test_pooling_is_not_recorded_as_a_layer():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    assert list(capture(model, IMAGES, "*", pool="mean").outputs) == ["input", "0", "1", "output"]


@pytest.mark.parametrize("pool", ["first", "last"])
def test_first_token_does_not_keep_other_tokens_in_memory(pool):
    sizes = []
    capture(
        nn.ReLU(),
        TOKENS,
        "input",
        pool=pool,
        consume=lambda outputs, *_: sizes.append(outputs["input"].untyped_storage().nbytes()),
    )
    assert sizes == [6 * 3 * 4]


def test_half_precision_is_pooled_in_float32():
    x = torch.full((2, 3, 1), 1.0, dtype=torch.bfloat16)
    x[:, 0] = 256
    assert capture(nn.Identity(), x, "input", pool="mean").outputs["input"].tolist() == [[86.0], [86.0]]


@pytest.mark.parametrize(
    ("pool", "error", "message"),
    [
        ("median", InputError, "one of mean, max, first, last, compact, got 'median'"),
        ({"*": "median"}, InputError, "got 'median'"),
        ("first", InputError, r"takes a token from \(n, tokens, channels\), but layer 'input' has the shape"),
        (lambda x: x.mean(), InputError, r"return 6 rows for layer 'input', got the shape \(\)"),
        (lambda x: 3, InputError, "got int"),
        ({"inputs": "mean"}, LayerError, "no layer matches 'inputs'; near it are 'input'"),
    ],
)
def test_invalid_pool_is_refused(pool, error, message):
    with pytest.raises(error, match=message):
        capture(nn.ReLU(), IMAGES, "input", pool=pool)
