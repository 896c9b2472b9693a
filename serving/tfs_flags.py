"""tensorflow_model_server's command line, read as it reads it: `--name=value`, `--name value`.

A container's arguments can stay: what matters is done, what changes nothing here is accepted with a
note, and what this server cannot do is refused with a sentence, never ignored.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from serving.config import Settings
from serving.errors import ConfigError
from serving.messages import ModelSettings, VersionOptions
from serving.model_config import read_text_proto
from zoo.artifact import first_fault
from zoo.errors import UsageError
from zoo.suggest import unknown
from zoo.url import Url, place_of

# --- The flags ------------------------------------------------------------------------------------

DONE: Mapping[str, type] = {
    "port": int,
    "rest_api_port": int,
    "grpc_socket_path": str,
    "rest_api_timeout_in_ms": int,
    "rest_api_enable_cors_support": bool,
    "model_name": str,
    "model_base_path": str,
    "model_config_file": str,
    "model_config_file_poll_wait_seconds": int,
    "file_system_poll_wait_seconds": float,
    "enable_batching": bool,
    "batching_parameters_file": str,
    "monitoring_config_file": str,
    "ssl_config_file": str,
    "grpc_channel_arguments": str,
}

# Accepted: here the thing is always so, or there is nothing to set.
NOTES: Mapping[str, str] = {
    "allow_version_labels_for_unavailable_models": "labels move when their version serves",
    "enable_model_warmup": "warm-up files are always replayed",
    "num_request_iterations_for_warmup": "each record is replayed once",
    "num_load_threads": "versions load one after the other",
    "num_unload_threads": "versions unload one after the other",
    "max_num_load_retries": "a version that failed is loaded again when its folder changes",
    "load_retry_interval_micros": "a version that failed is loaded again when its folder changes",
    "rest_api_num_threads": "requests share an event loop",
    "grpc_max_threads": "requests share an event loop",
    "tensorflow_session_parallelism": "the engine uses the cores it may use",
    "tensorflow_intra_op_parallelism": "the engine uses the cores it may use",
    "tensorflow_inter_op_parallelism": "the engine uses the cores it may use",
    "tensorflow_session_config_file": "the engine uses the cores it may use",
    "flush_filesystem_caches": "the system keeps its caches",
    "enable_grpc_healthcheck_service": "health checking is always there",
    "enable_signature_method_name_check": "method names are not checked",
    "enable_profiler": "there is no profiler service",
    "mixed_precision": "networks run as they were published",
    "prefer_tflite_model": "SavedModels are served",
    "num_tflite_pools": "SavedModels are served",
    "thread_pool_factory_config_file": "requests share an event loop",
    "xla_cpu_compilation_enabled": "the engine compiles for itself",
    "xla_gpu_compilation_enabled": "the engine compiles for itself",
    "remove_unused_fields_from_bundle_metagraph": "nothing is kept of the graph",
    "force_allow_any_version_labels_for_unavailable_models": "labels move when their version serves",
    "per_process_gpu_memory_fraction": "the server runs on the CPU",
}

# Taken when they say what is so anyway, refused otherwise.
FIXED: Mapping[str, tuple[str, str]] = {
    "saved_model_tags": ("serve", "only graphs tagged 'serve' are loaded"),
    "enable_serialization_as_tensor_content": ("false", "answers carry typed fields"),
    "enable_per_model_batching_parameters": (
        "false",
        "a configuration file sets batching per model and version",
    ),
    "use_alts_credentials": ("false", "ALTS is not supported; use --ssl_config_file"),
    "enforce_session_run_timeout": ("true", "deadlines are always enforced"),
}

_FLAG = re.compile(r"--(?P<name>\w+)(?:=(?P<value>.*))?", re.DOTALL)
_TRUE, _FALSE = ("true", "1", "t", "yes"), ("false", "0", "f", "no")


@dataclass(frozen=True, slots=True)
class Translated:
    """The server's settings, and what was accepted without being done."""

    settings: Settings
    notes: tuple[str, ...] = field(default=())


