"""The project's own promises: dependencies, locks, the wheel, the set-up script.

That import contracts and style limits hold is checked by tools/check.py; here, that what breaks a
contract is noticed.
"""

import ast
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import types
import venv
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from mjx_serl.cli import doctor, start
from mjx_serl.experiments import PRESETS
from mjx_serl.platform import program_cache
from scenes.contract.command_line import how_to_start

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("mjx_serl", "scenes", "splat_render", "robot_bridge")
LOCKS = ("cpu.txt", "dev.txt", "cuda13.txt", "cuda12.txt")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*command: str | Path, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command, at the project's root unless told otherwise, its output captured."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | env,
        capture_output=True,
        text=True,
        timeout=300,
    )


def tracked_files() -> list[Path]:
    """Files git knows, or skip where this is no checkout."""
    listed = run("git", "ls-files", "-z")
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def locked(name: str, python: str) -> dict[str, Version]:
    """Versions that a lock gives one interpreter on Linux."""
    where = {"python_version": python, "python_full_version": f"{python}.0"}
    where |= {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
    pins = {}
    for line in (ROOT / "requirements" / name).read_text().splitlines():
        if not line[:1].isalnum():
            continue
        requirement = Requirement(line.rstrip("\\ "))
        if requirement.marker is None or requirement.marker.evaluate(where):
            (only,) = requirement.specifier
            pins[canonicalize_name(requirement.name)] = Version(only.version)
    return pins


def unmet(requirements: list[str], pins: dict[str, Version]) -> list[str]:
    """Requirements that a set of pins does not satisfy."""
    wanted = [Requirement(text) for text in requirements if not text.startswith("mjx-serl")]
    pinned = [(want, pins.get(canonicalize_name(want.name))) for want in wanted]
    return [str(want) for want, pin in pinned if pin is None or pin not in want.specifier]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of the project in a folder; the folder comes first on its path."""
    code = "from importlinter import cli; cli.lint_imports_command()"
    return run(sys.executable, "-c", code, "--no-cache", cwd=folder)


# What is planted in which room, and which contract must notice it.
PLANTED = (
    ("robot_bridge", "jax", "the bridge runs without JAX"),
    ("scenes/robots", "mujoco", "the ground floor is stdlib and numpy"),
    ("scenes", "mjx_serl.types", "packages point one way"),
    ("mjx_serl/agents", "mjx_serl.envs", "agents know no world"),
    ("mjx_serl/envs", "mjx_serl.training", "envs know no learner"),
    ("mjx_serl/data", "time", "clocks live in mjx_serl.run"),
    ("splat_render", "torch", "torch lives in one file"),
)


@pytest.fixture(scope="module")
def noticed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What is said of a copy of the packages with one import that must not be in each of them."""
    folder = tmp_path_factory.mktemp("planted")
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name)
    for package, imported, _ in PLANTED:
        (folder / package / "planted.py").write_text(f"import {imported}\n")
    done = lint_imports(folder)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("package", "imported", "contract"), PLANTED)
def test_contracts_catch_a_planted_import(noticed: str, package: str, imported: str, contract: str):
    """Each by its own contract, and by the line that was planted."""
    broken = [row for row in noticed.splitlines() if " BROKEN" in row]
    assert any(contract in row for row in broken), noticed
    found = noticed[noticed.index("Broken contracts") :].split(f"{contract}\n---", 1)[1]
    found = re.split(r"\n.+\n-{3,}\n", found, maxsplit=1)[0]
    importer = f"{package.replace('/', '.')}.planted"
    assert re.search(rf"{re.escape(importer)} -> {re.escape(imported)}\b", found), found


def test_nothing_happens_at_import():
    """Leaves the bridge shares with the simulator must come without jax or mujoco."""
    code = (
        "import sys, scenes.specs, scenes.robots, robot_bridge; "
        "print([m for m in ('jax', 'flax', 'mujoco', 'torch') if m in sys.modules])"
    )
    done = run(sys.executable, "-W", "error", "-c", code)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_every_dependency_says_why():
    text = (ROOT / "pyproject.toml").read_text().split("\n[tool.")[0]
    quoted = r'^\s*(?:\w[\w-]* = \[)?"[A-Za-z][\w.-]*(\[[\w,]+\])?[^"]*"[\],]'
    block = text[text.index("dependencies = [") :]
    lines = [line for line in block.splitlines() if re.match(quoted, line)]
    extras = PROJECT["optional-dependencies"].values()
    assert len(lines) == len(PROJECT["dependencies"]) + sum(map(len, extras))
    assert [line for line in lines if not re.search(r"# \S+ \S+", line)] == []


