"""Training runs: from a spec to a folder that survives interruption, many at once."""
