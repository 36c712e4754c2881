"""What probing takes, before anything is allocated."""

from layerprobe.planning.plans import LayerPlan, Plan, plan_of, reads_of
from layerprobe.planning.running import plan

__all__ = ["LayerPlan", "Plan", "plan", "plan_of", "reads_of"]
