"""What an audit would do, told before it is done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from layerprobe.auditing.dataset.labelled import LabelledDataset
from layerprobe.auditing.dataset.labels import Classes
from layerprobe.auditing.dataset.leakage import check_disjoint
from layerprobe.auditing.features import Reader, memory_needed
from layerprobe.auditing.method.candidates import DEFAULT_PROBES, STRENGTHS, families

__all__ = ["Plan", "plan_audit"]


@dataclass(frozen=True)
class Plan:
    """What :func:`layerprobe.audit` would do with the same arguments.

    Attributes
    ----------
    rows, held_out : int
        Training rows, and rows that judge; 0 where views of the training rows do.
    classes : tuple
        Names of the K classes.
    layers : mapping of str to int
        Each layer's number of features, in order of execution.
    candidates : mapping of str to tuple of float
        The strengths at which each probe is tried on each layer; empty for a probe without one.
    passes : int
        How often the network runs over all rows, its untrained copy counted as well.
    memory : int
        Bytes of the layers' outputs, held at the same time.
    """

    rows: int
    held_out: int
    classes: tuple[Any, ...]
    layers: Mapping[str, int]
    candidates: Mapping[str, tuple[float, ...]]
    passes: int
    memory: int

    @property
    def tried(self) -> int:
        """How many candidates there are, over all layers."""
        return len(self.layers) * sum(max(1, len(strengths)) for strengths in self.candidates.values())


def plan_audit(
    reader: Reader,
    rows: LabelledDataset,
    held: LabelledDataset | None,
    what: str,
    *,
    class_names: Sequence[Any] | None = None,
    probes: Any = DEFAULT_PROBES,
    controls: bool = True,
) -> Plan:
    """Find out what an audit would do, and whether its arguments fit together.

    Parameters
    ----------
    reader : Reader
        Runs the network; asked for one small batch.
    rows, held : LabelledDataset
        The training rows, and those that judge, if the policy has some.
    what : str
        The argument that `held` came by.
    class_names, probes, controls : optional
        As for :func:`layerprobe.audit`.

    Returns
    -------
    Plan

    Raises
    ------
    InputError
        For anything that the audit would refuse before its first pass.
    """
    if held is not None:
        check_disjoint(rows, held, what)
    layers, outputs = reader.dimensions(rows)
    classes = Classes.from_labels(rows.labels, outputs, class_names or rows.class_names)
    classes.check_counts(classes.indices(rows.labels, "labels"))
    if held is not None:
        classes.indices(held.labels, f"labels of {what}=")
    held_out = 0 if held is None else held.n
    return Plan(
        rows.n,
        held_out,
        tuple(classes.names.tolist()),
        layers,
        {name: tuple(STRENGTHS.get(name, ())) for name in families(probes)},
        (1 + len(reader.views)) * (2 if controls else 1),
        memory_needed(layers, rows.n + held_out, views=bool(reader.views)),
    )
