"""Sizes of a vision-language-action policy; `SIZES` names four.

The numbers of "pi0" and "pi05" are openpi's (reference vla_and_real2sim.md 4.1, 4.2 and 7.1), those
of "dummy" its variant for tests, whose images and vocabulary are as large as ever.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from mjx_serl.nets.mlp import ComputeDtype
from scenes.contract.errors import InputError
from scenes.contract.ranges import check_ranges, ranged

CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
SizeName = Literal["tiny", "dummy", "pi0", "pi05"]


@dataclass(frozen=True, kw_only=True)
class VisionSize:
    """The image encoder, a ViT.

    Attributes:
        width, depth, mlp_dim, heads: of its layers.
        patch: edge of the square that becomes a token [px].
        image: edge of the pictures [px].
    """

    width: int = ranged(1152, least=1)
    depth: int = ranged(27, least=1)
    mlp_dim: int = ranged(4304, least=1)
    heads: int = ranged(16, least=1)
    patch: int = ranged(14, least=1)
    image: int = ranged(224, least=1)

    @property
    def tokens(self) -> int:
        """Of one picture."""
        return (self.image // self.patch) ** 2


@dataclass(frozen=True, kw_only=True)
class ExpertSize:
    """What one expert of the transformer has for itself.

    Attributes:
        width: of its tokens [units].
        mlp_dim: of its feed-forward layers [units].
    """

    width: int = ranged(2048, least=2)
    mlp_dim: int = ranged(16_384, least=1)


@dataclass(frozen=True, kw_only=True)
class VLAConfig:
    """A policy's architecture. What changes the parameters must be as in a checkpoint.

    Attributes:
        pi05: pi0.5, which tells the action expert the time by its norms and has no state token;
            else pi0.
        vision: the image encoder.
        vlm: the expert of pictures and words.
        expert: that of the actions.
        depth, heads, kv_heads, head_dim: of the transformer that both share.
        vocabulary: words the first expert knows.
        prompt: token slots of a prompt; no parameter depends on it.
        cameras: names, in the order of their tokens; fewer than openpi's three do what masked ones
            would, for less.
        state_dim: length of the state that pi0 reads; openpi's is `action_dim`.
        action_dim: length of an action.
        horizon: actions of a chunk; no parameter depends on it.
        compute_dtype: of the layers; parameters, the velocity and the value's features are float32.
        remat: compute the layers again for gradients instead of keeping what they made.
    """

    pi05: bool = True
    vision: VisionSize = dataclasses.field(default_factory=VisionSize)
    vlm: ExpertSize = dataclasses.field(default_factory=ExpertSize)
    expert: ExpertSize = ExpertSize(width=1024, mlp_dim=4096)
    depth: int = ranged(18, least=1)
    heads: int = ranged(8, least=2)
    kv_heads: int = ranged(1, least=1)
    head_dim: int = ranged(256, least=2)
    vocabulary: int = ranged(257_152, least=2)
    prompt: int = ranged(200, least=1)
    cameras: tuple[str, ...] = CAMERAS
    state_dim: int = ranged(32, least=1)
    action_dim: int = ranged(32, least=1)
    horizon: int = ranged(50, least=1)
    compute_dtype: ComputeDtype = "bfloat16"
    remat: bool = True

    @property
    def prefix(self) -> int:
        """Tokens of pictures and prompt, masked ones included."""
        return len(self.cameras) * self.vision.tokens + self.prompt

    @property
    def suffix(self) -> int:
        """Tokens of the action expert."""
        return self.horizon + (0 if self.pi05 else 1)

    def check(self) -> None:
        """Raise InputError, naming the field, for sizes that fit nothing."""
        check_ranges(self)
        wanted = [
            ("vision.image", self.vision.image, self.vision.patch, "vision.patch"),
            ("vision.width", self.vision.width, self.vision.heads, "vision.heads"),
            ("heads", self.heads, self.kv_heads, "kv_heads"),
            ("head_dim", self.head_dim, 2, "2"),
            ("expert.width", self.expert.width, 2, "2"),
        ]
        for name, value, divisor, by in wanted:
            if value % divisor:
                raise InputError(f"{name} {value}, allowed: a multiple of {by} ({divisor})")
        if self.heads == self.kv_heads:
            raise InputError(f"kv_heads {self.kv_heads}, allowed: fewer than heads {self.heads}")
        if not self.cameras or len(set(self.cameras)) < len(self.cameras):
            raise InputError(f"cameras {self.cameras}, allowed: one or more names, each once")


PI05 = VLAConfig()
PI0 = VLAConfig(pi05=False, prompt=48)
_SMALL = ExpertSize(width=64, mlp_dim=128)
DUMMY = dataclasses.replace(PI05, vlm=_SMALL, expert=_SMALL, depth=4, head_dim=16)
TINY = dataclasses.replace(
    DUMMY,
    vision=VisionSize(width=32, depth=1, mlp_dim=128, heads=2, patch=16, image=64),
    vocabulary=512,
    prompt=16,
    state_dim=7,
    action_dim=7,
    horizon=5,
    compute_dtype="float32",
    remat=False,
)
SIZES: dict[SizeName, VLAConfig] = {"tiny": TINY, "dummy": DUMMY, "pi0": PI0, "pi05": PI05}
