"""Dynamics behind one protocol: C MuJoCo on CPU threads, MJX, MJX-Warp."""
