"""`convzoo list` and `convzoo show`: what is known of the networks. Nothing heavy is imported."""

import json

import click


@click.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON document.")
def list_command(as_json: bool) -> None:
    """All networks: year, paper, input, parameters, multiply-accumulates."""
    from zoo.catalog import SPECS

    if as_json:
        click.echo(json.dumps([spec.model_dump(mode="json") for spec in SPECS]))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for column in ("name", "what", "year", "input", "classes", "parameters", "MACs"):
        is_number = column in ("year", "classes", "parameters", "MACs")
        table.add_column(column, justify="right" if is_number else "left", no_wrap=column == "name")
    for spec in SPECS:
        table.add_row(
            spec.name,
            spec.title,
            str(spec.year),
            "x".join(map(str, spec.input.shape)),
            f"{spec.num_classes:,}",
            f"{spec.parameters:,}",
            f"{spec.macs:,}",
        )
    Console().print(table)


@click.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON document.")
def show(name: str, as_json: bool) -> None:
    """What is known of the network NAME: its paper, its figures, its published errors."""
    from zoo.catalog import describe

    spec = describe(name)
    if as_json:
        click.echo(spec.model_dump_json())
        return
    click.echo(f"{spec.title} ({spec.name}), {spec.year} [{spec.paper}]")
    low, high = spec.input.value_range
    click.echo(
        f"input       {' x '.join(map(str, spec.input.shape))} {spec.input.colour}, "
        f"{low:g} to {high:g}"
    )
    click.echo(f"classes     {spec.num_classes:,}")
    click.echo(f"parameters  {spec.parameters:,} trainable")
    click.echo(f"MACs        {spec.macs:,} an image")
    for error in spec.errors:
        figures = [
            f"{name} {value:g} %"
            for name, value in (("top-1", error.top1), ("top-5", error.top5))
            if value is not None
        ]
        click.echo(f"error       {', '.join(figures)}: {error.data}, {error.source}")
    if spec.note:
        click.echo(spec.note)
