"""What stands in deploy/ fits the server that it deploys, and the systems that read it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from serving.cli import serve
from serving.metrics import Metrics

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
VALIDATE = ROOT / "build" / "witness" / "bin" / "kubernetes-validate"

# The oldest that is looked after somewhere, and the newest that the witness knows.
RELEASES = ("1.30", "1.37")


def documents():
    """Every object of deploy/kubernetes, by kind and name."""
    found = {}
    for path in KUBERNETES:
        for each in yaml.safe_load_all(path.read_text()):
            if each["kind"] != "Kustomization":
                found[each["kind"], each["metadata"]["name"]] = each
    return found


def container(kind="Deployment", name="convzoo"):
    (one,) = documents()[kind, name]["spec"]["template"]["spec"]["containers"]
    return one


def runtime():
    return yaml.safe_load((DEPLOY / "kserve" / "runtime.yaml").read_text())


def settings(arguments):
    """What the server makes of a container's arguments."""
    assert arguments[0] == "serve"
    return serve.make_context("serve", list(arguments[1:])).params


@pytest.mark.parametrize("release", RELEASES)
def test_kubernetes_takes_the_objects(release, tmp_path):
    if not VALIDATE.exists():
        pytest.skip("no build/witness; `make witness` installs kubernetes-validate there")
    files = [path for path in KUBERNETES if path.name != "kustomization.yaml"]
    # KServe makes a pod of its runtime's containers.
    (one,) = runtime()["spec"]["containers"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "runtime"}}
    pod["spec"] = {"containers": [one]}
    files.append(tmp_path / "pod.yaml")
    files[-1].write_text(yaml.safe_dump(pod))
    done = subprocess.run(
        [VALIDATE, "--strict", "-k", release, *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(path.name in done.stdout for path in files), done.stdout


def test_kustomize_reads_every_file():
    told = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())
    assert sorted([*told["resources"], "kustomization.yaml"]) == [path.name for path in KUBERNETES]
    assert {each["name"] for each in told["images"]} == {container()["image"]}
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not here")
    done = subprocess.run(
        ["kubectl", "kustomize", DEPLOY / "kubernetes"], capture_output=True, text=True, check=True
    )
    made = list(yaml.safe_load_all(done.stdout))
    assert {(each["kind"], each["metadata"]["name"]) for each in made} == set(documents())
    (server,) = [each for each in made if each["kind"] == "Deployment"]
    assert server["spec"]["template"]["spec"]["containers"][0]["image"] == "convzoo:server"


def test_the_server_understands_its_arguments_and_listens_where_its_ports_are():
    one = container()
    asked = settings(one["args"])
    ports = {each["name"]: each["containerPort"] for each in one["ports"]}
    assert ports == {"http": asked["rest_port"], "grpc": asked["grpc_port"]}
    assert asked["host"] == "0.0.0.0"  # noqa: S104 - a pod has an address of its own
    assert asked["read_only"]
    mounts = {each["mountPath"]: each["name"] for each in one["volumeMounts"]}
    assert mounts[str(asked["base_path"])] == "models"

    (one,) = runtime()["spec"]["containers"]
    asked = settings([each.replace("{{.Name}}", "digits") for each in one["args"]])
    assert one["name"] == "kserve-container"
    assert [each["containerPort"] for each in one["ports"]] == [asked["rest_port"]]
    assert (str(asked["base_path"]), asked["model_name"]) == ("/mnt/models", "digits")


def test_a_pod_that_goes_has_the_time_to_drain():
    pod = documents()["Deployment", "convzoo"]["spec"]["template"]["spec"]
    (one,) = pod["containers"]
    told, waits_s = one["lifecycle"]["preStop"]["exec"]["command"]
    drains_s = settings(one["args"])["drain_limit_s"]
    assert told == "sleep"
    assert pod["terminationGracePeriodSeconds"] > int(waits_s) + drains_s


def test_everything_points_to_the_pods():
    found = documents()
    template = found["Deployment", "convzoo"]["spec"]["template"]
    labels = template["metadata"]["labels"].items()
    names = {each["name"] for each in container()["ports"]}
    for (kind, name), each in found.items():
        assert each["metadata"]["labels"]["app.kubernetes.io/name"] == "convzoo", name
        if kind == "Service":
            assert each["spec"]["selector"].items() <= labels
            assert {port["targetPort"] for port in each["spec"]["ports"]} <= names
    for kind in ("PodDisruptionBudget", "Deployment"):
        selector = found[kind, "convzoo"]["spec"]["selector"]
        assert selector["matchLabels"].items() <= labels
    policy = found["NetworkPolicy", "convzoo"]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels
    assert {port["port"] for port in policy["ingress"][0]["ports"]} == names
    target = found["HorizontalPodAutoscaler", "convzoo"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", "convzoo")
    pod = template["spec"]
    assert ("ServiceAccount", pod["serviceAccountName"]) in found
    (claim,) = [each for each in pod["volumes"] if each["name"] == "models"]
    assert ("PersistentVolumeClaim", claim["persistentVolumeClaim"]["claimName"]) in found
    annotations = template["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(settings(container()["args"])["rest_port"])


def test_the_image_is_the_one_that_is_built():
    built = (ROOT / "Dockerfile").read_text()
    user = re.search(r"useradd --uid (\d+)", built)[1]
    pod = documents()["Deployment", "convzoo"]["spec"]["template"]["spec"]
    assert str(pod["securityContext"]["runAsUser"]) == user
    assert str(runtime()["spec"]["containers"][0]["securityContext"]["runAsUser"]) == user
    assert 'ENTRYPOINT ["convzoo"]' in built


# --- What Prometheus and Grafana ask for ----------------------------------------------------------


def asked_for():
    """Names of series in every expression of the alerts and the dashboard."""
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
    dashboard = json.loads((DEPLOY / "grafana" / "convzoo.json").read_text())
    expressions = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    expressions += [each["expr"] for panel in dashboard["panels"] for each in panel["targets"]]
    expressions += [
        each["query"]["query"]
        for each in dashboard["templating"]["list"]
        if each["type"] == "query"
    ]
    return expressions, {
        name for each in expressions for name in re.findall(r"\b(?:convzoo|process)_\w+", each)
    }


def test_every_series_that_is_asked_for_is_told():
    text = Metrics().render()[0].decode()
    told = set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            told |= (
                {f"{name}_{part}" for part in ("bucket", "sum", "count")}
                if (kind == "histogram")
                else {name}
            )
    expressions, names = asked_for()
    assert len(expressions) > 15
    assert names <= told, names - told


def promtool():
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not here; Debian's is `apt-get install prometheus`")
    return found


def test_prometheus_takes_its_files():
    done = subprocess.run(
        [promtool(), "check", "config", DEPLOY / "prometheus.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rules found" in done.stdout


# Series as `promtool test rules` writes them, and the alert that they must raise.
RAISES = {
    "ConvzooGone": ['up{job="convzoo", instance="a"} 0x20'],
    "ConvzooVersionFailed": [
        'convzoo_version_state{model="m", version="2", state="END", code="NOT_FOUND"} 1x20',
        'convzoo_version_state{model="m", version="1", state="AVAILABLE", code="OK"} 1x20',
    ],
    "ConvzooNothingServes": [
        'convzoo_version_state{model="m", version="2", state="END", code="OK"} 1x20'
    ],
    "ConvzooFails": [
        'convzoo_requests_total{model="m", code="OK", outcome="direct"} 0+100x20',
        'convzoo_requests_total{model="m", code="INTERNAL", outcome="failed"} 0+2x20',
    ],
    "ConvzooOverloaded": [
        'convzoo_requests_total{model="m", code="OK", outcome="queued"} 0+100x20',
        'convzoo_requests_total{model="m", code="RESOURCE_EXHAUSTED", outcome="shed"} 0+10x20',
    ],
    "ConvzooWaits": [
        'convzoo_stage_seconds_bucket{model="m", stage="queue", le="1.0"} 0+10x20',
        'convzoo_stage_seconds_bucket{model="m", stage="queue", le="2.5"} 0+100x20',
        'convzoo_stage_seconds_bucket{model="m", stage="queue", le="+Inf"} 0+100x20',
    ],
    "ConvzooDriftUnwritten": ['convzoo_drift_windows_total{model="m", outcome="failed"} 0+1x20'],
}
WELL = [
    'up{job="convzoo", instance="a"} 1x20',
    'convzoo_version_state{model="m", version="1", state="END", code="OK"} 1x20',
    'convzoo_version_state{model="m", version="2", state="AVAILABLE", code="OK"} 1x20',
    'convzoo_requests_total{model="m", code="OK", outcome="direct"} 0+1000x20',
    'convzoo_requests_total{model="m", code="INVALID_ARGUMENT", outcome="failed"} 0+500x20',
    'convzoo_requests_total{model="m", code="RESOURCE_EXHAUSTED", outcome="shed"} 0+10x20',
    'convzoo_stage_seconds_bucket{model="m", stage="queue", le="1.0"} 0+100x20',
    'convzoo_stage_seconds_bucket{model="m", stage="queue", le="+Inf"} 0+100x20',
    'convzoo_drift_windows_total{model="m", outcome="written"} 0+1x20',
]


def test_alerts_are_raised_when_something_is_the_matter_and_else_not(tmp_path):
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
    assert [rule["alert"] for rule in rules] == list(RAISES)

    def case(series, raised):
        parts = [each.rpartition("} ") for each in series]
        return {
            "interval": "1m",
            "input_series": [{"series": f"{name}}}", "values": v} for name, _, v in parts],
            "promql_expr_test": [
                {
                    "expr": f'count by (alertname) (ALERTS{{alertname="{name}", '
                    'alertstate="firing"})',
                    "eval_time": "15m",
                    "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1}]
                    if name in raised
                    else [],
                }
                for name in RAISES
            ],
        }

    tests = [case(WELL, ()), *(case(series, (name,)) for name, series in RAISES.items())]
    file = tmp_path / "alerts.test.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(DEPLOY / "alerts.yml")], "tests": tests}))
    done = subprocess.run(
        [promtool(), "test", "rules", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
