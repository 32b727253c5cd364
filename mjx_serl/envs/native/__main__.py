"""`python -m mjx_serl.envs.native` compiles the library ahead of the first run."""

import sys

from mjx_serl.envs.native import NativeBuildError, build


def main() -> int:
    """Build, or say in one line why not; a machine without a compiler is not an error."""
    try:
        sys.stdout.write(f"native physics: {build()}\n")
    except NativeBuildError as error:
        sys.stdout.write(f"native physics: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
