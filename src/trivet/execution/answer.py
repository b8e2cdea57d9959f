"""An answer being delivered: whole, or as a stream that is honest about its end."""

from collections.abc import Awaitable, Callable

from trivet.domain.errors import EngineError
from trivet.domain.failpoints import reach
from trivet.domain.outcomes import OutcomeStatus
from trivet.domain.surfaces import Surface
from trivet.domain.tiers import Deployment
from trivet.engines.protocol import Reply, Take
from trivet.execution.kept_reply import FromMemory
from trivet.execution.run import Run
from trivet.execution.running import RunningAttempt

Put = Callable[[bytes], Awaitable[None]]
"""Passes events on to the client, however slowly that reads."""

_LAST_EVENTS = {
    Surface.CHAT: b"data: [DONE]\n\n",
    Surface.COMPLETIONS: b"data: [DONE]\n\n",
    Surface.MESSAGES: b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
}
"""What ends a whole stream and says nothing else: Trivet's own word, since engines forget it."""


class Answer:
    """What an engine, or the cache, answers to one request. Whoever holds it must `aclose()` it.

    Closing before the end cancels the work upstream and settles what was generated until then.
    """

    def __init__(self, run: Run, reply: Reply, running: RunningAttempt | FromMemory) -> None:
        self.run = run
        self._reply = reply
        self._running = running

    @property
    def deployment(self) -> Deployment:
        """Return the deployment that answers."""
        return self._running.attempt.deployment

    @property
    def body(self) -> bytes:
        """Return the JSON document of a plain answer; empty for a stream."""
        return self._reply.body or b""

    async def deliver(self, pass_on: Put, take: Take | None = None) -> None:
        """Pass on a streamed answer's events, then its protocol's last event if it ended as it should.

        Args:
            pass_on: takes events, whole ones; what it raises is raised here.
            take: is offered what can be passed on the moment it arrives; `pass_on` gets what it leaves.

        Raises:
            EngineError: the stream broke after it began; what was passed on is not a whole answer.
        """
        keep_usage = self.run.request.include_usage
        try:
            async for chunk in self._reply.chunks(None if take is None else _passing(take)):
                if keep_usage or not chunk.usage_only:
                    await pass_on(chunk.data)
                    reach("mid_stream")
        except EngineError as error:
            await self._close("cut", error)
            raise
        await self._close("ok", None)
        last = _LAST_EVENTS.get(self.run.request.surface)
        if last is not None:
            await pass_on(last)

    def complete(self) -> None:
        """Have a plain answer settled, which has arrived whole: nothing is left to close."""
        self._end("ok", None)

    async def aclose(self) -> None:
        """Let go: cancel upstream if it still works, and settle. Idempotent."""
        if not self.run.closed:
            await self._close("cancelled", None)

    async def _close(self, status: OutcomeStatus, error: EngineError | None) -> None:
        try:
            # The hold stays until the engine has been told to stop.
            await self._reply.aclose()
        except EngineError:
            pass  # it has ended all the same
        finally:
            self._end(status, error)

    def _end(self, status: OutcomeStatus, error: EngineError | None) -> None:
        """End and settle by plain calls: no cancellation comes between the clocks' end and the settlement."""
        self._running.end(error, cancelled=status == "cancelled")
        # Nobody waits for the disk: until the settlement is on it the hold covers what was used, and
        # should Trivet die before, all of the hold is charged.
        self.run.close(status, reply=self._reply, error=error)


def _passing(take: Take) -> Take:
    """Return what passes events on as an answer does."""

    def passed(data: bytes) -> bool:
        if not take(data):
            return False
        reach("mid_stream")
        return True

    return passed
