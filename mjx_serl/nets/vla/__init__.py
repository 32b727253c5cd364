"""A policy that sees, reads and acts by flow matching: openpi's pi0 and pi0.5, in JAX."""
