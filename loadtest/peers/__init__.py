"""What we are measured against, started and stopped by ourselves, with settings that favour it."""


class PeerAbsent(Exception):
    """The peer is not installed; the message says what would bring it. The pair is then measured alone."""
