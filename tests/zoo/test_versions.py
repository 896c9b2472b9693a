"""Labels move only to what was verified and gated; every move is known; nothing named is lost."""

import json
import os
import resource
import subprocess
import sys

import pytest

from zoo.artifact import (
    MANIFEST,
    Architecture,
    EngineRecord,
    Manifest,
    draft_version,
    file_sha256,
    list_versions,
    read_labels,
)
from zoo.errors import BusyError, ParityError, UsageError
from zoo.preprocess import Preprocessing
from zoo.spec import ImageInput
from zoo.versions import (
    find_model,
    history,
    lock,
    promote,
    prune,
    read_gate,
    resolve,
    rollback,
    write_gate,
)


def publish(base_path, number):
    manifest = Manifest(
        model="m",
        version=1,
        architecture=Architecture(name="xo"),
        preprocessing=Preprocessing(input=ImageInput(height=1, width=1, channels=1)),
        labels=("a", "b"),
        signatures={},
        engines={
            "openvino": EngineRecord(
                file="w", precision="fp32", outputs=(), tolerance=1.0, measured=0
            )
        },
        default_engine="openvino",
        recipe_sha256=f"recipe{number}",
    )
    with draft_version(base_path, "m") as draft:
        (draft.path / "w").write_bytes(bytes([number]))
        return draft.commit(manifest)


def judge(model_path, version, outcome="pass", manifest_sha256=None):
    digest = manifest_sha256 or file_sha256(model_path / str(version) / MANIFEST)
    write_gate(
        model_path, version, json.dumps({"outcome": outcome, "manifest_sha256": digest, "x": 1})
    )


@pytest.fixture
def model_path(tmp_path):
    for number in (1, 2, 3):
        publish(tmp_path, number)
        judge(tmp_path / "m", number)
    return tmp_path / "m"


def test_a_label_follows_promotion_and_goes_back_with_rollback(model_path):
    for version in (1, 2, 3):
        promote(model_path, version, why=f"reason {version}")
        assert read_labels(model_path) == {"stable": version}
    assert rollback(model_path).version == 2
    # Not forward to 3 again, but one further back.
    assert rollback(model_path, why="worse still").version == 1
    with pytest.raises(UsageError, match="never named another version"):
        rollback(model_path)
    moves = [(move.before, move.version, move.why) for move in history(model_path)]
    assert moves == [
        *((None, 1, "reason 1"), (1, 2, "reason 2"), (2, 3, "reason 3")),
        *((3, 2, "rollback"), (2, 1, "worse still")),
    ]
    assert history(model_path)[1].recipe_sha256 == "recipe2"
    assert "@" in history(model_path)[0].who


@pytest.mark.parametrize(
    ("promoted", "then"),
    [((1, 2, 1), [2, 1]), ((1, 2, 3, 2), [3, 2, 1]), ((1, 2, 3, 1), [3, 2, 1])],
)
def test_an_earlier_version_that_was_promoted_again_is_no_rollback(model_path, promoted, then):
    for version in promoted:
        promote(model_path, version)
    assert [rollback(model_path).version for _ in then] == then
    with pytest.raises(UsageError, match="never named another version"):
        rollback(model_path)


def test_promotions_and_rollbacks_in_turns_are_undone_one_by_one(model_path):
    promote(model_path, 1)
    promote(model_path, 2)
    rollback(model_path)
    promote(model_path, 2)
    promote(model_path, 3)
    assert [rollback(model_path).version for _ in range(2)] == [2, 1]


def test_a_history_that_does_not_say_what_was_a_rollback_is_read(model_path):
    for version in (1, 2, 3):
        promote(model_path, version)
    rollback(model_path)
    place = model_path / "history.jsonl"
    lines = [json.loads(line) for line in place.read_bytes().splitlines()]
    for each in lines:
        del each["rolled_back"]
    place.write_text("".join(json.dumps(each) + "\n" for each in lines))
    assert len(history(model_path)) == 4
    assert rollback(model_path).version == 1


def test_pruning_keeps_what_a_label_named_before_it_went_back_by_promotion(model_path):
    for version in (1, 2, 3, 2, 1):
        promote(model_path, version)
    assert prune(model_path, 1) == []
    assert rollback(model_path).version == 2


