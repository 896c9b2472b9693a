"""`convzoo list` and `convzoo show`: what is known of the networks.

`list` imports nothing heavy; `show` builds the network, and needs Keras for it.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from zoo.spec import PublishedError


@click.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON document.")
def list_command(as_json: bool) -> None:
    """All networks: year, paper, input, parameters, multiply-accumulates."""
    from zoo.catalog import SPECS

    if as_json:
        click.echo(json.dumps([spec.model_dump(mode="json") for spec in SPECS]))
        return
    # Plain columns that fit 80 characters: a table that wraps cannot be searched.
    row = "{:<20} {:<4} {:<14} {:<9} {:>8} {:>7} {:>9}".format
    click.echo(row("name", "year", "paper", "input", "params", "MACs", "error"))
    for spec in SPECS:
        errors = "/".join(
            "-" if each is None else f"{each:.4g}"
            for error in spec.errors[:1]
            for each in (error.top1, error.top5)
        )
        size = "x".join(map(str, spec.input.shape))
        click.echo(
            row(
                spec.name,
                spec.year,
                spec.paper,
                size,
                short(spec.parameters),
                short(spec.macs),
                errors,
            ).rstrip()
        )
    click.echo("error: top-1/top-5 as published, per cent")


@click.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON document.")
@click.option("--png", type=click.Path(path_type=Path, dir_okay=False), help="Draw it there too.")
def show(name: str, as_json: bool, png: Path | None) -> None:
    """The network NAME, layer by layer: sizes, parameters, MACs, receptive fields."""
    import os

    from zoo.catalog import create, describe

    spec = describe(name)
    if os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow":
        from zoo.quiet import import_tensorflow

        import_tensorflow()
    from zoo import anatomy as anatomies

    anatomy = anatomies.describe(create(name))
    if png is not None:
        from zoo.picture import draw

        draw(anatomy, spec.title, png)
    if as_json:
        totals = {
            "parameters": anatomy.parameters,
            "fixed": anatomy.fixed,
            "macs": anatomy.macs,
            "dense_share": anatomy.dense_share,
        }
        layers = [layer.model_dump(mode="json") for layer in anatomy.layers]
        click.echo(json.dumps({**spec.model_dump(mode="json"), "totals": totals, "layers": layers}))
        return
    low, high = spec.input.value_range
    click.echo(f"{spec.title}, {spec.year} [{spec.paper}]")
    click.echo(f"input {spec.input.colour}, {low:g} to {high:g}\n")
    rows = [("layer", "kind", "output", "parameters", "MACs", "field", "stride")]
    rows += [
        (
            layer.name,
            layer.kind,
            "x".join(map(str, layer.output_shape)),
            f"{layer.parameters:,}" if layer.parameters else "",
            short(layer.macs) if layer.macs else "",
            str(layer.receptive_field),
            str(layer.stride),
        )
        for layer in anatomy.layers
    ]
    # As wide as the figures are: a terminal wraps a line, but what is cut off here nobody can see.
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for layer_name, kind, *figures in rows:
        cells = [layer_name.ljust(widths[0]), kind.ljust(widths[1])]
        cells += [each.rjust(width) for each, width in zip(figures, widths[2:], strict=True)]
        click.echo("  ".join(cells))
    click.echo(
        f"\n{anatomy.parameters:,} trainable parameters ({anatomy.dense_share:.0%} of them in dense "
        f"layers), {anatomy.fixed:,} fixed, {anatomy.macs:,} MACs an image"
    )
    for error in spec.errors:
        click.echo(f"published error {_error(error)}: {error.data}, {error.source}")
    if spec.note:
        click.echo(spec.note)


@click.command()
@click.argument("name", required=False)
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where to keep it; the cache when not given.",
)
@click.option("--offline", is_flag=True, help="Only what is there already.")
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON document.")
def weights(name: str | None, folder: Path | None, offline: bool, as_json: bool) -> None:
    """Public weights: all of them, or NAME downloaded, verified and kept."""
    from zoo.weights.public import PUBLIC, fetch

    if name is not None:
        place = fetch(name, folder=folder, offline=offline)
        found = {**PUBLIC[name].model_dump(mode="json"), "path": str(place)}
        click.echo(json.dumps(found) if as_json else str(place))
        return
    if as_json:
        click.echo(json.dumps([each.model_dump(mode="json") for each in PUBLIC.values()]))
        return
    for each in PUBLIC.values():
        click.echo(f"{each.name:<27} {each.preprocessing}")
    click.echo("`convzoo weights NAME` downloads one; nothing is fetched unless it is asked for.")


def short(number: int) -> str:
    """A count in at most four digits with its unit: 724_406_816 is "724.4 M"."""
    for unit, size in (("G", 1_000_000_000), ("M", 1_000_000), ("k", 1_000)):
        if number >= size:
            return (
                f"{number / size:.1f} {unit}"
                if number < 1000 * size
                else f"{number / size:.0f} {unit}"
            )
    return str(number)


def _error(error: "PublishedError") -> str:
    figures = (("top-1", error.top1), ("top-5", error.top5))
    return ", ".join(f"{name} {value:g} %" for name, value in figures if value is not None)
