"""`python -m splat_render.backends.native` compiles the library ahead of the first run."""

import sys

from scenes.native_build import announce
from splat_render.backends.native import build

if __name__ == "__main__":
    sys.exit(announce("native splat renderer", build))
