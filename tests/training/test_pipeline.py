"""Settings, keys and reasons of a pipeline; nothing is trained here."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

from training import pipeline as pipelines
from training.data.sources import ImagesSource
from zoo.artifact import (
    MANIFEST,
    Architecture,
    Manifest,
    draft_version,
    file_sha256,
    list_versions,
    read_labels,
)
from zoo.command import main
from zoo.errors import ArtifactError, GateFailedError, InconclusiveError, UsageError
from zoo.preprocess import Preprocessing
from zoo.spec import ImageInput
from zoo.versions import promote, rollback


def write(place, **settings):
    (place / "p.yaml").write_text(yaml.safe_dump({"recipe": "digits_lenet5_modern", **settings}))
    return place / "p.yaml"


@pytest.mark.parametrize("label", ["", "a/b", "latest", "2", "-x"])
def test_a_label_that_cannot_be_one_is_refused_before_anything_runs(tmp_path, label):
    with pytest.raises(UsageError, match=r"promote\.label.*cannot be a label"):
        pipelines.read(write(tmp_path, promote={"label": label}))


@pytest.mark.parametrize(
    "gates",
    [
        {"least_accuracy": 95},
        {"accuracy_drop": -0.01},
        {"class_drop": 1.5},
        {"robustness_drop": float("nan")},
        {"most_latency_ratio": 0},
        {"most_bytes": -1},
    ],
)
def test_a_margin_out_of_its_range_is_refused_before_anything_runs(tmp_path, gates):
    (name,) = gates
    with pytest.raises(UsageError, match=rf"gates\.{name}: Input should be "):
        pipelines.read(write(tmp_path, gates=gates))
    with pytest.raises(UsageError, match=rf"{name}: Input should be "):
        pipelines.read_gates(write(tmp_path, gates=gates))


@pytest.mark.parametrize("overrides", [["epochs=2"], "epochs=2", 3])
def test_overrides_that_are_no_keys_and_values_are_refused(tmp_path, overrides):
    with pytest.raises(UsageError, match=r"p\.yaml: overrides is (list|str|int); expected keys"):
        pipelines.read(write(tmp_path, overrides=overrides))


def recipe_of(tmp_path, recipe, overrides, *more):
    """The recipe that a pipeline file and the command line make of another one."""
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    file = write(tmp_path, recipe="r.yaml", overrides=overrides)
    return pipelines._recipe(pipelines.read(file, more))


RECIPE = {
    "model": {"name": "lenet5_modern"},
    "data": {"source": "digits", "validation_fraction": 0.25},
    "epochs": 3,
}


def test_overrides_are_values_and_groups_are_merged(tmp_path):
    made = recipe_of(
        tmp_path,
        RECIPE,
        {"data.one_against_rest": "8", "data": {"per_class": 3}, "epochs": 5, "seed": 4},
        "recipe.epochs=6",
    )
    assert made.data.one_against_rest == "8"
    assert (made.data.source, made.data.per_class, made.data.validation_fraction) == (
        "digits",
        3,
        0.25,
    )
    assert (made.epochs, made.seed) == (6, 4)


def test_a_group_of_another_kind_takes_the_place_of_the_old(tmp_path):
    made = recipe_of(tmp_path, RECIPE, {"data": {"source": "npz", "data_dir": "x.npz"}})
    assert made.data.source == "npz"
    assert made.data.validation_fraction != 0.25


def test_a_recipe_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UsageError, match=r"nothing.*A path of a YAML file"):
        pipelines.plan(pipelines.read(write(tmp_path, recipe="nothing")))


def test_what_the_data_leave_out_is_told_before_anything_is_trained(tmp_path):
    for name, suffix in (("a", "png"), ("b", "png"), ("c", "gif")):
        (tmp_path / name).mkdir()
        for number in range(20):
            image = Image.fromarray(np.full((8, 8), 10 * number, np.uint8))
            image.save(tmp_path / name / f"{number}.{suffix}")
    data = ImagesSource(data_dir=tmp_path)
    noted, told = {}, []
    work = SimpleNamespace(
        recipe=SimpleNamespace(data=data), note=lambda step, **facts: noted.update({step: facts})
    )
    pipelines._check(work, told.append)
    assert any("c" in each and ".gif" in each for each in told), told
    assert "check" in noted


def test_no_label_leaves_the_labels_to_people(tmp_path):
    assert pipelines.read(write(tmp_path, promote={"label": None})).promote.label is None


@pytest.mark.parametrize("model", ["../evil/x", "a/b", "..", " "])
def test_a_name_that_leads_out_of_the_base_path_is_refused_before_anything_runs(tmp_path, model):
    file = write(tmp_path, model=model)
    for step in (pipelines.plan, pipelines.run):
        with pytest.raises(UsageError, match="cannot name a model"):
            step(pipelines.read(file))
    assert sorted(tmp_path.iterdir()) == [file]


# --- What runs, with steps that do nothing ---------------------------------------------------------


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """Runs a pipeline whose network is its recipe's seed; gives what ran, and keeps what was judged."""
    from training.gate import GateReport
    from training.run import Run

    judged = []
    verdict = {"outcome": "pass"}

    def train(work, _):
        work.run.path.mkdir(parents=True, exist_ok=True)
        work.note("train", run=work.run.path.name)

    def publish(work, _):
        seed = bytes([work.recipe.seed])
        for number, path in list_versions(work.model_path).items():
            if (path / "w").read_bytes() == seed:
                work.note("publish", version=number)
                return
        manifest = Manifest(
            model=work.model,
            version=1,
            architecture=Architecture(name="xo"),
            preprocessing=Preprocessing(input=ImageInput(height=1, width=1, channels=1)),
            labels=("a", "b"),
            signatures={},
            engines={},
            default_engine="openvino",
        )
        with draft_version(work.opened.base_path, work.model) as draft:
            (draft.path / "w").write_bytes(seed)
            work.note("publish", version=int(draft.commit(manifest).name))

    def judge(candidate, baseline, *_):
        judged.append((int(candidate.name), None if baseline is None else int(baseline.name)))
        return GateReport(
            model=candidate.parent.name,
            version=int(candidate.name),
            against=judged[-1][1],
            data="none",
            images=1,
            outcome=verdict["outcome"],
            manifest_sha256=file_sha256(candidate / MANIFEST),
            gates=(),
            seconds=0,
        )

    monkeypatch.setattr(pipelines, "_data_sha256", lambda recipe: "data")
    monkeypatch.setattr(pipelines, "_code_sha256", lambda: "code")
    monkeypatch.setattr(pipelines, "_check", lambda work, _: work.note("check"))
    monkeypatch.setattr(pipelines, "_train", train)
    monkeypatch.setattr(pipelines, "_publish", publish)
    monkeypatch.setattr("training.gate.judge", judge)
    monkeypatch.setattr(Run, "is_complete", property(lambda self: self.path.is_dir()))
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)

    def run(seed, *overrides):
        file = write(tmp_path, model="m")
        return pipelines.run(pipelines.read(file, [f"recipe.seed={seed}", *overrides]))

    run.models = tmp_path / "models" / "m"
    run.judged = judged
    run.verdict = verdict
    run.plan = lambda seed: {
        step.name: step
        for step in pipelines.plan(
            pipelines.read(write(tmp_path, model="m"), [f"recipe.seed={seed}"])
        )
    }
    return run


