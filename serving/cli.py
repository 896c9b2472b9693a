"""`convzoo serve`."""

from pathlib import Path

import click


@click.command()
@click.option(
    "--base-path",
    type=click.Path(path_type=Path),
    required=True,
    help="A folder of models, or one model's folder of versions.",
)
@click.option("--model-name", help="The model's name, when the base path is one model's folder.")
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 for all interfaces.")
@click.option("--rest-port", type=click.IntRange(0, 65535), default=8501, show_default=True)
@click.option("--grpc-port", type=click.IntRange(0, 65535), default=8500, show_default=True)
@click.option("--engine", help="openvino or tensorflow; each version's own choice by default.")
@click.option(
    "--poll-interval-s",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="How often the base path is looked at.",
)
@click.option(
    "--drain-limit-s",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="How long requests may go on after SIGTERM.",
)
@click.option("--max-batch-rows", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--max-queued-rows", type=click.IntRange(min=1), default=1024, show_default=True)
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Written when requests are taken: the ports, as JSON.",
)
def serve(**options: object) -> None:
    """Answers for published versions over REST and gRPC, as TensorFlow Serving does."""
    from serving.config import Settings, configure_logging, require_base_path

    configure_logging()
    settings = Settings.model_validate(options)
    require_base_path(settings.base_path)
    if settings.engine is not None:
        from serving.core.engine import require_known

        require_known(settings.engine)
    from serving.app import serve as run

    run(settings)
