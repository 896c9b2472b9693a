"""A base path in an object store: seen whole or not at all, nothing taken twice, nothing lost.

Each test runs on fsspec's memory and, where `make registries` has installed them, on s3fs against an
S3 server.
"""

import importlib.util
import itertools
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from tests.s3 import BUCKET, SECRET, connected, s3_server
from tests.zoo.test_versions import judge, publish
from zoo import versions
from zoo.artifact import MANIFEST, list_versions, read_labels, read_manifest, verify, write_labels
from zoo.checkout import checkout, list_places, on_disk, open_model
from zoo.errors import (
    ArtifactError,
    BusyError,
    CorruptVersionError,
    ParityError,
    RemoteError,
    UsageError,
    VersionExistsError,
)
from zoo.object_store import Mirror, RemoteModel
from zoo.url import Url, place_of

HAS_S3 = all(importlib.util.find_spec(name) for name in ("s3fs", "moto", "boto3"))
needs_s3 = pytest.mark.skipif(not HAS_S3, reason="`make registries` installs an S3 server")
numbers = itertools.count()


@pytest.fixture
def s3(server):
    with connected(server):
        yield f"s3://{BUCKET}"


@pytest.fixture(scope="module")
def server():
    with s3_server() as port:
        yield port


@pytest.fixture(params=["memory", "s3"] if HAS_S3 else ["memory"])
def base(request):
    """A base path that nobody else uses."""
    start = "memory://bucket" if request.param == "memory" else request.getfixturevalue("s3")
    return Url(f"{start}/models{next(numbers)}")


def publish_to(base, content):
    """Publishes a version the way `convzoo publish` does; returns its number."""
    with checkout(base, "m") as opened:
        place = opened.publish(publish(opened.base_path, content), is_fixed=False)
        judge(opened.path, int(place.name))
        opened.push()
        return int(place.name)


def promote(base, version, **given):
    with open_model(base, "m") as opened:
        opened.need(version)
        versions.promote(opened.path, version, **given)
        opened.push()


def labels(base):
    model = RemoteModel(base / "m")
    return model.labels(model.look())


def filesystem(base):
    import fsspec

    return fsspec.core.url_to_fs(str(base), use_listings_cache=False)


# --- what a URL may be


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http://host/models", "s3://, gs://"),
        ("simplecache::s3://bucket/models", "cannot be a base path"),
        ("s3:///models", "names no bucket"),
        ("s3://bucket/../models", "know neither"),
        (f"s3://key:{SECRET}@bucket/models", "from the environment"),
        (f"s3://bucket/models?X-Amz-Signature={SECRET}", "from the environment"),
    ],
)
def test_other_urls_are_refused_and_secrets_in_them_are_not_repeated(text, words):
    with pytest.raises(UsageError) as caught:
        place_of(text)
    assert words in str(caught.value)
    assert SECRET not in str(caught.value)


def test_what_is_no_url_is_a_folder(tmp_path):
    assert place_of("models/new") == place_of(place_of("models/new"))
    assert place_of(f"file://{tmp_path}/a%20b") == tmp_path / "a b"
    assert str(place_of("s3://bucket//models/")) == "s3://bucket/models"
    azure = "abfs://container@account.dfs.core.windows.net/models"
    assert str(place_of(azure) / "m") == f"{azure}/m"


@pytest.mark.skipif(bool(importlib.util.find_spec("gcsfs")), reason="gcsfs is installed")
def test_a_driver_that_is_not_installed_is_named():
    with pytest.raises(UsageError, match="pip install gcsfs"):
        list_places(Url("gs://bucket/models"))


# --- versions


