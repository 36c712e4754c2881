import numpy as np
import torch

from layerprobe import audit
from layerprobe.auditing.dataset.readers import read_rows
from layerprobe.auditing.features import NetworkReader
from layerprobe.layers.views import resolve_views
from layerprobe.networks import MLP

generator = torch.Generator().manual_seed(0)
X, Y = torch.randn(60, 6, generator=generator), torch.arange(60) % 3


def test_a_pooling_may_speak_of_layers_that_a_decoder_does_not_read():
    reader = NetworkReader(MLP(6, hidden=(5, 4), num_classes=3), pool={"fc1": "mean", "*": None})
    rows = read_rows(X, Y)
    every, one = reader.read(rows).mean, reader.read(rows, layers=["fc2"]).mean
    assert list(one) == ["fc2"]
    assert torch.equal(one["fc2"], every["fc2"])


def test_layers_and_class_names_of_any_form_are_taken():
    model = MLP(6, hidden=(5,), num_classes=3)
    held = torch.randn(30, 6, generator=generator), Y[:30]
    found = audit(
        model,
        (X, Y),
        policy="noisy_holdout",
        holdout=held,
        layers=(name for name in ["input", "fc1"]),  # used up after one pass
        class_names=np.array(["a", "b", "c"]),
        probes="ncm",
        controls=False,
    )
    assert sorted(found.layers["layer"]) == ["fc1", "input"]
    assert found.classes.tolist() == ["a", "b", "c"]
    assert found.predict(X).shape == (60,)


def test_the_networks_output_alone_is_read_over_views():
    x = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    model = MLP(64, hidden=(16,)).eval()
    read = NetworkReader(model, layers=["output"], views=resolve_views("flip")).read(
        read_rows((x, torch.arange(8)))
    )
    with torch.inference_mode():
        expected = (model(x).softmax(1) + model(x.flip(-1)).softmax(1)) / 2
    assert torch.allclose(read.probabilities, expected, atol=1e-6)
