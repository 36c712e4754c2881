"""The engine that fits probes to the outputs of layers and scores them; START HERE: engine.py."""

from layerprobe.layerwise.planning import plan
from layerprobe.layerwise.plans import SCORED, LayerPlan, Plan, plan_of, reads_of
from layerprobe.layerwise.probing import probe
from layerprobe.layerwise.table import ProbeTable

__all__ = ["SCORED", "LayerPlan", "Plan", "ProbeTable", "plan", "plan_of", "probe", "reads_of"]
