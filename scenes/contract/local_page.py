"""What pages that this machine serves to itself share: ports, the token, headers that shut out."""

import hmac
import secrets
from collections.abc import Mapping, Sequence

HOST = "127.0.0.1"
_TRIES = 10  # ports, from the one that is asked for


def new_token() -> str:
    """Draw the secret that a page's address holds."""
    return secrets.token_urlsafe(16)


def is_token(given: str, token: str) -> bool:
    """Say whether it is the token, in a time that does not tell how much of it is right."""
    return hmac.compare_digest(given.encode(), token.encode())


def ports_from(port: int) -> Sequence[int]:
    """Return the ports to try one after the other; any free one for 0."""
    return range(port, port + _TRIES) if port else (0,)


def ports_taken(port: int) -> str:
    """Return what is told where none of them is free."""
    return f"port {port} and the nine after it are taken; allowed: another --port"


def page_headers(sources: str) -> Mapping[str, str]:
    """Return headers of an answer: what the page may load, and that nothing of it is kept.

    Args:
        sources: directives of the content security policy beside its own script and sockets.
    """
    return {
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",  # the address holds the token
        "Content-Security-Policy": (
            "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
            f"{sources}; connect-src 'self'; frame-ancestors 'self'"
        ),
    }
