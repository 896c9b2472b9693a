"""`convzoo serve`."""

from pathlib import Path
from typing import Any

import click

from zoo.url import PathOrUrl, Url


class _Serve(click.Command):
    """Hands the flags of tensorflow_model_server over as they are."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Splits this command's own options from TensorFlow Serving's, which have underscores."""
        if "--tfs-compat" not in args:
            return super().parse_args(ctx, args)
        own: list[str] = []
        flags: list[str] = []
        names = {
            name: param
            for param in self.params
            if isinstance(param, click.Option)
            for name in param.opts
        }
        waiting = list(args)
        while waiting:
            argument = waiting.pop(0)
            option = names.get(argument.partition("=")[0])
            if option is None:
                flags.append(argument)
                continue
            own.append(argument)
            if not option.is_flag and "=" not in argument and waiting:
                own.append(waiting.pop(0))
        ctx.meta["tfs_flags"] = flags
        return super().parse_args(ctx, own)


@click.command(cls=_Serve)
@click.option(
    "--base-path",
    type=PathOrUrl(path_type=Path),
    help="A folder of models, or one model's folder of versions; or a URL of either: s3://, "
    "gs://, az://.",
)
@click.option(
    "--cache-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where versions of URLs are kept from one start to the next.",
)
@click.option("--model-name", help="The model's name, when the base path is one model's folder.")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Names the models instead: TOML, YAML, or TensorFlow Serving's text proto. "
    "Read again when it changes.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 for all interfaces.")
@click.option(
    "--rest-port",
    type=click.IntRange(0, 65535),
    default=8501,
    show_default=True,
    help="HTTP; 0 takes a free one.",
)
@click.option(
    "--grpc-port",
    type=click.IntRange(0, 65535),
    default=8500,
    show_default=True,
    help="0 takes a free one.",
)
@click.option("--engine", help="openvino or tensorflow; each version's own choice by default.")
@click.option("--isolate", is_flag=True, help="Run each version's engine in a process of its own.")
@click.option(
    "--poll-interval-s",
    type=click.FloatRange(min=0, min_open=True),
    help="How often base paths are looked at; 1, or 10 where the base path is a URL.",
)
@click.option(
    "--drain-limit-s",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="How long requests may go on after SIGTERM.",
)
@click.option(
    "--max-connection-age-s",
    type=click.FloatRange(min=0, min_open=True),
    help="Ask clients for a new connection after so long, so that a balancer can spread them anew; "
    "no request is lost. Never by default.",
)
@click.option(
    "--max-batch-rows", type=click.IntRange(min=1), help="Rows of one batch; measured by default."
)
@click.option(
    "--max-queued-rows",
    type=click.IntRange(min=1),
    default=4096,
    show_default=True,
    help="Rows of one version that may wait; what comes beyond is refused at once.",
)
@click.option(
    "--max-queue-s",
    type=click.FloatRange(min=0, min_open=True),
    default=20.0,
    show_default=True,
    help="Seconds of work that may wait; what comes beyond is refused at once.",
)
@click.option("--no-tune", is_flag=True, help="Do not measure batch sizes and streams at load.")
@click.option("--answers-once", is_flag=True, help="Answer identical requests in flight once.")
@click.option(
    "--cache-mb",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Keep so many megabytes of answers for identical requests, per version.",
)
@click.option("--cors", is_flag=True, help="Let pages from anywhere read answers under /v1.")
@click.option(
    "--read-only",
    is_flag=True,
    help="Refuse loading, unloading and configuration over the network.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json: one object a line.",
)
@click.option(
    "--log-requests",
    type=click.Choice(["none", "errors", "all"]),
    default="errors",
    show_default=True,
    help="Which requests get a line of their own in the log.",
)
@click.option(
    "--drift-log",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write into this folder what a sample of the images looks like in numbers, for "
    "`convzoo drift`; no images.",
)
@click.option(
    "--drift-sample",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="The share of the images that is measured.",
)
@click.option(
    "--drift-interval-s",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    help="How often it is written.",
)
@click.option(
    "--otlp-endpoint", help="Send OpenTelemetry spans here, e.g. http://host:4318/v1/traces."
)
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Written when requests are taken: the ports, as JSON.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Load everything, say engine, memory, cost and limits, and stop.",
)
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: one JSON document.")
@click.option(
    "--tfs-compat",
    is_flag=True,
    help="Take tensorflow_model_server's flags: --port, --rest_api_port, --model_base_path ...",
)
def serve(*, dry_run: bool, as_json: bool, log_format: str, **given: Any) -> None:
    """Answers for published versions over REST and gRPC, as TensorFlow Serving does.

    SIGTERM, SIGINT and SIGHUP end it when all that was begun is answered.

    Exit codes: 0 stopped, 2 usage, 3 a file that cannot be read or, with --dry-run, a version that
    would be refused.

    \b
    convzoo serve --base-path models
    convzoo serve --config serve.toml --host 0.0.0.0 --read-only
    """
    from serving.config import configure_logging

    configure_logging("json" if log_format == "json" else "text")
    settings = _settings(click.get_current_context(), given)
    if dry_run:
        from serving.dry_run import dry_run as run_dry

        run_dry(settings, as_json=as_json)
        return
    from serving.app import serve as run

    run(settings)


