"""openpi's policy protocol, as client and as server."""