def test_a_version_that_was_rolled_back_is_not_promoted_again(steps):
    assert steps(1).promoted
    assert steps(2).promoted
    rollback(steps.models, why="complaints")
    step = steps.plan(2)["promote"]
    assert not step.runs
    assert "stable was moved from version 2 to 1" in step.why
    result = steps(2)
    assert (result.promoted, result.ran) == (False, ())
    assert "nothing to do, but stable was moved from version 2 to 1 by" in result.words
    assert "complaints. `convzoo promote m 2 --label stable` undoes that." in result.words
    assert read_labels(steps.models) == {"stable": 1}
    # Nor after the next candidate, and people may undo it.
    assert steps(3).promoted
    assert not steps(2).promoted
    promote(steps.models, 2)
    assert "is in place" in steps(2).words


def test_what_the_pipeline_itself_replaced_may_come_back(steps):
    for seed in (1, 2, 1):
        assert steps(seed).promoted
    assert read_labels(steps.models) == {"stable": 1}
    assert steps.judged == [(1, None), (2, 1), (1, 2)]


def test_the_gates_judge_again_when_production_is_another_version(steps):
    steps(1, "promote.label=null")
    steps(2, "promote.label=null")
    assert steps.judged == [(1, None), (2, None)]
    promote(steps.models, 1)
    assert steps(2, "promote.label=null").ran == ("gate",)
    assert steps.judged[-1] == (2, 1)
    assert steps(2, "promote.label=null").ran == ()
    # Of the version itself nothing new can be said.
    promote(steps.models, 2)
    assert steps(2, "promote.label=null").ran == ()


