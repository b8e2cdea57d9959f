"""What a request is charged: each of its attempts by itself, at the tariff of where it went. Pure."""

from collections.abc import Mapping, Sequence

from trivet.domain.budgets import NOTHING, Amounts
from trivet.domain.decisions import Decision
from trivet.domain.errors import EngineTimeout
from trivet.domain.outcomes import Attempt, AttemptCharge, OutcomeStatus, Usage, UsageSource
from trivet.domain.values import value
from trivet.engines.protocol import Reply
from trivet.execution.tariff import Tariff
from trivet.execution.upstream import believable


@value()
class Charge:
    """What one attempt is charged."""

    attempt: Attempt
    usage: Usage
    charged: Amounts


@value()
class Charges:
    """What a request is charged, attempt by attempt."""

    earlier: tuple[Charge, ...] = ()
    """Of attempts before the last one, in order."""
    last: Charge | None = None

    @property
    def usage(self) -> Usage | None:
        """Return all tokens together; None where nothing is owed."""
        if not self.earlier:
            return self.last.usage if self.last is not None else None
        parts = [each.usage for each in (*self.earlier, self.last) if each is not None]
        return Usage(
            prompt_tokens=sum(part.prompt_tokens for part in parts),
            completion_tokens=sum(part.completion_tokens for part in parts),
            source="ceiling",
            cached_tokens=sum(part.cached_tokens for part in parts),
        )

    @property
    def own(self) -> tuple[Usage, Amounts]:
        """Return what the last attempt owes, for the ledger: nothing, where only those before it do."""
        if self.last is None:
            return Usage(0, 0, "ceiling"), NOTHING
        return self.last.usage, self.last.charged

    @property
    def entries(self) -> tuple[AttemptCharge, ...]:
        """Return what the attempts before the last one owe, for the ledger: an entry each."""
        if not self.earlier:
            return ()
        return tuple(
            AttemptCharge(
                attempt_id=each.attempt.attempt_id,
                deployment=each.attempt.deployment.name,
                tier=each.attempt.deployment.tier.name,
                usage=each.usage,
                charged=each.charged,
            )
            for each in self.earlier
        )

    @property
    def charged(self) -> Amounts:
        """Return all amounts together."""
        charged = self.last.charged if self.last is not None else NOTHING
        for each in self.earlier:
            charged += each.charged
        return charged


@value()
class Bill:
    """What is known of a request when it is charged."""

    decision: Decision
    stream: bool
    output_cap: int
    """The most tokens that an engine could generate, all choices together."""
    held: Amounts
    tariffs: Mapping[str, Tariff]
    """By deployment, as they were when budget was held for it."""

    def charges(self, attempts: Sequence[Attempt], status: OutcomeStatus, reply: Reply | None) -> Charges:
        """Return what each attempt is charged: the engine's word if believable, else a bound on its work."""
        if not attempts:
            return Charges()
        last = self._last(attempts[-1], status, reply)
        if len(attempts) == 1:
            return Charges((), last)
        silent = [each for each in attempts[:-1] if each.error_code == EngineTimeout.code]
        # The hold is a ceiling for one attempt's work; what silent attempts read is charged up to it.
        room = self.held - last.charged if last is not None else self.held
        earlier = []
        for attempt in silent:
            charge = self._silent(attempt, room.at_least(0))
            room -= charge.charged
            earlier.append(charge)
        return Charges(tuple(earlier), last)

    def _last(self, attempt: Attempt, status: OutcomeStatus, reply: Reply | None) -> Charge | None:
        tariff = self.tariffs[attempt.deployment.name]
        if reply is not None:
            usage = self._of_reply(attempt, reply)
            return Charge(attempt, usage, tariff.charge(usage))
        ceiling = self._without_reply(attempt, status)
        if ceiling is None:
            return None
        # Meanwhile the hold may have been weighed for a cheaper candidate that was not tried after all.
        return Charge(attempt, ceiling, tariff.charge(ceiling).at_most(self.held))

    def _silent(self, attempt: Attempt, room: Amounts) -> Charge:
        """Charge the prompt to an attempt that fell silent: the engine may have read it."""
        prompt = self.decision.estimated.prompt_tokens
        charged = self.tariffs[attempt.deployment.name].prompt(prompt).at_most(room)
        return Charge(attempt, Usage(charged.tokens, 0, "ceiling"), charged)

    def _of_reply(self, attempt: Attempt, reply: Reply) -> Usage:
        prompt_ceiling = self.decision.estimated.prompt_tokens
        told = believable(
            reply.usage,
            output_ceiling=max(self.output_cap, reply.content_bytes),
            context_tokens=max(attempt.deployment.context_tokens, prompt_ceiling),
            content_events=reply.content_events,
        )
        if told is not None:
            return told
        source: UsageSource = "counted" if self.stream else "ceiling"
        # A token is at least one byte of what carries it.
        return Usage(prompt_ceiling, min(self.output_cap, reply.content_bytes), source)

    def _without_reply(self, attempt: Attempt, status: OutcomeStatus) -> Usage | None:
        """Return the charge of a request whose client left, or whose engine fell silent, before content.

        The engine was at work, unless the client left while no attempt was under way: between two of them,
        or waiting for a model to be loaded. A plain answer shows nothing of how far it came, so its whole
        ceiling is charged: else timing out would be a way to free tokens.
        """
        left_at_work = status == "cancelled" and attempt.error_code == "cancelled"
        if not left_at_work and attempt.error_code != EngineTimeout.code:
            return None
        return Usage(self.decision.estimated.prompt_tokens, 0 if self.stream else self.output_cap, "ceiling")
