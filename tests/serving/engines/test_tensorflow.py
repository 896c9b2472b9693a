"""SavedModels from elsewhere, of TensorFlow 1 and 2: what runs, what is told, and how errors read."""

import numpy as np
import pytest

from serving.errors import InvalidRequestError, LoadError
from serving.messages import TensorSpec

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

        @tf.function(input_signature=[tf.TensorSpec([], tf.float32, name=n) for n in "pq"])
        def product(self, p, q=tf.constant(3.0)):  # noqa: B008 - as TensorFlow wants it
            return {"product": p * q}

    module = Module()
    path = tmp_path_factory.mktemp("second") / "1"
    names = ("same", "rounded", "product")
    tf.saved_model.save(module, str(path), {name: getattr(module, name) for name in names})
    return path


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A SavedModel as estimators of TensorFlow 1 wrote it."""
    import tensorflow as tf

    v1 = tf.compat.v1
    path = tmp_path_factory.mktemp("first") / "1"
    with tf.Graph().as_default(), v1.Session() as session:
        examples = v1.placeholder(tf.string, [None], "tf_example")
        parsed = tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([2], tf.float32)})
        scores = tf.identity(parsed["x"], "scores")
        mean = tf.reduce_mean(parsed["x"], axis=1, name="mean")
        making = v1.saved_model.signature_def_utils
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {
                "serving_default": making.classification_signature_def(examples, None, scores),
                "mean": making.regression_signature_def(examples, mean),
            },
        )
        builder.save()
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


def test_an_error_has_its_reason_and_no_stack(first):
    from serving.engines.tensorflow import SavedModel

    with pytest.raises(InvalidRequestError) as refused:
        SavedModel(first).run("mean", {"inputs": np.array([b"none"], np.object_)})
    text = str(refused.value)
    assert text.startswith("TensorFlow refused the input: Could not parse example input")
    assert "/" not in text.replace("ParseExample/", "")
    assert "line" not in text


def test_a_path_of_the_server_is_not_told(tmp_path):
    from serving.engines.tensorflow import SavedModel

    with pytest.raises(LoadError) as refused:
        SavedModel(tmp_path / "7")
    assert "does not exist at: 7/" in str(refused.value)
    assert str(tmp_path) not in str(refused.value)


@pytest.mark.parametrize(
    ("told", "brief"),
    [
        ("Plain.", "Plain."),
        (
            "Graph execution error:\n\nDetected at node A/B defined at (most recent call last):\n"
            '  File "/srv/convzoo/worker.py", line 225, in <module>\n\n'
            '  File "/srv/convzoo/worker.py", line 7, in main\n    model.run()\n\n'
            "2 root error(s) found.\n  (0) INVALID_ARGUMENT:  No.\n\t [[{{node A/B}}]]\n"
            "  (1) ABORTED: x\n0 successful operations. [Op:__inference_f_1]",
            "2 root error(s) found.\n  (0) INVALID_ARGUMENT:  No.\n\t [[{{node A/B}}]]\n"
            "  (1) ABORTED: x\n0 successful operations.",
        ),
        (
            "No.\n\t [[node A]]\n\nOriginal stack trace for 'A':\n"
            '  File "/srv/a.py", line 1, in <module>\n    a()\n',
            "No.\n\t [[node A]]",
        ),
        ("<stack traces unavailable>\n" + "x" * 900, "x" * 500),
        ("Graph execution error:\n", "ValueError"),
    ],
)
def test_where_a_node_was_made_is_not_told(told, brief):
    from serving.engines.tensorflow import _brief

    assert _brief(ValueError(told)) == brief


def test_metadata_of_tensorflow_1_is_what_the_file_says(first):
    from serving.engines.tensorflow import SavedModel

    signatures = SavedModel(first).signatures
    classify, regress = signatures["serving_default"], signatures["mean"]
    assert classify.method_name == "tensorflow/serving/classify"
    assert regress.method_name == "tensorflow/serving/regress"
    assert classify.inputs == {"inputs": TensorSpec("inputs", "bytes", (None,), "tf_example:0")}
    assert classify.outputs == {"scores": TensorSpec("scores", "float32", (None, 2), "scores:0")}
    assert regress.outputs == {"outputs": TensorSpec("outputs", "float32", (None,), "mean:0")}


def test_metadata_of_tensorflow_2_is_what_the_file_says(loaded):
    same = loaded.signatures["same"]
    assert same.method_name == "tensorflow/serving/predict"
    assert same.inputs == {"text": TensorSpec("text", "bytes", None, "same_text:0")}
    assert set(same.outputs) == {"same"}
    assert "PartitionedCall" in same.outputs["same"].tensor_name


def test_the_defaults_of_a_signature_are_told(loaded):
    assert loaded.signatures["product"].defaults == {"q": np.float32(3.0)}
    assert loaded.signatures["same"].defaults == {}
