"""Weights that were not trained here: published, served, and asked with an image."""

import io
import json
import urllib.request

import numpy as np
import pytest
from PIL import Image

from tests.e2e.conftest import convzoo, serve
from zoo.artifact import read_manifest, verify

pytestmark = [pytest.mark.e2e, pytest.mark.tensorflow, pytest.mark.openvino]


def photo(height, width):
    """A PNG with some structure, and its pixels."""
    small = np.random.RandomState(5).randint(0, 256, (7, 9, 3)).astype(np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue(), image


def centre(image, side=256, size=224):
    """The middle of an image whose shorter side is 256, as torchvision and Keras's figures have it."""
    scale = side / min(image.size)
    width, height = (max(side, round(each * scale)) for each in image.size)
    resized = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    top, left = (height - size) // 2, (width - size) // 2
    return resized[top : top + size, left : left + size].astype(np.float32)


def classified(server, model, png, classes):
    """Probabilities by label, as the server gives them for an image."""
    request = urllib.request.Request(
        f"{server.url}/api/models/{model}/classify?top_k={classes}", png
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


def scores(answer):
    return {each["label"]: each["probability"] for each in answer["results"][0]}


def test_torchvisions_weights_are_published_and_served(tmp_path):
    import keras
    from safetensors.numpy import save_file

    import zoo
    from tests.zoo.test_weights import torch_state

    png, image = photo(300, 420)
    x = (centre(image) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    x = x[None].astype(np.float32)
    model = zoo.create("resnet18_v1_5", num_classes=5)
    state = torch_state(model, "resnet18_v1_5")
    save_file(state, tmp_path / "x.safetensors")
    zoo.weights.load(model, tmp_path / "x.safetensors")
    # So that every class has its share, and a wrong input would show.
    state["fc.weight"] /= np.asarray(model(x, training=False)).std()
    save_file(state, tmp_path / "x.safetensors")
    zoo.weights.load(model, tmp_path / "x.safetensors")
    expected = np.asarray(keras.ops.softmax(model(x, training=False)))[0]
    assert expected.max() < 0.99
    labels = ["tench", "shark", "cock", "hen", "ostrich"]
    (tmp_path / "labels.txt").write_text("\n".join(labels))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(png)
    base = tmp_path / "models"
    done = convzoo(
        *("publish", "resnet18", "--weights", tmp_path / "x.safetensors", "--json"),
        *("--labels", tmp_path / "labels.txt", "--images", tmp_path / "photos"),
        *("--base-path", base),
    )
    told = json.loads(done.stdout)
    assert (told["model"], told["version"]) == ("resnet18", 1)
    manifest = verify(base / "resnet18" / "1")
    assert manifest.architecture.name == "resnet18_v1_5"
    assert manifest.labels == tuple(labels)
    assert manifest.origin.golden == "images"
    assert not manifest.metrics

    with serve(base, tmp_path) as server:
        found = scores(classified(server, "resnet18", png, 5))
    np.testing.assert_allclose([found[label] for label in labels], expected, atol=1e-4)

    refused = convzoo("gate", base / "resnet18" / "1", check=False)
    assert refused.returncode == 2
    assert "--data SOURCE" in refused.stderr
    assert "resnet18" in convzoo("versions", "--base-path", base).stdout


@pytest.mark.slow
def test_a_network_of_keras_applications_answers_as_it_does_in_keras(tmp_path):
    import keras

    keras.utils.set_random_seed(3)
    theirs = keras.applications.VGG16(weights=None)
    theirs.save_weights(tmp_path / "vgg16.weights.h5")
    base = tmp_path / "models"
    convzoo(
        *("publish", "vgg16", "--weights", tmp_path / "vgg16.weights.h5", "--base-path", base),
        timeout=900,
    )
    manifest = read_manifest(base / "vgg16" / "1")
    assert manifest.origin.golden == "synthetic"
    assert manifest.labels[999] == "class 999"
    png, image = photo(256, 256)
    x = keras.applications.vgg16.preprocess_input(centre(image)[None])
    expected = theirs.predict(x, verbose=0)[0]
    with serve(base, tmp_path) as server:
        found = scores(classified(server, "vgg16", png, 1000))
    served = np.array([found[f"class {number}"] for number in range(1000)])
    # Of a network without training every class is as good: what is left are the differences.
    np.testing.assert_allclose(served, expected, rtol=1e-4)
    assert served.argmax() == expected.argmax()
    assert expected.std() > 10 * np.abs(served - expected).max()
