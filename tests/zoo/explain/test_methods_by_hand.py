"""The methods on a network whose every number is known."""

import numpy as np
import pytest

from tests.zoo.explain.by_hand import SIZE, HandProbe, an_image
from zoo.errors import ExplainError
from zoo.explain import inversion as inversions
from zoo.explain.deconvnet import deconvnet, top_patches
from zoo.explain.evolution import evolution
from zoo.explain.grad_cam import grad_cam, guided_grad_cam
from zoo.explain.guided import guided_backpropagation
from zoo.explain.integrated import integrated_gradients
from zoo.explain.invariance import invariance, move
from zoo.explain.maps import feature_maps, filters
from zoo.explain.methods import METHODS, Subject, explain, methods_of
from zoo.explain.occlusion import occlusion
from zoo.explain.probe import Layer, rows_at_once, softmax
from zoo.explain.resize import resize_bilinear
from zoo.explain.saliency import class_model, saliency
from zoo.explain.sanity import rank_correlation, weight_randomisation
from zoo.spec import ImageInput


@pytest.fixture
def probe():
    return HandProbe()


def subject(probe, image):
    shape = ImageInput(height=SIZE, width=SIZE, channels=1, colour="gray", value_range=(-1, 1))
    pixels = np.full((SIZE, SIZE, 1), 7, np.uint8)
    return Subject(probe, pixels, image, shape, labels=("cat", "dog"))


def test_saliency_is_the_size_of_the_score_gradient(probe):
    image = an_image()
    found = saliency(probe, image[None], 1)[0]
    assert np.allclose(found, np.abs(probe.table[1]) * (image[..., 0] > 0))


def test_guided_backpropagation_keeps_positive_signals_of_active_units(probe):
    image = an_image()
    found = guided_backpropagation(probe, image[None], 0)[0, ..., 0]
    assert np.allclose(found, np.maximum(probe.table[0], 0) * (image[..., 0] > 0))


def test_grad_cam_is_the_weighted_map_by_hand(probe):
    image = an_image()
    found = grad_cam(probe, image[None], 1, layer="relu1")[0]
    weight = probe.table[1].mean()
    assert np.allclose(found, np.maximum(weight * np.maximum(image[..., 0], 0), 0), atol=1e-6)


def test_guided_grad_cam_is_the_product_of_both(probe):
    image = an_image()[None]
    product = guided_backpropagation(probe, image, 1)[0, ..., 0] * grad_cam(
        probe, image, 1, layer="relu1"
    )
    assert np.allclose(guided_grad_cam(probe, image, 1, layer="relu1")[0, ..., 0], product)


@pytest.mark.parametrize("baseline", [0.0, -0.5])
def test_integrated_gradients_sum_to_the_score_difference(probe, baseline):
    found = integrated_gradients(probe, an_image(), 0, steps=400, baseline=baseline)
    total = float(found.attribution_hwc.sum())
    assert total == pytest.approx(found.score_difference, abs=0.02)
    assert found.residual == pytest.approx(total - found.score_difference, abs=1e-4)


def test_integrated_gradients_of_a_linear_score_are_weight_times_way(probe):
    image = np.abs(an_image())
    found = integrated_gradients(probe, image, 1, steps=3)
    assert np.allclose(found.attribution_hwc[..., 0], image[..., 0] * probe.table[1], atol=1e-5)


def test_occlusion_finds_a_planted_object():
    weights = np.zeros((2, SIZE, SIZE))
    weights[0, 5:7, 1:3] = 2  # class 0 is whatever shines there
    probe = HandProbe(weights)
    image = np.full((SIZE, SIZE, 1), 0.1, np.float32)
    image[5:7, 1:3] = 1
    found = occlusion(probe, image, 0, patch=2, stride=1, fill=0.0, layer="relu1")
    row, column = np.unravel_index(found.probability_hw.argmin(), found.probability_hw.shape)
    assert (found.tops[row], found.lefts[column]) == (5, 1)
    assert np.unravel_index(found.drop_HW.argmax(), found.drop_HW.shape) in {
        (r, c) for r in (5, 6) for c in (1, 2)
    }
    covered = image.copy()
    covered[5:7, 1:3] = 0
    assert found.strongest_hw[row, column] == pytest.approx(covered.sum(), rel=1e-5)
    logits = probe.feature_maps(covered[None], ["logits"])["logits"]
    assert found.probability_hw[row, column] == pytest.approx(softmax(logits)[0, 0], rel=1e-5)
    assert found.best_hw[row, column] == logits[0].argmax()


