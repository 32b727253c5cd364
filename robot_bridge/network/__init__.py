"""Authenticated messages between processes: observers, remote commands, transitions."""