def translate(
    arguments: Sequence[str],
    environment: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    **own: Any,
) -> Translated:
    """Reads the flags.

    Args:
        arguments: As tensorflow_model_server gets them.
        environment: Where TensorFlow Serving's image looks for MODEL_NAME and MODEL_BASE_PATH.
        options: Options of versions, by name, that go before what the flags say.
        own: Settings of this server that go beside them.

    Raises:
        ConfigError: a flag that is none, or that this server cannot do; says which and why.
    """
    flags, notes = _read(arguments)
    environment = os.environ if environment is None else environment
    if "MODEL_NAME" in environment or "MODEL_BASE_PATH" in environment:
        # The image's entry point puts these before the container's arguments.
        name = environment.get("MODEL_NAME", "model")
        folder = environment.get("MODEL_BASE_PATH", "/models")
        flags = {
            "rest_api_port": 8501,
            "model_name": name,
            "model_base_path": f"{folder}/{name}",
        } | flags
    if not {"model_config_file", "model_base_path"} & set(flags):
        raise ConfigError(
            "Neither --model_base_path nor --model_config_file is given, nor MODEL_NAME and "
            "MODEL_BASE_PATH in the environment."
        )
    version_options = replace(_batching(flags, notes), **(options or {}))
    # Polling stops below 0 in TensorFlow Serving; 0 looks once.
    poll_s = flags.get("file_system_poll_wait_seconds", 1.0)
    settings: dict[str, Any] = {
        "host": "0.0.0.0",  # noqa: S104 - as tensorflow_model_server does
        "grpc_port": flags.get("port", 8500) or None,
        "rest_port": flags.get("rest_api_port", 0) or None,
        "grpc_socket": Path(flags["grpc_socket_path"]) if flags.get("grpc_socket_path") else None,
        "poll_interval_s": poll_s if poll_s > 0 else None,
        "default_timeout_s": flags.get("rest_api_timeout_in_ms", 30000) / 1000,
        "has_cors": flags.get("rest_api_enable_cors_support", False),
        "options": version_options,
    }
    if flags.get("model_config_file"):
        settings["config"] = Path(flags["model_config_file"])
        poll_s = flags.get("model_config_file_poll_wait_seconds", 0)
        settings["config_poll_interval_s"] = poll_s if poll_s > 0 else None
    else:
        settings["models"] = (
            ModelSettings(
                flags.get("model_name", "default"),
                _base_path(flags["model_base_path"]),
                options=version_options,
            ),
        )
    if flags.get("monitoring_config_file"):
        settings["metrics_path"] = _monitoring(Path(flags["monitoring_config_file"]), notes)
    if flags.get("grpc_channel_arguments"):
        age_s = _max_age_s(flags["grpc_channel_arguments"], notes)
        settings["max_connection_age_s"] = age_s
    if flags.get("ssl_config_file"):
        settings["grpc_tls"] = _tls(Path(flags["ssl_config_file"]))
    try:
        return Translated(Settings.model_validate(settings | own), tuple(notes))
    except ValidationError as error:
        raise ConfigError(_wrong(error)) from error


# Flags by the setting that they become, where that has bounds.
_FLAG_OF = {
    "grpc_port": "--port",
    "rest_port": "--rest_api_port",
    "default_timeout_s": "--rest_api_timeout_in_ms",
}


def _wrong(error: ValidationError) -> str:
    name, _, rest = first_fault(error).partition(":")
    return f"{_FLAG_OF.get(name, name)}:{rest}"


def _max_age_s(text: str, notes: list[str]) -> float | None:
    """The one of gRPC's arguments that has a meaning here; its largest number means never."""
    flag, wanted = "--grpc_channel_arguments", "grpc.max_connection_age_ms"
    age_s = None
    for each in filter(None, (each.strip() for each in text.split(","))):
        name, _, value = each.partition("=")
        if name != wanted:
            notes.append(f"{flag}: {name} changes nothing; {wanted} would")
            continue
        try:
            milliseconds = int(value)
        except ValueError:
            milliseconds = 0
        if milliseconds <= 0:
            raise ConfigError(f"{flag}: {wanted} is {value!r}; a number of milliseconds works.")
        age_s = None if milliseconds >= 2**31 - 1 else milliseconds / 1000
    return age_s


def _base_path(text: str) -> str:
    try:
        place = place_of(text)
    except UsageError as error:
        raise ConfigError(f"--model_base_path: {error}") from error
    return str(place if isinstance(place, Url) else place.absolute())


