"""Errors that are neither bad input nor a defect; importing this loads nothing."""


class VerificationError(Exception):
    """`reneg verify` found that a file changes nothing."""


class LostProcessError(Exception):
    """Another process of the run is gone."""


class TerminatedError(BaseException):
    """SIGTERM came, as launchers send it to the others when a process died; no `except Exception` holds it up."""
