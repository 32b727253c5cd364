"""A policy bundle, the observations it is given, and the loop that asks it for actions."""