# Settings that stand under another name, or in a group, on the command line.
_ALIASES = {"cors": "has_cors", "log_requests": "logged"}
_IN_OPTIONS = ("engine", "max_batch_rows", "max_queued_rows", "max_queue_s", "answers_once")
_PLAIN = (
    *("base_path", "cache_dir", "model_name", "config", "host", "rest_port", "grpc_port"),
    *("poll_interval_s", "drain_limit_s", "max_connection_age_s", "otlp_endpoint", "ready_file"),
)

# A look at an object store is a request that is paid for.
POLL_S, REMOTE_POLL_S = 1.0, 10.0


def _settings(ctx: click.Context, given: dict[str, Any]) -> Any:
    from serving.config import Settings
    from serving.core.engine import require_known
    from serving.errors import ConfigError
    from serving.messages import VersionOptions

    if given["engine"] is not None:
        require_known(given["engine"])
    own = {name: given[name] for name in _PLAIN}
    if own["poll_interval_s"] is None:
        own["poll_interval_s"] = REMOTE_POLL_S if isinstance(own["base_path"], Url) else POLL_S
    own |= {name: given[alias] for alias, name in _ALIASES.items()}
    own["may_administer"] = not given["read_only"]
    own["drift"] = _drift(ctx, given)
    options = {name: given[name] for name in _IN_OPTIONS}
    options["is_isolated"] = given["isolate"]
    options |= {"is_tuned": not given["no_tune"], "cache_bytes": int(given["cache_mb"] * 1e6)}
    if not given["tfs_compat"]:
        if (own["base_path"] is None) == (own["config"] is None):
            raise ConfigError("Either --base-path or --config says what to serve.")
        return Settings(**own, options=VersionOptions(**options))

    import logging

    from serving.tfs_flags import translate

    # Only what was typed stands beside TensorFlow Serving's flags, which have their own defaults.
    typed = _typed(ctx, given)
    beside = {name: own[name] for name in _PLAIN if name in typed}
    beside |= {name: own[name] for alias, name in _ALIASES.items() if alias in typed}
    beside |= {name: own[name] for name in ("may_administer", "drift")}
    given_options = {name: options[name] for name in _IN_OPTIONS if name in typed}
    if "isolate" in typed:
        given_options["is_isolated"] = True
    if "no_tune" in typed:
        given_options["is_tuned"] = options["is_tuned"]
    if "cache_mb" in typed:
        given_options["cache_bytes"] = options["cache_bytes"]
    translated = translate(ctx.meta["tfs_flags"], options=given_options, **beside)
    for note in translated.notes:
        logging.getLogger("serving.tfs_flags").info("%s", note)
    return translated.settings


def _typed(ctx: click.Context, given: dict[str, Any]) -> set[str]:
    """The options that stand on the command line."""
    return {
        name
        for name in given
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }


def _drift(ctx: click.Context, given: dict[str, Any]) -> Any:
    from serving.core.drift import DriftSettings
    from serving.errors import ConfigError

    alone = _typed(ctx, given) & {"drift_sample", "drift_interval_s"}
    if given["drift_log"] is None:
        if alone:
            name = sorted(alone)[0].replace("_", "-")
            raise ConfigError(f"--{name} says nothing without --drift-log, the folder to write to.")
        return None
    return DriftSettings(
        log=given["drift_log"].absolute(),
        sample=given["drift_sample"],
        interval_s=given["drift_interval_s"],
    )
