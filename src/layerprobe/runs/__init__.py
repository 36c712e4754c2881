"""Training runs: one spec, one folder; leases, resuming, grids, clusters and states."""
