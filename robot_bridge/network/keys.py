"""Who may talk to the bridge over a network: CURVE keys, and a list of clients with their roles.

    python -m robot_bridge keys new laptop --role command
    python -m robot_bridge keys allow tablet --role observe --public KEY

A folder that only its owner can read holds `server.key` (the bridge's pair), `NAME.key` (a
client's pair, to be carried to the client's machine) and `clients/NAME.json` (its public key and
role). A client is struck off by deleting the last. Secrets are never printed or logged.
"""

import json
import os
import re
import stat
import sys
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
    """A CURVE pair in Z85 text.

    Attributes:
        public: half.
        secret: half; kept out of `repr`.
    """

    public: str
    secret: str = field(repr=False)


@dataclass(frozen=True)
class Client:
    """Somebody who may connect.

    Attributes:
        name: of the client, and of its files.
        role: what it may do.
        public: its public key.
    """

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
        hint = "make it with: python -m robot_bridge keys"
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


# -- the commands of `python -m robot_bridge keys`; they print public keys, never a secret -------


def make_server(*, folder: Path | None = None) -> int:
    """Make the bridge's pair and print its public key.

    Args:
        folder: of the keys; ~/.config/robot_bridge unless given.
    """
    return _say(new_server(folder or default_folder()).public)


def make_client(name: str, /, *, role: Role, folder: Path | None = None) -> int:
    """Make a client's pair in NAME.key, let it in and print its public key.

    Args:
        name: of the client.
        role: what it may do.
        folder: of the keys; ~/.config/robot_bridge unless given.
    """
    return _say(new_client(folder or default_folder(), name, role).public)


def let_in(name: str, /, *, role: Role, public: str, folder: Path | None = None) -> int:
    """Let in a client that made its own pair.

    Args:
        name: of the client.
        role: what it may do.
        public: its public key.
        folder: of the keys; ~/.config/robot_bridge unless given.
    """
    allow_client(folder or default_folder(), Client(name, role, public))
    return _say(public)


def list_clients(*, folder: Path | None = None) -> int:
    """Print who is let in.

    Args:
        folder: of the keys; ~/.config/robot_bridge unless given.
    """
    clients = Keyring(folder or default_folder()).clients().values()
    return _say("\n".join(f"{c.public}  {c.role:8}{c.name}" for c in clients))


def _say(text: str) -> int:
    sys.stdout.write(f"{text}\n")
    return 0