def test_a_full_disk_moves_no_label_and_names_the_file(model_path):
    promote(model_path, 1)
    promote(model_path, 2)
    before = (model_path / "history.jsonl").read_bytes()
    command = [sys.executable, "-m", "zoo.command"]
    for arguments in (["rollback", "m"], ["promote", "m", "3"]):
        done = subprocess.run(
            [*command, *arguments, "--base-path", str(model_path.parent)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            # No file may grow, as on a disk without room.
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
        )
        assert done.returncode == 3
        assert done.stderr == f"error: {model_path}/history.jsonl: File too large.\n"
    assert read_labels(model_path) == {"stable": 2}
    assert (model_path / "history.jsonl").read_bytes() == before
    assert not list(model_path.glob(".history*"))


def test_a_version_that_did_not_pass_needs_force_and_a_reason(model_path):
    (model_path / "gates" / "1.json").unlink()
    judge(model_path, 2, "inconclusive")
    judge(model_path, 3, manifest_sha256="of another")
    for version, words in ((1, "was not gated"), (2, "is inconclusive"), (3, "another version 3")):
        with pytest.raises(UsageError, match=words):
            promote(model_path, version)
    assert read_labels(model_path) == {}
    with pytest.raises(UsageError, match="needs --why"):
        promote(model_path, 1, is_forced=True)
    with pytest.raises(UsageError, match="--force needs --why"):
        promote(model_path, 1, is_forced=True, why=" ")
    for version, verdict in ((1, None), (2, "inconclusive"), (3, None)):
        promote(model_path, version, is_forced=True, why="a demonstration")
        promote(model_path, version)  # What is in place needs no reason.
        move = history(model_path)[-1]
        assert (move.version, move.forced, move.gates) == (version, True, verdict)


def test_the_history_says_forced_only_of_what_had_not_passed(model_path):
    move = promote(model_path, 2, is_forced=True, why="to be sure")
    assert (move.forced, move.gates) == (False, "pass")


def test_a_damaged_version_is_refused_with_7_even_by_force(model_path):
    (model_path / "2" / "w").write_bytes(b"x")
    with pytest.raises(ParityError, match="not what was published") as refused:
        promote(model_path, 2, is_forced=True, why="now")
    assert refused.value.exit_code == 7


def test_a_move_to_where_a_label_is_already_leaves_no_trace(model_path):
    promote(model_path, 1)
    promote(model_path, 1)
    assert len(history(model_path)) == 1


def test_pruning_keeps_what_labels_name_and_named_last(model_path):
    for number in (4, 5, 6, 7):
        publish(model_path.parent, number)
        judge(model_path, number)
    promote(model_path, 1)
    promote(model_path, 3)
    promote(model_path, 4, label="canary")
    assert prune(model_path, 2) == [2, 5]
    assert list(list_versions(model_path)) == [1, 3, 4, 6, 7]
    assert read_gate(model_path, 2) is None
    assert rollback(model_path).version == 1
    assert not list(model_path.glob(".removed*"))


def test_names_of_versions_are_numbers_labels_and_latest(model_path):
    promote(model_path, 2)
    assert [resolve(model_path, which) for which in ("1", "stable", "latest")] == [1, 2, 3]
    with pytest.raises(UsageError, match=r"'stabel'.*Did you mean 'stable'"):
        resolve(model_path, "stabel")
    with pytest.raises(UsageError, match="'mm'"):
        find_model(model_path.parent, "mm")


@pytest.mark.parametrize("which", ["²", "٢", ""])
def test_only_ascii_digits_are_a_number(model_path, which):
    with pytest.raises(UsageError, match="version of m"):
        resolve(model_path, which)


@pytest.mark.parametrize("label", ["", "a/b", "latest", "2", "-x", "..", "a b", "é", "x" * 65])
def test_what_a_url_or_a_command_would_misread_is_no_label(model_path, label):
    with pytest.raises(UsageError, match="cannot be a label"):
        promote(model_path, 1, label=label)
    assert read_labels(model_path) == {}


def test_a_label_has_the_form_of_names(model_path):
    for label in ("canary", "v2", "2026-01", "blue_green.a"):
        assert promote(model_path, 1, label=label).label == label


def test_a_line_of_history_that_was_torn_is_left_out(model_path):
    promote(model_path, 1)
    with (model_path / "history.jsonl").open("a") as file:
        file.write('{"label": "sta')
    assert len(history(model_path)) == 1
    promote(model_path, 2)
    assert [move.version for move in history(model_path)] == [1, 2]


HOLD = """
import sys, time
from pathlib import Path
from zoo.versions import lock
with lock(Path(sys.argv[1]), is_waiting=False):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_at_a_time_and_the_other_is_told_who(model_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(model_path)], stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            assert other.stdout.readline() == "held\n"
            with (
                pytest.raises(BusyError, match=f"process {other.pid}"),
                lock(model_path, is_waiting=False),
            ):
                pass
        finally:
            other.kill()
    # A lock dies with its process.
    with lock(model_path, is_waiting=False):
        pass


def test_continuous_integration_is_named_as_who(model_path, monkeypatch):
    monkeypatch.setitem(os.environ, "GITHUB_ACTOR", "octocat")
    assert promote(model_path, 1).who.startswith("octocat@")
