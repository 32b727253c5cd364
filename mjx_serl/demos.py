"""Files of demonstrations: python -m mjx_serl.demos import|export|show|delete

`import` reads pickles of SERL and HIL-SERL, robomimic's HDF5, LeRobotDataset v3 and our own files
of other tasks, and writes the .npz that `train.py --demos.file` takes; `export` writes that as a
LeRobotDataset v3. `show` lists the episodes of a file, `delete` drops some of them.
"""

import sys
from typing import Annotated

import tyro

from mjx_serl.platform import prepare_platform, program_cache
from scenes.contract.command_line import guarded


def run(prog: str | None = None) -> int:
    """Read the command line and run; returns the exit status."""
    prepare_platform(cache_dir=program_cache())
    # JAX must start after the platform is prepared.
    from mjx_serl.run import demo_files as files

    read = Annotated[files.ImportDemos, tyro.conf.subcommand("import")]
    write = Annotated[files.ExportDemos, tyro.conf.subcommand("export")]
    show = Annotated[files.ShowDemos, tyro.conf.subcommand("show")]
    delete = Annotated[files.DeleteDemos, tyro.conf.subcommand("delete")]

    def main() -> int:
        kind = read | write | show | delete
        cfg = tyro.cli(kind, prog=prog, description=__doc__)
        if isinstance(cfg, files.ImportDemos):
            files.import_demos(cfg, print)
        elif isinstance(cfg, files.ExportDemos):
            files.export_demos(cfg, print)
        elif isinstance(cfg, files.ShowDemos):
            files.show_demos(cfg, print)
        else:
            files.delete_demos(cfg, print)
        return 0

    return guarded(main)


if __name__ == "__main__":
    sys.exit(run("python -m mjx_serl.demos"))
