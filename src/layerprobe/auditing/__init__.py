"""Audit: the truth out of a network that someone already trained on wrong labels."""
