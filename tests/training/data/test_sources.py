"""Every source gives the same images from whatever form they are kept in; every fault is named."""

import gzip
import io
import os
import re
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from training.data import cifar, sources, tree
from training.data.check import check
from training.data.dataset import Files, Images
from training.data.store import look, store
from zoo.errors import DataError, UsageError
from zoo.preprocess import Preprocessing, Resize
from zoo.spec import ImageInput


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def photos():
    """Twelve images of two classes and several sizes, by path."""
    rng = np.random.default_rng(1)
    return {
        f"{part}/{label}/{number}.png": png(
            rng.integers(0, 256, (8 + number, 9, 3)).astype(np.uint8)
        )
        for part in ("train", "test")
        for label in ("cat", "dog")
        for number in range(3)
    }


def write_folder(place, photos):
    for name, data in photos.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    return place


def write_zip(place, photos):
    with zipfile.ZipFile(place / "photos.zip", "w") as archive:
        for name, data in photos.items():
            archive.writestr(f"photos/{name}", data)
        archive.writestr("__MACOSX/photos/train/cat/._0.png", b"junk")
    return place / "photos.zip"


def write_tar(place, photos, mode="w", suffix=".tar"):
    path = place / f"photos{suffix}"
    with tarfile.open(path, mode) as archive:
        for name, data in photos.items():
            member = tarfile.TarInfo(f"./photos/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


WRITERS = {
    "folder": write_folder,
    "zip": write_zip,
    "tar": write_tar,
    "tgz": lambda place, photos: write_tar(place, photos, "w:gz", ".tgz"),
}


@pytest.mark.parametrize("form", WRITERS)
def test_class_folders_are_the_same_in_a_folder_a_zip_and_a_tar(tmp_path, photos, form):
    path = WRITERS[form](tmp_path, photos)
    parts, labels, notes = tree.load(path)
    assert notes == ()
    assert labels == ("cat", "dog")
    assert set(parts) == {"train", "test"}
    train = parts["train"]
    assert [name.rsplit("train/")[1] for name in train.names] == [
        *("cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png", "dog/1.png", "dog/2.png")
    ]
    assert list(train.class_ids) == [0, 0, 0, 1, 1, 1]
    assert train.read(train.names[4]) == photos["train/dog/1.png"]
    dataset = sources.find(str(path)).load()
    assert dataset.labels == labels
    assert len(dataset.test) == 6


def test_classes_alone_are_split_by_content_and_the_same_way_again(tmp_path):
    rng = np.random.default_rng(3)
    for label in "ab":
        for number in range(60):
            path = tmp_path / label / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(png(rng.integers(0, 256, (4, 4)).astype(np.uint8)))
    first, second = (sources.ImagesSource(data_dir=tmp_path).load() for _ in range(2))
    assert first.test.names == second.test.names
    assert 10 <= len(first.test) <= 40
    everything = {*first.train.names, *first.validation.names, *first.test.names}
    assert len(everything) == 120


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.png": b"x"}, "class folders"),
        ({"readme.txt": b"x"}, "class folders"),
        ({}, "class folders"),
    ],
)
def test_a_folder_without_class_folders_is_explained(tmp_path, files, words):
    with pytest.raises(DataError, match=words):
        tree.load(write_folder(tmp_path, files))


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize(
    ("stray", "words"),
    [
        ("train/preview.png", r"in test, train; \S*train/preview\.png lies in none"),
        ("docs/screenshot.png", r"in test, train; \S*docs/screenshot\.png lies in none"),
        ("docs/shots/a.png", r"in test, train; \S*docs/shots/a\.png lies in none"),
    ],
)
def test_images_beside_the_class_folders_of_parts_are_named(tmp_path, photos, form, stray, words):
    photos[stray] = photos["train/cat/0.png"]
    with pytest.raises(DataError, match=words):
        tree.load(WRITERS[form](tmp_path, photos))


