"""The errors of the core that Python has no class for, defined once for both halves."""


class PeerError(Exception):
    """The server broke a rule that the mail or the login depends on."""