def test_occlusion_reaches_every_pixel_also_where_the_stride_does_not_divide(probe):
    found = occlusion(probe, an_image(), 0, patch=3, stride=3, layer="relu1")
    assert list(found.tops) == [0, 3, 5]
    assert found.probability_hw.shape == (3, 3)


@pytest.mark.parametrize("patch", [0, 9, -1])
def test_a_patch_that_does_not_fit_is_refused(probe, patch):
    if patch == 0:
        with pytest.raises(ExplainError, match="stride -1"):
            occlusion(probe, an_image(), 0, patch=2, stride=-1)
    else:
        with pytest.raises(ExplainError, match="does not fit"):
            occlusion(probe, an_image(), 0, patch=patch)


def test_the_deconvnet_projects_one_activation_alone(probe):
    image = an_image()
    found = deconvnet(probe, image, "relu1")
    row, column, channel = found.place
    assert found.activation == pytest.approx(image.max())
    assert np.flatnonzero(found.image_hwc).tolist() == [row * SIZE + column]
    assert found.box == (row, column, row + 1, column + 1)
    assert channel == 0


def test_top_patches_are_the_strongest_images_each_once(probe):
    images = np.stack([np.full((SIZE, SIZE, 1), v, np.float32) for v in (0.1, 0.9, 0.5, 0.7)])
    images[:, 3, 4] *= 2
    found = top_patches(probe, [images[:2], images[2:]], "relu1", [0], count=3)[0]
    assert [each.index for each in found] == [1, 3, 2]
    assert all(each.place == (3, 4) for each in found)
    assert [each.pixels_hwc.item() for each in found] == pytest.approx([1.8, 1.4, 1.0])


def test_evolution_follows_the_epochs_in_order(probe):
    images = np.stack([an_image(0), an_image(1)])
    found = evolution({5: probe, 1: probe}, images, "relu1", 0)
    assert [stage.epoch for stage in found] == [1, 5]
    assert found[0].patch.index == int(images.max((1, 2, 3)).argmax())


def test_a_class_model_raises_the_score_from_the_zero_image():
    probe = HandProbe(np.ones((2, SIZE, SIZE)) * np.array([1, -1])[:, None, None])
    start = np.full((SIZE, SIZE, 1), 0.01, np.float32)
    found = class_model(probe, 0, steps=20, start_hwc=start, decay=0)
    assert found.scores[-1] > found.scores[0]
    assert found.probability > 0.99
    # Each step has the root mean square that was asked for.
    assert found.image_hwc.mean() == pytest.approx(0.01 + 20 * 0.1, rel=1e-4)


def test_decay_pulls_a_class_model_towards_zero(probe):
    start = np.full((SIZE, SIZE, 1), 0.5, np.float32)
    free = class_model(probe, 0, steps=50, start_hwc=start, decay=0)
    held = class_model(probe, 0, steps=50, start_hwc=start, decay=1.0)
    assert np.square(held.image_hwc).sum() < np.square(free.image_hwc).sum()


# --- inversion ----------------------------------------------------------------------------------


def test_the_authors_weights_are_those_of_the_paper():
    # The paper's units: x = sigma x', so its alpha weight is 4e-10 sigma^4 and its TV 0.5, 5, 50.
    weight = inversions.ALPHA_WEIGHT / 2 * inversions.SIGMA**4
    assert weight == pytest.approx(2.16e8, rel=2e-3)
    assert [inversions.tv_weight(layer / 20) / 2 for layer in (1, 6, 7, 12, 13, 20)] == [
        *(0.5, 0.5, 5, 5, 50, 50)
    ]


