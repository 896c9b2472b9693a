"""Weights of others in our networks: files are written here, answers are worked out elsewhere."""

import contextlib
import hashlib
import io
import json
import os
import pickle  # noqa: TID251 - to write what torch writes
import re
import struct
import sys
import threading
import time
import types
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import zoo
from zoo.errors import DataError, UsageError
from zoo.weights.choose import choose
from zoo.weights.inputs import in_words, preprocessing_of
from zoo.weights.load import num_classes
from zoo.weights.public import PUBLIC, fetch
from zoo.weights.readers import read
from zoo.weights.torch_file import read_torch

RNG = np.random.default_rng(7)


def draw(shape, fan_in=None):
    scale = np.sqrt(2 / (fan_in or np.prod(shape[1:]) or 1))
    return (RNG.normal(size=shape) * scale).astype(np.float32)


# --- files, as each library writes them ----------------------------------------------------------


def write_caffemodel(path, layers, *, old=False):
    """NetParameter with layers of the second format, or of the first, whose blobs have four sizes."""
    from zoo.weights.caffemodel import net_parameter

    net = net_parameter()()
    for name, arrays in layers.items():
        layer = (net.layers if old else net.layer).add()
        layer.name = name
        for array in arrays:
            blob = layer.blobs.add()
            blob.data.extend(array.ravel().tolist())
            if old:
                shape = (1,) * (4 - array.ndim) + array.shape
                blob.num, blob.channels, blob.height, blob.width = shape
            else:
                blob.shape.dim.extend(array.shape)
    path.write_bytes(net.SerializeToString())


def write_torch(path, tensors, *, evil=None, old=False, view=None, wrap=None):
    """What torch.save writes for a state dict: a zip, or the old form.

    `evil` is put in its place, `view` in place of every tensor's offset, sizes and strides; `wrap`
    puts the state dict among other things.
    """
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})

    def rebuild(*_):
        raise AssertionError

    rebuild.__module__, rebuild.__qualname__, rebuild.__name__ = (
        "torch._utils",
        "_rebuild_tensor_v2",
        "_rebuild_tensor_v2",
    )
    utils._rebuild_tensor_v2 = rebuild

    class Storage:
        def __init__(self, key, size):
            self.key, self.size = key, size

    class Tensor:
        def __init__(self, key, array):
            self.key, self.array = key, array

        def __reduce__(self):
            strides = tuple(step // 4 for step in self.array.strides)
            storage = Storage(self.key, self.array.size)
            return rebuild, (storage, *(view or (0, self.array.shape, strides)), False, {})

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if isinstance(value, Storage):
                identity = ("storage", torch.FloatStorage, value.key, "cpu", value.size)
                return (*identity, None) if old else identity
            return None

    before = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules |= {"torch": torch, "torch._utils": utils}
    try:
        buffer = io.BytesIO()
        state = {
            name: Tensor(str(index), array) for index, (name, array) in enumerate(tensors.items())
        }
        state = wrap(state) if wrap else state
        Pickler(buffer, protocol=2).dump(evil if evil is not None else state)
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    if old:
        head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
        keys = [str(index) for index in range(len(tensors))]
        pickles = [pickle.dumps(each, protocol=2) for each in head]
        pickles += [buffer.getvalue(), pickle.dumps(keys, protocol=2)]
        numbers = [struct.pack("<q", array.size) + array.tobytes() for array in tensors.values()]
        path.write_bytes(b"".join(pickles + numbers))
        return
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", buffer.getvalue())
        for index, array in enumerate(tensors.values()):
            archive.writestr(f"archive/data/{index}", np.ascontiguousarray(array).tobytes())


def write_keras_h5(path, model):
    """The layout of keras.applications' files: layer_names, weight_names, arrays."""
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{weight.name}:0" for weight in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, layer.get_weights(), strict=True):
                group.create_dataset(name, data=weight)


def torch_state(model, network):
    """A state dict with torchvision's names and shapes for one of our networks."""
    from zoo.weights.names import rule

    rename, state = rule(network, "torch"), {}
    for layer in model.layers:
        if not layer.weights:
            continue
        name, kernel = rename(layer.name), layer.weights[0].shape
        if type(layer).__name__ == "BatchNormalization":
            for part, low, high in (
                ("weight", 0.5, 1.5),
                ("bias", -0.5, 0.5),
                ("running_mean", -0.5, 0.5),
                ("running_var", 0.5, 1.5),
            ):
                state[f"{name}.{part}"] = RNG.uniform(low, high, kernel).astype(np.float32)
            continue
        shape = (kernel[3], kernel[2], *kernel[:2]) if len(kernel) == 4 else kernel[::-1]
        state[f"{name}.weight"] = draw(tuple(shape))
        if len(layer.weights) > 1:
            state[f"{name}.bias"] = draw((shape[0],), 100)
    return state


def agree(found, expected, most=1e-4):
    assert (
        np.abs(np.asarray(found) - np.asarray(expected)).max() < most * np.asarray(expected).std()
    )


# --- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [False, True])
def test_a_torch_file_is_read_without_torch(tmp_path, old):
    tensors = {
        "a.weight": draw((3, 4)),
        "b": draw((2, 3, 4, 5)).transpose(0, 2, 1, 3),
        "c": draw((7,)),
    }
    tensors["b"] = np.ascontiguousarray(tensors["b"])
    write_torch(tmp_path / "x.pth", tensors, old=old)
    found = read_torch(tmp_path / "x.pth")
    assert set(found) == set(tensors)
    for name, array in tensors.items():
        np.testing.assert_array_equal(found[name], array)


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_nothing_in_a_torch_file_is_executed(tmp_path, capsys):
    write_torch(tmp_path / "x.pth", {}, evil=Evil())
    with pytest.raises(DataError, match=r"asks to call .*print"):
        read_torch(tmp_path / "x.pth")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "view",
    [
        (0, (2,), (-1_000_000_000,)),
        (-1, (4,), (1,)),
        (100_000, (), ()),
        (4, (), ()),
        (1, (2, 2), (2, 1)),
        (0, (1_000_000, 1_000_000), (0, 0)),
        (0, (2**62, 4), (0, 0)),
        (0, (-1,), (1,)),
        (0, (2, 2), (1,)),
        (None, (4,), (1,)),
        (0, ("a",), (1,)),
        (0, (2.0,), (1,)),
        (0, 4, 1),
    ],
)
@pytest.mark.parametrize("old", [False, True])
def test_a_tensor_outside_its_storage_is_refused(tmp_path, view, old):
    write_torch(tmp_path / "x.pth", {"w": draw((4,), 1)}, view=view, old=old)
    with pytest.raises(DataError, match=r"x\.pth"):
        read_torch(tmp_path / "x.pth")


