"""Errors that are neither bad input nor a defect; importing this loads nothing."""


class VerificationError(Exception):
    """`reneg verify` found that a file changes nothing."""
