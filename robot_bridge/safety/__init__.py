"""Limits, the governor that holds every command inside them, checks of commands and states."""