def test_a_version_is_published_promoted_judged_and_rolled_back(base):
    assert [publish_to(base, content) for content in (1, 2, 3)] == [1, 2, 3]
    for version in (1, 2, 3):
        promote(base, version, why=f"reason {version}")
    with open_model(base, "m") as opened:
        opened.need(versions.previous(opened.path, "stable"))
        versions.rollback(opened.path)
        opened.push()
    assert labels(base) == {"stable": 2}
    assert list_places(base) == ("m",)
    with open_model(base, "m") as opened:
        assert [move.version for move in versions.history(opened.path)] == [1, 2, 3, 2]
        assert versions.read_gate(opened.path, 3).outcome == "pass"
        # The large files stay where they are until they are needed.
        assert not (opened.path / "1" / "w").exists()
        assert (opened.need(1) / "w").read_bytes() == b"\x01"
    with on_disk(base / "m") as newest, on_disk(base / "m" / "1") as first:
        assert (verify(newest).version, verify(first).version) == (3, 1)


def test_a_name_that_is_not_there_is_answered_with_those_that_are(base):
    publish_to(base, 1)
    with pytest.raises(UsageError, match="There are: m"), open_model(base, "other"):
        pass
    with pytest.raises(UsageError, match="No version of m '7'"), on_disk(base / "m" / "7"):
        pass


def test_a_number_that_is_taken_is_never_overwritten(base):
    with checkout(base, "m") as opened:
        mine = publish(opened.base_path, 2)
        assert publish_to(base, 1) == int(mine.name) == 1
        with pytest.raises(VersionExistsError, match=r"Version 1 .*there are 1\)"):
            opened.publish(mine, is_fixed=True)
        assert opened.publish(mine, is_fixed=False) == base / "m" / "2"
    for version in (1, 2):
        with on_disk(base / "m" / str(version)) as path:
            assert (path / "w").read_bytes() == bytes([version])
            assert read_manifest(path).version == version


@needs_s3
def test_publishers_that_race_get_a_number_each(s3):
    base = Url(f"{s3}/race{next(numbers)}")
    start = threading.Barrier(6)

    def race(content):
        with checkout(base, "m") as opened:
            path = publish(opened.base_path, content)
            start.wait()
            return int(opened.publish(path, is_fixed=False).name)

    with ThreadPoolExecutor(6) as racers:
        found = list(racers.map(race, range(6)))
    assert sorted(found) == [1, 2, 3, 4, 5, 6]
    for content, number in enumerate(found):
        with on_disk(base / "m" / str(number)) as path:
            assert (path / "w").read_bytes() == bytes([content])
            assert read_manifest(path).version == number


def test_an_upload_that_broke_off_is_seen_by_nobody_and_swept_up_later(base, tmp_path):
    publish_to(base, 1)
    model = RemoteModel(base / "m")
    broken = publish(tmp_path, 2)
    broken = broken.rename(broken.with_name("2"))
    for name in ("x", "y"):
        (broken / name).write_bytes(b"not in the manifest")
    shutil.copytree(broken, tmp_path / "copy")
    (broken / "w").unlink()
    (broken / "w").symlink_to(tmp_path / "gone")
    with pytest.raises(RemoteError):
        model.upload(broken, is_fixed=False)
    listing = model.look()
    assert list(listing.versions) == [1]
    assert 2 in listing.unfinished
    assert publish_to(base, 3) == 3
    assert model.dead_uploads() == []
    assert model.dead_uploads(timedelta(0)) == [2]
    model.remove(2)
    assert model.look().unfinished == frozenset()
    assert list(model.look().versions) == [1, 3]


@pytest.mark.parametrize("damage", ["other bytes", "shorter", "missing", "manifest"])
def test_what_is_not_what_was_published_is_refused(base, damage, tmp_path):
    publish_to(base, 1)
    fs, root = filesystem(base)
    path = f"{root}/m/1/{MANIFEST if damage == 'manifest' else 'w'}"
    if damage == "missing":
        fs.rm_file(path)
    else:
        fs.pipe_file(path, {"other bytes": b"\x02"}.get(damage, b""))
    with (
        open_model(base, "m") as opened,
        pytest.raises(ParityError, match="is not what was published"),
    ):
        opened.need(1)
    mirror = Mirror(base / "m", tmp_path / "cache")
    assert list(mirror.versions()) == [1]
    with pytest.raises(CorruptVersionError):
        mirror.fetch(1)
    assert list_versions(tmp_path / "cache") == {}


# --- labels