@pytest.mark.parametrize("old", [False, True])
def test_a_tensor_without_axes_or_without_values_is_read(tmp_path, old):
    array = draw((4,), 1)
    for view, expected in (((3, (), ()), array[3]), ((0, (0, 3), (3, 1)), np.zeros((0, 3)))):
        write_torch(tmp_path / "x.pth", {"w": array}, view=view, old=old)
        np.testing.assert_array_equal(read_torch(tmp_path / "x.pth")["w"], expected)


@pytest.mark.parametrize("old", [False, True])
def test_a_damaged_torch_file_is_invalid_data(tmp_path, old):
    write_torch(tmp_path / "x.pth", {"a": draw((3,)), "b": draw((2,))}, old=old)
    whole = (tmp_path / "x.pth").read_bytes()
    damaged = tmp_path / "y.pth"
    for end in range(0, len(whole), 1 if old else 7):
        damaged.write_bytes(whole[:end])
        with pytest.raises(DataError):
            read_torch(damaged)
    rng = np.random.default_rng(5)
    for _ in range(300):
        changed = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 5)):
            changed[place] = rng.integers(256)
        damaged.write_bytes(changed)
        with contextlib.suppress(DataError):
            read_torch(damaged)


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(b"}%bNs.", id="key"),
        pytest.param(b"}(%bNu.", id="keys"),
        pytest.param(b"%b)R.", id="function"),
        pytest.param(b"X\1\0\0\0a%b\x93.", id="name"),
        pytest.param(b"(Nctorch\nFloatStorage\n%bNK\1tQ.", id="storage"),
        pytest.param(b"%b.", id="number"),
    ],
)
def test_a_tower_of_tuples_costs_no_time(tmp_path, program):
    tower = ()
    for _ in range(60):
        tower = (tower, tower)
    steps = pickle.dumps(tower, protocol=2)[2:-1]
    (tmp_path / "x.pth").write_bytes(b"\x80\2" + program.replace(b"%b", steps))
    with pytest.raises(DataError):
        read_torch(tmp_path / "x.pth")


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
def test_the_state_dict_is_taken_out_of_a_checkpoint(tmp_path, wrapper):
    array = draw((4,), 1)

    def wrap(state):
        return {wrapper: state, "epoch": 3, "optimizer": {"param_groups": [{"lr": 0.1}]}}

    write_torch(tmp_path / "x.pth", {"w": array}, wrap=wrap)
    found = read_torch(tmp_path / "x.pth")
    assert list(found) == ["w"]
    np.testing.assert_array_equal(found["w"], array)


def test_a_checkpoint_without_tensors_says_what_it_has(tmp_path):
    write_torch(tmp_path / "x.pth", {"w": draw((4,))}, wrap=lambda state: {"net": state})
    with pytest.raises(DataError, match=r"no tensors by name. It has 'net'.*'state_dict'"):
        read_torch(tmp_path / "x.pth")


