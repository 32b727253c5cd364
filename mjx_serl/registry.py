"""One registry for everything that has a name: tasks, presets, agents, physics, renderers."""

from scenes.contract.registry import Registry

__all__ = ["Registry"]
