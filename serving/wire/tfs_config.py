"""TensorFlow Serving's `ModelServerConfig`: which models a server has, as its clients set it."""

from pathlib import PurePath
from typing import Any

from serving.errors import InvalidRequestError
from serving.messages import ModelSettings, ReloadConfigCall, VersionPolicy
from serving.wire.pool import new_message
from serving.wire.tfs_proto import parse

RELOAD_CONFIG = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"

# The names under which TensorFlow Serving knows SavedModels: `model_platform`, or the old
# `model_type` with the number 1.
PLATFORM, PLATFORM_NUMBER = "tensorflow", 1


def decode_reload_request(body: bytes) -> ReloadConfigCall:
    """Server: a ReloadConfigRequest.

    Raises:
        InvalidRequestError: names the model at fault.
    """
    request = parse("ReloadConfigRequest", body)
    return ReloadConfigCall(models=read_models(request.config))


def encode_reload_reply() -> bytes:
    """Server: a ReloadConfigResponse that says OK; errors travel as gRPC's status."""
    return new_message("tensorflow.serving.ReloadConfigResponse", status={"error_code": 0})


def read_models(config: Any, *, takes_urls: bool = False) -> tuple[ModelSettings, ...]:
    """The models of a ModelServerConfig; a list that is there and empty means none.

    Args:
        config: The message.
        takes_urls: Base paths may be URLs. Who may only ask over the network has no say in where
            this server connects to.

    Raises:
        InvalidRequestError: what TensorFlow Serving refuses, and names the model.
    """
    kind = config.WhichOneof("config")
    if kind != "model_config_list":
        raise InvalidRequestError(
            f"ServerConfig kind {kind or 'nothing'} is not supported; model_config_list is.",
            field="config",
        )
    models: dict[str, ModelSettings] = {}
    for each in config.model_config_list.config:
        if not each.name:
            raise InvalidRequestError("A model of the config has no name.", field="name")
        if each.name in models:
            raise InvalidRequestError(
                f"Illegal to list model {each.name} multiple times in config list", field="name"
            )
        models[each.name] = _model(each, takes_urls=takes_urls)
    return tuple(models.values())


def _model(config: Any, *, takes_urls: bool) -> ModelSettings:
    name, base_path = config.name, config.base_path
    if "://" in base_path:
        if not takes_urls:
            raise InvalidRequestError(
                f"The base path of model {name} is a URL; those are read from the server's own "
                "configuration file only.",
                field="base_path",
            )
    elif not PurePath(base_path).is_absolute():
        raise InvalidRequestError(
            f"Expected model {name} to have an absolute path or URI; got base_path()={base_path}",
            field="base_path",
        )
    if config.model_platform and config.model_type:
        raise InvalidRequestError(
            f"Model {name} has both model_platform and model_type; use model_platform.",
            field="model_platform",
        )
    if config.model_platform != PLATFORM and config.model_type != PLATFORM_NUMBER:
        raise InvalidRequestError(
            f"Platform {config.model_platform or 'of no name'} of model {name} is not served; "
            f"model_platform {PLATFORM!r} is.",
            field="model_platform",
        )
    return ModelSettings(
        name=name,
        base_path=base_path,
        policy=_policy(name, config.model_version_policy),
        labels=dict(sorted(config.version_labels.items())),
    )


def _policy(name: str, policy: Any) -> VersionPolicy:
    match policy.WhichOneof("policy_choice"):
        case "all":
            return VersionPolicy(is_all=True)
        case "specific":
            versions = tuple(sorted(set(policy.specific.versions)))
            if not versions:
                raise InvalidRequestError(
                    f"The specific version policy of model {name} names no version.",
                    field="model_version_policy",
                )
            return VersionPolicy(specific=versions)
        case _:
            return VersionPolicy(latest=policy.latest.num_versions or 1)
