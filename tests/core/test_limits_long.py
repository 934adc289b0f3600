"""The limits' arithmetic holds for as long as a run may last."""

from batchflux.core.limits import Breaker


def test_a_breaker_bears_a_week_of_lost_answers() -> None:
    """Its waits double up to five minutes and stay there; the power itself must not outgrow a float."""
    breaker, now_s, probes = Breaker(), 0.0, 0
    while now_s < 7 * 86400.0:
        now_s = max(now_s, breaker.retry_at_s() or 0.0)
        assert breaker.may_send(now_s)
        breaker.sent(now_s)
        breaker.unanswered(sent_at_s=now_s, now_s=now_s + 0.1)
        now_s += 0.1
        probes += 1
    assert probes <= 7 * 288 + 12
    assert breaker.retry_at_s() is not None
