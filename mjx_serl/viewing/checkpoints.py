"""The policy of a run at any of its checkpoints, swapped on the page while it plays."""

import time
from typing import Any

import jax

from mjx_serl.run.loop import Run
from mjx_serl.training.state import PolicyParams
from mjx_serl.viewing.policies import WorldPolicy
from mjx_serl.viewing.run_video import trained

_LOOK_S = 1.0  # between two looks for newer ones [s]


class Checkpoints:
    """The checkpoints of a run, of which one at a time plays.

    Attributes:
        policy: of the one that plays.
        epoch: after which that was saved.

    Args:
        run: as `load_policy` returns it; another process may train it.
        params: of its newest checkpoint.
    """

    def __init__(self, run: Run, params: PolicyParams) -> None:
        self._store, self._shapes = run.store, jax.eval_shape(lambda: params)
        self._refused: set[int] = set()
        self.policy: WorldPolicy = trained(run, params)
        self.epoch = run.progress.epoch

    def epochs(self) -> list[int]:
        """Return what can be chosen, the newest first; a run that trains drops old ones."""
        found = {*self._store.steps(), self.epoch} - self._refused
        return sorted(found, reverse=True)

    def swap(self, epoch: int) -> str:
        """Let another one play; returns why it cannot, "" where it does."""
        if epoch == self.epoch:
            return ""
        try:
            params, _, _ = self._store.restore(self._shapes, part=True, step=epoch)
        except (OSError, ValueError) as error:  # dropped meanwhile, or damaged
            self._refused.add(epoch)
            return str(error).splitlines()[0]
        # Of the same structure, so that nothing is compiled again.
        structure = jax.tree.structure(self.policy)
        self.policy = jax.tree.unflatten(structure, jax.tree.leaves(params))
        self.epoch = epoch
        return ""


class CheckpointMenu:
    """A drop-down of checkpoints and a tick that follows the newest.

    Args:
        gui: of a viser server.
        checkpoints: to choose from.
    """

    def __init__(self, gui: Any, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._menu = gui.add_dropdown("Checkpoint", self._names(), _named(checkpoints.epoch))
        self._follow = gui.add_checkbox("Follow the newest", initial_value=False)
        self._note = gui.add_markdown("")
        self._shown, self._next = self._menu.value, 0.0

    def renew(self) -> WorldPolicy:
        """Return the policy of what is chosen now; call it between two steps."""
        asked, now = self._menu.value, time.monotonic()
        chose = asked != self._shown
        if chose or now > self._next:
            self._next = now + _LOOK_S
            if chose:
                self._follow.value = False
            epochs = self._checkpoints.epochs()
            wanted = epochs[0] if self._follow.value else int(asked.split()[-1])
            self._note.content = self._checkpoints.swap(wanted)
            self._show()
        return self._checkpoints.policy

    def _show(self) -> None:
        """Bring the menu up to date."""
        if self._menu.options != (names := self._names()):
            self._menu.options = names
        self._shown = _named(self._checkpoints.epoch)
        if self._menu.value != self._shown:
            self._menu.value = self._shown

    def _names(self) -> tuple[str, ...]:
        return tuple(_named(epoch) for epoch in self._checkpoints.epochs())


def _named(epoch: int) -> str:
    return f"epoch {epoch}"
