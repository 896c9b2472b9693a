"""A real TensorFlow Serving follows our labels: its configuration file, and its reload request.

Rules of TensorFlow Serving that decide the order here:
1. A reload replaces the whole configuration: models that it leaves out are unloaded. So the file
   says what else there is, and nothing is sent without it.
2. A label moves only to a version that is available, and labels are looked at before anything is
   loaded. So versions are asked for first, waited for, and labelled then.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from zoo.artifact import write_atomically
from zoo.errors import ConvzooError, UsageError
from zoo.versions import lock

PLATFORM = "tensorflow"
POLL_S = 0.2
# What one answer may take, also when the time to load is over.
ANSWER_S = 10.0

# GetModelStatus's states.
AVAILABLE, END = 30, 50


class TfServingError(ConvzooError):
    """TensorFlow Serving does not answer, refuses, or is not ready; start again when it is."""

    exit_code = 6


def steer(
    config: Path,
    model: str,
    base_path: str | None,
    labels: Mapping[str, int],
    *,
    address: str | None = None,
    limit_s: float = 300.0,
    talk: Callable[[str], None] = lambda _: None,
) -> None:
    """Makes a TensorFlow Serving serve what labels name.

    Args:
        config: Its `--model_config_file`; made when missing. Other models in it stay as they are.
        model: The model's name.
        base_path: The model's folder as the server sees it; None keeps what the file says.
        labels: All labels of the model.
        address: Its gRPC port, HOST:PORT; None writes the file only.
        limit_s: How long its versions may take to load.
        talk: Takes one line for each stage.

    Raises:
        UsageError: the file is none, or does not know the model and no base path is given.
        TfServingError: the server refuses, fails to load, or does not answer; the file is then as
            it was. Or the file asks for a version now, and must be written again when it is there.
    """
    config.absolute().parent.mkdir(parents=True, exist_ok=True)
    with lock(config.absolute().parent, f".{config.name}.lock"):
        before = _read(config)
        entry = _entry(before, model)
        versions = {*entry.model_version_policy.specific.versions} if entry is not None else set()
        missing = sorted(set(labels.values()) - versions)
        final = _changed(before, model, base_path, labels, labels.values())
        both = {*versions, *labels.values()}
        earlier = dict(entry.version_labels) if entry is not None else {}
        if address is not None:
            server = _Server(address, limit_s)
            talk(f"TensorFlow Serving at {address}: loading {_listed(labels.values())}")
            # A file that is ahead of the server has labels that it would refuse.
            kept = server.available(model)
            earlier = {label: version for label, version in earlier.items() if version in kept}
            server.reload(_changed(before, model, base_path, earlier, both))
            server.wait_until_available(model, labels.values())
            talk(f"TensorFlow Serving at {address}: labels {_told(labels)}")
            # Labels are moved while both versions serve, and the old one goes last.
            labelled = _changed(before, model, base_path, labels, both)
            server.reload(labelled)
            if labelled != final:
                server.reload(final)
        elif entry is not None and entry.version_labels and missing and not _has_all(entry):
            _write(config, _changed(before, model, base_path, earlier, both))
            raise TfServingError(
                f"TensorFlow Serving moves a label only to a version it has loaded. {config} asks "
                f"for {_listed(missing)} now; run this again when it is available, or name the "
                "server with --tf-serving."
            )
        _write(config, final)
        talk(
            f"{config}: {model} {_told(labels)}; a TensorFlow Serving that starts with this file "
            "needs --allow_version_labels_for_unavailable_models=true"
        )


def knows(config: Path, model: str) -> bool:
    """Whether a configuration file has a model.

    Raises:
        UsageError: it is no such file.
    """
    return _entry(_read(config), model) is not None


class _Server:
    """Its ModelService."""

    def __init__(self, address: str, limit_s: float) -> None:
        import grpc

        from zoo.quiet import import_tensorflow

        import_tensorflow()  # tensorflow-serving-api does, and not as quietly
        from tensorflow_serving.apis import model_service_pb2_grpc

        self._address = address
        self._deadline = time.monotonic() + limit_s
        self._limit_s = limit_s
        self._stub = model_service_pb2_grpc.ModelServiceStub(grpc.insecure_channel(address))

    def _left_s(self) -> float:
        return max(ANSWER_S, self._deadline - time.monotonic())

    def reload(self, config: Any) -> None:
        """Replaces the server's configuration."""
        import grpc
        from tensorflow_serving.apis import model_management_pb2

        request = model_management_pb2.ReloadConfigRequest()
        request.config.ParseFromString(config.SerializeToString())
        try:
            answer = self._stub.HandleReloadConfigRequest(request, timeout=self._left_s())
        except grpc.RpcError as error:
            raise self._failure(error) from error
        if answer.status.error_code:
            raise TfServingError(
                f"TensorFlow Serving at {self._address} refuses: {answer.status.error_message}"
            )

    def available(self, model: str) -> set[int]:
        """The versions that serve now."""
        states = self._states(model).items()
        return {version for version, (state, _) in states if state == AVAILABLE}

    def wait_until_available(self, model: str, versions: Iterable[int]) -> None:
        """Waits for all of them."""
        wanted = set(versions)
        while True:
            states = self._states(model)
            for version in wanted:
                state, words = states.get(version, (0, ""))
                if state == END and words:
                    raise TfServingError(
                        f"TensorFlow Serving at {self._address} cannot load version {version} of "
                        f"{model!r}: {words}"
                    )
            waiting = {each for each in wanted if states.get(each, (0, ""))[0] != AVAILABLE}
            if not waiting:
                return
            if time.monotonic() > self._deadline:
                raise TfServingError(
                    f"TensorFlow Serving at {self._address} has not loaded {_listed(waiting)} of "
                    f"{model!r} within {self._limit_s:.0f} s; does it see them in its base path?"
                )
            time.sleep(POLL_S)

    def _states(self, model: str) -> dict[int, tuple[int, str]]:
        import grpc
        from tensorflow_serving.apis import get_model_status_pb2

        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        try:
            answer = self._stub.GetModelStatus(request, timeout=self._left_s())
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return {}
            raise self._failure(error) from error
        return {
            each.version: (each.state, each.status.error_message)
            for each in answer.model_version_status
        }

    def _failure(self, error: Any) -> TfServingError:
        import grpc

        if error.code() is grpc.StatusCode.UNAVAILABLE:
            return TfServingError(
                f"TensorFlow Serving at {self._address} does not answer; HOST:PORT of its gRPC port "
                "is what is needed."
            )
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            limit_s = max(ANSWER_S, self._limit_s)
            return TfServingError(
                f"TensorFlow Serving at {self._address} has not answered within {limit_s:.0f} s; its "
                "log says what it is doing."
            )
        return TfServingError(
            f"TensorFlow Serving at {self._address} refuses ({error.code().name}): "
            f"{error.details()}"
        )