def test_images_beside_class_folders_are_named(tmp_path, photos):
    classes = {f"photos/{name[6:]}": data for name, data in photos.items() if "train" in name}
    classes["photos/cover.png"] = photos["train/cat/0.png"]
    with pytest.raises(DataError, match=r"cat, dog in photos; photos/cover\.png lies beside"):
        tree.load(write_folder(tmp_path, classes))


def test_parts_without_class_folders_are_no_classes(tmp_path, photos):
    loose = {
        f"{name[:5].strip('/')}/{number}.png": photos[name] for number, name in enumerate(photos)
    }
    with pytest.raises(DataError, match=r"no class folders in test, train; expected test/CLASS"):
        tree.load(write_folder(tmp_path, loose))


def test_a_class_may_be_called_like_a_part_and_have_folders_below(tmp_path, photos):
    files = {"train/0.png": b"x", "car/1.png": b"x", "bus/red/2.png": b"x", "bus/blue/3.png": b"x"}
    assert tree.load(write_folder(tmp_path, files))[1] == ("bus", "car", "train")


def test_one_class_only_is_a_problem(tmp_path, photos):
    files = {f"cat/{number}.png": data for number, data in enumerate(photos.values())}
    problems = report_of(sources.find(str(write_folder(tmp_path, files))).load()).problems
    assert any("one class only, 'cat'" in each for each in problems)


@pytest.mark.parametrize("form", WRITERS)
def test_what_is_left_out_is_told(tmp_path, photos, form):
    photos |= {f"train/newt/{number}.gif": b"GIF89a" for number in range(3)}
    photos |= {"train/cat/notes.txt": b"x", "train/.git/config": b"x", "README.md": b"x"}
    path = WRITERS[form](tmp_path, photos)
    dataset = sources.find(str(path)).load()
    assert dataset.labels == ("cat", "dog")
    words = " ".join(report_of(dataset).warnings)
    assert "without an image that can be read:" in words
    assert "train/newt." in words
    assert "left out: 3 .gif, 1 .txt; images are .jpg" in words


def test_folders_are_told_when_they_are_empty_and_links_are_followed_but_never_in_circles(
    tmp_path, photos
):
    place = write_folder(tmp_path / "photos", photos)
    (place / "train" / "eel").mkdir()
    elsewhere = write_folder(tmp_path / "elsewhere", {"a.png": photos["train/cat/0.png"]})
    (place / "train" / "fox").symlink_to(elsewhere)
    (place / "train" / "cat" / "round").symlink_to(place)
    (place / "train" / "dog" / "gone.png").symlink_to(tmp_path / "nothing.png")
    found = tree.load(place)
    assert found.labels == ("cat", "dog", "fox")
    assert found.notes == ("Folders without an image that can be read: train/eel.",)
    train = found.parts["train"]
    assert train.read("train/fox/a.png") == photos["train/cat/0.png"]
    with pytest.raises(DataError, match=r"gone\.png cannot be read: No such file"):
        train.read("train/dog/gone.png")


def test_file_names_that_are_no_utf8_are_shown_escaped_and_such_class_names_are_refused(
    tmp_path, photos
):
    place = write_folder(tmp_path / "photos", photos)
    for number, name in enumerate((b"\xe9.png", b"\xe9 bad.png")):
        data = b"no image" if number else photos["train/cat/0.png"]
        (place / "test" / "cat" / os.fsdecode(name)).write_bytes(data)
    dataset = sources.find(str(place)).load()
    report = check("photos", dataset.labels, look(dataset), on_corrupt="skip")
    assert r"test/cat/\\xe9 bad.png" in report.model_dump_json()
    assert set(report.parts["test"].corrupt) == {r"test/cat/\xe9 bad.png"}
    assert dataset.test.read(r"test/cat/\xe9.png") == photos["train/cat/0.png"]
    (place / "train" / "cat").rename(place / "train" / os.fsdecode(b"caf\xe9"))
    with pytest.raises(DataError, match=r"a class named 'caf\\\\xe9'; .* Rename it"):
        sources.find(str(place)).load()
    renamed = (tmp_path / "photos").rename(tmp_path / os.fsdecode(b"\xe9"))
    (renamed / "train" / os.fsdecode(b"caf\xe9")).rename(renamed / "train" / "cat")
    assert sources.ImagesSource(data_dir=renamed).load().name == r"\xe9"


