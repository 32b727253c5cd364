"""Rasterisers, one file each, with one signature; `reference` is the float64 oracle."""
