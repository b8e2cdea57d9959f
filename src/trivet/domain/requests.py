"""What a caller asks: the request, its hints, what it needs, and who asks."""

from dataclasses import field
from typing import Any, Literal

from trivet.domain.budgets import PRIORITIES, Idempotency, Priority
from trivet.domain.scopes import Scope
from trivet.domain.surfaces import Surface
from trivet.domain.values import value

CacheWish = Literal["default", "allow", "refresh", "no-store"]
"""default: by the settings; allow: also above temperature 0; refresh: ask an engine, and keep its answer;
no-store: neither."""
Role = Literal["admin", "auditor", "tenant_admin", "tenant"]
ROLES: tuple[Role, ...] = ("admin", "auditor", "tenant_admin", "tenant")


@value(kw_only=True)
class Principal:
    """Who is calling, as established by the API key."""

    key_id: str
    scope: Scope
    role: str = "tenant"
    """One of ROLES; see `access.permissions`."""
    tiers: frozenset[str] = frozenset()
    """Tiers that the key may use; empty means all."""
    models: frozenset[str] = frozenset()
    """Deployments that the key may use; empty means all."""
    priority: Priority = "interactive"
    """The key's; a request may lower it, never raise it."""

    def priority_of(self, asked: str | None) -> Priority:
        """Return the priority of a request: the key's, or a lower one that the caller asks for."""
        if asked is None:
            return self.priority
        return next((p for p in PRIORITIES if p in (asked, self.priority)), self.priority)

    @property
    def is_admin(self) -> bool:
        """Tell whether the key may administer the whole installation."""
        return self.role == "admin"

    @property
    def sees_all(self) -> bool:
        """Tell whether the key may read everything, whosever it is."""
        return self.role in ("admin", "auditor")


@value(kw_only=True)
class Hints:
    """What the caller says about its request beyond the messages (headers or `metadata`)."""

    task_type: str | None = None
    task_id: str | None = None
    worker: str | None = None
    session: str | None = None
    priority: str | None = None
    min_tier: str | None = None
    max_tier: str | None = None
    local_only: bool = False
    capabilities: tuple[str, ...] = ()
    """Capabilities of the calling agent, such as `security_analysis` (an estimator's factor)."""
    context_tokens: int = 0
    """Size of the retrieved context, in tokens (an estimator's factor)."""
    history_length: int | None = None
    """Turns before this one; None means: count them from the messages."""


@value(kw_only=True)
class ChatRequest:
    """A body that has been checked, with its hints apart: a chat completion, or another surface's request."""

    body: dict[str, Any]
    """The body as it goes upstream, without Trivet's own metadata keys. Never mutated."""
    body_bytes: int
    """Size of the body as received."""
    surface: Surface = Surface.CHAT
    """The protocol that the caller speaks."""
    model: str
    """`auto`, a tier's name, or a deployment's name."""
    stream: bool = False
    include_usage: bool = False
    """The caller asked for the usage chunk of a stream itself."""
    max_tokens: int | None = None
    n: int = 1
    """How many answers may be generated: choices, of each prompt."""
    idempotency: Idempotency | None = None
    decision_id: str | None = None
    """An earlier decision that is to be executed instead of deciding anew."""
    cache: CacheWish = "default"
    """What the caller says of kept answers."""
    hints: Hints = field(default_factory=Hints)


@value(kw_only=True)
class Needs:
    """What the request requires of a deployment, and the features that describe it."""

    text: str
    """The text to estimate, capped: the last user message and what frames it."""
    prompt_bytes: int
    """UTF-8 bytes of all that becomes prompt: a ceiling on its tokens for byte-level tokenizers."""
    messages: int
    capabilities: frozenset[str]
    """Capabilities a deployment must have: tools, vision, json_schema, logprobs."""
    surface: Surface = Surface.CHAT
    largest_prompt_bytes: int | None = None
    """Of several prompts in one request the largest, which alone must fit the window; None: there is one."""
    agent_capabilities: tuple[str, ...]
    context_tokens: int
    history_length: int
    task_type: str | None

    @property
    def window_bytes(self) -> int:
        """Return the bytes of the prompt that has to fit the context window."""
        return self.prompt_bytes if self.largest_prompt_bytes is None else self.largest_prompt_bytes
