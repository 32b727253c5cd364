"""What clients of a served policy are told and send: checked, and under our names."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_bridge.network.codec import CodecError
from robot_bridge.openpi.wire import PROMPT
from robot_bridge.policy.observation import Obs
from scenes.contract.errors import InputError
from scenes.contract.language import INSTRUCTION
from scenes.contract.manifest import NOISE_INPUT
from scenes.contract.names import unknown_name
from scenes.contract.policy_contract import Contract
from scenes.contract.serialize import digest
from scenes.contract.specs import ObsField


class Requests:
    """Reads what clients send.

    Args:
        contract: of the policy.
        renamed: our names by the client's.
        tokenizer_model: file of the policy's tokenizer, where that has one; InputError where it is
            missing.
        noise: shape [H, A] of what clients may choose where the policy starts; None lets them not.
    """

    def __init__(
        self,
        contract: Contract,
        *,
        renamed: Mapping[str, str],
        tokenizer_model: Path | None = None,
        noise: tuple[int, int] | None = None,
    ) -> None:
        self._renamed = renamed
        self._specs, self._optional = sent_fields(contract), {}
        if noise is not None:
            self._optional[NOISE_INPUT] = ObsField(name=NOISE_INPUT, shape=noise)
        self._language = contract.language
        if self._language is not None:
            told = functools.partial(self._language.told, model=tokenizer_model)
            told()
            # Clients say the same at each step.
            self._told = functools.lru_cache(maxsize=256)(told)

    def read(self, sent: Any) -> Obs:
        """Return the observation that was sent; CodecError where it is none of the contract's."""
        flat = {self._renamed.get(name, name): value for name, value in _flatten(sent).items()}
        # openpi's clients always send one; most of our policies read no words.
        told = self._words(flat.pop(PROMPT, ""))
        known = {**self._specs, **self._optional}
        for name in flat:
            if name not in known:
                raise CodecError(unknown_name("observation", name, known))
        missing = [name for name in self._specs if name not in flat]
        if missing:
            raise CodecError(f"Observations: missing {', '.join(missing)}; got {', '.join(flat)}")
        return {name: _fitted(known[name], value) for name, value in flat.items()} | told

    def _words(self, said: Any) -> Obs:
        """What is observed of a prompt, {} by a policy that reads none."""
        if self._language is None:
            return {}
        if not isinstance(said, str):
            raise CodecError(f"Prompt: got {type(said).__name__}, allowed: text")
        try:
            return {INSTRUCTION: self._told(said)}
        except InputError as error:
            raise CodecError(str(error)) from None


def sent_fields(contract: Contract) -> dict[str, ObsField]:
    """What clients send as arrays, by name: words are sent as words."""
    return {f.name: f for f in contract.obs.fields if f.kind != "tokens"}


def metadata(
    contract: Contract, *, horizon: int | None = None, noise: tuple[int, int] | None = None
) -> dict[str, Any]:
    """What a client is told: digest, names and shapes, by which it notices a wrong policy.

    Args:
        contract: of the policy.
        horizon: actions of an answer, where it is known.
        noise: shape of the noise that a client may send; where there is none the policy cannot be
            steered.
    """
    language, fields = contract.language, sent_fields(contract).values()
    return {
        "contract": digest(contract),
        "robot": contract.robot.name,
        "observations": {f.name: {"shape": f.shape, "dtype": f.dtype} for f in fields},
        **({} if language is None else {PROMPT: language.instruction}),
        **({} if noise is None else {NOISE_INPUT: {"shape": noise, "dtype": "float32"}}),
        "action_names": contract.action.names,
        "action_dim": contract.action.dim,
        "action_rate": contract.action.rate,
        **({} if horizon is None else {"action_horizon": horizon}),
    }


def _fitted(spec: ObsField, value: Any) -> NDArray[Any]:
    array = np.asarray(value)
    # A picture must come as bytes and a state as floats; float64 states are rounded.
    same_kind = np.can_cast(array.dtype, spec.dtype, "same_kind")
    if array.shape != spec.shape or not same_kind:
        raise CodecError(
            f"Observation '{spec.name}': got {array.dtype} {array.shape}, "
            f"allowed: {spec.dtype} {spec.shape}"
        )
    array = array.astype(spec.dtype)
    # Others may be in the same batch: what is wrong with one client's is said to that one.
    if not np.isfinite(array).all():
        raise CodecError(f"Observation '{spec.name}' is not finite")
    return array


def _flatten(sent: Any, prefix: str = "") -> dict[str, Any]:
    """Join nested names with slashes: {"images": {"front": x}} is {"images/front": x}."""
    if not isinstance(sent, dict):
        raise CodecError(f"Observations: got {type(sent).__name__}, allowed: a map by name")
    flat: dict[str, Any] = {}
    for name, value in sent.items():
        inner = _flatten(value, f"{prefix}{name}/") if isinstance(value, dict) else None
        flat |= inner if inner is not None else {f"{prefix}{name}": value}
    return flat
