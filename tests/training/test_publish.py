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
