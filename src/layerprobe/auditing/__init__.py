"""The audit of a network that was trained on partly wrong labels: `rows.py` reads what it was trained on."""
