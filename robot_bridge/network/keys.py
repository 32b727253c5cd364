"""Who may talk to the bridge over a network: CURVE keys, and a list of clients with their roles.

    python -m robot_bridge.network.keys new laptop --role command
    python -m robot_bridge.network.keys allow tablet --role observe --public KEY

A folder that only its owner can read holds `server.key` (the bridge's pair), `NAME.key` (a
client's pair, to be carried to the client's machine) and `clients/NAME.json` (its public key and
role). A client is struck off by deleting the last. Secrets are never printed or logged.
"""

import argparse
import json
import os
import re
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from robot_bridge.network.codec import Role
from scenes.contract.extras import require
from scenes.contract.files import write_atomically

ROLES: tuple[Role, ...] = get_args(Role)
_KEY_LENGTH = 40  # Z85 text of 32 bytes
_MOST_BYTES = 4096  # of a key file
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class KeyFileError(ValueError):
    """A key or its folder cannot be trusted or read; one line with the cure."""


@dataclass(frozen=True)
class KeyPair:
    """A CURVE pair in Z85 text; the secret half is kept out of `repr`."""

    public: str
    secret: str = field(repr=False)


@dataclass(frozen=True)
class Client:
    """Somebody who may connect."""

    name: str
    role: Role
    public: str


class Keyring:
    """The bridge's own pair, and the clients that it lets in, read anew for each connection.

    Raises KeyFileError where the folder or a file in it is open to other users.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pair = load_pair(folder / "server.key")
        self.clients()

    def clients(self) -> dict[str, Client]:
        """Clients by public key; KeyFileError names a file that is not one."""
        listed = _client_folder(self.folder)
        found = [load_client(path) for path in sorted(listed.glob("*.json"))]
        return {client.public: client for client in found}


def default_folder() -> Path:
    """Where keys are unless told otherwise."""
    return Path.home() / ".config" / "robot_bridge"


def new_server(folder: Path) -> KeyPair:
    """Make the bridge's pair; KeyFileError where there is one."""
    return _new_pair(private_folder(folder) / "server.key")


def new_client(folder: Path, name: str, role: Role) -> KeyPair:
    """Make a client's pair in `NAME.key` and put it on the list."""
    _check_name(name)
    pair = _new_pair(private_folder(folder) / f"{name}.key")
    allow_client(folder, Client(name, role, pair.public))
    return pair


def allow_client(folder: Path, client: Client) -> None:
    """Put a client, whose secret stays where it was made, on the list."""
    _check_client(client)
    private_folder(folder)
    facts = {"role": client.role, "public": client.public}
    _write(_client_folder(folder) / f"{client.name}.json", facts)


def load_pair(path: Path) -> KeyPair:
    """Read a pair; KeyFileError unless only its owner, who is us, can."""
    facts = _read(path, ("public", "secret"))
    for name in ("public", "secret"):
        _check_key(facts[name], path)
    return KeyPair(facts["public"], facts["secret"])


def load_client(path: Path) -> Client:
    """Read a line of the list, which only the bridge's user may write."""
    facts = _read(path, ("role", "public"))
    client = Client(path.stem, facts["role"], facts["public"])
    _check_client(client)
    return client


def private_folder(folder: Path) -> Path:
    """Return a folder that nobody else can enter, made if need be, or KeyFileError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_private(folder, stat.S_ISDIR, 0o700)
    return folder


def _client_folder(folder: Path) -> Path:
    return private_folder(folder / "clients")


def _new_pair(path: Path) -> KeyPair:
    public, secret = (key.decode() for key in require("zmq", "bridge").curve_keypair())
    _write(path, {"public": public, "secret": secret})
    return KeyPair(public, secret)


def _write(path: Path, facts: dict[str, str]) -> None:
    try:
        write_atomically(path, json.dumps(facts), overwrite=False, mode=0o600)
    except FileExistsError:
        raise KeyFileError(f"{path} exists; delete it first if it is to be replaced") from None


def _read(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    _check_private(path, stat.S_ISREG, 0o600)
    with path.open() as file:
        text = file.read(_MOST_BYTES)
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict) or set(facts) != set(names):
        raise KeyFileError(f"{path} is no key file; allowed: JSON with {' and '.join(names)}")
    return facts


def _check_private(path: Path, is_kind: Any, mode: int) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        hint = "make it with: python -m robot_bridge.network.keys"
        raise KeyFileError(f"{path} does not exist; {hint}") from None
    if not is_kind(found.st_mode) or found.st_uid != os.geteuid():
        raise KeyFileError(f"{path} is not ours, or a link; allowed: our own file or folder")
    loose = stat.S_IMODE(found.st_mode)
    if loose & 0o077:
        hint = f"chmod {mode:o} {path}"
        raise KeyFileError(f"Others can reach {path}: mode {loose:o}, allowed: {mode:o}; {hint}")


def _check_client(client: Client) -> None:
    _check_name(client.name)
    if client.role not in ROLES:
        raise KeyFileError(f"Role of '{client.name}': got {client.role!r}, allowed: {ROLES}")
    _check_key(client.public, client.name)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name == "server":
        allowed = "1 to 64 letters, digits, '_', '.' and '-'; not 'server'"
        raise KeyFileError(f"Name of a client: got {name[:80]!r}, allowed: {allowed}")


def _check_key(key: Any, where: object) -> None:
    if not isinstance(key, str) or len(key) != _KEY_LENGTH or not key.isascii():
        # What was got may be a secret, so it is not shown.
        raise KeyFileError(f"Key in {where}: allowed: {_KEY_LENGTH} characters of Z85 text")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; prints a public key, never a secret."""
    options = _parser().parse_args(arguments)
    try:
        said = options.run(options)
    except KeyFileError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{said}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m robot_bridge.network.keys", description=__doc__
    )
    parser.add_argument("--folder", type=Path, default=default_folder())
    commands = parser.add_subparsers(required=True)
    server = commands.add_parser("server", help="make the bridge's pair")
    server.set_defaults(run=lambda o: new_server(o.folder).public)
    new = commands.add_parser("new", help="make a client's pair and let it in")
    new.set_defaults(run=lambda o: new_client(o.folder, o.name, o.role).public)
    allow = commands.add_parser("allow", help="let in a client that made its own pair")
    allow.add_argument("--public", required=True)
    allow.set_defaults(run=_allow)
    for command in (new, allow):
        command.add_argument("name")
        command.add_argument("--role", choices=ROLES, required=True)
    listing = commands.add_parser("list", help="who is let in")
    listing.set_defaults(run=_list)
    return parser


def _allow(options: argparse.Namespace) -> str:
    allow_client(options.folder, Client(options.name, options.role, options.public))
    return options.public


def _list(options: argparse.Namespace) -> str:
    clients = Keyring(options.folder).clients().values()
    return "\n".join(f"{c.public}  {c.role:8}{c.name}" for c in clients)


if __name__ == "__main__":
    sys.exit(main())