def test_production_that_is_gone_is_told_before_anything_runs(steps):
    steps(1)
    steps(2)
    shutil.rmtree(steps.models / "2")
    for seed in (2, 3):
        with pytest.raises(UsageError, match="'stable' of 'm' names version 2, which is not there"):
            steps(seed)
        with pytest.raises(UsageError, match="there are 1"):
            steps.plan(seed)
    assert len(steps.judged) == 2


def test_a_plan_says_why(steps, tmp_path):
    assert {step.why for step in steps.plan(1).values()} == {"it was not done yet"}
    steps(1)
    assert {step.why for step in steps.plan(1).values()} == {"nothing has changed"}
    assert steps.plan(2)["train"].why == "its code, settings or data have changed"
    shutil.rmtree(tmp_path / "pipeline" / "runs")
    plan = steps.plan(1)
    assert plan["train"].why == "its result is no longer there"
    assert plan["publish"].why == "a step before it runs"
    steps(1)
    (steps.models / "labels.json").unlink()
    plan = steps.plan(1)
    assert [name for name, step in plan.items() if step.runs] == ["promote"]
    assert plan["promote"].why == "its result is no longer there"


def test_a_label_that_nobody_moved_and_that_is_gone_is_set_again(steps):
    steps(1)
    (steps.models / "labels.json").unlink()
    assert steps(1).promoted


@pytest.mark.parametrize("text", ['{"check": 3}', "[]", "{", '{"gate": {"key": 1}}'])
def test_a_state_that_is_not_one_names_its_file(steps, tmp_path, text):
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "state.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"state\.json is not valid: .*remove it"):
        steps(1)


# --- The result, and who reads it -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "code", "error"),
    [("fail", 4, GateFailedError), ("inconclusive", 5, InconclusiveError)],
)
def test_a_candidate_that_did_not_pass_is_a_result_too(
    steps, tmp_path, capsys, outcome, code, error
):
    steps.verdict["outcome"] = outcome
    with pytest.raises(error, match=r"gate\.md"):
        steps(1)
    with pytest.raises(SystemExit) as stopped:
        main(["pipeline", "run", str(tmp_path / "p.yaml"), "recipe.seed=1", "--json"])
    assert stopped.value.code == code
    told = capsys.readouterr()
    result = json.loads(told.out)
    assert (result["model"], result["version"], result["outcome"]) == ("m", 1, outcome)
    assert not result["promoted"]
    assert told.err.splitlines()[-1].startswith("error: ")
    assert read_labels(steps.models) == {}


def test_what_somebody_decided_against_the_gates_is_not_refused_again(steps):
    steps.verdict["outcome"] = "inconclusive"
    with pytest.raises(InconclusiveError, match="convzoo promote m 1 --force --why"):
        steps(1)
    promote(steps.models, 1, why="forty photos are right", is_forced=True)
    for label in ("stable", "null"):
        result = steps(1, f"promote.label={label}")
        assert "forty photos are right" in result.words
        assert (result.in_place, result.accepted, result.promoted) == (True, True, False)
    # Another verdict is another question, and so is another candidate.
    steps.verdict["outcome"] = "fail"
    with pytest.raises(GateFailedError):
        steps(1, "gates.least_accuracy=0.9")
    with pytest.raises(GateFailedError):
        steps(2)


