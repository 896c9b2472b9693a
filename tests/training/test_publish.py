"""Publishing onto what cannot be written."""

from pathlib import Path

import numpy as np
import pytest

from zoo.errors import ArtifactError, DataError

pytestmark = pytest.mark.tensorflow


def test_a_disk_that_is_full_for_tensorflow_is_an_answer():
    from training.publish import write_warmup

    image = np.zeros((2, 4, 4, 1), np.float32)
    with pytest.raises(ArtifactError, match=r"TensorFlow cannot write /dev/full: .*No space left"):
        write_warmup(Path("/dev/full"), "m", image)


def test_a_saved_model_that_cannot_be_written_is_an_answer(tmp_path):
    import keras

    from training.publish import SIGNATURES, export

    (tmp_path / "file").touch()
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    with pytest.raises(ArtifactError, match=r"TensorFlow cannot write .*file/1"):
        export(model, tmp_path / "file" / "1", SIGNATURES)


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_fewer_bits_need_validation_images_and_say_so_first(tmp_path, monkeypatch, precision):
    from training.data.dataset import Images
    from training.publish import publish
    from training.run import Run

    run = Run(tmp_path / "run")
    run.path.mkdir()
    none = Images(np.zeros((0, 4, 4, 1), np.uint8), np.zeros(0, np.int64))
    run.write_sample("validation", none, 10)
    monkeypatch.setattr(Run, "require_complete", lambda self: None)
    monkeypatch.setattr("training.openvino.require", lambda precision: None)
    with pytest.raises(DataError, match=rf"no validation images, .*what {precision} costs"):
        publish(run, tmp_path / "models", precision=precision)
    assert not (tmp_path / "models").exists()


def test_differences_of_large_logits_count():
    from training.verify import difference

    # The square of 1e30 is infinite in float32.
    expected = np.array([[1e30, -1e30], [2e30, 0]], np.float32)
    assert difference(expected, expected) == 0
    assert difference(-expected, expected) > 1
    assert np.isnan(difference(np.full_like(expected, np.nan), expected))


def test_a_network_that_diverged_is_not_published(tmp_path):
    import keras

    from training import recipe as recipes
    from training.publish import publish
    from training.run import Run
    from training.train import train
    from zoo.errors import ParityError

    run = Run(tmp_path / "run")
    train(recipes.read("xo", ["epochs=1"]), run)
    model = keras.models.load_model(run.model)
    model.set_weights([np.full_like(each, np.inf) for each in model.get_weights()])
    model.save(run.model)
    with pytest.raises(ParityError, match=r"answers \d+ of \d+ images with NaN .* diverged"):
        publish(run, tmp_path / "models")
    assert not list((tmp_path / "models").rglob("[0-9]*"))
