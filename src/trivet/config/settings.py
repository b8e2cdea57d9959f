"""Every setting of Trivet in one tree, read from top to bottom. `config/trivet.example.yaml` annotates it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from trivet.config.admission_settings import AdmissionSettings
from trivet.config.batch_settings import BatchSettings
from trivet.config.cache_settings import CacheSettings, RedisSettings
from trivet.config.endpoint_settings import EndpointSettings
from trivet.config.section import PositiveFloat, PositiveInt, Section
from trivet.config.signal_settings import PricingSettings, SignalSettings
from trivet.domain.budgets import LadderAction
from trivet.domain.tiers import EngineKind


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"got {name!r}; allowed: a name of the IANA time zone list, such as Europe/Berlin."
        ) from None
    return name


TimeZoneName = Annotated[str, AfterValidator(_known_zone)]


class ServerSettings(Section):
    """The HTTP door."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8748
    body_limit_bytes: PositiveInt = 2 * 1024 * 1024
    head_timeout_s: PositiveFloat = 10.0
    """How long a client may take to send a request's head."""
    body_timeout_s: PositiveFloat = 30.0
    """How long a client may take to send a request's body."""
    drain_timeout_s: PositiveFloat = 60.0
    write_timeout_s: PositiveFloat = 60.0
    """How long a client may take nothing of its answer before it counts as gone."""
    keep_alive_interval_s: PositiveFloat = 5.0
    """How often a stream whose model must be waited for shows a sign of life."""