def test_class_names_of_several_lines_are_refused(tmp_path, photos):
    files = {name.replace("cat", "c\nt"): data for name, data in photos.items()}
    with pytest.raises(DataError, match=r"a class named 'c\\nt'"):
        sources.find(str(write_folder(tmp_path, files))).load()


def test_what_is_no_archive_and_what_is_not_there_is_named(tmp_path):
    (tmp_path / "photos.rar").write_bytes(b"Rar!")
    with pytest.raises(DataError, match="no folder, zip or tar"):
        tree.load(tmp_path / "photos.rar")
    with pytest.raises(DataError, match="no folder or archive"):
        tree.load(tmp_path / "nothing")
    with pytest.raises(UsageError, match="Did you mean 'mnist'"):
        sources.find("mnits")


def test_a_damaged_zip_member_is_named(tmp_path, photos):
    path = write_zip(tmp_path, photos)
    data = bytearray(path.read_bytes())
    place = data.find(photos["train/cat/1.png"][30:60])
    data[place : place + 8] = b"\0" * 8
    path.write_bytes(data)
    train = tree.load(path)[0]["train"]
    with pytest.raises(DataError, match=r"cat/1\.png in photos\.zip is damaged"):
        train.read(next(name for name in train.names if name.endswith("cat/1.png")))


@pytest.mark.parametrize(("mode", "suffix"), [("w:xz", ".tar.xz"), ("w:bz2", ".tar.bz2")])
def test_a_damaged_tar_is_named(tmp_path, mode, suffix):
    """Damaged so far in that its beginning is read as an archive."""
    rng = np.random.default_rng(1)
    large = {f"cat/{each}.png": rng.bytes(100_000) for each in range(20)}
    path = write_tar(tmp_path, large, mode, suffix)
    data = bytearray(path.read_bytes())
    for place in range(len(data) * 2 // 3, len(data) * 2 // 3 + 64):
        data[place] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"photos\.tar\.(xz|bz2) is damaged"):
        tree.load(path)


def sized(dataset, on_corrupt="stop", *, upright=False):
    input_ = ImageInput(height=6, width=5, channels=3)
    steps = Preprocessing(input=input_, upright=upright, pixel_steps=(Resize(height=6, width=5),))
    return store(dataset, steps, on_corrupt=on_corrupt)


def test_images_of_any_size_are_kept_at_one(tmp_path, photos):
    stored = sized(sources.find(str(write_folder(tmp_path, photos))).load())
    assert stored.dataset.test.pixels_nhwc.shape == (6, 6, 5, 3)
    assert stored.originals("test", 2).shape == (10, 9, 3)
    assert stored.sha256() == sized(sources.find(str(tmp_path)).load()).sha256()


def test_photos_that_lie_on_their_side_are_turned_and_told(tmp_path, photos):
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.linear_gradient("L").resize((20, 10)).convert("RGB").save(buffer, "JPEG", exif=exif)
    photos["test/cat/phone.jpg"] = buffer.getvalue()
    dataset = sources.find(str(write_folder(tmp_path, photos))).load()
    report = check("photos", dataset.labels, look(dataset))
    assert (report.parts["test"].turned, report.parts["train"].turned_images) == (
        ("test/cat/phone.jpg",),
        0,
    )
    assert "20 x 10 x 3" in report.parts["test"].sizes
    told = "1 images of the test part say that they do not lie upright.*phone.jpg"
    assert re.search(told, " ".join(report.warnings))
    lying = sized(dataset)
    upright = sized(dataset, upright=True)
    row = lying.seen["test"].names.index("test/cat/phone.jpg")
    assert lying.originals("test", row).shape == (10, 20, 3)
    assert upright.originals("test", row).shape == (20, 10, 3)
    assert lying.sha256() != upright.sha256()


