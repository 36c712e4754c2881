"""Statistics of the audit: candidates, policies, decoder, calibration, noise, baselines."""
