"""Send a finished audit from the first process of a job to all others."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from layerprobe.auditing.result import Audit
from layerprobe.auditing.saving import arguments_from, not_storable, pack, state_of, unpack
from layerprobe.errors import InputError
from layerprobe.probes import Probe
from layerprobe.utils.distributed import from_first, world_size

__all__ = ["check_sendable", "receive_audit", "send_audit"]

HEADER = "packed"


def check_sendable(probes: Mapping[str, Probe]) -> None:
    """Raise if there are several processes and a probe cannot be sent to them.

    Parameters
    ----------
    probes : mapping of str to Probe

    Raises
    ------
    InputError
    """
    for name, probe in probes.items() if world_size() > 1 else ():
        if reason := not_storable(probe):
            raise InputError(
                f"an audit on several processes sends its decoder to all of them, and {name!r} cannot be "
                f"sent ({reason}); use probes of layerprobe only, or one process"
            )


def send_audit(audit: Audit) -> Audit:
    """Send the audit to the other processes, if there are any, and return it."""
    if world_size() > 1:
        tensors: dict[str, Tensor] = {}
        header = json.dumps(pack(state_of(replace(audit, reader=None)), tensors)).encode()
        content = {name: tensor.contiguous() for name, tensor in tensors.items()}
        content[HEADER] = torch.tensor([*header], dtype=torch.uint8)
        from_first(safetensors.torch.save(content))
    return audit


def receive_audit(**own: Any) -> Audit:
    """Return the audit of the first process, with this process's network, rows and `inputs` function.

    Parameters
    ----------
    **own
        The fields `reader`, `rows` and `held_out_rows` of `Audit`, and `inputs`.
    """
    tensors = safetensors.torch.load(from_first(None))
    header = tensors.pop(HEADER).numpy().tobytes()
    audit = Audit(**arguments_from(unpack(json.loads(header), tensors)))
    settings = {**audit.settings, "inputs": own.pop("inputs")}
    return replace(audit, settings=settings, **own)
