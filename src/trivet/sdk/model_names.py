"""How a model is called from Python: a LiteLLM-form string, a deployment's name, or a tier's."""

from collections.abc import Iterator

from trivet.config.settings import DeploymentSettings, Settings
from trivet.domain.errors import ModelUnknown
from trivet.domain.tiers import ModelTier


class FurtherTier(str):
    """The name of a tier beyond the three standard ones: a string that has `.value` like ModelTier."""

    __slots__ = ()

    @property
    def value(self) -> str:
        """Return the plain name."""
        return str(self)


def tier_named(name: str) -> ModelTier | FurtherTier:
    """Return a tier's name as ModelTier where it is one of the three, else as FurtherTier."""
    try:
        return ModelTier(name)
    except ValueError:
        return FurtherTier(name)


def deployment_name(deployment: DeploymentSettings) -> str:
    """Return the name by which callers reach exactly this deployment."""
    return deployment.name or deployment.model


def model_id_of(settings: Settings, deployment: DeploymentSettings) -> str:
    """Return the LiteLLM-form string of a deployment; its name where that string means another one too."""
    name = deployment_name(deployment)
    meant = [other for other in _deployments(settings) if deployment.model in (other.model, other.name)]
    return deployment.model if len(meant) == 1 else name


def find_deployment(settings: Settings, model: str) -> str:
    """Return the name of the deployment that `model` means.

    A deployment's name comes first, then a tier's name (its first deployment), then a LiteLLM-form string.

    Raises:
        ModelUnknown: it means none, or several; the message lists the names.
    """
    names = [deployment_name(deployment) for deployment in _deployments(settings)]
    if model in names:
        return model
    for tier in settings.tiers:
        if tier.name == model:
            return deployment_name(tier.deployments[0])
    same = [deployment_name(found) for found in _deployments(settings) if found.model == model]
    if len(same) == 1:
        return same[0]
    if same:
        raise ModelUnknown(
            f"Several deployments serve the model {model!a}.",
            hint=f"Name one of them: {', '.join(same)}.",
            param="model",
            details={"names": same},
        )
    known = [*(tier.name for tier in settings.tiers), *names]
    hint = f"Known: {', '.join(known)}."
    if model == "auto":
        hint = f"ModelRouter chooses a tier, or Trivet.open does both. {hint}"
    raise ModelUnknown(
        f"There is no model called {model[:200]!a}.", hint=hint, param="model", details={"names": known}
    )


def _deployments(settings: Settings) -> Iterator[DeploymentSettings]:
    for tier in settings.tiers:
        yield from tier.deployments