def test_an_h5_file_without_names_of_layers_says_which_is_read(tmp_path):
    import h5py

    for content in ({"a": 1}, {"model_weights": 1}):
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file.update(content)
        with pytest.raises(DataError, match=r"keras\.applications are read"):
            read(tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["layer_names"] = [b"x"]
        file["x"] = 1
    with pytest.raises(DataError, match="no h5 file of Keras weights"):
        read(tmp_path / "x.h5")


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", ["x.weights.h5", "x.keras"])
def test_what_keras_3_writes_is_read_by_the_order_of_layers(tmp_path, name):
    saved, model = zoo.create("lenet5_modern"), zoo.create("lenet5_modern")
    (saved.save if name.endswith(".keras") else saved.save_weights)(tmp_path / name)
    zoo_weights().load(model, tmp_path / name)
    for mine, theirs in zip(model.get_weights(), saved.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(DataError, match=r"does not fit lenet_caffe(?s:.*)conv1 takes"):
        zoo_weights().load(zoo.create("lenet_caffe"), tmp_path / name)


def test_a_type_that_numpy_lacks_is_invalid_data(tmp_path):
    header = json.dumps({"w": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0")
    with pytest.raises(DataError, match="a type that NumPy cannot hold"):
        read(path)


@pytest.mark.parametrize("suffix", [".pth", ".caffemodel", ".h5", ".keras", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04" + b"\0" * 40])
def test_a_file_that_is_not_what_its_suffix_says_is_named(tmp_path, suffix, content):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"x{suffix}"):
        read(path)


def test_what_cannot_be_read_names_what_can(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"")
    with pytest.raises(DataError, match=r"\.h5, \.keras, \.safetensors, \.pth"):
        read(tmp_path / "x.onnx")
    with pytest.raises(DataError, match="There is no file"):
        read(tmp_path / "gone.h5")


@pytest.mark.parametrize(("shape", "numbers"), [((-1, -1), 1), ((2**32, 2**32), 0)])
def test_a_caffemodel_whose_shapes_cannot_be_is_refused(tmp_path, shape, numbers):
    from zoo.weights.caffemodel import net_parameter

    net = net_parameter()()
    blob = net.layer.add(name="conv1").blobs.add(data=[1.0] * numbers)
    blob.shape.dim.extend(shape)
    path = tmp_path / "x.caffemodel"
    path.write_bytes(net.SerializeToString())
    with pytest.raises(DataError, match=rf"conv1 says shape .* and has {numbers} numbers"):
        read(path)


@pytest.mark.parametrize("old", [False, True])
def test_a_caffemodel_is_read_in_both_of_its_formats(tmp_path, old):
    kernel, bias = draw((4, 3, 2, 2)), draw((4,), 1)
    write_caffemodel(tmp_path / "x.caffemodel", {"conv1": [kernel, bias]}, old=old)
    arrays, dialect = read(tmp_path / "x.caffemodel")
    assert dialect == "caffe"
    np.testing.assert_array_equal(arrays["conv1/0"], kernel)
    np.testing.assert_array_equal(arrays["conv1/1"].ravel(), bias)


# Numbers of the first format, names of the second.
CAFFE_KINDS = {"conv": (4, "Convolution"), "relu": (18, "ReLU"), "norm": (15, "LRN")}
CAFFE_KINDS["pool"] = (17, "Pooling")


def list_layers(path, order, *, old):
    """Adds what Caffe lists of a whole AlexNet: every layer, what it takes and what it gives."""
    from zoo.weights.caffemodel import net_parameter

    net = net_parameter().FromString(path.read_bytes())
    weights = {layer.name: layer for layer in (net.layers if old else net.layer)}
    made = net_parameter()()
    names = [
        *("conv1", "relu1", *(("norm1", "pool1") if order == "norm-pool" else ("pool1", "norm1"))),
        *("conv2", "relu2", *(("norm2", "pool2") if order == "norm-pool" else ("pool2", "norm2"))),
        *("conv3", "conv4", "conv5", "pool5"),
    ]
    before = "data"
    for name in names:
        layer = (made.layers if old else made.layer).add()
        if name in weights:
            layer.CopyFrom(weights[name])
        layer.name = name
        kind = CAFFE_KINDS.get(name[:-1], (14, "InnerProduct"))
        layer.type = kind[0] if old else kind[1]
        layer.bottom.append(before)
        before = before if name.startswith("relu") else name
        layer.top.append(before)
        if kind[1] == "LRN":
            layer.lrn_param.alpha = 1e-4
    path.write_bytes(made.SerializeToString())


@pytest.mark.tensorflow
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("network", "order", "options", "fault"),
    [
        ("alexnet", "norm-pool", {"lrn": "caffe"}, None),
        ("caffenet", "pool-norm", {}, None),
        (
            "alexnet",
            "pool-norm",
            {"lrn": "caffe"},
            "norm1 comes after a pooling.*weights for caffenet",
        ),
        ("caffenet", "norm-pool", {}, "norm1 comes after a convolution.*weights for alexnet"),
        ("alexnet", "norm-pool", {}, "k 1, alpha 2e-05 of each.*with 5 channels, k 2.*caffe"),
    ],
)
def test_a_caffemodel_that_computes_something_else_is_refused(
    tmp_path, network, order, options, fault, old
):
    model = zoo.create(network, input_shape=(67, 67, 3), include_top=False, **options)
    layers = {}
    for layer in model.layers:
        if layer.weights:
            h, w, c, k = layer.weights[0].shape
            layers[layer.name] = [np.zeros((k, c, h, w), np.float32), np.zeros(k, np.float32)]
    file = tmp_path / "x.caffemodel"
    write_caffemodel(file, layers, old=old)
    list_layers(file, order, old=old)
    before = model.get_layer("conv2").get_weights()[1]
    if fault is None:
        zoo_weights().load(model, file)
        return
    with pytest.raises(DataError, match=fault):
        zoo_weights().load(model, file)
    np.testing.assert_array_equal(model.get_layer("conv2").get_weights()[1], before)


# --- loading, held against independent definitions -----------------------------------------------


@pytest.mark.tensorflow
@pytest.mark.jax
@pytest.mark.parametrize("old", [False, True])
def test_bvlc_alexnet_answers_as_caffe_defines_it(tmp_path, old):
    from tests.zoo import reference

    shapes = {
        "conv1": (96, 3, 11, 11),
        "conv2": (256, 48, 5, 5),
        "conv3": (384, 256, 3, 3),
        "conv4": (384, 192, 3, 3),
        "conv5": (256, 192, 3, 3),
        "fc6": (4096, 256 * 2 * 2),
        "fc7": (4096, 4096),
        "fc8": (10, 4096),
    }
    layers = {name: [draw(shape), draw(shape[:1], 100)] for name, shape in shapes.items()}
    write_caffemodel(tmp_path / "x.caffemodel", layers, old=old)
    options = PUBLIC["alexnet/caffe"].options | {"input_shape": (99, 99, 3), "num_classes": 10}
    model = zoo.create("alexnet", **options)
    zoo_weights().load(model, tmp_path / "x.caffemodel")
    x = RNG.normal(size=(2, 3, 99, 99)).astype(np.float32) * 50
    w = {f"{name}/{i}": array for name, arrays in layers.items() for i, array in enumerate(arrays)}
    agree(model(x.transpose(0, 2, 3, 1), training=False), reference.caffe_alexnet(w, x))


def zoo_weights():
    import zoo.weights

    return zoo.weights


@pytest.mark.tensorflow
@pytest.mark.jax
def test_bvlc_googlenet_answers_as_caffe_defines_it(tmp_path):
    from tests.zoo import reference
    from zoo.weights.names import rule

    model = zoo.create("googlenet", input_shape=(97, 97, 3), num_classes=10)
    rename, layers = rule("googlenet", "caffe"), {}
    for layer in model.layers:
        if layer.weights:
            kernel = layer.weights[0].shape
            shape = (kernel[3], kernel[2], *kernel[:2]) if len(kernel) == 4 else kernel[::-1]
            layers[rename(layer.name)] = [draw(tuple(shape)), draw(tuple(shape[:1]), 100)]
    assert {"conv1/7x7_s2", "inception_4c/5x5_reduce", "inception_5b/pool_proj"} <= set(layers)
    assert len(layers) == 58  # 57 convolutions and one dense layer
    write_caffemodel(tmp_path / "x.caffemodel", layers)
    zoo_weights().load(model, tmp_path / "x.caffemodel")
    x = RNG.normal(size=(2, 3, 97, 97)).astype(np.float32) * 10
    w = {f"{name}/{i}": array for name, arrays in layers.items() for i, array in enumerate(arrays)}
    agree(model(x.transpose(0, 2, 3, 1), training=False), reference.caffe_googlenet(w, x))


@pytest.mark.tensorflow
@pytest.mark.jax
@pytest.mark.parametrize(
    ("network", "definition", "size", "tensors"),
    [
        ("alexnet_owt", "torch_alexnet", 95, 16),
        ("vgg11_bn", "torch_vgg11_bn", 64, 54),
        ("googlenet_bn", "torch_googlenet", 97, 287),
        ("resnet18_v1_5", "torch_resnet18", 65, 102),
        ("resnet50_v1_5", "torch_resnet50", 65, 267),
        ("densenet121", "torch_densenet121", 65, 606),
    ],
)
def test_torchvisions_weights_answer_as_torchvision_defines_them(
    tmp_path, network, definition, size, tensors
):
    from safetensors.numpy import save_file

    from tests.zoo import reference

    model = zoo.create(network, input_shape=(size, size, 3), num_classes=10)
    state = torch_state(model, network)
    assert len(state) == tensors
    write_torch(tmp_path / "x.pth", state)
    save_file(state, tmp_path / "x.safetensors")
    x = RNG.normal(size=(2, 3, size, size)).astype(np.float32)
    expected = getattr(reference, definition)(state, x)
    for name in ("x.pth", "x.safetensors"):
        zoo_weights().load(model, tmp_path / name)
        agree(model(x.transpose(0, 2, 3, 1), training=False), expected)


def epsilons(model):
    return {layer.epsilon for layer in model.layers if type(layer).__name__ == "BatchNormalization"}


@pytest.mark.tensorflow
@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "theirs"),
    [
        ("vgg16", "VGG16"),
        ("vgg19", "VGG19"),
        ("resnet50_keras", "ResNet50"),
        ("resnet101_keras", "ResNet101"),
        ("densenet121", "DenseNet121"),
        ("densenet201", "DenseNet201"),
    ],
)
def test_keras_applications_networks_answer_the_same(tmp_path, network, theirs):
    import keras

    reference = getattr(keras.applications, theirs)(
        weights=None, input_shape=(64, 64, 3), classes=10, classifier_activation=None
    )
    for layer in reference.layers:
        if type(layer).__name__ == "BatchNormalization":
            low = [0.5, -0.5, -0.5, 0.5]
            layer.set_weights(
                [
                    RNG.uniform(a, a + 1, w.shape)
                    for a, w in zip(low, layer.get_weights(), strict=True)
                ]
            )
    write_keras_h5(tmp_path / "x.h5", reference)
    options = PUBLIC[f"{network}/keras"].options
    model = zoo.create(network, input_shape=(64, 64, 3), num_classes=10, **options)
    zoo_weights().load(model, tmp_path / "x.h5")
    x = RNG.normal(size=(2, 64, 64, 3)).astype(np.float32)
    agree(model(x, training=False), reference(x, training=False), 1e-3)
    assert epsilons(model) == epsilons(reference)
    reference.save_weights(tmp_path / "x.weights.h5")
    numbered = zoo.create(network, input_shape=(64, 64, 3), num_classes=10, **options)
    zoo_weights().load(numbered, tmp_path / "x.weights.h5")
    agree(numbered(x, training=False), reference(x, training=False), 1e-3)
    keras.backend.clear_session()


@pytest.mark.tensorflow
def test_what_does_not_fit_is_named_with_both_shapes_and_nothing_is_changed(tmp_path):
    model = zoo.create("alexnet_owt", input_shape=(63, 63, 3), num_classes=10)
    state = torch_state(model, "alexnet_owt")
    state["classifier.6.weight"] = draw((1000, 4096))
    del state["features.3.weight"], state["features.3.bias"]
    write_torch(tmp_path / "x.pth", state)
    before = model.get_weights()
    with pytest.raises(DataError) as refused:
        zoo_weights().load(model, tmp_path / "x.pth")
    assert "2 layers differ" in str(refused.value)
    assert "conv2: the file has no features.3" in str(refused.value)
    assert "logits takes [4096, 10] [10]; classifier.6 in the file has [4096, 1000] [10]" in str(
        refused.value
    )
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.tensorflow
def test_timms_vgg_has_its_classifier_as_convolutions(tmp_path):
    from safetensors.numpy import save_file

    model = zoo.create("vgg11", input_shape=(64, 64, 3), num_classes=10)
    state = torch_state(model, "vgg11")
    write_torch(tmp_path / "x.pth", state)
    zoo_weights().load(model, tmp_path / "x.pth")
    expected = model.get_weights()
    timms = {
        "classifier.0": "pre_logits.fc1",
        "classifier.3": "pre_logits.fc2",
        "classifier.6": "head.fc",
    }
    spelled = {}
    for name, array in state.items():
        layer, _, part = name.rpartition(".")
        shapes = {
            "classifier.0.weight": (4096, 512, 2, 2),
            "classifier.3.weight": (4096, 4096, 1, 1),
        }
        spelled[f"{timms.get(layer, layer)}.{part}"] = array.reshape(shapes.get(name, array.shape))
    save_file(spelled, tmp_path / "x.safetensors")
    model.set_weights([np.zeros_like(each) for each in expected])
    zoo_weights().load(model, tmp_path / "x.safetensors")
    for a, b in zip(expected, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.tensorflow
def test_a_network_nobody_publishes_says_so(tmp_path):
    write_torch(tmp_path / "x.pth", {"a": draw((2, 2))})
    with pytest.raises(UsageError, match=r"No rule for weights of 'lenet5 \(torch\)'"):
        zoo_weights().load(zoo.create("lenet5"), tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("network", "dialect"),
    [
        ("resnet50", "torch"),
        ("resnet50", "keras"),
        ("resnet50_keras", "torch"),
        ("resnet50_v1_5", "keras"),
        ("resnet20", "torch"),
        ("vgg11_lrn", "torch"),
        ("vgg11", "keras"),
        ("vgg16_bn", "keras"),
        ("vgg16_cifar", "keras"),
        ("vgg99", "torch"),
    ],
)
def test_a_form_that_computes_something_else_has_no_rule(network, dialect):
    from zoo.weights.names import rule

    with pytest.raises(UsageError, match=re.escape(f"'{network} ({dialect})'")):
        rule(network, dialect)


def test_every_public_file_has_a_rule():
    from zoo.weights.names import rule

    dialects = {"keras": "keras", "torchvision": "torch", "timm": "torch", "caffe": "caffe"}
    for weights in PUBLIC.values():
        assert rule(weights.network, dialects[weights.name.partition("/")[2]])("logits")


@pytest.mark.tensorflow
def test_the_weights_of_a_deeper_network_are_refused(tmp_path):
    import keras

    from zoo.weights.names import vgg_keras

    size = {"input_shape": (32, 32, 3), "num_classes": 7}
    write_torch(
        tmp_path / "x.pth", torch_state(zoo.create("resnet34_v1_5", **size), "resnet34_v1_5")
    )
    model = zoo.create("resnet18_v1_5", **size)
    before = model.get_weights()
    with pytest.raises(DataError, match=r"fit resnet18_v1_5: no layer takes .*layer1\.2\.conv1"):
        zoo_weights().load(model, tmp_path / "x.pth")
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    keras.backend.clear_session()
    vgg19 = zoo.create("vgg19", input_shape=(32, 32, 3), include_top=False)
    rename = vgg_keras("vgg19")
    for layer in vgg19.layers:
        layer.name = rename(layer.name) or layer.name
    write_keras_h5(tmp_path / "x.h5", vgg19)
    with pytest.raises(DataError, match=r"no layer takes 6 of its 32 arrays.*block3_conv4"):
        zoo_weights().load(
            zoo.create("vgg16", input_shape=(32, 32, 3), include_top=False), tmp_path / "x.h5"
        )


@pytest.mark.tensorflow
def test_what_a_file_has_beside_the_network_is_passed_over(tmp_path):
    """The classifier, of a network without it; heads of training; batch norm's counters."""
    whole = zoo.create("googlenet_bn", input_shape=(64, 64, 3), num_classes=7, auxiliary=True)
    state = torch_state(whole, "googlenet_bn")
    state["conv1.bn.num_batches_tracked"] = np.array([3], np.float32)
    write_torch(tmp_path / "x.pth", state)
    for options in ({"num_classes": 7}, {"include_top": False}):
        model = zoo.create("googlenet_bn", input_shape=(64, 64, 3), **options)
        zoo_weights().load(model, tmp_path / "x.pth")
        np.testing.assert_array_equal(
            model.get_layer("conv1").kernel, state["conv1.conv.weight"].transpose(2, 3, 1, 0)
        )
    state = torch_state(zoo.create("vgg11", input_shape=(32, 32, 3)), "vgg11")
    write_torch(tmp_path / "x.pth", state)
    headless = zoo.create("vgg11", input_shape=(32, 32, 3), include_top=False)
    zoo_weights().load(headless, tmp_path / "x.pth")


@pytest.mark.tensorflow
def test_a_model_of_another_network_than_was_said_is_refused(tmp_path):
    write_torch(tmp_path / "x.pth", {"features.0.weight": draw((2, 2))})
    for network in ("vgg16", "resnet18_v1_5", "densenet121", "googlenet_bn", "alexnet_owt"):
        with pytest.raises(DataError, match="c1"):
            zoo_weights().load(zoo.create("lenet5"), tmp_path / "x.pth", network=network)
    with pytest.raises(UsageError, match="vgg99"):
        zoo_weights().load(zoo.create("lenet5"), tmp_path / "x.pth", network="vgg99")


# --- fetching -----------------------------------------------------------------------------------


def test_every_public_file_names_a_network_of_the_catalog_with_its_licence():
    from zoo.catalog import CATALOG

    assert "alexnet/caffe" in PUBLIC
    for weights in PUBLIC.values():
        assert weights.network in CATALOG
        assert weights.licence
        assert weights.preprocessing
        assert len(weights.digest) in (8, 32, 40, 64)
    assert len({weights.file for weights in PUBLIC.values()}) == len(PUBLIC)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A place that holds one file under the name of public weights, and its true hash."""
    content = bytes(range(256)) * 100
    (tmp_path / "mirror.h5").write_bytes(content)
    true = PUBLIC["vgg16/keras"].model_copy(
        update={"digest": hashlib.md5(content, usedforsecurity=False).hexdigest()}
    )
    monkeypatch.setattr("zoo.weights.public.PUBLIC", {"vgg16/keras": true})
    return (tmp_path / "mirror.h5").as_uri(), content


def test_a_file_is_fetched_once_verified_and_kept(mirror, tmp_path):
    url, content = mirror
    place = fetch("vgg16/keras", folder=tmp_path / "cache", url=url)
    assert place.read_bytes() == content
    again = fetch("vgg16/keras", folder=tmp_path / "cache", url="file:///nowhere", offline=True)
    assert again == place
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [place.name]


def test_a_file_is_on_the_disk_before_it_has_its_name(mirror, tmp_path, monkeypatch):
    named, fsync = [], os.fsync

    def noting(number):
        fsync(number)
        named.append((os.fstat(number).st_ino, [path.suffix for path in cache.iterdir()]))

    cache = tmp_path / "cache"
    monkeypatch.setattr(os, "fsync", noting)
    place = fetch("vgg16/keras", folder=cache, url=mirror[0])
    assert named == [(place.stat().st_ino, [".part"])]


def test_convzoo_weights_lists_and_fetches(mirror, tmp_path, monkeypatch):
    from click.testing import CliRunner

    from zoo.cli import weights

    assert "vgg16/keras" in CliRunner().invoke(weights).stdout
    offline = CliRunner().invoke(
        weights, ["vgg16/keras", "--dir", str(tmp_path / "c"), "--offline"]
    )
    assert isinstance(offline.exception, DataError)
    fetch("vgg16/keras", folder=tmp_path / "c", url=mirror[0])
    run = CliRunner().invoke(
        weights, ["vgg16/keras", "--dir", str(tmp_path / "c"), "--offline", "--json"]
    )
    assert json.loads(run.stdout)["licence"].startswith("CC BY")
    assert json.loads(run.stdout)["path"].startswith(str(tmp_path / "c"))


class Ranged(BaseHTTPRequestHandler):
    """Sends half of what is left and breaks off; goes on where it is asked to."""

    content = b""
    asked: list

    def do_GET(self):
        begin = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.asked.append(begin)
        rest = self.content[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: len(rest) // 2] if len(self.asked) < 3 else rest)

    def log_message(self, *_):
        pass


def test_a_download_that_broke_off_goes_on(mirror, tmp_path):
    _, content = mirror
    handler = type("Handler", (Ranged,), {"content": content, "asked": []})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/x.h5"
        for _ in range(2):
            with pytest.raises(DataError, match=r"broke off|cannot be reached"):
                fetch("vgg16/keras", folder=tmp_path / "cache", url=url)
        place = fetch("vgg16/keras", folder=tmp_path / "cache", url=url)
        server.shutdown()
        thread.join()
    assert place.read_bytes() == content
    assert handler.asked[0] == 0
    assert handler.asked[2] > handler.asked[1] > 0


def test_a_download_that_was_only_left_unchecked_is_finished(mirror, tmp_path):
    _, content = mirror

    class Whole(Ranged):
        def do_GET(self):
            self.send_error(416)

    cache = tmp_path / "cache"
    cache.mkdir()
    part = cache / f"{PUBLIC['vgg16/keras'].file}.part"
    part.write_bytes(content)
    with HTTPServer(("127.0.0.1", 0), Whole) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        place = fetch(
            "vgg16/keras", folder=cache, url=f"http://127.0.0.1:{server.server_port}/x.h5"
        )
        server.shutdown()
        thread.join()
    assert place.read_bytes() == content
    assert not part.exists()


def serve_one(handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}/x.h5"


def test_two_that_fetch_the_same_file_both_get_it_and_it_is_downloaded_once(mirror, tmp_path):
    _, content = mirror

    asked = []

    class Slow(Ranged):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            for start in range(0, len(content), len(content) // 4):
                self.wfile.write(content[start : start + len(content) // 4])
                time.sleep(0.1)

    server, url = serve_one(Slow)
    cache = tmp_path / "cache"
    with server, ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(fetch, "vgg16/keras", folder=cache, url=url) for _ in range(3)]
        for call in calls:
            assert call.result().read_bytes() == content
        server.shutdown()
    assert len(asked) == 1
    assert len(list(cache.iterdir())) == 1


def test_a_reply_in_chunks_that_breaks_off_is_told(mirror, tmp_path):
    class Chunked(Ranged):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"100000\r\n" + b"x" * 1000)
            self.close_connection = True

    server, url = serve_one(Chunked)
    with server:
        with pytest.raises(DataError, match="broke off after"):
            fetch("vgg16/keras", folder=tmp_path / "cache", url=url)
        server.shutdown()


def test_no_url_and_no_folder_are_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match="'foo' is no URL"):
        fetch("vgg16/keras", folder=tmp_path, url="foo")
    with pytest.raises(DataError, match="cannot be reached"):
        fetch("vgg16/keras", folder=tmp_path, url="http://exa mple/x")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", Path("/proc/foo")):
        with pytest.raises(UsageError, match="cannot hold files"):
            fetch("vgg16/keras", folder=folder)


def test_a_file_with_another_hash_is_not_kept(tmp_path):
    (tmp_path / "wrong").write_bytes(b"wrong")
    with pytest.raises(DataError, match="expected 64373286"):
        fetch("vgg16/keras", folder=tmp_path / "cache", url=(tmp_path / "wrong").as_uri())
    assert list((tmp_path / "cache").iterdir()) == []


def test_offline_and_unreachable_say_what_to_do(tmp_path):
    with pytest.raises(DataError, match="--offline"):
        fetch("vgg16/keras", folder=tmp_path, offline=True)
    with pytest.raises(DataError, match=r"pass its path to zoo\.weights\.load"):
        fetch("vgg16/keras", folder=tmp_path, url="file:///nowhere")
    with pytest.raises(UsageError, match=r"'vgg61/keras'\. Did you mean .*'vgg16/keras'"):
        fetch("vgg61/keras", folder=tmp_path)


# --- choosing, and what a network must be given ----------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "file", "network", "declared"),
    [
        ("vgg16", "x.h5", "vgg16", "vgg16/keras"),
        ("vgg16", "x.pth", "vgg16", "vgg16/torchvision"),
        ("vgg16", "x.caffemodel", "vgg16", "vgg16/keras"),
        ("alexnet", "x.safetensors", "alexnet_owt", "alexnet_owt/torchvision"),
        ("alexnet", "x.caffemodel", "alexnet", "alexnet/caffe"),
        ("googlenet", "x.pt", "googlenet_bn", "googlenet_bn/torchvision"),
        ("resnet50", "x.weights.h5", "resnet50_keras", "resnet50_keras/keras"),
        ("resnet50", "x.safetensors", "resnet50_v1_5", "resnet50_v1_5/torchvision"),
        ("resnet50_v1_5", "x.bin", "resnet50_v1_5", "resnet50_v1_5/torchvision"),
    ],
)
def test_the_form_of_a_network_follows_from_the_file(tmp_path, asked, file, network, declared):
    (tmp_path / file).write_bytes(b"")
    found = choose(asked, str(tmp_path / file))
    assert (found.network, found.declared.name, found.public) == (network, declared, None)


@pytest.mark.parametrize(
    ("asked", "weights", "error", "words"),
    [
        ("vgg61", "keras", UsageError, "Did you mean .*'vgg16'"),
        ("vgg16", "kears", UsageError, "Did you mean 'keras'.*keras, timm, torchvision.*A file"),
        ("zfnet", "keras", UsageError, "There are none.*A file works too"),
        ("vgg16", "no.h5", DataError, "no file of weights no.h5"),
        ("vgg16", __file__, DataError, r"ends in \.py; \.h5"),
        ("xo", "x.h5", UsageError, r"'xo \(keras\)'"),
    ],
)
def test_weights_that_are_not_there_say_which_are(
    tmp_path, monkeypatch, asked, weights, error, words
):
    (tmp_path / "x.h5").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words):
        choose(asked, weights)


def test_a_published_file_is_known_by_its_hash_under_any_name(mirror, tmp_path, monkeypatch):
    import zoo.weights.public

    url, content = mirror
    monkeypatch.setattr("zoo.weights.choose.PUBLIC", zoo.weights.public.PUBLIC)
    (tmp_path / "own.h5").write_bytes(content)
    assert choose("vgg16", str(tmp_path / "own.h5")).public.name == "vgg16/keras"
    monkeypatch.setenv("CONVZOO_CACHE", str(tmp_path / "cache"))
    place = fetch("vgg16/keras", url=url)
    assert choose("vgg16", "keras").path == place
    place.write_bytes(content + b"x")
    with pytest.raises(DataError, match=r"is not vgg16/keras any more.*Remove it"):
        choose("vgg16", "keras")


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("name", "theirs"),
    [("vgg16", "vgg16"), ("resnet50_keras", "resnet"), ("densenet121", "densenet")],
)
def test_inputs_are_those_of_keras_applications(name, theirs):
    import keras

    # Of 256 rows and columns nothing is resized, only cut.
    pixels = RNG.integers(0, 256, (2, 256, 256, 3)).astype(np.uint8)
    centre = pixels[:, 16:240, 16:240].astype(np.float32)
    expected = getattr(keras.applications, theirs).preprocess_input(centre)
    found = preprocessing_of(PUBLIC[f"{name}/keras"])
    mine = found.to_input(np.stack([found.to_pixels(each) for each in pixels]))
    np.testing.assert_allclose(mine, expected, atol=1e-4)
    low, high = found.input.value_range
    assert low - 1e-3 <= mine.min()
    assert mine.max() <= high + 1e-3


def test_torchvisions_googlenet_sees_minus_one_to_one():
    pixels = RNG.integers(0, 256, (1, 224, 224, 3)).astype(np.uint8)
    standard = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    # Its transform_input undoes the standardisation, and centres on one half.
    expected = (
        standard * (np.array([0.229, 0.224, 0.225]) / 0.5)
        + (np.array([0.485, 0.456, 0.406]) - 0.5) / 0.5
    )
    found = preprocessing_of(PUBLIC["googlenet_bn/torchvision"])
    np.testing.assert_allclose(found.to_input(pixels), expected, atol=1e-5)


@pytest.mark.parametrize("name", PUBLIC)
def test_an_image_of_any_size_becomes_the_input_of_public_weights(name):
    from zoo.catalog import describe

    weights = PUBLIC[name]
    found = preprocessing_of(weights)
    shape = weights.options.get("input_shape", describe(weights.network).input.shape)
    # A blue image, wider than high: only Caffe sees its edges, squeezed.
    pixels = np.zeros((100, 300, 3), np.uint8)
    pixels[:, :, 2] = 200
    pixels[:, :60], pixels[:, -60:] = 255, 255
    image = found.to_pixels(pixels)
    assert image.shape == shape
    blue = 0 if "BGR" in weights.preprocessing else 2
    assert image[112, 112, blue] == 200
    assert image[112, 112, 2 - blue] == 0
    assert (image[112, 0].tolist() == [255] * 3) == name.endswith("/caffe")
    words = in_words(weights)
    assert f"{shape[0]}x{shape[1]} out of the middle; {weights.preprocessing}" in words
    assert ("squeezed" in words) == name.endswith("/caffe")
    assert ("its mean pixel" in words) == ("mean image" in words)


def test_the_number_of_classes_is_read_from_the_file(tmp_path):
    write_torch(
        tmp_path / "x.pth", {"classifier.6.weight": draw((7, 9)), "classifier.6.bias": draw((7,))}
    )
    assert num_classes(tmp_path / "x.pth", "vgg16") == 7
    write_caffemodel(tmp_path / "x.caffemodel", {"fc8": [draw((6, 9)), draw((6,))]})
    assert num_classes(tmp_path / "x.caffemodel", "alexnet") == 6
    assert num_classes(tmp_path / "x.caffemodel", "googlenet") is None
    import h5py

    with h5py.File(tmp_path / "x.weights.h5", "w") as file:
        for layer, classes in (("dense", 4), ("dense_1", 3), ("dense_2", 5)):
            file[f"layers/{layer}/vars/0"] = np.zeros((2, classes))
            file[f"layers/{layer}/vars/1"] = np.zeros(classes)
    assert num_classes(tmp_path / "x.weights.h5", "vgg16") == 5
