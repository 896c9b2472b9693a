"""Models in an object store: brought to disk when they are wanted, and no longer kept than that."""

import asyncio
import itertools
import shutil
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest

from serving.core.repository import Repository
from serving.core.servable import Servable
from serving.core.shelves import Shelves
from serving.core.sources import BasePath
from serving.errors import ConfigError
from serving.messages import Target, VersionOptions
from tests.serving.published import publish_tiny
from zoo import versions
from zoo.checkout import checkout, open_model
from zoo.url import Url

pytestmark = pytest.mark.openvino

numbers = itertools.count()


@pytest.fixture
def base():
    return Url(f"memory://served/models{next(numbers)}")


@pytest.fixture
async def repository(tmp_path, base):
    with ThreadPoolExecutor(1) as decoders:

        def load(settings, version, path):
            options = settings.options_of(version)
            return Servable(settings.name, version, path, options=options, decoders=decoders)

        source = BasePath(base, options=VersionOptions(is_tuned=False))
        made = Repository(source, load, drain_limit_s=2.0, shelves=Shelves(tmp_path / "cache"))
        yield made
        await made.close()


def publish(base, scale=1.0):
    with checkout(base, "tiny") as opened:
        opened.publish(publish_tiny(opened.base_path, scale=scale), is_fixed=False)


def promote(base, version):
    with open_model(base, "tiny") as opened:
        opened.need(version)
        versions.promote(opened.path, version, is_forced=True, why="a test")
        opened.push()


def cached(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").glob("*/*") if path.is_dir())


def states(repository):
    statuses = repository.status(Target("tiny")).versions
    return {each.version: (each.state.value, each.error_message) for each in statuses}


async def test_the_server_follows_what_is_published_promoted_and_rolled_back(
    repository, base, tmp_path
):
    await repository.refresh()
    assert repository.models() == ()
    publish(base)
    promote(base, 1)
    publish(base, 2.0)
    await repository.refresh()
    assert repository.find(Target("tiny")).version == 2
    assert repository.find(Target("tiny", label="stable")).version == 1
    assert cached(tmp_path) == ["1", "2"]
    publish(base, 3.0)
    promote(base, 3)
    await repository.refresh()
    assert repository.find(Target("tiny", label="stable")).version == 3
    for _ in range(200):
        if cached(tmp_path) == ["3"]:
            break
        await asyncio.sleep(0.01)
    assert cached(tmp_path) == ["3"]
    with open_model(base, "tiny") as opened:
        opened.need(1)
        versions.rollback(opened.path)
        opened.push()
    await repository.refresh()
    assert repository.find(Target("tiny", label="stable")).version == 1
    assert cached(tmp_path) == ["1", "3"]


async def test_a_version_that_was_damaged_is_refused_until_it_is_whole(repository, base, tmp_path):
    publish(base)
    publish(base, 2.0)
    fs, root = fsspec.core.url_to_fs(str(base))
    weights = f"{root}/tiny/2/assets.extra/convzoo/openvino/fp32.bin"
    whole = fs.cat_file(weights)
    fs.pipe_file(weights, bytes(len(whole)))
    await repository.refresh()
    assert repository.find(Target("tiny")).version == 1
    assert "SHA-256" in states(repository)[2][1]
    assert cached(tmp_path) == ["1"]
    fs.pipe_file(weights, whole)
    await repository.refresh()
    assert repository.find(Target("tiny")).version == 2


async def test_a_copy_that_cannot_be_written_is_told_in_one_line_and_tried_again(
    repository, base, tmp_path, caplog
):
    publish(base)
    await repository.refresh()
    publish(base, 2.0)
    (shelf,) = (tmp_path / "cache").glob("[0-9a-f]*")
    shelf.rename(tmp_path / "aside")
    await repository.refresh()
    assert repository.find(Target("tiny")).version == 1
    assert states(repository)[2][1].startswith("The copy of version 2 cannot be written: No such")
    assert not [each for each in caplog.records if each.exc_info]
    (tmp_path / "aside").rename(shelf)
    await repository.refresh()
    assert repository.find(Target("tiny")).version == 2


async def test_a_version_without_room_is_tried_again_when_there_is_some(
    repository, base, monkeypatch
):
    publish(base)
    with monkeypatch.context() as full:
        usage = shutil.disk_usage("/")._replace(free=1000)
        full.setattr(shutil, "disk_usage", lambda folder: usage)
        await repository.refresh()
        assert "0 MB free" in states(repository)[1][1]
    await repository.refresh()
    assert repository.find(Target("tiny")).version == 1


async def test_two_servers_do_not_share_a_cache(repository, tmp_path):
    with pytest.raises(ConfigError, match="each needs its own --cache-dir"):
        Shelves(tmp_path / "cache")


async def test_what_a_cache_holds_for_nobody_goes_when_the_server_does(tmp_path):
    forgotten = tmp_path / ("0" * 32)
    forgotten.mkdir()
    mine = tmp_path / "mine"
    mine.mkdir()
    shelves = Shelves(tmp_path)
    shelves.of("memory://served/kept/tiny")
    shelves.close()
    assert mine.is_dir()
    assert not forgotten.exists()
    assert len(list(tmp_path.glob("[0-9a-f]" * 32))) == 1