def test_a_file_that_cannot_be_read_is_a_corrupt_image_of_what_is_split_too(tmp_path, photos):
    place = write_folder(tmp_path, {name.removeprefix("train/"): photos[name] for name in photos})
    (place / "test").rename(tmp_path / "bird")
    for number in range(20):
        (place / "dog" / f"gone{number}.png").symlink_to("nowhere")
    dataset = sources.find(str(place)).load()
    report = check("photos", dataset.labels, look(dataset), on_corrupt="skip")
    corrupt = {name for part in report.parts.values() for name in part.corrupt}
    assert corrupt == {f"dog/gone{number}.png" for number in range(20)}


def test_images_too_few_to_hold_one_out_say_what_would_help(tmp_path, photos):
    data = photos["train/cat/0.png"]
    place = write_folder(tmp_path, {"cat/0.png": data, "dog/0.png": data})
    with pytest.raises(DataError, match=r"Of the 2 images .* data\.test_fraction, or the folders"):
        sources.find(str(place)).load()


def test_an_archive_in_an_archive_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.writestr("photos.zip", b"PK")
    with pytest.raises(DataError, match=r"\(its files: 1 \.zip\); expected CLASS/IMAGE"):
        tree.load(tmp_path / "outer.zip")


def test_classes_that_differ_in_case_alone_are_told(tmp_path, photos):
    files = {name.replace("dog", "Cat"): data for name, data in photos.items()}
    dataset = sources.find(str(write_folder(tmp_path, files))).load()
    assert any("'Cat' and 'cat' differ in case" in each for each in report_of(dataset).warnings)


def test_a_corrupt_image_stops_the_run_or_is_left_out_and_listed(tmp_path, photos):
    photos["train/cat/1.png"] = photos["train/cat/1.png"][:50]
    photos["test/dog/0.png"] = b"no image"
    dataset = sources.find(str(write_folder(tmp_path, photos))).load()
    with pytest.raises(DataError, match=r"2 of the images.*cat/1\.png.*on_corrupt=skip"):
        sized(dataset)
    stored = sized(dataset, "skip")
    assert len(stored.dataset.test) == 5
    report = check("photos", dataset.labels, stored.seen, on_corrupt="skip")
    assert set(report.parts["test"].corrupt) == {"test/dog/0.png"}
    assert not report.problems
    assert "2 corrupt images" in " ".join(report.warnings)
    # What is left stays in step with its names and its originals.
    assert stored.seen["test"].names[3] == "test/dog/1.png"
    assert stored.originals("test", 3).shape == (9, 9, 3)
    assert stored.originals("train", 4).shape == (10, 9, 3)
    strict = check("photos", dataset.labels, look(dataset))
    assert "2 corrupt images" in " ".join(strict.problems)


def dataset_of(train, test, labels=("a", "b")):
    from training.data.dataset import Dataset

    return Dataset("few", train, test.take(np.arange(0)), test, labels)


def images(pixels, ids):
    return Images(np.asarray(pixels, np.uint8), np.asarray(ids, np.int64))


def report_of(dataset):
    return check(dataset.name, dataset.labels, look(dataset), notes=dataset.notes)


def test_duplicates_leakage_and_near_duplicates_are_found():
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (40, 12, 12, 1)).astype(np.uint8)
    test = pixels[:6].copy()
    test[1] = rng.integers(0, 256, (12, 12, 1))
    test[2] = np.clip(test[2].astype(int) + 1, 0, 255)  # looks the same, but is not
    pixels[20] = pixels[10]
    report = report_of(
        dataset_of(images(pixels, np.arange(40) % 2), images(test, np.arange(6) % 2))
    )
    assert report.leaked == (
        *(("image 0", "image 0"), ("image 3", "image 3")),
        *(("image 4", "image 4"), ("image 5", "image 5")),
    )
    assert report.near_duplicate_images == 5
    assert ("image 2", "image 2") in report.near_duplicates
    assert report.parts["train"].duplicates == (("image 10", "image 20"),)
    assert "4 of 6 test images" in " ".join(report.warnings)


