"""A published version: all of it or nothing, and nothing is believed without its hash."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from zoo import artifact
from zoo.artifact import Architecture, EngineRecord, Manifest, draft_version
from zoo.errors import ArtifactError, CorruptVersionError, UsageError, VersionExistsError
from zoo.preprocess import Preprocessing
from zoo.spec import ImageInput


def manifest(model="m"):
    return Manifest(
        model=model,
        version=1,
        architecture=Architecture(name="lenet5"),
        preprocessing=Preprocessing(input=ImageInput(height=2, width=2, channels=1)),
        labels=("a", "b"),
        signatures={},
        engines={
            "openvino": EngineRecord(
                file="x.xml", precision="fp32", outputs=("logits",), tolerance=1e-3, measured=0
            )
        },
        default_engine="openvino",
    )


def write(base_path, version=None, size=10):
    with draft_version(base_path, "m", version) as draft:
        (draft.path / "saved_model.pb").write_bytes(b"x" * size)
        (draft.path / "variables").mkdir()
        (draft.path / "variables" / "data").write_bytes(b"y" * size)
        return draft.commit(manifest())


def test_versions_count_up_and_verify(tmp_path):
    assert write(tmp_path).name == "1"
    place = write(tmp_path)
    assert place.name == "2"
    assert artifact.verify(place).version == 2
    assert list(artifact.list_versions(tmp_path / "m")) == [1, 2]
    assert list(artifact.list_models(tmp_path)) == ["m"]


def test_a_version_is_never_overwritten(tmp_path):
    write(tmp_path, version=7)
    with pytest.raises(
        VersionExistsError, match=r"Version 7 of 'm' exists already \(there are 7\)"
    ):
        write(tmp_path, version=7)
    assert artifact.verify(tmp_path / "m" / "7")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("version", [None, 1])
def test_a_file_where_a_version_should_stand_is_named(tmp_path, version):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "1").write_bytes(b"")
    with pytest.raises(ArtifactError, match="m/1 is no folder, so version 1 cannot have its place"):
        write(tmp_path, version)
    assert [each.name for each in (tmp_path / "m").iterdir()] == ["1"]


def test_a_draft_that_fails_leaves_nothing(tmp_path):
    def fail():
        with draft_version(tmp_path, "m") as draft:
            (draft.path / "half").write_bytes(b"x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list((tmp_path / "m").iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(b"z" * 10), "SHA-256"),
        (lambda path: path.write_bytes(b"x" * 9), "has 9 bytes, its manifest says 10"),
        (lambda path: path.unlink(), "is missing"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, damage, words):
    place = write(tmp_path)
    damage(place / "saved_model.pb")
    with pytest.raises(CorruptVersionError, match=f"saved_model.pb.*{words}"):
        artifact.verify(place)


def test_a_damaged_manifest_is_told(tmp_path):
    place = write(tmp_path)
    (place / artifact.MANIFEST).write_text('{"model": 3}')
    with pytest.raises(
        CorruptVersionError, match=r"manifest.json of version 1 is not valid: model"
    ):
        artifact.verify(place)


def test_a_manifest_cannot_reach_outside_its_version(tmp_path):
    place = write(tmp_path)
    record = artifact.FileRecord(bytes=1, sha256="0")
    forged = artifact.read_manifest(place).model_copy(update={"files": {"../../x": record}})
    with pytest.raises(CorruptVersionError, match="outside its version"):
        artifact.verify(place, forged)


def test_an_unwritable_base_path_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"Cannot write into base path .*file: Not a directory"):
        write(tmp_path / "file")


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "x" * 65])
def test_a_model_name_that_is_no_folder_is_refused(tmp_path, name):
    with (
        pytest.raises(UsageError, match="cannot name a model"),
        draft_version(tmp_path, name),
    ):
        pass


def test_labels_move_atomically_and_only_to_versions_that_exist(tmp_path):
    write(tmp_path)
    artifact.write_labels(tmp_path / "m", {"stable": 1})
    assert artifact.read_labels(tmp_path / "m") == {"stable": 1}
    with pytest.raises(ArtifactError, match=r"No such versions of 'm': \{'stable': 9\}"):
        artifact.write_labels(tmp_path / "m", {"stable": 9})


@pytest.mark.parametrize("data", [b"", b"nothing", b"PK\x03\x04 the beginning"])
def test_damaged_golden_records_are_told(tmp_path, data):
    place = tmp_path / artifact.GOLDEN
    place.parent.mkdir(parents=True)
    place.write_bytes(data)
    with pytest.raises(CorruptVersionError, match=r"golden\.npz cannot be read"):
        artifact.read_golden(tmp_path)


def test_a_folder_is_a_version_when_its_number_has_64_bits(tmp_path):
    for name in ("007", str(2**63 - 1), str(2**63), "1" * 20, "-1", "1a"):
        (tmp_path / name).mkdir()
    assert list(artifact.list_versions(tmp_path)) == [7, 2**63 - 1]


def test_golden_records_come_back(tmp_path):
    inputs = {"image": np.ones((2, 2), np.float32)}
    outputs = {"logits": np.zeros((2, 3), np.float32)}
    artifact.write_golden(tmp_path, inputs, outputs)
    found_inputs, found_outputs = artifact.read_golden(tmp_path)
    np.testing.assert_array_equal(found_inputs["image"], inputs["image"])
    np.testing.assert_array_equal(found_outputs["logits"], outputs["logits"])


WRITER = """
    import sys
    from pathlib import Path
    from tests.zoo.test_artifact import write
    print("go", flush=True)
    while True:
        write(Path(sys.argv[1]), size=200_000)
