"""The examples run, and show what they say."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_audit_texts(tmp_path, monkeypatch, capsys):
    example = load("audit_texts")
    texts, labels = example.training_rows()
    held_out, held_labels = example.held_out_rows()
    assert not set(texts) & set(held_out)
    everything, noisy, truth, _ = example.rows()
    right = dict(zip(everything, truth, strict=True))
    for part, given in ((texts, labels), (held_out, held_labels)):  # as noisy as each other
        assert 0.3 < np.mean([right[text] != label for text, label in zip(part, given, strict=True)]) < 0.42
    assert len(noisy) == len(texts) + len(held_out)

    monkeypatch.chdir(tmp_path)
    memorise = example.memorise
    monkeypatch.setattr(example, "memorise", lambda *arguments: memorise(*arguments, most_epochs=25))
    example.main()
    printed = capsys.readouterr().out
    network, decoder = map(float, re.search(r"network ([\d.]+)%, decoder ([\d.]+)%", printed).groups())
    assert decoder > network + 5
    state = torch.nn.Sequential(*example.build()).state_dict()
    assert (tmp_path / "texts.safetensors").stat().st_size > 4 * sum(t.numel() for t in state.values())
