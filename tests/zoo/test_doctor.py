import json
import socket

from click.testing import CliRunner

from zoo import doctor


def test_the_report_names_every_part_and_its_packages():
    found = json.loads(CliRunner().invoke(doctor.doctor, ["--json"]).stdout)
    assert set(found["parts"]) == set(doctor.PARTS)
    assert found["parts"]["client"]["pydantic"]
    assert found["cores"] >= 1


def test_a_missing_package_is_said_with_its_remedy(monkeypatch):
    monkeypatch.setattr(doctor, "installed", lambda name: None if name == "openvino" else "1.0")
    told = CliRunner().invoke(doctor.doctor, []).stdout
    assert "missing openvino (pip install 'convzoo[serve]')" in told
    assert "client    ready" in told


def test_a_port_that_somebody_listens_on_is_taken():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert not doctor.is_port_free(listener.getsockname()[1])


def test_processor_features_are_read_from_the_first_processor(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nflags : fpu avx2 avx512_vnni\nflags : amx_int8\n")
    assert doctor.cpu_features(cpuinfo) == ("avx2", "avx512_vnni")
    assert doctor.cpu_features(tmp_path / "nowhere") == ()