def test_a_class_without_images_and_unbalanced_classes_are_told():
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (30, 8, 8, 1)).astype(np.uint8)
    train = images(pixels, [0] * 28 + [1] * 2)
    report = report_of(dataset_of(train, images(pixels[:3], [0, 0, 1]), ("a", "b", "c")))
    assert report.problems == ("Classes without a training image: c.",)
    assert any("unbalanced: 2 images of 'b' against 28" in each for each in report.warnings)
    assert report.parts["train"].classes == {"a": 28, "b": 2, "c": 0}
    assert report.parts["train"].sizes == {"8 x 8 x 1": 30}


def write_cifar_binary(place, batches):
    for name, (pixels, ids) in batches.items():
        rows = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
        records = np.concatenate([ids[:, None].astype(np.uint8), rows], axis=1)
        (place / f"{name}.bin").write_bytes(records.tobytes())


def write_cifar_python(place, batches):
    import pickle  # noqa: TID251 - the format's own

    for name, (pixels, ids) in batches.items():
        rows = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
        batch = {b"data": rows, b"labels": [int(each) for each in ids], b"batch_label": b"x"}
        (place / name).write_bytes(pickle.dumps(batch, protocol=2))


@pytest.fixture
def cifar_batches():
    rng = np.random.default_rng(4)
    names = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
    return {
        name: (rng.integers(0, 256, (4, 32, 32, 3)).astype(np.uint8), rng.integers(0, 10, 4))
        for name in names
    }


@pytest.mark.parametrize("write", [write_cifar_binary, write_cifar_python])
def test_cifar_10_is_read_in_both_forms(tmp_path, cifar_batches, write):
    place = tmp_path / "cifar-10-batches"
    place.mkdir()
    write(place, cifar_batches)
    for folder in (place, tmp_path):
        train, test, labels = cifar.load(folder)
        assert labels == cifar.LABELS_10
        np.testing.assert_array_equal(train.pixels_nhwc[4:8], cifar_batches["data_batch_2"][0])
        np.testing.assert_array_equal(test.class_ids, cifar_batches["test_batch"][1])
    assert isinstance(sources.find(str(place)), sources.CifarSource)


def test_a_pickle_that_calls_something_is_refused(tmp_path, cifar_batches):
    import pickle  # noqa: TID251 - what is refused is made with it

    class Evil:
        def __reduce__(self):
            return print, ("called",)

    write_cifar_python(tmp_path, cifar_batches)
    (tmp_path / "data_batch_3").write_bytes(pickle.dumps({b"data": Evil()}))
    with pytest.raises(DataError, match=r"data_batch_3.*print, which is not data"):
        cifar.load(tmp_path)


def test_missing_and_truncated_cifar_batches_are_named(tmp_path, cifar_batches):
    with pytest.raises(DataError, match="no CIFAR batches"):
        cifar.load(tmp_path)
    write_cifar_binary(tmp_path, cifar_batches)
    path = tmp_path / "data_batch_4.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"data_batch_4\.bin has 12,291 bytes.*3,073"):
        cifar.load(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"lacks data_batch_4\.bin"):
        cifar.load(tmp_path)


def test_npz_is_read_with_either_set_of_names(tmp_path):
    pixels, ids = np.zeros((30, 4, 4), np.uint8), np.arange(30) % 3
    pixels[:, 0, 0] = np.arange(30)
    np.savez(tmp_path / "a.npz", x_train=pixels, y_train=ids[:, None], x_test=pixels, y_test=ids)
    dataset = sources.find(str(tmp_path / "a.npz")).load()
    assert dataset.test.pixels_nhwc.shape == (30, 4, 4, 1)
    assert dataset.labels == ("0", "1", "2")
    np.savez(tmp_path / "b.npz", x=pixels)
    with pytest.raises(DataError, match="has the arrays x; expected x_train"):
        sources.find(str(tmp_path / "b.npz")).load()
    (tmp_path / "c.npz").write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"cannot be read as \.npz"):
        sources.find(str(tmp_path / "c.npz")).load()


