"""The dashboard: python -m mjx_serl.dashboard runs/"""

import sys
from pathlib import Path

import tyro

from mjx_serl.dashboard.server import PORT, Dashboard
from scenes.contract.command_line import guarded, require_port
from scenes.contract.local_page import HOST


def main(
    runs: tyro.conf.Positional[Path] = Path("runs"), /, host: str = HOST, port: int = PORT
) -> int:
    """Show runs in the browser: curves, options, pictures; live ones can be told to pause or stop.

    Who has the address without its token may look and do nothing.

    Args:
        runs: a folder of runs, or one run's.
        host: to listen on; another than this machine's own shows the runs to whoever reaches it.
        port: to serve on; one of the next nine if it is taken.
    """
    require_port(port)
    dashboard = Dashboard(runs, host=host, port=port)
    sys.stdout.write(f"{runs}: {dashboard.url} (Ctrl-C ends)\n")
    sys.stdout.flush()
    try:
        dashboard.wait()
    except KeyboardInterrupt:
        dashboard.close()
    return 0


def run(prog: str | None = None) -> int:
    """Read the command line; returns the exit status."""
    return guarded(lambda: tyro.cli(main, prog=prog))


if __name__ == "__main__":
    sys.exit(run("python -m mjx_serl.dashboard"))