def test_of_two_who_move_a_label_one_is_told(base):
    for content in (1, 2):
        publish_to(base, content)
    with open_model(base, "m") as one, open_model(base, "m") as other:
        for opened, version in ((one, 1), (other, 2)):
            opened.need(version)
            versions.promote(opened.path, version)
        one.push()
        with pytest.raises(BusyError, match="at the same time"):
            other.push()
    assert labels(base) == {"stable": 1}
    with open_model(base, "m") as opened:
        assert [move.version for move in versions.history(opened.path)] == [1]


def test_a_version_that_is_being_removed_cannot_be_promoted(base):
    for content in (1, 2, 3):
        publish_to(base, content)
    promote(base, 3)
    with open_model(base, "m") as sweeper, open_model(base, "m") as other:
        other.need(1)
        versions.promote(other.path, 1)
        assert versions.prune(sweeper.path, 1) == [1, 2]
        sweeper.push()
        with pytest.raises(BusyError):
            other.push()
    assert labels(base) == {"stable": 3}
    assert list(RemoteModel(base / "m").look().versions) == [3]
    with open_model(base, "m") as opened:
        assert read_labels(opened.path) == {"stable": 3}


def test_a_base_path_that_was_copied_from_a_disk_keeps_its_labels_and_history(base, tmp_path):
    for content in (1, 2):
        publish(tmp_path, content)
        judge(tmp_path / "m", content)
    versions.promote(tmp_path / "m", 1)
    filesystem(base)[0].put(str(tmp_path / "m"), filesystem(base)[1] + "/m", recursive=True)
    assert labels(base) == {"stable": 1}
    promote(base, 2)
    assert labels(base) == {"stable": 2}
    with open_model(base, "m") as opened:
        assert [move.version for move in versions.history(opened.path)] == [1, 2]
        assert versions.previous(opened.path, "stable") == 1


def test_labels_that_are_no_labels_are_told(base):
    publish_to(base, 1)
    filesystem(base)[0].pipe_file(f"{filesystem(base)[1]}/m/moves/0000000001.json", b"{}x")
    with pytest.raises(ArtifactError, match="is not valid"):
        labels(base)


# --- mirrors


def test_a_mirror_keeps_what_is_whole_and_no_more_than_it_is_told_to(base, tmp_path):
    for content in (1, 2):
        publish_to(base, content)
    mirror = Mirror(base / "m", tmp_path)
    places = mirror.versions()
    for version in places:
        mirror.fetch(version)
    before = (tmp_path / "1").stat().st_ino
    mirror.fetch(1)
    assert (tmp_path / "1").stat().st_ino == before
    (places[1] / "w").write_bytes(b"damaged in the cache")
    mirror.fetch(1)
    assert verify(places[1]).version == 1
    mirror.retain([2])
    assert list(list_versions(tmp_path)) == [2]


# --- stores that fail


@needs_s3
def test_a_store_that_overwrites_is_refused():
    with s3_server("careless") as port, connected(port):
        with pytest.raises(ArtifactError, match="does not keep If-None-Match"):
            publish_to(Url(f"s3://{BUCKET}/models"), 1)
        assert RemoteModel(Url(f"s3://{BUCKET}/models/m")).look().versions == {}


@needs_s3
def test_a_store_that_does_not_answer_is_told_without_secrets():
    with connected(1) as patch:
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        with pytest.raises(RemoteError, match="s3://bucket/models cannot be used") as caught:
            list_places(Url(f"s3://{BUCKET}/models"))
    assert SECRET not in str(caught.value)


@needs_s3
def test_a_bucket_that_is_not_there_is_told(s3):
    with pytest.raises(RemoteError, match="does not exist"):
        list_places(Url("s3://another/models"))


def test_what_has_labels_but_no_manifest_is_no_version(base, tmp_path):
    publish(tmp_path, 1)
    write_labels(tmp_path / "m", {"stable": 1})
    (tmp_path / "m" / "1" / MANIFEST).unlink()
    filesystem(base)[0].put(str(tmp_path / "m"), filesystem(base)[1] + "/m", recursive=True)
    assert RemoteModel(base / "m").look().versions == {}
