"""Policy bundles: what leaves a run for a robot."""
