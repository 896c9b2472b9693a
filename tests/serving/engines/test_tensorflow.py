"""SavedModels from elsewhere, of TensorFlow 1 and 2: what runs, what is told, and how errors read."""

import numpy as np
import pytest

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """A SavedModel as TensorFlow 2 writes it."""
    import tensorflow as tf

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec(None, tf.string, name="text")])
        def same(self, text):
            return {"same": tf.identity(text)}

        @tf.function(input_signature=[tf.TensorSpec([2], tf.float32, name="x")])
        def rounded(self, x):
            return {"rounded": tf.quantization.quantize(x, -1.0, 1.0, tf.qint8)[0]}

    module = Module()
    path = tmp_path_factory.mktemp("second") / "1"
    tf.saved_model.save(module, str(path), {"same": module.same, "rounded": module.rounded})
    return path


@pytest.fixture(scope="module")
def loaded(second):
    from serving.engines.tensorflow import SavedModel

    return SavedModel(second)


@pytest.mark.parametrize("shape", [(), (2,), (1, 2)])
def test_strings_keep_their_bytes_whatever_their_shape(loaded, shape):
    text = np.full(shape, b"", np.object_)
    text[...] = b"ab\0\0"
    same = loaded.run("same", {"text": text})["same"]
    assert (same.dtype, same.shape) == (np.dtype(object), shape)
    assert same.ravel().tolist() == [b"ab\0\0"] * text.size


def test_a_signature_whose_tensors_cannot_be_sent_is_left_out_and_told(loaded):
    assert "rounded" not in loaded.signatures
    assert "same" in loaded.signatures
    assert loaded.note == (
        "Left out are signatures whose tensors cannot be sent: rounded ('rounded' is of qint8)."
    )
