"""What is called drift: held against scipy, against sums by hand, and against data that do not drift."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from scipy import special, stats

from tests.serving.published import LABELS, publish_tiny
from training import drift
from training.drift import (
    Seen,
    Thresholds,
    compare,
    corrected,
    group,
    images_needed,
    kolmogorov,
    ks,
    mmd2,
    psi,
    psi_by_chance,
    read_log,
    read_version,
)
from zoo.artifact import Manifest
from zoo.command import main
from zoo.drift.records import Baseline, Counter, Histogram, Rows, Window, count, edges_of
from zoo.errors import DataError, UsageError
from zoo.preprocess import Preprocessing
from zoo.spec import ImageInput

RNG = np.random.default_rng(0)

# What neither the base installation nor a job that compares a log has.
ABSENT = ("tensorflow", "keras", "openvino", "scipy", "sklearn", "matplotlib", "PIL", "yaml")


# --- statistics


def test_the_psi_by_hand():
    # With half a count more in each bin: shares 10/40 and 30/40 against 30/40 and 10/40.
    found = psi(np.array([9.5, 29.5]), np.array([29.5, 9.5]))
    assert found == pytest.approx((0.75 - 0.25) * np.log(3) * 2)
    assert psi(np.array([5, 0, 7]), np.array([5, 0, 7])) == 0
    # An empty bin costs what the counts allow: 0.5/101 against 50.5/101.
    found = psi(np.array([0, 100]), np.array([50, 50]))
    p, q = np.array([0.5, 100.5]) / 101, np.array([50.5, 50.5]) / 101
    assert found == pytest.approx(float(((q - p) * np.log(q / p)).sum()))


@pytest.mark.parametrize(("n", "m"), [(2000, 300), (500, 5000)])
def test_what_chance_does_to_the_psi_is_what_theory_says(n, m):
    shares = np.full(10, 0.1)
    before, now = RNG.multinomial(n, shares), RNG.multinomial(m, shares)
    chance = psi_by_chance(before, now, 0.01, np.random.default_rng(1))
    theory = stats.chi2(9)
    assert chance.limit == pytest.approx(theory.ppf(0.99) * (1 / n + 1 / m), rel=0.06)
    expected = theory.sf(psi(before, now) / (1 / n + 1 / m))
    assert chance.p == pytest.approx(expected, abs=0.03)


def test_the_kolmogorov_smirnov_statistic_is_scipys_on_the_same_bins():
    for shift in (0.0, 0.2, 1.0):
        values, others = RNG.normal(size=800), RNG.normal(shift, size=300)
        edges = edges_of(values)
        distance, p = ks(count(values, edges), count(others, edges))
        binned = (np.searchsorted(edges, each, side="right") for each in (values, others))
        assert distance == pytest.approx(stats.ks_2samp(*binned, method="asymp").statistic)
        assert distance <= stats.ks_2samp(values, others).statistic
        assert p == pytest.approx(special.kolmogorov(distance * np.sqrt(800 * 300 / 1100)))
    for x in (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 50.0):
        assert kolmogorov(x) == pytest.approx(special.kolmogorov(x), abs=1e-12)


def direct_mmd2(x, y):
    """Lemma 6 of Gretton et al. (2012), term by term."""
    rows = np.concatenate([x, y])
    distances = [
        np.sum((rows[i] - rows[j]) ** 2) for i in range(len(rows)) for j in range(i + 1, len(rows))
    ]
    spread = np.median(distances)

    def kernel(a, b):
        return np.exp(-np.sum((a - b) ** 2) / (2 * spread))

    n, m = len(x), len(y)
    within_x = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j)
    within_y = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j)
    across = sum(kernel(a, b) for a in x for b in y)
    return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * across / (n * m)


def test_the_mmd_is_its_definition_and_its_chance_is_even():
    x, y = RNG.normal(size=(30, 3)), RNG.normal(1.5, 2, size=(20, 3))
    found, chance = mmd2(x + 1000, y + 1000, 0.01, np.random.default_rng(0))
    assert found == pytest.approx(direct_mmd2(x, y), abs=1e-6)
    assert chance.p < 0.01
    # Without a difference p-values are spread evenly, and the value lies around 0.
    ps, values = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        value, chance = mmd2(rng.normal(size=(40, 4)), rng.normal(size=(30, 4)), 0.01, rng)
        ps.append(chance.p)
        values.append(value)
    assert stats.kstest(ps, "uniform").pvalue > 0.01
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(20)
    # Rows that are all alike are no error.
    assert mmd2(np.ones((5, 2)), np.ones((6, 2)), 0.01, RNG)[0] == pytest.approx(0)


def test_p_values_are_corrected_as_holm_says():
    assert corrected([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert corrected([0.9, 0.8]) == [1.0, 1.0]
    assert corrected([]) == []


def test_many_classes_are_compared_in_groups_of_equal_share():
    assert group(np.arange(20)) == [(k, k + 1) for k in range(20)]
    counts = RNG.multinomial(2000, np.full(1000, 1e-3))
    spans = group(counts)
    assert [first for first, _ in spans] == [0, *(last for _, last in spans[:-1])]
    assert spans[-1][1] == 1000
    assert 18 <= len(spans) <= 20
    assert max(counts[a:b].sum() for a, b in spans) < 2 * 2000 / 20
    assert len(group(np.zeros(50, int))) <= 20


# --- comparing


def manifest(labels=("a", "b", "c")):
    return Manifest.model_construct(
        model="m",
        version=1,
        labels=labels,
        preprocessing=Preprocessing(input=ImageInput(height=8, width=8, channels=1)),
    )


def baseline_of(values, classes=(100, 100, 100), rows=None):
    edges = edges_of(values)
    return Baseline(
        inputs=len(values),
        histograms={
            name: Histogram(edges=edges, counts=tuple(map(int, count(values, edges))))
            for name in ("mean", "width")
        },
        classes=classes,
        embeddings={"inputs": Rows.of(RNG.normal(size=(100, 4)) if rows is None else rows)},
    )


def seen_of(baseline, values, classes=(100, 100, 100), widths=None, rows=None):
    edges = baseline.histograms["mean"].edges
    return Seen(
        source="here",
        images=len(values),
        counts={
            "mean": count(values, edges),
            "width": count(values if widths is None else widths, edges),
        },
        classes=np.array(classes),
        embeddings={"inputs": RNG.normal(size=(100, 4)) if rows is None else rows},
    )


@pytest.fixture(scope="module")
def before():
    return baseline_of(np.random.default_rng(5).normal(size=2000))


def verdicts(report):
    return {each.name: each.verdict for each in report.findings}


def test_data_that_do_not_drift_are_not_called_so(before):
    for seed in range(6):
        values = np.random.default_rng(seed).normal(size=400)
        report = compare(manifest(), before, seen_of(before, values))
        assert report.outcome == "ok", verdicts(report)


def test_a_change_is_named_where_it_is(before):
    values = RNG.normal(size=1000)
    seen = seen_of(before, values + 0.7)
    moved = compare(manifest(), before, seen)
    assert verdicts(moved) == {"mean": "alarm", "width": "alarm", "class": "ok", "inputs": "ok"}
    # A normal distribution moved by d has a PSI of d squared; bins take a little off.
    assert moved.findings[0].value == pytest.approx(0.49, rel=0.15)
    slight = compare(manifest(), before, seen_of(before, values + 0.4))
    assert slight.outcome == "warn"
    answers = compare(manifest(), before, seen_of(before, values, (280, 10, 10)))
    assert verdicts(answers)["class"] == "alarm"
    assert answers.movers[0] == drift.Mover(label="a", before=1 / 3, now=280 / 300)
    rows = RNG.normal(1, size=(100, 4))
    vectors = compare(manifest(), before, seen_of(before, values, rows=rows))
    assert verdicts(vectors) == {"mean": "ok", "width": "ok", "class": "ok", "inputs": "alarm"}
    # The same data give the same report.
    assert compare(manifest(), before, seen) == moved


def test_few_images_do_not_tell_and_as_many_as_named_do(before):
    values = np.random.default_rng(3).normal(size=5000)
    few = compare(manifest(), before, seen_of(before, values[:40]))
    assert few.outcome == "inconclusive"
    assert few.findings[0].by_chance > few.thresholds.psi_alarm
    needed = images_needed(few)
    assert 60 < needed < 400
    enough = compare(manifest(), before, seen_of(before, values[:needed]))
    assert enough.outcome == "ok"
    # What is far off is drift with few images, too.
    assert compare(manifest(), before, seen_of(before, values[:40] + 3)).outcome == "alarm"
    # No number makes up for a baseline of a few images.
    small = baseline_of(values[:30])
    assert images_needed(compare(manifest(), small, seen_of(small, values))) is None
    nothing = Seen("here", 0, {}, np.zeros(3, int), {})
    assert compare(manifest(), before, nothing).outcome == "inconclusive"


def test_a_few_images_among_many_tensors_do_not_make_all_of_it_unclear(before):
    values = np.random.default_rng(4).normal(size=1000)
    report = compare(manifest(), before, seen_of(before, values, widths=values[:5]))
    assert verdicts(report)["width"] == "unclear"
    assert report.outcome == "ok"


def test_what_is_ignored_is_left_out_and_a_wrong_name_is_told(before):
    seen = seen_of(before, RNG.normal(2, size=500))
    report = compare(manifest(), before, seen, ignored=("mean", "width"))
    assert set(verdicts(report)) == {"class", "inputs"}
    assert report.ignored == ("mean", "width")
    with pytest.raises(UsageError, match=r"No statistic 'wdith'.*[Dd]id you mean 'width'"):
        compare(manifest(), before, seen, ignored=("wdith",))
    strict = compare(
        manifest(),
        before,
        seen_of(before, RNG.normal(0.2, size=4000)),
        Thresholds(psi_alarm=0.02, psi_warn=0.01),
    )
    assert strict.outcome == "alarm"


# --- a log, and the command


@pytest.fixture
def few_draws(monkeypatch):
    """What is far off is told with few draws, too, and in a fraction of the time."""
    monkeypatch.setattr(drift, "DRAWS", 999)
    monkeypatch.setattr(drift, "PERMUTATIONS", 199)


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    """A tiny version that was trained on 600 random images of 8 x 8."""
    base_path = tmp_path_factory.mktemp("drift") / "models"
    return publish_tiny(base_path, side=8, trained_on=images(600, seed=1))


def images(number, seed=0, light=1.0):
    rng = np.random.default_rng(seed)
    levels = rng.uniform(40, 250, (number, 1, 1, 1))
    return (rng.uniform(0, 1, (number, 8, 8, 1)) * levels * light).astype(np.uint8)


def write_windows(log, version, pixels, each=150, began=None, **changes):
    """Writes what a server that saw these images would have, one window for each 150 of them."""
    from tests.serving.published import logits_of
    from zoo.drift import measures

    manifest, baseline, sha256 = read_version(version)
    moment = began or datetime.now(UTC) - timedelta(minutes=5)
    folder = log / manifest.model / str(manifest.version)
    folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(pixels), each)):
        some = pixels[start : start + each]
        image_nhwc = manifest.preprocessing.to_input(some)
        log_nk = measures.log_probabilities({"logits": logits_of(image_nhwc)})
        counter = Counter(baseline, 100, seed=number)
        counter.add(
            measures.measure(
                image_nhwc, log_nk, np.full((len(some), 2), 8), manifest.preprocessing.input
            )
        )
        window = Window(
            model=manifest.model,
            version=manifest.version,
            baseline=sha256,
            began=moment,
            ended=moment + timedelta(minutes=1),
            images=len(some),
            counts={name: tuple(map(int, each)) for name, each in counter.counts.items()},
            classes=tuple(map(int, counter.classes)),
            embeddings=counter.embeddings(),
        ).model_copy(update=changes)
        name = f"{moment:%Y%m%dT%H%M%SZ}-{number:06x}.json"
        (folder / name).write_text(window.model_dump_json())


def told(capsys, *arguments):
    """Runs the command; returns its exit code, standard output and standard error."""
    capsys.readouterr()
    code = 0
    try:
        main(["drift", *map(str, arguments)])
    except SystemExit as stopped:
        code = stopped.code
    out, err = capsys.readouterr()
    return code or 0, out, err


@pytest.mark.openvino
def test_the_windows_of_a_log_are_put_together(version, tmp_path):
    write_windows(tmp_path, version, images(300, seed=2), each=100)
    write_windows(tmp_path, version, images(700, seed=3), each=700, began=datetime.now(UTC))
    (tmp_path / "tiny" / "1" / ".20261121T113000Z-1a2b3c.json-12345678").write_text("{")
    seen = read_log(tmp_path, *read_version(version))
    assert seen.images == seen.classes.sum() == seen.counts["mean"].sum() == 1000
    assert seen.windows == 4
    # A tenth of the images gives a tenth of 500 vectors; the large window has only its hundred.
    assert 240 <= len(seen.embeddings["inputs"]) <= 253
    recent = read_log(tmp_path, *read_version(version), datetime.now(UTC) - timedelta(minutes=1))
    assert recent.images == 700


@pytest.mark.openvino
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"baseline": "f" * 64}, "counts into the bins of another baseline"),
        ({"classes": (1, 2)}, "is damaged: its counts do not fit"),
        ({"counts": {}}, "is damaged: its counts do not fit"),
    ],
)
def test_a_window_that_does_not_belong_here_is_refused(version, tmp_path, changes, words):
    write_windows(tmp_path, version, images(10), **changes)
    with pytest.raises(DataError, match=words):
        read_log(tmp_path, *read_version(version))


@pytest.mark.openvino
def test_the_exit_code_says_what_a_job_must_know(version, tmp_path, capsys, few_draws):
    logs = {name: tmp_path / name for name in ("plain", "dim", "few", "empty", "damaged")}
    write_windows(logs["plain"], version, images(600, seed=2))
    write_windows(logs["dim"], version, images(600, seed=2, light=0.5))
    write_windows(logs["few"], version, images(12, seed=2))
    logs["empty"].mkdir()
    write_windows(logs["damaged"], version, images(12))
    next(logs["damaged"].rglob("*.json")).write_text('{"format": 1')

    code, out, err = told(capsys, version, logs["plain"])
    assert (code, err) == (0, "")
    assert re.search(r"mean\s+│ ok", out)
    page = tmp_path / "pages" / "drift.html"
    code, out, err = told(capsys, version, logs["dim"], "--json", "--html", page)
    assert code == 4
    report = json.loads(out)
    assert report["outcome"] == "alarm"
    assert {each["name"] for each in report["findings"]} >= {"mean", "contrast", "class", "inputs"}
    assert "is asked is not what it was trained on: mean (PSI" in err
    check_page(page.read_text(encoding="utf-8"), report)
    code, _, err = told(capsys, version, logs["few"])
    assert code == 5
    assert re.search(r"12 images do not tell .*; about \d+ would", err)
    code, out, err = told(capsys, version, logs["empty"])
    assert (code, out) == (5, "")
    assert "has nothing of version 1 of 'tiny'; it has no windows at all" in err
    code, _, err = told(capsys, version, logs["plain"], "--since", "60s")
    assert code == 5
    assert "in that time; it has tiny version 1 (last 20" in err
    assert told(capsys, version, logs["damaged"])[0] == 3
    assert told(capsys, version, tmp_path / "nowhere")[0] == 3
    for wrong in (
        (),
        (logs["plain"], "--source", "digits"),
        (logs["plain"], "--since", "yesterday"),
        (logs["plain"], "--part", "test"),
        (logs["plain"], "--psi-warn", "0.5"),
        (logs["plain"], "--ignore", "size"),
        (logs["plain"], "--html", page / "below a file.html"),
    ):
        assert told(capsys, version, *wrong)[0] == 2, wrong
    assert told(capsys, version, logs["dim"], "--psi-alarm", "99", "--mmd-alarm", "2")[0] == 0


def check_page(text, report):
    assert text.startswith("<!doctype html>")
    assert not re.search(r"(?:src|href)=|url\(|https?://", text)
    assert text.count("<figure>") == len(report["findings"])
    assert text.count("<rect") == sum(2 * len(each["now"]) for each in report["findings"])
    for label in LABELS:
        assert f">{label}</text>" in text


@pytest.mark.openvino
def test_a_version_without_a_baseline_says_so(tmp_path, capsys):
    version = publish_tiny(tmp_path / "models")
    code, _, err = told(capsys, version, "--source", "digits")
    assert code == 3
    assert "has no baseline of drift" in err


@pytest.mark.openvino
def test_images_are_compared_before_anything_is_served(version, tmp_path, capsys, few_draws):
    from PIL import Image

    for name, light in (("same", 1.0), ("dim", 0.4)):
        (tmp_path / name / "any folder").mkdir(parents=True)
        for number, pixels in enumerate(images(300, seed=7, light=light)):
            Image.fromarray(pixels[:, :, 0]).save(tmp_path / name / "any folder" / f"{number}.png")
    code, out, err = told(capsys, version, "--source", tmp_path / "same", "--json")
    assert code == 0, out
    report = json.loads(out)
    assert report["images"] == 300
    assert {each["name"] for each in report["findings"]} >= {"width", "class", "answers"}
    (tmp_path / "dim" / "broken.png").write_bytes(b"no image")
    code, out, err = told(capsys, version, "--source", tmp_path / "dim")
    assert code == 4
    assert "Warning: 1 images cannot be used, e.g. broken.png: " in err
    code, out, err = told(
        capsys, version, "--source", tmp_path / "same", "--most-images", 100, "--json"
    )
    assert json.loads(out)["images"] == 100
    assert told(capsys, version, "--source", tmp_path / "same", "--part", "test")[0] == 2
    assert told(capsys, version, "--source", "digits", "--part", "test")[0] == 4
    assert told(capsys, version, "--source", tmp_path / "none")[0] == 2


@pytest.mark.openvino
def test_a_log_is_compared_where_only_the_base_is_installed(version, tmp_path):
    write_windows(tmp_path, version, images(300, seed=2))
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name in {ABSENT}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from zoo.command import main\n"
        "main(sys.argv[1:])\n"
    )

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-c", code, "drift", str(version), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    page = tmp_path / "drift.html"
    done = run(tmp_path, "--html", page)
    assert (done.returncode, done.stderr) == (0, "")
    assert page.stat().st_size > 10_000
    done = run("--source", "digits")
    assert done.returncode == 1
    assert "is needed, which is not installed: pip install 'convzoo[train]'" in done.stderr
