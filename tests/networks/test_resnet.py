import torch
from torch.nn.functional import batch_norm, conv2d, linear, max_pool2d

from layerprobe.layers import capture, list_layers
from layerprobe.networks import ResNet18


def test_outputs_equal_functional_form():
    torch.manual_seed(0)
    model = ResNet18(num_classes=3).double()
    before = {key: value.clone() for key, value in model.state_dict().items()}

    def conv_bn(a, conv, bn, stride=1):
        kernel = before[f"{conv}.weight"]
        a = conv2d(a, kernel, stride=stride, padding=kernel.shape[2] // 2)
        return batch_norm(a, None, None, before[f"{bn}.weight"], before[f"{bn}.bias"], training=True)

    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    expected = {}
    a = expected["l0"] = max_pool2d(conv_bn(x, "conv1", "bn1").relu(), 3, 2, padding=1)
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            b = expected[f"{name}.relu1"] = conv_bn(a, f"{name}.conv1", f"{name}.bn1", stride).relu()
            b = conv_bn(b, f"{name}.conv2", f"{name}.bn2")
            if stride == 2:
                a = conv_bn(a, f"{name}.downsample.0", f"{name}.downsample.1", 2)
            a = expected[f"{name}.relu2"] = (a + b).relu()
    expected["avgpool"] = a.mean((2, 3))

    seen = {}
    for name, layer in model.probed_layers.items():
        model.get_submodule(layer).register_forward_hook(
            lambda *args, name=name: seen.update({name: args[2].detach()})
        )
    logits = model(x)
    torch.testing.assert_close(logits, linear(expected["avgpool"], before["fc.weight"], before["fc.bias"]))
    for name, layer in model.probed_layers.items():
        torch.testing.assert_close(seen[name].flatten(1), expected.get(layer, expected["l0"]).flatten(1))


def test_state_dict_keys_of_torchvision():
    keys = list(ResNet18().state_dict())
    assert len(keys) == 122  # as many as torchvision.models.resnet18
    assert keys[0] == "conv1.weight"
    assert "layer2.0.downsample.1.running_mean" in keys
    assert keys[-2:] == ["fc.weight", "fc.bias"]


def test_without_maxpool_first_layers_have_full_size():
    model = ResNet18(maxpool=False)
    x = torch.rand(1, 3, 32, 32)
    dimensions = {row.name: row.dimension for row in list_layers(model, x)}
    probed = {name: dimensions[layer] for name, layer in model.probed_layers.items()}
    assert [probed[name] for name in ("l0", "l0_3", "l1", "l2", "avgpool")] == [
        65536,
        65536,
        65536,
        32768,
        512,
    ]
    assert list(model.state_dict()) == list(ResNet18().state_dict())


def test_capture_does_not_change_running_statistics():
    model = ResNet18()
    capture(model, torch.rand(2, 3, 32, 32), layers=["avgpool"])
    assert model.bn1.num_batches_tracked == 0
    assert model.training
