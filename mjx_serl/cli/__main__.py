"""`python -m mjx_serl.cli COMMAND` is `mjx-serl COMMAND`."""

import sys

from mjx_serl.cli.start import main

if __name__ == "__main__":
    sys.exit(main())
