"""One base class for every error of ours, and its two branches: worth another try, or poison."""

from __future__ import annotations


class HeadraceError(Exception):
    """Base of all errors raised on purpose.

    `code` is stable and machine-readable, `remedy` says in one sentence what the person who meets the error should do.
    Both end up in `InferenceRejected`, `InferenceFailed` and `DeadLettered` events.
    """

    retryable = False

    def __init__(self, code: str, message: str, remedy: str) -> None:
        super().__init__(message)
        self.code = code
        self.remedy = remedy


class RetryableError(HeadraceError):
    """Something outside was away or busy: the same request may succeed later. Send it again after a pause."""

    retryable = True


class PoisonError(HeadraceError):
    """The input itself is wrong: it fails however often it is tried. Correct it, following `remedy`, then send it anew."""
