"""Splats of a robot refined against photographs of its meshes, and how they are stored."""
