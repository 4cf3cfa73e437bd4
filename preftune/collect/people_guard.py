"""Who may ask the page's server for what: keys that nobody can guess, and requests that no other site can make."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from preftune.durable import BINARY, explained_errors, write_all
from preftune.errors import PreftuneError

LARGEST_BODY: Final = 64_000  # bytes; a vote with the longest reason needs a quarter of it

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Keys:
    """The keys of one store, all derived from a secret that lies beside it and in no record, page or log.

    They outlive a restart, so that links keep working; to end them all, delete the file of the secret.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def __repr__(self) -> str:
        return "Keys(***)"

    @property
    def join(self) -> str:
        """Lets people take part."""
        return self._sign("join")

    @property
    def admin(self) -> str:
        """Lets see the progress of all, and everybody's personal link."""
        return self._sign("admin")

    def personal(self, annotator: str) -> str:
        """Lets one annotator answer, and nobody else in their name."""
        name = base64.urlsafe_b64encode(annotator.encode()).decode().rstrip("=")
        return f"{name}.{self._sign('annotator', annotator)}"

    def annotator_of(self, key: str) -> str | None:
        """Whose personal key it is; None where it is nobody's."""
        name, _, _ = key.partition(".")
        try:
            annotator = base64.urlsafe_b64decode(name + "=" * (-len(name) % 4)).decode()
        except ValueError:
            return None
        return annotator if is_same(key, self.personal(annotator)) else None

    def _sign(self, *parts: str) -> str:
        mac = hmac.new(self._secret, "\0".join(parts).encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(mac[:24]).decode()


def open_keys(path: Path) -> Keys:
    """The keys whose secret lies at ``path``, made if absent and readable by its owner only."""
    try:
        secret = path.read_text("ascii").strip()
    except FileNotFoundError:
        secret = secrets.token_urlsafe(32)
        with explained_errors(path):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, 0o600)
            try:
                write_all(descriptor, secret.encode() + b"\n")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    except (OSError, UnicodeDecodeError) as error:
        raise PreftuneError("The secret of the links cannot be read.", where=str(path), mend="Delete it.") from error
    if len(secret) < 32:
        mend = "Delete it; a new one is made, and with it new links."
        raise PreftuneError("The secret of the links is cut off.", where=str(path), mend=mend)
    return Keys(secret.encode())


def is_same(given: str, right: str) -> bool:
    """Equality that takes the same time wherever the two differ."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), right.encode())


def is_local(host: str) -> bool:
    """Whether only this machine reaches a server bound to ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refusal(method: str, headers: Mapping[str, str], *, local: bool) -> str | None:
    """Why a request is not answered, None where it is; header names in lower case.

    A local server answers only to this machine's own names, so that a foreign name that was made to point here
    (DNS rebinding) reaches nothing. Writes must come from the page itself (CSRF), and in a kind of body that another
    site cannot send without being asked first.
    """
    host = headers.get("host", "")
    if local and not is_local(_name_of(host)):
        return "This address is not served here; open the link that the terminal shows."
    if method in ("GET", "HEAD"):
        return None
    if urlsplit(headers.get("origin", "")).netloc != host or not host:
        return "Only the page itself may send this."
    if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return "Only JSON is taken."
    return None


def _name_of(host: str) -> str:
    """The host without its port, and IPv6 without its brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
