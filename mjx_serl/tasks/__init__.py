"""Importing this package files every task in the registry."""

from mjx_serl.tasks import pick_cube as pick_cube
from mjx_serl.tasks import pick_turned_bar as pick_turned_bar
