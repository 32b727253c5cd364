"""Composition: what is connected, the checks before a run, the run, and what it leaves."""
