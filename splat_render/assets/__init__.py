"""Where splats come from: baked surfaces, scans and their alignment, .ply files."""
