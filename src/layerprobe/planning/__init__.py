"""What probing takes, before anything is allocated."""

from layerprobe.planning.plans import SCORED, LayerPlan, Plan, plan_of, reads_of
from layerprobe.planning.running import plan

__all__ = ["SCORED", "LayerPlan", "Plan", "plan", "plan_of", "reads_of"]