ROOT = Path(__file__).parents[2]


SAYS_WHAT_IT_WAS_ASKED = 'printf "%s\\n" "$@"'


def job(tmp_path, script, convzoo=SAYS_WHAT_IT_WAS_ASKED, **environment):
    """Runs a CI job's own script, with a `convzoo` of one line."""
    (tmp_path / "convzoo").write_text(f"#!/bin/sh\n{convzoo}\n")
    (tmp_path / "convzoo").chmod(0o755)
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={
            "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            **environment,
        },
    )


def promote_on_gitlab(tmp_path, outcome, why):
    file = ROOT / "deploy/gitlab/.gitlab-ci.yml"
    script = "\n".join(yaml.safe_load(file.read_text())["promote"]["script"])
    (tmp_path / "result.json").write_text(
        json.dumps({"model": "m", "version": 2, "outcome": outcome})
    )
    return job(tmp_path, script, WHY=why, CI_JOB_URL="https://ci/jobs/3")


def promote_on_github(tmp_path, outcome, why, accept="2"):
    workflow = yaml.safe_load((ROOT / ".github/workflows/retrain.yml").read_text())
    (step,) = (
        each for each in workflow["jobs"]["promote"]["steps"] if each.get("name") == "Promote"
    )
    return job(
        tmp_path,
        step["run"].replace('--base-path "$BASE_PATH" ', ""),
        RESULT=json.dumps({"model": "m", "version": 2, "outcome": outcome}),
        WHY=why,
        ACCEPT=accept,
        GITHUB_SERVER_URL="https://ci",
        GITHUB_REPOSITORY="jobs",
        GITHUB_RUN_ID="3",
    )


@pytest.mark.parametrize("promote_in_ci", [promote_on_gitlab, promote_on_github])
def test_a_job_promotes_what_the_data_leave_open_for_a_reason_alone(tmp_path, promote_in_ci):
    passed = promote_in_ci(tmp_path, "pass", "").stdout.splitlines()
    assert passed[:4] == ["promote", "m", "2", "--why"]
    assert passed[4].startswith("approved in https://ci/jobs/")
    decided = promote_in_ci(tmp_path, "inconclusive", "forty are right").stdout.splitlines()
    assert decided == ["promote", "m", "2", "--force", "--why", "forty are right"]
    for refused in (
        promote_in_ci(tmp_path, "inconclusive", ""),
        promote_in_ci(tmp_path, "fail", "forty are right"),
    ):
        assert refused.returncode == 5
        assert "To promote it all the same" in refused.stdout


def test_the_job_of_github_decides_for_no_other_version_than_was_looked_at(tmp_path):
    refused = promote_on_github(tmp_path, "inconclusive", "forty are right", accept="1")
    assert refused.returncode == 5


@pytest.mark.parametrize(
    ("accept", "outcome", "code", "ends"),
    [("", 5, 5, ""), ("2", 5, 0, ""), ("1", 5, 5, "candidate is version 2"), ("2", 4, 4, "")],
)
def test_the_action_of_github_goes_on_with_the_version_that_was_accepted(
    tmp_path, accept, outcome, code, ends
):
    action = yaml.safe_load((ROOT / ".github/actions/pipeline/action.yml").read_text())
    (step,) = (each for each in action["runs"]["steps"] if each.get("id") == "run")
    done = job(
        tmp_path,
        step["run"],
        f"echo '{{\"version\": 2}}'; exit {outcome}",
        ACCEPT=accept,
        FILE="p.yaml",
        OVERRIDES="",
        BASE_PATH="models",
        GITHUB_OUTPUT=str(tmp_path / "output"),
    )
    assert done.returncode == code
    assert done.stdout.strip().endswith(f"{ends}." if ends else "")
    assert f"exit-code={outcome}" in (tmp_path / "output").read_text()
