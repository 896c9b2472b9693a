"""What the documentation tells readers to type, follow and call is there."""

import re
import shlex
from pathlib import Path

import click
import pytest

from training import recipe as recipes
from zoo.command import convzoo

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
# What is told of a command and is no whole one: `convzoo publish`, `convzoo publish RUN --x a|b`.
PLACEHOLDER = re.compile(r"^([A-Z][A-Z_]*|\.\.\.)$")


def typed(text):
    """The lines of shell in a page's blocks, continued ones joined, and the command in inline code."""
    for code in re.findall(r"```(?:sh|console|yaml)\n(.*?)```", text, re.DOTALL):
        for line in code.replace("\\\n", " ").splitlines():
            yield re.sub(r"^\s*(?:\$ |- run: )?", "", line)
    yield from re.findall(r"(?<!`)`(convzoo [^`]+)`", text)


def commands(text):
    for line in typed(text):
        for part in line.split("|") if "|convzoo" in line.replace(" ", "") else [line]:
            words = part.strip()
            if words.startswith("convzoo "):
                yield words


COMMANDS = sorted(
    {(page, command) for page, text in TEXTS.items() for command in commands(text)},
)


def parsed(words):
    """The command that `words` name and what they give it, or the reason why it is none."""
    command, context = convzoo, click.Context(convzoo)
    while isinstance(command, click.Group):
        name = words.pop(0)
        if name.startswith("-"):
            return command, {}
        command = command.get_command(context, name)
        assert command is not None, name
    if "--tfs-compat" in words:
        return command, {}  # tensorflow_model_server's flags have tests of their own
    context = click.Context(command)
    given, rest, order = command.make_parser(context).parse_args(words)
    assert not rest, f"unexpected: {rest}"
    for param in order:
        if isinstance(param.type, click.Choice | click.IntRange | click.FloatRange):
            param.type_cast_value(context, given[param.name])
    return command, given


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_every_command_in_the_documentation_is_one(page, line):
    words = shlex.split(re.sub(r" \[[^\]]*\]", "", line), comments=True)
    if words[-1] == "&":
        words.pop()
    # `--precision int8|bf16|fp16` shows a choice; the reader fills in RUN and "...".
    words = [word.split("|")[0] if re.fullmatch(r"\w+(\|\w+)+", word) else word for word in words]
    words = ["1" if PLACEHOLDER.match(word) else word for word in words]
    try:
        command, given = parsed(words[1:])
    except click.BadOptionUsage:  # `convzoo serve --config` speaks of the option
        command, given = parsed([*words[1:], "1"])
    recipe, overrides = given.get("recipe"), given.get("overrides")
    if command.name == "train" and isinstance(recipe, str) and recipe != "1":
        recipes.read(recipe, overrides if isinstance(overrides, tuple) else ())


def anchors(text):
    """As GitHub makes them of headings."""
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", TEXTS)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page]):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if anchor:
            assert anchor in set(anchors(file.read_text(encoding="utf-8"))), target


def test_every_target_of_make_and_every_benchmark_is_there():
    makefile = (ROOT / "Makefile").read_text()
    for page, text in TEXTS.items():
        for target in re.findall(r"(?:`|^|\$ )make (\w+)", text, re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), (page, target)
        found = re.findall(r"python (?:-m )?(benchmarks[./]\w+)(?:\.py)?([^\n`)]*)", text)
        for module, rest in found:
            file = ROOT / f"{module.replace('.', '/')}.py"
            assert file.exists(), (page, module)
            source = file.read_text()
            for option in re.findall(r"--[a-z][\w-]*", rest):
                assert f'"{option}"' in source, (page, module, option)
