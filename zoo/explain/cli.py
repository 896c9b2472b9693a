"""`convzoo explain`: look inside a published version or a run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.errors import UsageError
from zoo.url import PathOrUrl, Url

if TYPE_CHECKING:
    from zoo.explain.methods import Explanation, Subject
    from zoo.explain.source import Source


@click.command()
@click.argument("network", metavar="VERSION|RUN", required=False, type=PathOrUrl(path_type=Path))
@click.argument("image", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--method", default="grad_cam", show_default=True, help="See --list.")
@click.option("--layer", help="The layer to look at; the method's own choice when not given.")
@click.option(
    "--target", help="The label or class id to explain; the network's best when not given."
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="An option of the method, e.g. patch=8; several may be given.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="A folder of images, for the methods that look over a data set.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="A .png, .npz or (trace) .html file, or a folder for all of them.",
)
@click.option("--list", "list_", is_flag=True, help="The methods, and stop.")
@click.option(
    "--layers", is_flag=True, help="The network's layers and what looks at them, and stop."
)
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON document.")
def explain(
    network: Path | Url | None,
    image: Path | None,
    method: str,
    layer: str | None,
    target: str | None,
    settings: tuple[str, ...],
    data: Path | None,
    out: Path | None,
    list_: bool,
    layers: bool,
    as_json: bool,
) -> None:
    """Looks inside the network of VERSION or RUN while it looks at IMAGE.

    \b
    convzoo explain models/lenet5_modern/1 digit.png --method occlusion --out seen.png
    convzoo explain runs/digits digit.png --method trace --out trace.html
    convzoo explain models/vgg16 --method top_patches --layer conv5_3 --data photos/ --out top.png
    """
    if list_:
        _list_methods(as_json=as_json)
        return
    if network is None:
        raise click.UsageError("Which network? A published version or a run; --list has methods.")
    from zoo.checkout import on_disk
    from zoo.explain import source as sources
    from zoo.explain.overview import OVERVIEWS

    folder = click.get_current_context().with_resource(on_disk(network))
    source = sources.open_source(folder)
    options = dict(_setting(each) for each in settings)
    if layers:
        _list_layers(source, as_json=as_json)
        return
    if method in OVERVIEWS:
        from zoo.explain.overview import overview

        found, picture = overview(
            source, method, image=image, data=data, layer=layer, target=target, options=options
        )
        _tell(out or Path(f"{method}.png"), found, picture, as_json=as_json)
        return
    from zoo.explain.methods import explain as run
    from zoo.explain.methods import find

    find(method)  # before a framework is imported for a name that is none
    if image is None:
        raise click.UsageError(f"Which image? {method} looks at one.")
    probe = _probe(source)
    subject = source.subject(probe, _read(image))
    explanation = run(
        subject,
        method,
        layer=layer,
        target=class_id(target, source.labels),
        options=options,
    )
    written = _write(out or Path(f"{method}.png"), explanation, subject)
    plain = _plain(explanation, subject, written)
    if as_json:
        click.echo(json.dumps(plain))
        return
    for path in written:
        click.echo(path)
    said = {"method": plain["method"], "layer": plain["layer"], "label": plain["label"]}
    click.echo(", ".join(f"{name} {value}" for name, value in said.items() if value), err=True)


def class_id(target: str | None, labels: tuple[str, ...]) -> int | None:
    """The class a label or a number stands for; a label wins, as digits are labels too.

    Raises:
        UsageError: neither.
    """
    if target is None:
        return None
    if target in labels:
        return labels.index(target)
    if target.isdecimal():
        return int(target)
    from zoo.suggest import unknown

    raise UsageError(unknown("label", target, labels))


def _list_methods(*, as_json: bool) -> None:
    from zoo.explain.methods import METHODS
    from zoo.explain.overview import OVERVIEWS

    rows = [
        {
            "name": method.name,
            "title": method.title,
            "paper": method.paper,
            "needs": method.need,
            "takes_layer": method.takes_layer,
            "takes_target": method.takes_target,
            "options": list(method.options.model_fields),
        }
        for method in METHODS.values()
    ]
    rows += [
        {
            "name": name,
            "title": each.title,
            "paper": each.paper,
            "needs": "gradients",
            "takes_layer": each.takes_layer,
            "takes_target": each.takes_target,
            "options": list(each.options.model_fields),
        }
        for name, each in OVERVIEWS.items()
    ]
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        options: Any = row["options"]
        more = f"  ({', '.join(options)})" if options else ""
        click.echo(f"{row['name']:<24} {row['title']}{more}")


def _list_layers(source: "Source", *, as_json: bool) -> None:
    from zoo.explain.methods import methods_of

    probe = _probe(source)
    rows = [
        {
            "name": layer.name,
            "kind": layer.kind,
            "shape": list(layer.output_shape),
            "methods": list(methods_of(probe, layer)),
        }
        for layer in probe.layers
    ]
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        shape: Any = row["shape"]
        methods: Any = row["methods"]
        size = "x".join(map(str, shape))
        click.echo(f"{row['name']:<24} {row['kind']:<24} {size:<14} {', '.join(methods)}")


def _probe(source: "Source") -> Any:
    from zoo.quiet import import_tensorflow

    import_tensorflow()
    from zoo.keras_probe import load_probe

    return load_probe(source.keras_file)


def _read(image: Path) -> bytes:
    try:
        return image.read_bytes()
    except OSError as error:
        raise UsageError(f"Cannot read the image {image}: {error.strerror}.") from error


def _setting(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise UsageError(f"--set takes NAME=VALUE, e.g. patch=8; found {text!r}.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _write(out: Path, found: "Explanation", subject: "Subject") -> list[Path]:
    """Writes what the ending says; everything into a folder."""
    endings = [".png", ".npz", *([".html"] if found.method == "trace" else [])]
    if out.suffix in endings:
        _write_one(out, found, subject)
        return [out]
    if out.suffix:
        raise UsageError(f"--out {out} ends in {out.suffix!r}; {', '.join(endings)} work.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise UsageError(
            f"--out {out} is a file that is there already; a name ending in "
            f"{', '.join(endings)}, or a folder, works."
        ) from error
    except OSError as error:
        raise UsageError(f"Cannot write {out}: {error.strerror}.") from error
    written = [out / f"{found.method}{ending}" for ending in endings]
    for path in written:
        _write_one(path, found, subject)
    return written


def _write_one(path: Path, found: "Explanation", subject: "Subject") -> None:
    import numpy as np

    try:
        if path.suffix == ".npz":
            with path.open("wb") as file:
                np.savez(file, allow_pickle=False, **found.arrays)
        elif path.suffix == ".html":
            from zoo.explain.trace_page import trace_page

            path.write_text(trace_page(found, subject), encoding="utf-8")
        else:
            from zoo.explain.render import picture

            picture(found, subject).save(path)
    except OSError as error:
        raise UsageError(f"Cannot write {path}: {error.strerror}.") from error


def _plain(found: "Explanation", subject: "Subject", written: list[Path]) -> dict[str, Any]:
    return {
        "method": found.method,
        "layer": found.layer,
        "target": found.target,
        "label": None if found.target is None else subject.label(found.target),
        "arrays": {
            name: {"shape": list(array.shape), "dtype": str(array.dtype)}
            for name, array in found.arrays.items()
        },
        "facts": dict(found.facts),
        "files": [str(path) for path in written],
    }


def _tell(path: Path, found: dict[str, Any], picture: Any, *, as_json: bool) -> None:
    try:
        picture.save(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"Cannot write {path}: {error}.") from error
    if as_json:
        click.echo(json.dumps({**found, "files": [str(path)]}))
    else:
        click.echo(path)
