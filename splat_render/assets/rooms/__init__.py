"""Rooms around a task: a table, walls and things on it, as splats that never move."""
