"""tensorflow_model_server's command line is taken as it is, or refused with a sentence."""

import pytest

from serving.errors import ConfigError
from serving.messages import ModelSettings, VersionOptions
from serving.tfs_flags import DONE, FIXED, NOTES, translate

BASE = ("--model_base_path=/models/digits",)


def test_the_ports_and_the_model_are_taken_as_they_are():
    done = translate(
        ["--port=9000", "--rest_api_port", "9001", "--model_name=digits", *BASE], environment={}
    )
    settings = done.settings
    assert (settings.grpc_port, settings.rest_port) == (9000, 9001)
    assert settings.host == "0.0.0.0"  # noqa: S104 - as tensorflow_model_server does
    assert settings.models == (ModelSettings("digits", "/models/digits"),)
    assert done.notes == ()


def test_what_is_not_said_is_as_tensorflow_serving_has_it():
    settings = translate(BASE, environment={}).settings
    assert (settings.grpc_port, settings.rest_port) == (8500, None)
    assert settings.models[0].name == "default"
    assert (settings.poll_interval_s, settings.config_poll_interval_s) == (1.0, 1.0)
    assert settings.metrics_path == "/monitoring/prometheus/metrics"
    assert not settings.has_cors
    assert translate(["--port=0", *BASE], environment={}).settings.grpc_port is None


def test_the_images_environment_stands_in_for_missing_flags():
    settings = translate([], environment={"MODEL_NAME": "digits"}).settings
    assert settings.models == (ModelSettings("digits", "/models/digits"),)
    assert (settings.grpc_port, settings.rest_port) == (8500, 8501)
    with pytest.raises(ConfigError, match="Neither --model_base_path nor --model_config_file"):
        translate([], environment={})


def test_the_images_environment_goes_before_the_containers_arguments():
    image = {"MODEL_NAME": "digits", "MODEL_BASE_PATH": "/models"}
    settings = translate(["--model_base_path=/mine", "--port=9000"], environment=image).settings
    assert settings.models == (ModelSettings("digits", "/mine"),)
    assert (settings.grpc_port, settings.rest_port) == (9000, 8501)
    settings = translate(["--model_config_file=/models.config"], environment=image).settings
    assert (str(settings.config), settings.rest_port) == ("/models.config", 8501)
    flags = ["--model_name=mine", "--rest_api_port=0"]
    settings = translate(flags, environment=image).settings
    assert (settings.models[0].name, settings.rest_port) == ("mine", None)
    assert settings.models[0].base_path == "/models/digits"


def test_a_configuration_file_is_polled_only_when_asked(tmp_path):
    file = tmp_path / "models.config"
    settings = translate([f"--model_config_file={file}"], environment={}).settings
    assert (settings.config, settings.config_poll_interval_s) == (file, None)
    flags = [f"--model_config_file={file}", "--model_config_file_poll_wait_seconds=7"]
    assert translate(flags, environment={}).settings.config_poll_interval_s == 7
    flags = [*BASE, "--file_system_poll_wait_seconds=-1"]
    assert translate(flags, environment={}).settings.poll_interval_s is None


def test_booleans_are_read_as_tensorflow_reads_them():
    for flag, is_on in (
        ("--rest_api_enable_cors_support", True),
        ("--rest_api_enable_cors_support=true", True),
        ("--rest_api_enable_cors_support=0", False),
    ):
        assert translate([*BASE, flag], environment={}).settings.has_cors == is_on


def test_batching_parameters_are_read_from_their_file(tmp_path):
    file = tmp_path / "batching.pbtxt"
    file.write_text(
        "max_batch_size { value: 16 } batch_timeout_micros { value: 1000 } "
        "max_enqueued_batches { value: 10 } num_batch_threads { value: 2 } "
        "allowed_batch_sizes: 4 allowed_batch_sizes: 16"
    )
    flags = ["--enable_batching", f"--batching_parameters_file={file}", *BASE]
    done = translate(flags, environment={})
    expected = VersionOptions(
        joins_foreign=True, max_batch_rows=16, batch_sizes=(4, 16), max_queued_rows=160
    )
    assert done.settings.options == done.settings.models[0].options == expected
    assert [each.split()[0] for each in done.notes] == ["batch_timeout_micros", "num_batch_threads"]
    file.write_text(
        "max_batch_size { value: 16 } enable_large_batch_splitting { value: true } "
        "max_execution_batch_size { value: 8 }"
    )
    assert translate(flags, environment={}).settings.options.max_batch_rows == 8


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: 4",
            "the last must be max_batch_size, 8",
        ),
        ("allowed_batch_sizes: 4 allowed_batch_sizes: 2", "must ascend"),
        ("pad_variable_length_inputs: true", "batches of their own"),
        ("max_batch: 1", "no text proto BatchingParameters"),
    ],
)
def test_batching_parameters_that_cannot_be_are_refused(tmp_path, text, words):
    file = tmp_path / "batching.pbtxt"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        translate(
            ["--enable_batching", f"--batching_parameters_file={file}", *BASE], environment={}
        )