@pytest.mark.parametrize("python", ["3.11", "3.12"])
@pytest.mark.parametrize("lock", LOCKS)
def test_locks_satisfy_the_project(lock: str, python: str):
    wanted = list(PROJECT["dependencies"])
    extras = {"dev.txt": ["dev", "gym", "viz", "warp", "brax"], "cpu.txt": []}.get(lock, ["warp"])
    for extra in extras:
        wanted += PROJECT["optional-dependencies"][extra]
    assert unmet(wanted, locked(lock, python)) == []


def test_an_unmet_requirement_is_noticed():
    pins = {"jax": Version("0.13.1")}
    assert unmet(["jax>=0.8,<0.13", "flax", "mjx-serl[gym]"], pins) == ["jax<0.13,>=0.8", "flax"]


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_locks_agree_so_that_one_can_be_laid_over_another(python: str):
    core = locked("cpu.txt", python)
    for lock in LOCKS[1:]:
        other = locked(lock, python)
        assert {name: other.get(name) for name in core} == core
    assert core["jax"] == Version("0.9.2")
    assert core["mujoco"].release[:2] == core["mujoco-mjx"].release[:2]


@pytest.mark.parametrize("lock", [*LOCKS, "uv.txt"])
def test_every_pin_is_hashed(lock: str):
    entries = re.split(r"\n(?=\w)", (ROOT / "requirements" / lock).read_text().strip())
    assert len(entries) > (0 if lock == "uv.txt" else 50)
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []


def test_no_tracked_file_names_a_package_host():
    host = re.compile(
        r"--(extra-)?index-url\s+\S|--find-links\s+\S|py(pi|thonhosted)\.org|/simple/"
    )
    found = []
    for path in set(tracked_files()) - {Path(__file__).resolve()}:
        text = path.read_text(errors="replace")
        found += [f"{path.relative_to(ROOT)}: {hit.group()}" for hit in host.finditer(text)]
    assert found == []


def modules_of(folder: Path) -> Iterator[str]:
    """Dotted names of every module under the packages."""
    for package in PACKAGES:
        for path in sorted((folder / package).rglob("*.py")):
            dotted = ".".join(path.relative_to(folder).with_suffix("").parts)
            yield dotted.removesuffix(".__init__")


# Gymnasium 1.x loads no plug-ins; it does import the module that an id names, and that first.
ELSEWHERE = """
import importlib, json, sys, warnings
with warnings.catch_warnings():
    warnings.simplefilter("error")
    import gymnasium
    env = gymnasium.make("mjx_serl.adapters.gymnasium:mjx_serl/FrankaPickCube-v0")
print(env.spec.id)
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
print(sys.modules["mjx_serl"].__file__)
"""


TRAIN = (
    *("--num-envs", "4", "--total-env-steps", "24", "--agent.hidden", "16", "--demos.count", "2"),
    *("--loop.steps-per-epoch", "3", "--loop.updates-per-step", "1", "--loop.batch-size", "16"),
    *("--loop.warmup-steps", "24", "--loop.buffer-size", "400", "--eval.check-episodes", "2"),
    *("--eval.episodes", "2", "--run.name", "first"),
)


