"""A finished audit in every process of a job: the first decides, the others are told what it found."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import safetensors.torch
import torch

from layerprobe.auditing.dataset.labelled import LabelledDataset
from layerprobe.auditing.features import Reader
from layerprobe.auditing.result import Audit
from layerprobe.auditing.serialisation import Packer, unpack
from layerprobe.errors import InputError
from layerprobe.probes import Probe
from layerprobe.utils.distributed import from_first, world_size

__all__ = ["check_sendable", "send_audit", "take_audit"]

FIELDS = ("decided", "order", "given", "index", "named", "policy", "verdict_", "settings", "cost")
TEXT = "packed"


def check_sendable(probes: Mapping[str, Probe]) -> None:
    """Refuse probes that could not be sent at the end, where there is anybody to send them to."""
    for name, probe in probes.items() if world_size() > 1 else ():
        try:
            Packer().pack(probe)
        except InputError as error:
            raise InputError(
                f"an audit on several processes sends its decoder to all of them, and {name!r} cannot be "
                f"sent ({error}); use probes of layerprobe alone, or one process"
            ) from error


def send_audit(audit: Audit) -> None:
    """Tell the other processes, if there are any, what was found."""
    if world_size() == 1:
        return
    found = {name: getattr(audit, name) for name in FIELDS}
    found["settings"] = {**audit.settings, "inputs": None}  # a function, which all have
    packer = Packer()
    text = json.dumps(packer.pack(found)).encode()
    tensors = {name: tensor.contiguous() for name, tensor in packer.tensors.items()}
    from_first(safetensors.torch.save(tensors | {TEXT: torch.tensor([*text], dtype=torch.uint8)}))


def take_audit(
    reader: Reader, rows: LabelledDataset, jury_rows: LabelledDataset | None, inputs: Any
) -> Audit:
    """Return what the first process found, with this one's network and rows."""
    tensors = safetensors.torch.load(from_first(None))
    text = tensors.pop(TEXT).numpy().tobytes()
    audit = Audit(**unpack(json.loads(text), tensors))
    settings = {**audit.settings, "inputs": inputs}
    return replace(audit, settings=settings, reader=reader, rows=rows, jury_rows=jury_rows)