def test_monitoring_and_tls_are_read_from_their_files(tmp_path):
    monitoring, tls = tmp_path / "monitoring", tmp_path / "tls"
    monitoring.write_text('prometheus_config { enable: true path: "/prometheus" }')
    key, certificate = "-----BEGIN PRIVATE KEY-----", "-----BEGIN CERTIFICATE-----"
    pair = f'server_key: "{key}" server_cert: "{certificate}" '
    tls.write_text(f'{pair} custom_ca: "{certificate}" client_verify: true')
    flags = [*BASE, f"--monitoring_config_file={monitoring}", f"--ssl_config_file={tls}"]
    settings = translate(flags, environment={}).settings
    assert settings.metrics_path == "/prometheus"
    assert (settings.grpc_tls.key, settings.grpc_tls.requires_client) == (key, True)
    for text, words in (
        ("", "needs server_key and server_cert"),
        (f"{pair} client_verify: true", "client_verify without custom_ca: no client could"),
        (f'server_key: "/etc/key.pem" server_cert: "{certificate}"', "no PEM in server_key"),
        ("server_keys: 1", "no text proto SSLConfig"),
    ):
        tls.write_text(text)
        with pytest.raises(ConfigError, match=words):
            translate(flags, environment={})
    tls.write_bytes(b'server_key: "\xff"')
    with pytest.raises(ConfigError, match="no text in UTF-8: byte 13"):
        translate(flags, environment={})


@pytest.mark.parametrize("name", NOTES)
def test_what_changes_nothing_here_is_accepted_with_a_note(name):
    (note,) = translate([*BASE, f"--{name}=1"], environment={}).notes
    assert note.startswith(f"--{name} changes nothing: ")
    assert len(note) > len(f"--{name} changes nothing: ") + 10


@pytest.mark.parametrize("name", FIXED)
def test_what_cannot_be_had_is_refused_with_its_reason(name):
    expected, reason = FIXED[name]
    for alike in (["true", "1", "yes"], ["false", "0", "no"], ["serve"]):
        if expected in alike:
            for said in alike:
                assert translate([*BASE, f"--{name}={said}"], environment={}).settings
    with pytest.raises(ConfigError) as told:
        translate([*BASE, f"--{name}=something"], environment={})
    assert reason in str(told.value)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--model_base_pth=/x", "No flag '--model_base_pth'. Did you mean '--model_base_path'"),
        ("serve", "'serve' is no flag of tensorflow_model_server"),
        ("--port=high", "--port is 'high'; a whole number works"),
        ("--port=99999", "--port: Input should be less than or equal to 65535 (found 99999)"),
        ("--rest_api_timeout_in_ms=0", "--rest_api_timeout_in_ms: Input should be greater than 0"),
        ("--enable_batching=perhaps", "true or false works"),
        ("--model_name", "--model_name needs a value"),
        ("--batching_parameters_file=/x", "without --enable_batching"),
        ("--monitoring_config_file=/none", "/none cannot be read: No such file"),
    ],
)
def test_a_flag_that_is_wrong_is_named(flag, words):
    with pytest.raises(ConfigError) as told:
        translate([*BASE, flag], environment={})
    assert words in str(told.value)


def test_no_flag_stands_in_two_lists():
    names = [*DONE, *NOTES, *FIXED]
    assert len(names) == len(set(names))


def test_of_grpcs_arguments_the_age_of_connections_is_taken():
    flag = "--grpc_channel_arguments"
    said = "grpc.max_connection_age_ms=2000, grpc.max_concurrent_streams=9"
    done = translate([f"{flag}={said}", *BASE], environment={})
    assert done.settings.max_connection_age_s == 2.0
    assert done.notes == (
        f"{flag}: grpc.max_concurrent_streams changes nothing; grpc.max_connection_age_ms would",
    )
    never = translate([f"{flag}=grpc.max_connection_age_ms=2147483647", *BASE], environment={})
    assert never.settings.max_connection_age_s is None
    for value in ("0", "soon", ""):
        with pytest.raises(ConfigError, match="a number of milliseconds works"):
            translate([f"{flag}=grpc.max_connection_age_ms={value}", *BASE], environment={})