@pytest.mark.tensorflow
def test_tfrecord_shards_are_read_and_damage_is_named(tmp_path):
    import tensorflow as tf

    def write(path, label, key="image/encoded"):
        picture = png(np.full((5, 5, 3), label * 10, np.uint8))
        feature = {
            key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[picture])),
            "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        }
        record = tf.train.Example(features=tf.train.Features(feature=feature))
        with tf.io.TFRecordWriter(str(path)) as writer:
            for _ in range(3):
                writer.write(record.SerializeToString())

    for shard, label in (("train-0", 1), ("train-1", 2), ("validation-0", 2)):
        write(tmp_path / f"{shard}.tfrecord", label)
    source = sources.TFRecordSource(data_dir=tmp_path, first_label=1, labels=("x", "y"))
    dataset = source.load()
    assert sorted({*dataset.train.class_ids, *dataset.validation.class_ids}) == [0, 1]
    assert dataset.test.names[0] == "validation-0.tfrecord#0"
    write(tmp_path / "train-2.tfrecord", 1, key="picture")
    with pytest.raises(DataError, match=r"train-2\.tfrecord#0 has the keys .*picture"):
        source.load()
    path = tmp_path / "train-2.tfrecord"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"train-2\.tfrecord"):
        source.load()


def test_tensorflow_datasets_are_asked_for_by_name_when_they_are_missing():
    source = sources.TfdsSource(name="imagenette")
    try:
        import tensorflow_datasets  # noqa: F401
    except ImportError:
        with pytest.raises(UsageError, match="pip install tensorflow-datasets"):
            source.load()


def test_drawn_letters_follow_from_their_seed_and_differ():
    first, again = (sources.XoSource(images=200).load() for _ in range(2))
    assert first.train.hashes() == again.train.hashes()
    every = [*first.train.hashes(), *first.validation.hashes(), *first.test.hashes()]
    assert len(set(every)) == 200
    assert first.labels == ("X", "O")
    x, o = (first.train.pixels_nhwc[first.train.class_ids == each].mean(0) for each in (0, 1))
    # Ink in the middle is what makes an X, and what an O lacks.
    assert x[4, 4, 0] > 150
    assert o[4, 4, 0] < 20
    other = sources.XoSource(images=200, drawing_seed=2).load()
    assert first.train.hashes() != other.train.hashes()


def test_views_of_a_source_narrow_it():
    plain = sources.DigitsSource().load()
    eight = sources.DigitsSource(one_against_rest="8").load()
    assert eight.labels == ("not 8", "8")
    assert int(eight.test.class_ids.sum()) == int((plain.test.class_ids == 8).sum())
    some = sources.DigitsSource(classes=("7", "3")).load()
    assert set(some.train.class_ids) == {0, 1}
    np.testing.assert_array_equal(
        some.test.pixels_nhwc[some.test.class_ids == 0],
        plain.test.pixels_nhwc[plain.test.class_ids == 7],
    )
    few = sources.DigitsSource(per_class=5).load()
    assert list(np.bincount(few.train.class_ids)) == [5] * 10
    assert few.train.hashes() == sources.DigitsSource(per_class=5).load().train.hashes()
    assert len(few.test) == len(plain.test)
    with pytest.raises(UsageError, match="'eight'"):
        sources.DigitsSource(one_against_rest="eight").load()


def test_idx_and_cifar_and_plain_folders_are_told_apart(tmp_path):
    assert isinstance(sources.find("digits"), sources.DigitsSource)
    folder = tmp_path / "idx"
    folder.mkdir()
    header = struct.pack(">BBBBIII", 0, 0, 8, 3, 1, 2, 2)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + bytes(4)))
    assert isinstance(sources.find(str(folder)), sources.IdxSource)
    assert isinstance(sources.find(str(tmp_path)), sources.ImagesSource)


def test_the_table_of_sources_is_the_union():
    from typing import get_args

    union = get_args(sources.DataSource)[0]
    assert set(sources.SOURCES.values()) == set(get_args(union))


def test_files_say_when_their_labels_are_too_few():
    with pytest.raises(DataError, match="2 files came with labels"):
        Files(("a", "b"), np.array([1]), lambda _: b"")
