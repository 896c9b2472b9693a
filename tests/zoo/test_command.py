import errno
import subprocess
import sys
from importlib.metadata import EntryPoint

import click
import pytest
from click.testing import CliRunner

from zoo import command
from zoo.command import convzoo, main
from zoo.errors import DataError


def run(*args):
    return subprocess.run(
        [sys.executable, "-m", "zoo.command", *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_names_every_command_and_imports_none_of_the_heavy_packages():
    code = (
        "import sys\n"
        "from zoo.command import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'tensorflow', 'keras', 'openvino', 'numpy', 'grpc', 'httptools', 'matplotlib'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert "HEAVY []" in done.stdout
    for name in ("demo", "list", "show", "train", "publish", "serve", "predict"):
        assert f"  {name} " in done.stdout


def test_every_command_of_the_entry_points_has_its_line_of_help():
    context = click.Context(convzoo)
    assert set(convzoo.list_commands(context)) == set(command.SHORT_HELP)


def commands_of(command, *names):
    """A command and all below it, by what is typed."""
    yield names, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from commands_of(command.get_command(context, name), *names, name)


def test_the_help_of_every_command_keeps_its_examples_on_lines_of_their_own():
    for names, each in commands_of(convzoo):
        text = CliRunner().invoke(each, ["--help"], prog_name="convzoo").output
        assert "\\b" not in text, names
        for line in text.splitlines():
            assert line.count(f"convzoo {names[0]} " if names else "convzoo ") <= 1, (names, line)


def test_an_unknown_command_says_what_was_meant_and_exits_with_2():
    done = run("sevre")
    assert done.returncode == 2
    assert "Did you mean 'serve'?" in done.stderr
    assert done.stdout == ""


def test_a_missing_package_names_the_extra_that_brings_it(monkeypatch):
    point = EntryPoint("train", "a_missing_one:train", command.GROUP)

    def load(self):
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow.python")

    monkeypatch.setattr(EntryPoint, "load", load)
    monkeypatch.setattr(command, "entry_points", lambda group: [point])
    result = CliRunner().invoke(convzoo, ["train"])
    assert result.exit_code == 1
    assert "pip install 'convzoo[train]'" in result.output


def test_an_error_with_an_exit_code_is_one_line_and_that_code(monkeypatch, capsys):
    @click.command("broken")
    def broken():
        raise DataError("train-labels has 3 bytes; 60008 expected.")

    monkeypatch.setattr(command.CommandTable, "get_command", lambda self, ctx, name: broken)
    with pytest.raises(SystemExit) as stopped:
        main(["broken"])
    assert stopped.value.code == 3
    assert capsys.readouterr().err == "error: train-labels has 3 bytes; 60008 expected.\n"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "models/m/labels.json"),
            "labels.json: No",
        ),
        (OSError(errno.EROFS, "Read-only file system", "runs/a"), "runs/a: Read-only file system."),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device."),
        # As shutil has it, of a copy: from, to.
        (OSError(errno.ENOSPC, "No space left", "runs/a", None, "models/a"), "models/a: No"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", b"a/b"), "a/b: Not a directory."),
        # As HDF5 has it.
        (
            OSError("Can't write (errno = 28, error message = 'No space left on device')"),
            "No space",
        ),
    ],
)
def test_a_disk_that_cannot_be_written_is_one_line_and_3(error, words, monkeypatch, capsys):
    @click.command("full")
    def full():
        raise error

    monkeypatch.setattr(command.CommandTable, "get_command", lambda self, ctx, name: full)
    with pytest.raises(SystemExit) as stopped:
        main(["full"])
    assert stopped.value.code == 3
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert words in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    "error", [OSError("a defect"), ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")]
)
def test_an_operating_systems_error_without_a_file_keeps_its_traceback(error, monkeypatch):
    @click.command("broken")
    def broken():
        raise error

    monkeypatch.setattr(command.CommandTable, "get_command", lambda self, ctx, name: broken)
    with pytest.raises(OSError, match=r"defect|refused"):
        main(["broken"])


def test_a_defect_keeps_its_traceback(monkeypatch):
    @click.command("broken")
    def broken():
        raise KeyError("x")

    monkeypatch.setattr(command.CommandTable, "get_command", lambda self, ctx, name: broken)
    with pytest.raises(KeyError):
        main(["broken"])


def test_every_option_says_what_it_is_for():
    for names, each in commands_of(convzoo):
        options = [param for param in each.params if isinstance(param, click.Option)]
        assert [param.opts for param in options if not param.help] == [], names


def test_no_line_in_a_list_of_commands_is_cut_short():
    for names, each in commands_of(convzoo):
        if isinstance(each, click.Group):
            text = CliRunner().invoke(each, ["--help"], prog_name="convzoo").output
            assert "..." not in text.split("Commands:")[1], names


WITHOUT_EXTRAS = """
import sys
from zoo import command

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in command.EXTRAS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
for words in sys.argv[1:]:
    try:
        command.main(words.split())
    except SystemExit as stopped:
        print(stopped.code, file=sys.stderr)
"""


def test_the_base_install_names_the_extra_that_a_command_needs(tmp_path):
    needs = {
        "train digits_lenet5_modern": "train",
        "train --list": "train",
        "data check digits": "train",
        "show lenet5": "train",
        "publish . --base-path models": "train",
        "evaluate .": "train",
        "pipeline run a.yaml": "train",
        "serve --base-path .": "serve",
    }
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS, *needs],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    told = done.stderr.splitlines()
    assert told[1::2] == ["1"] * len(needs), done.stderr
    for line, (words, extra) in zip(told[::2], needs.items(), strict=True):
        assert line.startswith(f"error: `convzoo {words.split()[0]}` needs "), line
        assert line.endswith(f"pip install 'convzoo[{extra}]'"), line


def test_what_the_locale_has_no_character_for_is_written_as_its_number():
    code = "import click\nfrom zoo import command\n"
    code += "click.Group.get_command = lambda *_: click.Command('a', callback=lambda: print('caf\\xe9 \\u2588'))\n"
    code += "command.CommandTable.get_command = click.Group.get_command\ncommand.main(['a'])\n"
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", code],
        env={"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "caf\\xe9 \\u2588\n"), done.stderr


def test_a_recipes_value_written_as_an_option_is_told_how_it_is_set():
    done = run("train", "digits_lenet5_modern", "--epochs=3")
    assert done.returncode == 2
    assert (
        "No such option '--epochs'. A recipe's values have no dashes: epochs=VALUE." in done.stderr
    )
