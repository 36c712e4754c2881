"""The engine that fits probes to the outputs of layers and scores them; START HERE: engine.py."""

from layerprobe.layerwise.classes import LabelSets
from layerprobe.layerwise.engine import Accuracies, FittedProbe, count_correct, fit_layer, predictions
from layerprobe.layerwise.outputs import Extractor, LayerBatch, LayerOutputs
from layerprobe.layerwise.planning import LayerPlan, ProbePlan, plan
from layerprobe.layerwise.probing import ProbeTable, probe

__all__ = [
    "Accuracies",
    "Extractor",
    "FittedProbe",
    "LabelSets",
    "LayerBatch",
    "LayerOutputs",
    "LayerPlan",
    "ProbePlan",
    "ProbeTable",
    "count_correct",
    "fit_layer",
    "plan",
    "predictions",
    "probe",
]
