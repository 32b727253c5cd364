"""`python -m mjx_serl.envs.physics.native_ffi` compiles the library ahead of the first run."""

import sys

from mjx_serl.envs.physics.native_ffi import build
from scenes.native_build import announce

if __name__ == "__main__":
    sys.exit(announce("native physics", build))
