"""TensorFlow Serving's model configuration."""

import pytest
from google.protobuf import text_format

from serving.errors import InvalidRequestError
from serving.messages import ModelSettings, VersionPolicy
from serving.wire import tfs_config
from serving.wire.pool import message

ONE = 'name: "m" base_path: "/models/m" model_platform: "tensorflow" '


def decode(config):
    request = message("tensorflow.serving.ReloadConfigRequest")()
    text_format.Parse(config, request.config)
    return tfs_config.decode_reload_request(request.SerializeToString()).models


def listed(*models):
    return "model_config_list { " + " ".join(f"config {{ {each} }}" for each in models) + " }"


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("", VersionPolicy(latest=1)),
        ("model_version_policy { latest { } }", VersionPolicy(latest=1)),
        ("model_version_policy { latest { num_versions: 3 } }", VersionPolicy(latest=3)),
        ("model_version_policy { all { } }", VersionPolicy(is_all=True)),
        (
            "model_version_policy { specific { versions: 9 versions: 2 } }",
            VersionPolicy(specific=(2, 9)),
        ),
    ],
)
def test_policies_and_labels_are_read(policy, expected):
    labels = 'version_labels { key: "stable" value: 2 }'
    assert decode(listed(ONE + policy + labels)) == (
        ModelSettings("m", "/models/m", expected, {"stable": 2}),
    )


def test_an_empty_list_means_no_models_and_the_old_type_is_known():
    assert decode("model_config_list { }") == ()
    assert decode(listed('name: "m" base_path: "/m" model_type: 1'))[0].name == "m"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("", "ServerConfig kind nothing is not supported"),
        ("custom_model_config { }", "kind custom_model_config is not supported"),
        (listed(ONE, ONE), "Illegal to list model m multiple times"),
        (listed('base_path: "/m"'), "has no name"),
        (listed('name: "m" base_path: "m" model_platform: "tensorflow"'), "absolute path"),
        (listed('name: "m" base_path: "/m"'), "Platform of no name of model m is not served"),
        (listed('name: "m" base_path: "/m" model_platform: "caffe"'), "Platform caffe of model m"),
        (listed(ONE + "model_type: 1"), "both model_platform and model_type"),
        (listed(ONE + "model_version_policy { specific { } }"), "names no version"),
    ],
)
def test_what_tensorflow_serving_refuses_is_refused(config, words):
    with pytest.raises(InvalidRequestError, match=words):
        decode(config)


@pytest.mark.tensorflow
def test_tensorflow_servings_own_classes_write_and_read():
    from tensorflow_serving.apis import model_management_pb2

    request = model_management_pb2.ReloadConfigRequest()
    model = request.config.model_config_list.config.add()
    model.name, model.base_path, model.model_platform = "m", "/models/m", "tensorflow"
    model.model_version_policy.specific.versions.extend([2, 1])
    model.version_labels["stable"] = 1
    call = tfs_config.decode_reload_request(request.SerializeToString())
    assert call.models == (
        ModelSettings("m", "/models/m", VersionPolicy(specific=(1, 2)), {"stable": 1}),
    )
    answer = model_management_pb2.ReloadConfigResponse.FromString(tfs_config.encode_reload_reply())
    assert answer.HasField("status")
    assert answer.status.error_code == 0


def test_a_url_is_not_taken_from_the_network():
    with pytest.raises(InvalidRequestError, match="the server's own configuration file only"):
        decode(listed(ONE.replace("/models/m", "s3://bucket/m")))