def _read(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    flags: dict[str, Any] = {}
    notes: list[str] = []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        match = _FLAG.fullmatch(argument)
        if match is None:
            raise ConfigError(f"{argument!r} is no flag of tensorflow_model_server.")
        name, value = match["name"], match["value"]
        if name not in (*DONE, *NOTES, *FIXED):
            raise ConfigError(unknown("flag", f"--{name}", [f"--{each}" for each in _KNOWN]))
        if value is None and waiting and not waiting[0].startswith("--"):
            value = waiting.pop(0)
        if name in DONE:
            flags[name] = _READERS[DONE[name]](name, value)
        elif name in FIXED:
            expected, reason = FIXED[name]
            said = (value or "true").lower()
            alike = next((each for each in (_TRUE, _FALSE) if said in each), (said,))
            if expected not in alike:
                raise ConfigError(f"--{name}={value or 'true'} cannot be had: {reason}.")
        else:
            notes.append(f"--{name} changes nothing: {NOTES[name]}")
    return flags, notes


_KNOWN = sorted({*DONE, *NOTES, *FIXED})


def _text(name: str, value: str | None) -> str:
    if value is None:
        raise ConfigError(f"--{name} needs a value.")
    return value


def _number(name: str, value: str | None) -> int:
    try:
        return int(_text(name, value))
    except ValueError as error:
        raise ConfigError(f"--{name} is {value!r}; a whole number works.") from error


def _seconds(name: str, value: str | None) -> float:
    try:
        return float(_text(name, value))
    except ValueError as error:
        raise ConfigError(f"--{name} is {value!r}; a number of seconds works.") from error


def _truth(name: str, value: str | None) -> bool:
    text = (value or "true").lower()
    if text not in (*_TRUE, *_FALSE):
        raise ConfigError(f"--{name} is {value!r}; true or false works.")
    return text in _TRUE


_READERS: Mapping[type, Callable[[str, str | None], Any]] = {
    str: _text,
    int: _number,
    float: _seconds,
    bool: _truth,
}


# --- The files ------------------------------------------------------------------------------------


def _file(name: str, path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text in UTF-8: byte {error.start}.") from error
    return read_text_proto(name, text, path)


def _batching(flags: Mapping[str, Any], notes: list[str]) -> VersionOptions:
    file = flags.get("batching_parameters_file")
    if not flags.get("enable_batching"):
        if file:
            raise ConfigError(
                "--batching_parameters_file is given without --enable_batching; "
                "TensorFlow Serving refuses that too."
            )
        return VersionOptions()
    # Who turns batching on says that the graph treats rows apart.
    options = VersionOptions(joins_foreign=True)
    if not file:
        return options
    path = Path(file)
    found = _file("BatchingParameters", path)
    sizes = tuple(found.allowed_batch_sizes)
    most = found.max_batch_size.value if found.HasField("max_batch_size") else 1000
    if sizes and (list(sizes) != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] != most):
        raise ConfigError(
            f"{path}: allowed_batch_sizes are {list(sizes)}; they must ascend, and the last must be "
            f"max_batch_size, {most}."
        )
    if found.HasField("max_execution_batch_size") and found.enable_large_batch_splitting.value:
        most = min(most, found.max_execution_batch_size.value)
        sizes = tuple(size for size in sizes if size <= most)
    if found.HasField("batch_timeout_micros"):
        notes.append("batch_timeout_micros changes nothing: a batch leaves when the engine is free")
    if found.pad_variable_length_inputs:
        raise ConfigError(
            f"{path}: pad_variable_length_inputs cannot be had; requests of different shapes run in "
            "batches of their own."
        )
    notes += [
        f"{name} changes nothing: the engine's streams are measured at load"
        for name in ("num_batch_threads", "thread_pool_name")
        if found.HasField(name)
    ]
    options = replace(options, max_batch_rows=most, batch_sizes=sizes)
    if found.HasField("max_enqueued_batches"):
        options = replace(options, max_queued_rows=most * found.max_enqueued_batches.value)
    return options


def _monitoring(path: Path, notes: list[str]) -> str:
    found = _file("MonitoringConfig", path).prometheus_config
    if not found.enable:
        notes.append("monitoring is on at /metrics, whatever the monitoring_config_file says")
    return found.path or "/monitoring/prometheus/metrics"


def _tls(path: Path) -> dict[str, Any]:
    found = _file("SSLConfig", path)
    if not (found.server_key and found.server_cert):
        raise ConfigError(f"{path} needs server_key and server_cert.")
    if found.client_verify and not found.custom_ca:
        raise ConfigError(
            f"{path} has client_verify without custom_ca: no client could be let in. "
            "custom_ca holds the certificate of who signs theirs."
        )
    for name in ("server_key", "server_cert", "custom_ca"):
        text = getattr(found, name)
        if text and "-----BEGIN " not in text:
            raise ConfigError(
                f"{path} has no PEM in {name}; it takes a file's text, not its name, "
                r"with \n for each line's end."
            )
    return {
        "key": found.server_key,
        "certificate": found.server_cert,
        "client_authority": found.custom_ca,
        "requires_client": found.client_verify,
    }