def _read(path: Path) -> Any:
    from tensorflow_serving.config import model_server_config_pb2

    config = model_server_config_pb2.ModelServerConfig()
    try:
        text_format.Parse(path.read_text(encoding="utf-8"), config)
    except FileNotFoundError:
        return config
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise UsageError(
            f"{path} is no configuration of TensorFlow Serving (a text proto with "
            f"model_config_list): {error}"
        ) from error
    if config.WhichOneof("config") == "custom_model_config":
        raise UsageError(f"{path} has a custom_model_config; model_config_list is needed.")
    return config


def _entry(config: Any, model: str) -> Any | None:
    return next((each for each in config.model_config_list.config if each.name == model), None)


def _changed(
    before: Any,
    model: str,
    base_path: str | None,
    labels: Mapping[str, int],
    versions: Iterable[int],
) -> Any:
    """The configuration with one model's versions and labels replaced."""
    config = type(before)()
    config.CopyFrom(before)
    entry = _entry(config, model)
    if entry is None:
        if base_path is None:
            raise UsageError(
                f"The configuration has no model {model!r}; --tf-serving-base-path says where "
                "TensorFlow Serving finds it."
            )
        entry = config.model_config_list.config.add(name=model, model_platform=PLATFORM)
    if base_path is not None:
        entry.base_path = base_path
    if not _has_all(entry):
        del entry.model_version_policy.specific.versions[:]
        entry.model_version_policy.specific.versions.extend(sorted(set(versions)))
    entry.version_labels.clear()
    for label, version in sorted(labels.items()):
        entry.version_labels[label] = version
    return config


def _has_all(entry: Any) -> bool:
    """Whether all versions are asked for anyway."""
    return bool(entry.model_version_policy.WhichOneof("policy_choice") == "all")


def _write(path: Path, config: Any) -> None:
    write_atomically(path, text_format.MessageToString(config).encode())


def _listed(versions: Iterable[int]) -> str:
    return f"version {', '.join(map(str, sorted(set(versions))))}"


def _told(labels: Mapping[str, int]) -> str:
    return ", ".join(f"{label} -> {version}" for label, version in sorted(labels.items()))
