"""How long to wait before trying again: plain arithmetic on the number of tries, the dice given as an argument.

Waits are in seconds. What may be tried again at all is decided elsewhere (`protocol`, `flow`).
"""

from dataclasses import dataclass

from batchflux.core.model import Fault

__all__ = ["ATTEMPT_BACKOFF", "CONNECT_BACKOFF", "POLL_BACKOFF", "REFUSAL_BACKOFF", "Backoff"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Doubling waits from `first_s` to `most_s`, each stretched by up to `jitter` of itself."""

    first_s: float
    most_s: float
    jitter: float = 0.0

    def wait_s(self, tries: int, *, dice: float) -> float:
        """Return the wait after so many failed tries (from 1); `dice` is drawn from 0..1."""
        plain = min(self.most_s, self.first_s * 2.0 ** min(tries - 1, 32))
        return plain * (1 + self.jitter * dice)

    def wait_for(self, fault: Fault, tries: int, *, dice: float) -> float:
        """Return the wait that a fault advises (Retry-After), else the doubling one; never less than the first."""
        if fault.retry_after_s is None:
            return self.wait_s(tries, dice=dice)
        return max(self.first_s, fault.retry_after_s)  # an advice of 0 s would be a loop without a pause


# A refusal without Retry-After: limits reset each minute (documentation), so a minute is the longest useful wait.
REFUSAL_BACKOFF = Backoff(first_s=0.5, most_s=60.0)
# The service can't be reached: quick enough to notice a hiccup's end, slow enough not to knock all night.
CONNECT_BACKOFF = Backoff(first_s=1.0, most_s=30.0, jitter=0.2)
# Asking for a result costs nothing; ten seconds bound what an outage's end goes unnoticed.
POLL_BACKOFF = Backoff(first_s=0.5, most_s=10.0, jitter=0.5)
# A prediction that failed for the service's own reasons: give it time to mend.
ATTEMPT_BACKOFF = Backoff(first_s=1.0, most_s=30.0, jitter=0.5)
