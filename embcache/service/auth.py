"""Who may call: bearer tokens and their roles. Sees a request's headers and never its body.

Without configured tokens everybody may do everything. A role includes those below it: admin > write > read.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from embcache.config import Role, Token
from embcache.errors import Forbidden, Unauthenticated

_RANKS: dict[str, int] = {"read": 1, "write": 2, "admin": 3}


class Doorkeeper:
    """Knows the tokens by their SHA-256, so that comparing takes equal time whatever was sent."""

    def __init__(self, tokens: Iterable[Token]) -> None:
        self._ranks = [(_digest(token.secret.encode()), max(_RANKS[role] for role in token.roles)) for token in tokens]

    def admit(self, authorization: bytes | None, role: Role) -> None:
        """Pass a request whose Authorization header grants `role`. Raises Unauthenticated or Forbidden."""
        if not self._ranks:
            return
        rank = self._rank(authorization)
        if rank == 0:
            raise Unauthenticated(
                "no such token: send 'Authorization: Bearer TOKEN' with one that is configured"
                if authorization
                else "a token is needed: send 'Authorization: Bearer TOKEN'"
            )
        if rank < _RANKS[role]:
            raise Forbidden(f"this token lacks the role {role!r}, which the call needs", {"role": role})

    def _rank(self, authorization: bytes | None) -> int:
        """The highest rank of the token in the header, 0 for none. Compares with all, whichever it is."""
        scheme, _, secret = (authorization or b"").partition(b" ")
        if scheme.lower() != b"bearer":
            return 0
        digest, found = _digest(secret.strip()), 0
        for known, rank in self._ranks:
            if hmac.compare_digest(known, digest):
                found = rank
        return found


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
