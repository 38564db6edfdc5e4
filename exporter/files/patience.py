"""How long a remote request is retried: after a dropped connection, a truncated response, or a busy server."""

from __future__ import annotations

import time

PATIENCE_SECONDS = 30.0  # of waiting for one file in total; stated in docs/many.md
FIRST_SECONDS, MAX_SECONDS_LENGTH = 0.25, 8.0
BUSY = (408, 425, 429, 502, 503, 504)  # HTTP statuses that mean "try later"


class Patience:
    """How long one file was waited for; concurrent waits count once."""

    def __init__(self) -> None:
        self._spent = self._until = 0.0

    def delay(self, attempt: int, asked: str | None = None) -> float | None:
        """Seconds to wait before the next attempt (the first failed one is number 0); None: give up. asked: the server's Retry-After."""
        import random  # takes as long to import as the rest of this folder, and most files are not remote

        now = time.monotonic()
        seconds = min(FIRST_SECONDS * 2.0 ** attempt, MAX_SECONDS_LENGTH) * random.uniform(0.75, 1.25)
        seconds = max(seconds, _seconds(asked))
        more = max(0.0, now + seconds - max(now, self._until))
        if self._spent + more > PATIENCE_SECONDS:
            return None
        self._spent += more
        self._until = max(self._until, now + seconds)
        return seconds


def _seconds(retry_after: str | None) -> float:
    """RFC 9110, 10.2.3: a number of seconds, or a date."""
    if retry_after is None:
        return 0.0
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        import email.utils  # not needed for local files

        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0
