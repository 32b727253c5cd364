"""Trials of a sweep whose options Optuna chooses, one after what it knows of those before.

Each trial is a variant like those of a grid, "trial-0" and so on, trained with every seed by the
same processes. Optuna's storage says which trials there are and what came of them, so that a search
that ends at any moment goes on, also from another machine that has the storage and the folder.
"""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mjx_serl.run.statistics import interquartile_mean
from mjx_serl.sweep.folder import Sweep, SweepRun
from mjx_serl.sweep.spec import Choice, Options, Range, Variant, read_spec
from scenes.contract.errors import InputError
from scenes.contract.extras import require

_JOURNAL = "search.journal"  # where trials are kept if the file says nothing else


def open_sweep(path: Path, *, folder: Path | None = None) -> Sweep:
    """Read a spec, or the one of a sweep that was begun, with the trials that its search has."""
    sweep = Sweep.open(path) if folder is None else Sweep(read_spec(path, folder=folder), path)
    return sweep if sweep.spec.search is None else Trials(sweep).sweep


class Trials:
    """The trials of a search, as its storage has them.

    Args:
        sweep: of which the trials are the variants.

    Raises MissingPackageError without Optuna, InputError for a storage that cannot be opened.
    """

    def __init__(self, sweep: Sweep) -> None:
        assert sweep.spec.search is not None
        self._sweep, self._search = sweep, sweep.spec.search
        self._optuna = require("optuna", "optuna", purpose="[search] of a sweep")
        self._optuna.logging.set_verbosity(self._optuna.logging.WARNING)
        self._study = self._open()

    @property
    def sweep(self) -> Sweep:
        """The sweep with the trials that there are as its variants."""
        spec = self._sweep.spec
        found = tuple(self._variant(trial) for trial in self._first_of_each)
        return dataclasses.replace(self._sweep, spec=dataclasses.replace(spec, variants=found))

    @property
    def begun(self) -> list[str]:
        """Names of the trials that nothing is known of yet."""
        return [self._name(trial) for trial in self._study.trials if not trial.state.is_finished()]

    def ask(self, most: int) -> list[str]:
        """Choose trials until so many are to be trained, or there are all; returns their names.

        Those with options that were tried before are told what came of them, and not trained.
        """
        while len(self.begun) < most and len(self._study.trials) < self._search.trials:
            known = self._first_of_each
            trial = self._study.ask(self._distributions)
            same = [old for old in known if old.params == trial.params]
            if same:
                self._tell(trial.number, same[0].value)
        return self.begun

    def tell(self, sweep: Sweep) -> None:
        """Note what came of trials whose runs are over; those of failed ones count as failed."""
        by_name: dict[str, list[SweepRun]] = {}
        for run in sweep.runs:
            by_name.setdefault(run.variant.name, []).append(run)
        for trial in self._study.trials:
            if trial.state.is_finished():
                continue
            runs = by_name[self._name(trial)]
            states = {run.state() for run in runs}
            if states == {"finished"}:
                self._tell(trial.number, float(interquartile_mean(np.array(self._scores(runs)))))
            elif "failed" in states and states <= {"failed", "finished"}:
                self._tell(trial.number, None)

    def drop(self) -> None:
        """Count trials that cannot be trained as failed."""
        for trial in self._study.trials:
            if not trial.state.is_finished():
                self._tell(trial.number, None)

    @property
    def best(self) -> str:
        """One line about the best trial, and how many there are."""
        told = [trial for trial in self._study.trials if trial.value is not None]
        line = f"{len(self._study.trials)} of {self._search.trials} trials"
        if not told:
            return line
        best = max(told, key=lambda trial: trial.value)
        options = ", ".join(f"{name} {value}" for name, value in self._options(best).items())
        return f"{line}, best {self._name(best)}: {self._search.aim} {best.value:.3g} of {options}"

    @property
    def _first_of_each(self) -> list[Any]:
        """The trials whose options none before had: those that are trained."""
        found: list[Any] = []
        for trial in self._study.trials:
            if all(trial.params != old.params for old in found):
                found.append(trial)
        return found

    def _scores(self, runs: Sequence[SweepRun]) -> list[float]:
        found = []
        for run in runs:
            rows = [r for r in run.folder.read_metrics() if r.get("kind") in ("eval", "final")]
            rates = [row["success_rate"] for row in rows]
            found.append(rates[-1] if self._search.aim == "final" else float(np.mean(rates)))
        return found

    def _tell(self, number: int, value: float | None) -> None:
        failed = self._optuna.trial.TrialState.FAIL
        if value is None:
            self._study.tell(number, state=failed)
        else:
            self._study.tell(number, value)

    def _variant(self, trial: Any) -> Variant:
        name, base = self._name(trial), self._sweep.spec.base
        return Variant(name, {**base, **self._options(trial)}, name)

    def _options(self, trial: Any) -> Options:
        # Storages hold texts and numbers: a choice is kept by its place.
        return {
            name: said.values[trial.params[name]]
            if isinstance(said := self._search.space[name], Choice)
            else trial.params[name]
            for name in self._search.space
        }

    def _name(self, trial: Any) -> str:
        return f"trial-{trial.number}"

    @cached_property
    def _distributions(self) -> dict[str, Any]:
        return {name: self._distribution(said) for name, said in self._search.space.items()}

    def _distribution(self, said: Range | Choice) -> Any:
        kinds = self._optuna.distributions
        if isinstance(said, Choice):
            return kinds.CategoricalDistribution(range(len(said.values)))
        kind = kinds.IntDistribution if said.whole else kinds.FloatDistribution
        return kind(said.low, said.high, log=said.log)

    def _open(self) -> Any:
        optuna, storage = self._optuna, self._storage()
        name = self._sweep.path.name
        try:
            study = optuna.create_study(
                study_name=name, storage=storage, direction="maximize", load_if_exists=True
            )
        except Exception as error:  # of Optuna, of SQLAlchemy, or of a file
            said = self._search.storage or _JOURNAL
            raise InputError(f"search: storage {said} cannot be opened: {error}") from error
        # Begun again it is not to draw what it drew before.
        study.sampler = optuna.samplers.TPESampler(seed=self._search.seed + len(study.trials))
        return study

    def _storage(self) -> Any:
        said = self._search.storage
        if said and "://" in said:
            return said
        path = self._sweep.path / _JOURNAL if said is None else Path(said)
        path.parent.mkdir(parents=True, exist_ok=True)
        storages = self._optuna.storages
        return storages.JournalStorage(storages.journal.JournalFileBackend(str(path)))
