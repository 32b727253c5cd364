"""Gaussian splats on the bodies of a MuJoCo model, drawn for many worlds at once."""
