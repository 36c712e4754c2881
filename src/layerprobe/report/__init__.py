"""Results for reading: tables, a sentence, a plan carried out and written."""

from layerprobe.report.summary import accuracies, by_layer, by_probe, finding

__all__ = ["accuracies", "by_layer", "by_probe", "finding"]
