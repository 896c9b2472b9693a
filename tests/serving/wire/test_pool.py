"""Our own message descriptions: every field as its owner numbers it, beside the owner's own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from serving.errors import InvalidRequestError
from serving.wire.pool import message, new_message, parse_message, pool

WITNESS = Path(__file__).parents[3] / "build" / "witness" / "bin" / "python"

# What a field is on the wire; names of enums and messages are compared as such.
FORM = ("number", "label", "type")


def described(name):
    """All messages of one of our files: full name -> field name -> its form."""
    file = FileDescriptorProto()
    pool().FindFileByName(name).CopyToProto(file)
    return dict(_fields(file.package, file.message_type))


def _fields(prefix, messages):
    for each in messages:
        yield (
            f"{prefix}.{each.name}",
            {field.name: tuple(getattr(field, key) for key in FORM) for field in each.field},
        )
        yield from _fields(f"{prefix}.{each.name}", each.nested_type)


def test_messages_are_made_and_read():
    body = new_message("grpc.health.v1.HealthCheckRequest", service="x")
    assert parse_message("grpc.health.v1.HealthCheckRequest", body).service == "x"
    assert message("inference.ModelConfig") is message("inference.ModelConfig")
    with pytest.raises(InvalidRequestError, match="These 1 bytes are no ModelInferRequest"):
        parse_message("inference.ModelInferRequest", b"\xff")


@pytest.mark.tensorflow
@pytest.mark.parametrize("file", ["tensorflow.proto", "tensorflow_serving.proto"])
def test_every_field_is_numbered_as_tensorflow_numbers_it(file):
    from google.protobuf import descriptor_pool
    from tensorflow.core.framework import types_pb2  # noqa: F401 - registers its messages
    from tensorflow_serving.apis import (  # noqa: F401 - the same
        model_service_pb2,
        prediction_log_pb2,
        prediction_service_pb2,
    )

    # Enums that are a plain number here, and a number on the wire everywhere.
    as_numbers = {"model_type", "error_code"}
    theirs = descriptor_pool.Default()
    compared = 0
    for name, fields in described(file).items():
        found = theirs.FindMessageTypeByName(name).fields_by_name
        for field, (number, label, kind) in fields.items():
            assert found[field].number == number, f"{name}.{field}"
            assert found[field].is_repeated == (label == 3), f"{name}.{field}"
            assert field in as_numbers or found[field].type == kind, f"{name}.{field}"
            compared += 1
    assert compared > 30


# KServe's answers to load and unload, which Triton leaves empty.
KSERVE = {"RepositoryModelLoadResponse", "RepositoryModelUnloadResponse"}


@pytest.mark.skipif(not WITNESS.exists(), reason="`make witness` installs tritonclient")
def test_every_field_is_numbered_as_triton_numbers_it():
    code = """
import json, sys
from google.protobuf import descriptor_pool
import tritonclient.grpc.service_pb2
found = {}
for name in json.load(sys.stdin):
    fields = descriptor_pool.Default().FindMessageTypeByName(name).fields
    found[name] = {each.name: [each.number, each.type] for each in fields}
print(json.dumps(found))
"""
    ours = {
        name: fields
        for name, fields in described("inference.proto").items()
        if name.rpartition(".")[2] not in KSERVE and not name.endswith("Entry")
    }
    done = subprocess.run(
        [WITNESS, "-c", code],
        input=json.dumps(list(ours)),
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = json.loads(done.stdout)
    for name, fields in ours.items():
        for field, (number, _, kind) in fields.items():
            assert theirs[name][field] == [number, kind], f"{name}.{field}"
    assert len(ours) > 30


@pytest.mark.tensorflow
@pytest.mark.parametrize("order", ["ours first", "theirs first"])
def test_ours_and_theirs_live_in_one_process(order):
    ours = "from serving.wire.pool import message; message('tensorflow.serving.PredictRequest')"
    theirs = "from tensorflow_serving.apis import predict_pb2"
    code = "; ".join([ours, theirs] if order == "ours first" else [theirs, ours])
    subprocess.run([sys.executable, "-c", code], check=True)