@pytest.mark.slow
def test_wheel_holds_all_and_trains_elsewhere(tmp_path: Path):
    """Build the wheel, install it into a bare environment, import every module and train.

    Before them, one line makes an environment of Gymnasium's.
    """
    built = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    home = tmp_path / "bare"
    venv.create(home, with_pip=False)
    site = next((home / "lib").glob("python*/site-packages"))
    python = home / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps")
    installed = run(*pip, wheel)
    assert installed.returncode == 0, installed.stderr
    # Third-party packages come from this environment; our own must come from the wheel.
    ours = {Path(entry) for entry in sys.path if "site-packages" in entry}
    (site / "third_party.pth").write_text("".join(f"{entry}\n" for entry in ours))
    # Renderers of other projects, and a plug-in that is for Playground's environments alone.
    optional = ("backend", "adapters.playground")
    names = [name for name in modules_of(ROOT) if not any(part in name for part in optional)]
    done = run(python, "-c", ELSEWHERE, json.dumps(names), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    made, file = done.stdout.split()
    assert made == "mjx_serl/FrankaPickCube-v0"
    assert Path(file).is_relative_to(home)
    data = {p.relative_to(ROOT / "scenes") for p in (ROOT / "scenes" / "data").rglob("*.*")}
    kept = {p.relative_to(site / "scenes") for p in (site / "scenes" / "data").rglob("*.*")}
    assert {p for p in data if "__pycache__" not in p.parts} == {
        p for p in kept if "__pycache__" not in p.parts
    }
    before = set(site.glob("*"))
    trained = run(
        home / "bin" / "mjx-serl",
        "train",
        *TRAIN,
        cwd=tmp_path,
        HOME=str(tmp_path),
        XDG_CACHE_HOME="",
    )
    assert trained.returncode == 0, trained.stderr
    assert "warning" not in trained.stderr, trained.stderr
    left = tmp_path / "runs" / "first"
    assert json.loads((left / "summary.json").read_text())["env_steps"] == 24
    assert (left / "bundle" / "manifest.json").is_file()
    # Kernels are compiled into the user's cache, nothing comes beside the packages.
    kernels = (tmp_path / ".cache" / "mjx_serl").glob("*.so")
    assert any(kernels) or not (shutil.which("g++") or shutil.which("clang++"))
    assert set(site.glob("*")) == before


def test_every_extra_is_one_that_an_error_message_may_name():
    """What is named as 'mjx-serl[...]' anywhere exists."""
    extras = set(PROJECT["optional-dependencies"])
    named = re.compile(r"mjx-serl\[([\w,]+)\]|require\([^)]*extra=\"(\w+)\"")
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    files += [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    found = {
        extra
        for path in files
        for hit in named.finditer(path.read_text())
        for extra in (hit[1] or hit[2]).split(",")
    }
    assert {"viz", "warp"} <= found <= extras


# An option or a positional argument, its kind of value, and what is said about it.
OPTION = re.compile(
    r"^[│ ] (?P<name>(?:-\w, )?--[a-z][\w.-]*|\[?\[?(?:\{None\}\|)?[A-Z]{3,}\b)(?P<rest>.*)$"
)


def options_of(said: str) -> dict[str, str]:
    """Names in a help page, with their words except for their kinds and defaults."""
    found: dict[str, list[str]] = {}
    name = None
    for line in said.splitlines():
        begins = OPTION.match(line)
        if begins:
            name = begins["name"]
            # Beyond two blanks stand the words; before them the kind of value.
            found[name] = re.split(r" {2,}", begins["rest"].rstrip("│ "), maxsplit=1)[1:]
        elif name and re.match(r"^[│ ] {3,}", line):
            found[name].append(line.strip("│ "))
        else:
            name = None
    return {k: re.sub(r"\((default|required).*", "", " ".join(v)) for k, v in found.items()}


def described(said: str) -> int:
    return len(options_of(said))


def undescribed(said: str) -> list[str]:
    return [name for name, words in options_of(said).items() if not words.strip()]


class TestCommands:
    """`mjx-serl`, and the scripts of a checkout that start the same."""

    @pytest.fixture(autouse=True)
    def _keep_gl(self, monkeypatch):
        """What a command sets for its own process does not stay in this one."""
        monkeypatch.setenv("MUJOCO_GL", "")

    def test_no_command_tries_gl_while_it_imports(self, monkeypatch):
        """The try is a process of its own, whose traceback a Ctrl-C would show."""
        monkeypatch.delenv("MUJOCO_GL")
        monkeypatch.setattr(sys, "argv", ["mjx-serl", "compare", "nowhere"])
        assert start.main() == 2
        code = "import mujoco, sys; assert 'glfw' not in sys.modules"
        assert subprocess.run([sys.executable, "-c", code]).returncode == 0

    def test_every_command_is_there(self, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", ["mjx-serl"])
        assert start.main() == 0
        said = capsys.readouterr().out
        for name, command in start.COMMANDS.items():
            assert f"  {name} " in said and callable(importlib.import_module(command.module).run)
        assert {"train", "evaluate", "play", "record", "deploy", "doctor"} <= set(start.COMMANDS)

    def test_help_describes_every_option(self, monkeypatch, capsys):
        """Of every command: no option without words, no group that repeats itself."""
        monkeypatch.setenv("COLUMNS", "100")
        bridge = ("observe", "serve", "export-demos", "export-lerobot")
        several = ("doctor", "bridge", "classifier", "demos")
        words = [[name] for name in start.COMMANDS if name not in several]
        words += [["classifier", name] for name in ("train", "test")]
        words += [["demos", name] for name in ("import", "export")]
        words += [["bridge", name] for name in bridge]
        words += [["bridge", "keys", name] for name in ("server", "new", "allow", "list")]
        for command in words:
            monkeypatch.setattr(sys, "argv", ["mjx-serl", *command, "--help"])
            with pytest.raises(SystemExit, match="0"):
                start.main()
            said = capsys.readouterr().out
            assert "options options" not in said
            assert described(said) > 0 and undescribed(said) == [], command
            if command[0] in ("train", "play", "record", "pretrain") and len(command) == 1:
                assert re.search(r"franka/pick_cube +front wrist", said)
        monkeypatch.setattr(sys, "argv", ["mjx-serl", "train", "--help"])
        with pytest.raises(SystemExit):
            start.main()
        said = capsys.readouterr().out
        assert [name for name in PRESETS if f"\n  {name} " not in said] == []

    def test_an_unknown_command_is_refused_with_those_there_are(self, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", ["mjx-serl", "trian"])
        assert start.main() == 2
        assert capsys.readouterr().err.startswith("error: Unknown command 'trian'. Allowed: train,")

    def test_its_options_are_read_as_those_of_a_script(self, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", ["mjx-serl", "compare", "nowhere"])
        assert start.main() == 2
        assert "No run folder among what was named" in capsys.readouterr().err

    def test_a_reader_that_goes_away_ends_a_command_without_a_trace(self, monkeypatch):
        """As in `mjx-serl doctor | head -1`."""
        reader, writer = os.pipe()
        os.close(reader)
        talking = types.ModuleType("talking")
        monkeypatch.setattr(talking, "run", lambda: sys.stdout.write("a line\n"), raising=False)
        monkeypatch.setitem(sys.modules, "talking", talking)
        command = start.Command("talking", "", simulator=False, own_signals=True)
        monkeypatch.setitem(start.COMMANDS, "doctor", command)
        with os.fdopen(writer, "w") as out:
            monkeypatch.setattr(sys, "stdout", out)
            assert start.start("doctor") == 128 + signal.SIGPIPE

    def test_a_python_without_the_packages_names_the_one_that_has_them(self, monkeypatch, capsys):
        monkeypatch.setattr(start, "NEEDED", ("numpy", "not_there"))
        monkeypatch.setattr(sys, "argv", ["train.py"])
        assert start.start("train") == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {sys.executable} has no not_there; ")
        assert ".venv/bin/python train.py" in said and said.count("\n") == 1

    def test_an_intel_mac_runs_the_bridge_and_is_told_what_it_cannot(self, monkeypatch):
        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.setattr("platform.machine", lambda: "x86_64")
        assert start.wrong_python() == start.NO_INTEL_MAC
        assert start.wrong_python(simulator=()) == ""
        mac = {"sys_platform": "darwin", "platform_machine": "x86_64"}
        wanted = [Requirement(text) for text in PROJECT["dependencies"]]
        here = {want.name for want in wanted if want.marker is None or want.marker.evaluate(mac)}
        assert not here & {"jax", "flax", "mujoco", "mujoco-mjx", "orbax-checkpoint"}
        assert {"numpy", "tyro", "onnxruntime"} <= here

    @pytest.mark.parametrize(
        ("system", "machine", "version", "text"),
        [
            ("Darwin", "x86_64", "", "Intel Macs have no wheels"),
            ("Linux", "aarch64", "2.28", "warp-lang (extra warp) need glibc 2.34, this is 2.28"),
            ("Linux", "aarch64", "2.35", "there are of all"),
            ("Linux", "x86_64", "2.28", "there are of all"),
        ],
    )
    def test_doctor_says_what_is_not_published_for_this_machine(
        self, monkeypatch, system, machine, version, text
    ):
        monkeypatch.setattr("platform.system", lambda: system)
        monkeypatch.setattr("platform.machine", lambda: machine)
        monkeypatch.setattr("platform.libc_ver", lambda: ("glibc" if version else "", version))
        assert text in doctor.wheels()

    def test_an_old_python_is_told_so(self, monkeypatch):
        monkeypatch.setattr(sys, "version_info", (3, 9, 2))
        assert " is 3.9, not 3.11 or newer; " in start.wrong_python()

    def test_an_old_python_can_read_what_tells_it_so(self):
        for path in (ROOT / "train.py", ROOT / "mjx_serl" / "cli" / "start.py"):
            ast.parse(path.read_text(), feature_version=(3, 7))

    def test_a_checkout_is_spoken_of_by_its_scripts_and_a_wheel_by_its_command(self, monkeypatch):
        assert how_to_start("train") == "python train.py"
        assert how_to_start("record") == "python record_demos.py"
        monkeypatch.setattr("scenes.contract.command_line.checkout", lambda: None)
        assert how_to_start("record") == "mjx-serl record"

    def test_compiled_programs_are_kept_in_the_checkout_or_in_the_users_cache(
        self, monkeypatch, tmp_path
    ):
        assert program_cache() == ROOT / ".cache" / "jax"
        monkeypatch.setattr("mjx_serl.platform.checkout", lambda: None)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert program_cache() == tmp_path / "mjx_serl" / "jax"


class TestSetUp:
    """tools/setup_env.py: what it decides, without installing anything."""

    @pytest.fixture
    def setup_env(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.syspath_prepend(str(ROOT / "tools"))
        import setup_env

        return setup_env

    @pytest.mark.parametrize(
        ("driver", "accel"), [(None, "cpu"), (470, "cpu"), (535, "cuda12"), (580, "cuda")]
    )
    def test_driver_chooses_the_accelerator(self, setup_env, monkeypatch, driver, accel):
        monkeypatch.setattr(setup_env, "driver_major", lambda: driver)
        assert setup_env.choose_accel("auto")[0] == accel
        assert setup_env.choose_accel("cpu")[0] == "cpu"

    @pytest.mark.parametrize(
        ("system", "machine", "libc", "accel", "group", "text"),
        [
            ("Darwin", "x86_64", ("", ""), "cpu", "core", "no wheels for Intel Macs"),
            (
                "Linux",
                "aarch64",
                ("glibc", "2.28"),
                "cpu",
                "dev",
                "from glibc 2.34 on, this is 2.28",
            ),
            ("Linux", "aarch64", ("glibc", "2.31"), "cuda", "core", "ACCEL=cpu"),
            ("Darwin", "arm64", ("", ""), "cpu", "dev", None),
            ("Linux", "aarch64", ("glibc", "2.28"), "cpu", "core", None),
            ("Linux", "aarch64", ("glibc", "2.35"), "cuda", "core", None),
            ("Linux", "x86_64", ("glibc", "2.28"), "cuda", "dev", None),
        ],
    )
    def test_a_machine_without_wheels_is_told_before_anything_is_installed(
        self, setup_env, monkeypatch, system, machine, libc, accel, group, text
    ):
        monkeypatch.setattr("platform.system", lambda: system)
        monkeypatch.setattr("platform.machine", lambda: machine)
        monkeypatch.setattr("platform.libc_ver", lambda: libc)
        refused = pytest.raises(setup_env.SetupError, match=text) if text else nullcontext()
        with refused:
            setup_env.refuse_platform(accel, group)

    def test_kernel_module_line_gives_the_driver(self, setup_env, monkeypatch, tmp_path):
        line = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun\nGCC 12.2.0\n"
        (tmp_path / "version").write_text(line)
        monkeypatch.setattr(setup_env, "PROC_DRIVER", tmp_path / "version")
        monkeypatch.setattr(setup_env, "gpu_nodes", lambda: ["nvidia0"])
        assert setup_env.driver_major() == 535

    def test_a_stamp_of_another_lock_or_group_is_not_ready(self, setup_env):
        stamp = {"key": setup_env.key_of("cpu"), "accel": "cpu", "groups": ["core"]}
        assert setup_env.is_ready(stamp, "cpu", "core")
        assert not setup_env.is_ready(stamp, "cpu", "dev")
        assert not setup_env.is_ready(stamp, "cuda", "core")
        assert not setup_env.is_ready({**stamp, "key": "0" * 16}, "cpu", "core")
        assert not setup_env.is_ready({}, "cpu", "core")

    def test_an_environment_with_cuda_serves_a_cpu_run(self, setup_env):
        stamp = {"key": setup_env.key_of("cuda"), "accel": "cuda", "groups": ["core"]}
        assert setup_env.is_ready(stamp, "cpu", "core")

    def test_too_old_python_is_one_line(self, setup_env, monkeypatch):
        monkeypatch.setattr(setup_env, "version_of", lambda python: (3, 9))
        with pytest.raises(setup_env.SetupError, match=r"^PYTHON=/x is 3\.9; 3\.11 is needed\.$"):
            setup_env.find_python("/x")

    def test_no_python_at_all_names_the_cure(self, setup_env, monkeypatch):
        monkeypatch.setattr(setup_env, "candidates", lambda: iter(["/old"]))
        monkeypatch.setattr(setup_env, "version_of", lambda python: (3, 8))
        monkeypatch.setattr(setup_env, "find_uv", lambda venv: None)
        monkeypatch.setattr(setup_env, "install_uv", lambda python: None)
        with pytest.raises(setup_env.SetupError, match=r"newest here is 3\.8.*PYTHON="):
            setup_env.find_python("")
