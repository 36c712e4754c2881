"""Training data in any supported form, read as a labelled dataset with stable ids."""