class StoreSettings(Section):
    """Where the ledger and the records live."""

    path: Path = Path("~/.local/share/trivet/trivet.db")
    url: SecretStr | None = None
    """A PostgreSQL database, which several replicas may share, instead of the file at `path`. Beside `path`
    then lies only what is this replica's own."""

    @field_validator("url")
    @classmethod
    def _is_postgres(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("allowed: postgresql://USER:PASSWORD@HOST:5432/DATABASE.")
        return url


class AccessSettings(Section):
    """API keys."""

    pepper: SecretStr | None = None
    """Server secret of the key HMACs; by default made once and kept beside the store, mode 0600."""


class LaunchSettings(Section):
    """How to start an engine that Trivet runs itself: the embedded llama.cpp server, or a vLLM server."""

    path: Path | None = None
    """llamacpp: the GGUF file. vllm: a model directory or Hugging Face id; by default the model's name."""
    command: tuple[str, ...] | None = None
    """vllm: the program and its first arguments; by default `vllm serve` if it is on the PATH, else the API
    server's module."""
    arguments: tuple[str, ...] = ()
    """Further arguments of the engine, after the planned ones."""
    tensor_parallel: PositiveInt = 1
    """vllm: GPUs that share the model."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    """vllm: part of each GPU's memory that it may take; by default its own."""
    max_batched_tokens: PositiveInt | None = None
    """vllm: tokens in one step; by default its own."""
    kv_dtype: str | None = None
    """Type of the KV cache, such as fp8 (vllm) or q8_0 (llamacpp); by default the engine's own."""
    threads: PositiveInt = 1
    """llamacpp: CPU threads."""
    gpu_layers: Annotated[int, Field(ge=0)] = 0
    """llamacpp: layers placed on the GPU."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Environment variables beside those of Trivet's own process and those that it plans; the strongest."""
    start_timeout_s: PositiveFloat | None = None
    """How long loading may take; by default 60 for llamacpp, 600 for vllm."""


class OllamaSettings(Section):
    """How Trivet drives a model of an Ollama server."""

    pull: Literal["missing", "never"] = "missing"
    """Whether a model that is not installed is downloaded."""
    preload: bool = True
    """Load it at the start. In a swap group the group decides."""
    keep_alive: float | str = -1
    """How long it stays in memory after a request: seconds, or text such as `30m`; negative: for ever."""


class DeploymentSettings(Section):
    """One model behind one endpoint, or behind several alike."""

    model: str
    """LiteLLM form: `ollama/qwen2.5:7b`, `vllm/qwen2.5:72b`, `llamacpp/NAME`, `openai/NAME`, or any other."""
    name: str | None = None
    """What callers write to reach exactly this one; by default `model`."""
    engine: EngineKind | None = None
    """By default read from the prefix of `model`."""
    transport: Literal["auto", "relay", "litellm"] = "auto"
    url: str | None = None
    """By default OLLAMA_HOST or VLLM_BASE_URL, by engine."""
    endpoints: tuple[EndpointSettings, ...] = ()
    """Instead of `url`: servers of the same model, among which requests are balanced."""
    api_key: SecretStr | None = None
    context_tokens: PositiveInt | None = None
    """By default what the engine reports, else 8192."""
    slots: PositiveInt | None = None
    """Requests run at once; by default 1 for ollama, 4 for llamacpp, 256 for vllm, 64 for others."""
    devices: tuple[str, ...] | None = None
    """GPU UUIDs or `host`; by default the GPUs that are found, else `host`; none for remote services."""
    capabilities: (
        frozenset[Literal["tools", "vision", "json_schema", "logprobs", "thinking", "embeddings", "chat"]]
        | None
    ) = None
    """`embeddings`: its model makes vectors, and nothing else unless `chat` is named too."""
    local: bool | None = None
    """By default true for ollama, vllm, llamacpp and loopback URLs."""
    template_tokens: Annotated[int, Field(ge=0)] = 64
    swap_group: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """Deployments with the same name here share memory: one of them is loaded at a time."""
    ollama: OllamaSettings | None = None
    """Engine ollama: let Trivet fetch and load the model; null: it only sends requests."""
    launch: LaunchSettings | None = None


class TierSettings(Section):
    """One rung of the ordered list, cheapest first."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
    cost_weight: PositiveFloat
    complexity: tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_output_tokens: PositiveInt = 1024
    deployments: Annotated[tuple[DeploymentSettings, ...], Field(min_length=1)]


class PolicySettings(Section):
    """How one kind of task is routed."""

    min_tier: str | None = None
    max_tier: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_output_tokens: PositiveInt | None = None


class RoutingSettings(Section):
    """How a request finds its tier."""

    enabled: bool = True
    """False sends `auto` to `fixed_tier`; budgets and fallback stay on."""
    fixed_tier: str = "standard"
    text_limit_chars: PositiveInt = 3000
    """Only so much of a prompt is looked at to score it."""
    policies: dict[str, PolicySettings] = Field(
        default_factory=lambda: {
            "normal": PolicySettings(),
            "deep_research": PolicySettings(min_tier="heavy", max_output_tokens=4096),
            "code": PolicySettings(min_tier="standard", temperature=0.2, max_output_tokens=2048),
            "ops": PolicySettings(max_tier="light", temperature=0.0, max_output_tokens=512),
        }
    )
    task_types: dict[str, str] = Field(
        default_factory=lambda: {
            "investigate_error": "code",
            "deploy_code": "code",
            "fix_bug": "code",
            "analyze_logs": "normal",
            "simple_query": "ops",
        }
    )
    default_policy: str = "normal"


class LadderStep(Section):
    """What happens once so many percent of a limit are used, settled use only."""

    percent: Annotated[int, Field(gt=0, le=100)]
    actions: Annotated[tuple[LadderAction, ...], Field(min_length=1)]
    """notify; prefer_cheaper: routing leans to cheaper tiers; enforce_cheaper: routing keeps below the
    dearest tier; approve_heavy: the dearest tier takes an approved override; block_nonessential: no batch
    requests; critical_only: nothing but critical requests."""


class BudgetSettings(Section):
    """Token budgets."""

    default_daily_tokens: PositiveInt | None = 1_000_000
    """Each organisation's daily limit unless it has its own; null for none."""
    default_monthly_tokens: PositiveInt | None = 20_000_000
    time_zone: TimeZoneName = "UTC"
    thresholds: tuple[Annotated[int, Field(gt=0, le=100)], ...] = (50, 70, 80, 85, 95, 100)
    contended_wait_s: Annotated[float, Field(ge=0, le=10)] = 2.0
    exhausted_status: Literal[429, 402] = 429
    outside_hold_s: Annotated[float, Field(ge=1, le=86_400)] = 300.0
    """How long an outside caller may hold budget until it reports; then all of it is charged."""
    minimum_output_tokens: PositiveInt | None = 64
    """Where less than the whole output fits, it is cut down to what fits, but not below this; null: never."""
    ladder: Literal["default", "strict"] | tuple[LadderStep, ...] = "default"
    """default: notify at each threshold, prefer cheaper tiers from 70 %. strict: also enforce cheaper tiers
    and ask approval for the dearest from 85, block batch requests from 95, all but critical ones at 100."""
    emergency_percent: Annotated[int, Field(ge=0, le=100)] = 10
    """An emergency override gives critical requests at most so much of the limit; 0: there are none."""
    emergency_hours: Annotated[float, Field(gt=0, le=168)] = 4.0
    """The longest life of an emergency override."""


class ExecutionSettings(Section):
    """One request's time, its attempts, the circuit breakers."""

    deadline_s: PositiveFloat = 300.0
    connect_timeout_s: PositiveFloat = 5.0
    first_content_timeout_s: PositiveFloat = 120.0
    idle_timeout_s: PositiveFloat = 30.0
    max_attempts: PositiveInt = 4
    retry_pause_max_s: Annotated[float, Field(ge=0)] = 30.0
    """An engine that asks for a longer pause is not waited for; the caller is told instead."""
    breaker_consecutive_failures: PositiveInt = 5
    breaker_open_s: PositiveFloat = 5.0
    breaker_open_max_s: PositiveFloat = 60.0
    admission: AdmissionSettings = AdmissionSettings()


class SwapSettings(Section):
    """Models that share memory by turns; see `DeploymentSettings.swap_group`."""

    minimum_residency_s: Annotated[float, Field(ge=0)] = 10.0
    max_wait_s: PositiveFloat = 30.0
    sleep_level: Literal[1, 2] = 1
    """vLLM: 1 keeps the weights in the host's memory, 2 reads them from disk again."""


class FleetSettings(Section):
    """Engines that are attached or launched."""

    on_exit: Literal["stop", "keep"] = "stop"
    """Whether launched engines end with Trivet, however it ends, or outlive it and are adopted again."""
    state_dir: Path | None = None
    """Where launched engines' records, observations and logs lie; by default beside the store."""
    probe_interval_s: PositiveFloat = 5.0
    ollama_url: str = "http://127.0.0.1:11434"
    vllm_url: str = "http://127.0.0.1:8000"
    vllm_api_key: SecretStr | None = None
    swap: SwapSettings = SwapSettings()


class CatalogSettings(Section):
    """What is known of models and GPUs, besides what Trivet ships."""

    models: Path | None = None
    """A file like `config/models.yaml`, whose cards join the shipped ones or replace those of the same id."""
    gpus: Path | None = None
    """A file like `config/gpus.yaml`, likewise."""


class MeteringSettings(Section):
    """Usage records."""

    retention_days: PositiveInt = 400


class LoggingSettings(Section):
    """Log lines on stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"


def default_tiers() -> tuple[TierSettings, ...]:
    """Return the three tiers of the seed's guide: Ollama, Ollama, vLLM; ranges 0-.3-.7-1, weights 1/3/10."""
    return (
        TierSettings(
            name="light",
            cost_weight=1.0,
            complexity=(0.0, 0.3),
            deployments=(DeploymentSettings(model="ollama/qwen2.5:7b"),),
        ),
        TierSettings(
            name="standard",
            cost_weight=3.0,
            complexity=(0.3, 0.7),
            deployments=(DeploymentSettings(model="ollama/qwen2.5:32b"),),
        ),
        TierSettings(
            name="heavy",
            cost_weight=10.0,
            complexity=(0.7, 1.0),
            max_output_tokens=2048,
            deployments=(DeploymentSettings(model="vllm/qwen2.5:72b"),),
        ),
    )


class Settings(Section):
    """The whole tree. A room receives its section, never this."""

    server: ServerSettings = ServerSettings()
    store: StoreSettings = StoreSettings()
    access: AccessSettings = AccessSettings()
    tiers: Annotated[tuple[TierSettings, ...], Field(min_length=2)] = Field(default_factory=default_tiers)
    routing: RoutingSettings = RoutingSettings()
    budgets: BudgetSettings = BudgetSettings()
    pricing: PricingSettings = PricingSettings()
    signals: SignalSettings = SignalSettings()
    cache: CacheSettings = CacheSettings()
    redis: RedisSettings = RedisSettings()
    execution: ExecutionSettings = ExecutionSettings()
    batch: BatchSettings = BatchSettings()
    fleet: FleetSettings = FleetSettings()
    catalog: CatalogSettings = CatalogSettings()
    metering: MeteringSettings = MeteringSettings()
    logging: LoggingSettings = LoggingSettings()

    @property
    def token_budget_daily(self) -> int | None:
        """Return the default daily limit under the seed's name."""
        return self.budgets.default_daily_tokens

    @property
    def token_budget_monthly(self) -> int | None:
        """Return the default monthly limit under the seed's name."""
        return self.budgets.default_monthly_tokens

    @model_validator(mode="after")
    def _names_resolve(self) -> "Settings":
        problems = [*self._tier_problems(), *self._deployment_problems(), *self._routing_problems()]
        if self.store.url is not None and self.access.pepper is None:
            problems.append("access.pepper: must be set with store.url, the same for every replica.")
        if self.cache.enabled and self.cache.store == "redis" and self.redis.url is None:
            problems.append("cache.store: redis needs redis.url.")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _tier_problems(self) -> Iterator[str]:
        names = [tier.name for tier in self.tiers]
        if len(set(names)) != len(names):
            yield f"tiers: names must be unique, got {', '.join(names)}"
        expected = 0.0
        for tier in self.tiers:
            low, high = tier.complexity
            if low != expected or high <= low:
                yield (
                    f"tiers.{tier.name}.complexity: ranges must join without gaps from 0 to 1; "
                    f"expected [{expected}, x] with x > {expected}, got [{low}, {high}]"
                )
                return
            expected = high
        if expected != 1.0:
            yield f"tiers: the last complexity range must end at 1, it ends at {expected}"

    def _deployment_problems(self) -> Iterator[str]:
        deployments = [d.name or d.model for tier in self.tiers for d in tier.deployments]
        twice = sorted({name for name in deployments if deployments.count(name) > 1})
        if twice:
            yield f"tiers: deployment names must be unique, {', '.join(twice)} occurs twice (set `name`)"
        reserved = sorted({"auto", *(tier.name for tier in self.tiers)} & set(deployments))
        if reserved:
            yield f"tiers: a deployment cannot be called {', '.join(reserved)}: that name routes (set `name`)"

    def _routing_problems(self) -> Iterator[str]:
        # The default policies speak of the default tiers; with other tiers they are read without them.
        routing, names = self.routing, [tier.name for tier in self.tiers]
        tiers = f"the tiers are {', '.join(names)}"
        policies = f"the policies are {', '.join(routing.policies)}"
        for policy_name, policy in routing.policies.items():
            for tier in (policy.min_tier, policy.max_tier):
                if tier is not None and tier not in names and "policies" in routing.model_fields_set:
                    yield f"routing.policies.{policy_name}: no tier is called {tier!r}; {tiers}"
        for task_type, policy_name in routing.task_types.items():
            if policy_name not in routing.policies:
                yield f"routing.task_types.{task_type}: no policy is called {policy_name!r}; {policies}"
        if routing.default_policy not in routing.policies:
            yield f"routing.default_policy: no policy is called {routing.default_policy!r}; {policies}"
        if routing.fixed_tier not in names and (
            "fixed_tier" in routing.model_fields_set or not routing.enabled
        ):
            yield f"routing.fixed_tier: no tier is called {routing.fixed_tier!r}; {tiers}"