@pytest.mark.parametrize("term", [inversions.total_variation, inversions.alpha_norm])
def test_regulariser_gradients_are_those_of_finite_differences(term):
    x = np.random.default_rng(0).normal(size=(4, 5, 2)).astype(np.float64)
    _, slope = term(x)
    for at in [(0, 0, 0), (3, 4, 1), (2, 4, 0), (3, 1, 1), (1, 2, 0)]:
        up, down = x.copy(), x.copy()
        up[at] += 1e-5
        down[at] -= 1e-5
        assert slope[at] == pytest.approx((term(up)[0] - term(down)[0]) / 2e-5, rel=1e-4)


def test_inversion_brings_the_representation_back(probe):
    image = np.clip(np.abs(an_image()), 0, 1)
    found = inversions.inversion(probe, image, "relu1", unit=1 / 255, centre=0.5, tv=0.0)
    assert found.error < 0.2
    assert found.energies[-1] < found.energies[0] / 10


def test_inversion_that_diverges_says_so(probe):
    with pytest.raises(ExplainError, match="a rate below"):
        inversions.inversion(probe, np.abs(an_image()), "relu1", rate=1e9)


def test_inversion_of_nothing_is_refused(probe):
    with pytest.raises(ExplainError, match="is zero"):
        inversions.inversion(probe, -np.abs(an_image()), "relu1")


# --- invariance ---------------------------------------------------------------------------------


def test_an_image_that_does_not_move_has_no_distance(probe):
    for motion, still in (("translate", 0.0), ("scale", 1.0), ("rotate", 0.0), ("rotate", 360.0)):
        found = invariance(probe, an_image(), motion, ["relu1"], values=[still])
        assert found.distance_lv[0, 0] == pytest.approx(0, abs=1e-4)


def test_whole_pixels_move_exactly():
    image = an_image()
    moved = move(image, "translate", 2 / SIZE, np.float32(9))
    assert np.allclose(moved[2:], image[:-2])
    assert np.allclose(moved[:2], 9)
    assert np.allclose(move(image, "rotate", 90, np.float32(0)), np.rot90(image), atol=1e-5)


def test_invariance_measures_distances_and_the_probability(probe):
    image = an_image()
    found = invariance(probe, image, "translate", ["relu1", "logits"], values=[0.0, 0.25])
    moved = move(image, "translate", 0.25, image[0, 0])
    expected = np.linalg.norm(np.maximum(moved, 0) - np.maximum(image, 0))
    assert found.distance_lv[0, 1] == pytest.approx(expected, rel=1e-5)
    assert found.distance_lv.shape == (2, 2)
    logits = probe.feature_maps(moved[None], ["logits"])["logits"]
    assert found.probability_v[1] == pytest.approx(softmax(logits)[0, found.target], rel=1e-5)


# --- sanity -------------------------------------------------------------------------------------


def test_rank_correlation_is_spearmans():
    first, second = np.array([1.0, 2, 2, 4]), np.array([10.0, 9, 30, 7])
    # Ranks 1, 2.5, 2.5, 4 and 3, 2, 4, 1, by hand: -3.0 / (sqrt(4.5) sqrt(5)).
    assert rank_correlation(first, second) == pytest.approx(-3.0 / np.sqrt(4.5 * 5))
    assert rank_correlation(first, np.ones(4)) == 0
    assert rank_correlation(first, -first) == pytest.approx(-1)


def test_what_ignores_the_network_passes_no_sanity_check(probe):
    image = np.abs(an_image())[None]
    gradient = weight_randomisation(probe, lambda each: saliency(each, image, 0))
    edges = weight_randomisation(probe, lambda _: image)
    assert [step.layer for step in gradient] == ["logits"]
    assert abs(gradient[0].rank) < 0.5
    assert edges[0].rank == pytest.approx(1)


def test_an_explanation_that_is_flat_cannot_be_checked(probe):
    with pytest.raises(ExplainError, match="same everywhere"):
        weight_randomisation(probe, lambda _: np.zeros((3, 3)))


# --- maps, resizing, the table ------------------------------------------------------------------


def test_feature_maps_are_the_layers_output(probe):
    image = an_image()
    assert np.array_equal(feature_maps(probe, image[None], "relu1")[0], np.maximum(image, 0))