"""


def test_a_reader_never_sees_half_a_version_though_writers_are_killed_at_random_moments(tmp_path):
    """Every version that is visible at any time verifies; a killed writer leaves no version."""
    rng = np.random.default_rng(3)
    seen = set()
    for _ in range(12):
        writer = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path)],
            stdout=subprocess.PIPE,
        )
        assert writer.stdout.readline() == b"go\n"
        until = time.monotonic() + rng.uniform(0.0, 0.12)
        while time.monotonic() < until:
            for version, place in artifact.list_versions(tmp_path / "m").items():
                if version not in seen:
                    artifact.verify(place)
                    seen.add(version)
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
        for version, place in artifact.list_versions(tmp_path / "m").items():
            artifact.verify(place)
            seen.add(version)
    assert seen
    assert sorted(seen) == list(range(1, len(seen) + 1))
    write(tmp_path)  # and the next writer removes what the killed ones left behind
    assert [path.name for path in (tmp_path / "m").iterdir() if path.name.startswith(".")] == []


def test_a_file_that_was_written_is_not_said_to_be_missing(tmp_path, monkeypatch):
    # Somebody takes the folder away just then, as who collects drift's windows does.
    place, taken = tmp_path / "place", tmp_path / "taken"
    place.mkdir()
    replace = os.replace

    def replace_and_take_away(*paths, **handles):
        replace(*paths, **handles)
        place.rename(taken)

    monkeypatch.setattr(os, "replace", replace_and_take_away)
    artifact.write_atomically(place / "window.json", b"whole")
    assert [each.name for each in taken.iterdir()] == ["window.json"]
    assert (taken / "window.json").read_bytes() == b"whole"


def test_a_file_that_cannot_be_written_is_named_and_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        artifact.write_atomically(tmp_path / "nowhere" / "window.json", b"")
    assert caught.value.filename == str(tmp_path / "nowhere" / "window.json")
    (tmp_path / "window.json").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        artifact.write_atomically(tmp_path / "window.json", b"")
    assert caught.value.filename == str(tmp_path / "window.json")
    assert [each.name for each in tmp_path.iterdir()] == ["window.json"]
