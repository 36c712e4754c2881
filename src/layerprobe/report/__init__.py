"""Results for reading: tables, a sentence, one self-contained HTML file."""

from layerprobe.report.html import write_report
from layerprobe.report.summary import accuracies, by_layer, by_probe, finding

__all__ = ["accuracies", "by_layer", "by_probe", "finding", "write_report"]