def test_a_layer_without_filters_says_which_have_them(probe):
    with pytest.raises(ExplainError, match="'logits' has no filters"):
        filters(probe, "logits")


def test_resizing_holds_edges_and_interpolates_between_centres():
    found = resize_bilinear(np.array([[0.0, 1.0]], np.float32), 1, 4)
    assert np.allclose(found, [[0, 0.25, 0.75, 1]])


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_answers_or_says_why_not(probe, method):
    image = np.abs(an_image())
    chosen = METHODS[method]
    layer = "relu1" if chosen.needs_layer else None
    options = {"inversion": {"steps": [2, 1, 1]}, "class_model": {"steps": 2}}.get(method, {})
    if method == "filters":
        with pytest.raises(ExplainError, match="has no filters"):
            explain(subject(probe, image), method, layer=layer)
        return
    found = explain(subject(probe, image), method, layer=layer, options=options)
    assert found.method == method
    assert found.arrays
    assert all(np.isfinite(array).all() for array in found.arrays.values())


@pytest.mark.parametrize(
    ("method", "more", "text"),
    [
        ("grad_can", {}, "Did you mean 'grad_cam'"),
        ("saliency", {"layer": "relu1"}, "looks at no single layer"),
        ("deconvnet", {}, "needs a layer; there are relu1, flatten, logits"),
        ("filters", {"target": 1, "layer": "logits"}, "explains no single class"),
        ("grad_cam", {"layer": "conv"}, "No layer 'conv'"),
        ("grad_cam", {"layer": "logits"}, "no rows and columns. These have: relu1"),
        ("saliency", {"target": 2}, "There is no class 2; this network has 2, 0 to 1"),
        ("occlusion", {"options": {"pach": 2}}, "Did you mean 'patch'"),
        ("occlusion", {"options": {"patch": "two"}}, "patch"),
        ("unit", {"layer": "relu1", "options": {"row": 1}}, "a row and a column"),
        ("unit", {"layer": "relu1", "options": {"row": 9, "column": 0}}, "8 x 8 places"),
        ("unit", {"layer": "image"}, "nothing is computed there"),
        ("invariance", {"options": {"motion": "jump"}}, "motion"),
        ("integrated_gradients", {"options": {"steps": 0}}, "steps"),
        ("integrated_gradients", {"options": {"baseline": 1e39}}, "baseline"),
        ("integrated_gradients", {"options": {"baseline": float("nan")}}, "baseline"),
        ("occlusion", {"options": {"fill": -1e39}}, "fill"),
        ("class_model", {"options": {"rate": float("nan")}}, "rate"),
        ("inversion", {"layer": "relu1", "options": {"steps": [-1, 1, 1]}}, "steps"),
        ("inversion", {"layer": "relu1", "options": {"steps": [0, 0, 0]}}, "at least one step"),
        ("inversion", {"layer": "relu1", "options": {"tv": float("inf")}}, "tv"),
        ("inversion", {"layer": "relu1", "options": {"seed": 2**32}}, "seed"),
        ("invariance", {"options": {"motion": "scale", "values": [0]}}, "0.01 to 100 work"),
        ("invariance", {"options": {"values": [1, 1e39]}}, "-2 to 2 work"),
        ("invariance", {"options": {"fill": 1e39}}, "fill"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_what_can(probe, method, more, text):
    with pytest.raises(ExplainError, match=text):
        explain(subject(probe, np.abs(an_image())), method, **more)


def test_a_layer_names_the_methods_that_can_look_at_it(probe):
    assert "deconvnet" in methods_of(probe, probe.layers[1])
    assert "grad_cam" not in methods_of(probe, probe.layers[2])
    assert methods_of(probe, probe.layers[0]) == ("feature_maps",)


def test_batches_are_cut_to_what_memory_may_hold(probe):
    assert rows_at_once(probe.layers) == 32_000_000 // (3 * SIZE * SIZE + 2)
    large = Layer(name="conv", kind="Conv2D", parents=(), output_shape=(9000, 9000, 64))
    assert rows_at_once([large]) == 1
