"""What may change where a run is resumed: how long it goes on, how it is checked and kept."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mjx_serl.config import TrainConfig
from scenes.contract.errors import InputError
from scenes.contract.serialize import flattened, to_json

# Parts of a config that its training state does not depend on, and what in them names the folder.
FREE = (
    "total_env_steps",
    "total_updates",
    "devices",
    "fsdp.",
    "placement.",
    "eval.",
    "run.",
    "pilot.port",
    "pilot.device",
    "pilot.size",
    "pilot.view",
    "pilot.worlds",
    "pilot.pause",
)
FIXED = ("run.folder", "run.name")


@dataclasses.dataclass(frozen=True)
class Change:
    """One option of a run that is not what it was.

    Attributes:
        name: of the field, with dots.
        old: value, as in config.json.
        new: value.
    """

    name: str
    old: Any
    new: Any

    @property
    def option(self) -> str:
        """Its name on the command line."""
        return "--" + self.name.removeprefix("method.").replace("_", "-")

    def __str__(self) -> str:
        return f"{self.option} {self.new} (was {self.old})"


def allowed_changes(old: TrainConfig, new: TrainConfig) -> list[Change]:
    """Return what differs between the config of a run on disk and the one to go on with.

    Raises ValueError that names all options of which a run cannot change.
    """
    changes = all_changes(old, new)
    refuse_options([str(c) for c in changes if c.name in FIXED or not c.name.startswith(FREE)])
    return changes


def all_changes(old: TrainConfig, new: TrainConfig) -> list[Change]:
    """Return every option that differs."""
    before, after = flattened(to_json(old)), flattened(to_json(new))
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return [Change(name, _value(old, before, name), _value(new, after, name)) for name in names]


def _value(cfg: TrainConfig, written: Mapping[str, Any], name: str) -> Any:
    """Of a field, also of one that is at its default and so not written; None where it has none."""
    if name in written:
        return written[name]
    found: Any = cfg
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, bool | int | float | str) else None


def refuse_options(options: list[str]) -> None:
    """Raise ValueError where there are options that a resumed run cannot take."""
    if options:
        raise InputError(
            f"--resume goes on with the run as it began; it cannot change {', '.join(options)}. "
            "Allowed: --total-env-steps, --total-updates, --devices, --fsdp, --placement.*, "
            "--eval.*, --run.* (not folder and name), --pilot.port, view, device, size, worlds, "
            "pause; the rest takes a new run"
        )
