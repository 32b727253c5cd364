"""A file of ours for another task than it was recorded for, its rewards and ends as they are."""

from collections.abc import Iterator
from pathlib import Path

from mjx_serl.data.foreign.source import ACTION, Column, ForeignEpisode, ForeignFile
from scenes.contract.demonstrations import OBS, load_demonstrations, whole_episodes

KIND = "file of demonstrations"


def open_ours(path: Path) -> ForeignFile:
    """Return what a file of ours holds; raises what `load_demonstrations` does."""
    arrays, contract = load_demonstrations(path)
    columns = {name: Column(shape, dtype) for name, shape, dtype in contract.obs}
    columns[ACTION] = Column((len(contract.action_names),), "float32", contract.action_names)
    whole = list(whole_episodes(arrays))
    notes = [f"pays and ends as '{contract.task}' did: hold that against the task yourself"]
    lost = arrays["reward"].shape[1] - len(whole)
    if lost:
        notes.append(f"{lost} episodes in which physics failed left out")

    def episodes(wanted: frozenset[str]) -> Iterator[ForeignEpisode]:
        for steps in whole:
            shown = {name: arrays[f"{OBS}{name}"][steps] for name in wanted - {ACTION}}
            yield ForeignEpisode(
                columns=shown | {ACTION: arrays["action"][steps]},
                reward=arrays["reward"][steps],
                solved=bool(arrays["terminated"][steps][-1]),
                expert=arrays["expert"][steps],
            )

    return ForeignFile(
        path=path,
        kind=KIND,
        columns=columns,
        episodes=episodes,
        rate=contract.rate,
        contract=contract,
        notes=notes,
    )
