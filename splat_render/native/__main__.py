"""`python -m splat_render.native` compiles the library ahead of the first run."""

import sys

from scenes.native_build import NativeBuildError
from splat_render.native import build


def main() -> int:
    """Build, or say in one line why not; a machine without a compiler is not an error."""
    try:
        sys.stdout.write(f"native splat renderer: {build()}\n")
    except NativeBuildError as error:
        sys.stdout.write(f"native splat renderer: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
