"""What may be spent: integer micro-dollars, reserved before a submission and given back when it cost nothing.

A sum of integers is exact, so no concurrency and no restart can pass a limit by a cent.
"""

from dataclasses import dataclass

__all__ = ["Budget", "usd"]


@dataclass(slots=True, kw_only=True)
class Budget:
    """Spent and reserved so far, over the run's whole life and in this session; None is no limit."""

    life_limit_micro_usd: int | None
    session_limit_micro_usd: int | None
    life_micro_usd: int
    session_micro_usd: int = 0

    def can_reserve(self, price_micro_usd: int) -> bool:
        """Return whether a submission of this price keeps within both limits."""
        life, session = self.life_limit_micro_usd, self.session_limit_micro_usd
        return (life is None or self.life_micro_usd + price_micro_usd <= life) and (
            session is None or self.session_micro_usd + price_micro_usd <= session
        )

    def words(self, price_micro_usd: int) -> str:
        """Say which limit a submission of this price would pass, and for the run's life what raises it."""
        life, session, price = self.life_limit_micro_usd, self.session_limit_micro_usd, usd(price_micro_usd)
        if life is not None and self.life_micro_usd + price_micro_usd > life:
            spent = f"{usd(self.life_micro_usd)} spent or held in all, one more costs {price}"
            return f"run.budget of {usd(life)} is used: {spent}; to go on, raise it, as with --set run.budget=USD"
        spent = f"{usd(self.session_micro_usd)} spent or held this time, one more costs {price}"
        return f"--budget of {usd(session or 0)} is used: {spent}"

    def reserve(self, price_micro_usd: int) -> None:
        """Count a submission as spent before it is sent."""
        self.life_micro_usd += price_micro_usd
        self.session_micro_usd += price_micro_usd

    def release(self, price_micro_usd: int, *, of_this_session: bool = True) -> None:
        """Give back what was reserved for a submission that is known to cost nothing.

        What an earlier session reserved frees the run's life only: it is no allowance for this session.
        """
        self.life_micro_usd -= price_micro_usd
        if of_this_session:
            self.session_micro_usd -= price_micro_usd

    def count_for_session(self, price_micro_usd: int) -> None:
        """Count for this session what an earlier one has reserved: this one may have bought it."""
        self.session_micro_usd += price_micro_usd


def usd(micro_usd: int) -> str:
    """Return an amount as people read it: $0.08, $1,234.50; fractions of a cent only where there are any."""
    sign = "-" if micro_usd < 0 else ""
    dollars, rest = divmod(abs(micro_usd), 1_000_000)
    digits = f"{rest:06d}"
    return f"{sign}${dollars:,}.{digits[:2]}{digits[2:].rstrip('0')}"
