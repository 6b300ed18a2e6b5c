"""Samplers and pruners by name, and what a study starts from."""
