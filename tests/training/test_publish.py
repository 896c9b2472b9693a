"""Publishing onto what cannot be written."""

from pathlib import Path

import numpy as np
import pytest

from zoo.errors import ArtifactError

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
