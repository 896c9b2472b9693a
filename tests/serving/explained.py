"""Networks to look into: an xo that was trained here, published as any run is.

Its three features are set by hand; its votes are the least-squares fit to drawn Xs and Os.
"""

from pathlib import Path

import numpy as np

LABELS = ("X", "O")


def draw_xo(count: int, seed: int = 0):
    """Pixels [count, 9, 9, 1] of 0 and 255, and class ids: Xs and Os of several sizes and places."""
    draws = np.random.default_rng(seed)
    pixels = np.zeros((count, 9, 9, 1), np.uint8)
    class_ids = np.arange(count) % 2
    for image, class_id in zip(pixels, class_ids, strict=True):
        size = int(draws.integers(5, 10))
        top, left = draws.integers(0, 9 - size + 1, 2)
        for step in range(size):
            if class_id == 0:
                image[top + step, left + step] = image[top + step, left + size - 1 - step] = 255
            elif 0 < step < size - 1:
                image[top, left + step] = image[top + size - 1, left + step] = 255
                image[top + step, left] = image[top + step, left + size - 1] = 255
    # Shaky hands: in every other pair some pixels are wrong.
    noisy = (np.arange(count) // 2 % 2 == 1)[:, None, None, None]
    wrong = noisy & (draws.random(pixels.shape) < 0.07)
    return np.where(wrong, 255 - pixels, pixels).astype(np.uint8), class_ids.astype(np.int64)


def publish_xo(base_path: Path, place: Path, model: str = "xo") -> Path:
    """Publishes the network; the run it comes from is left in `place`."""
    import zoo
    from training.data.dataset import Images
    from training.publish import publish
    from training.recipe import Recipe
    from training.run import Evaluation, Run, RunRecord
    from zoo.artifact import Metric
    from zoo.preprocess import Preprocessing, Resize, Scale

    recipe = Recipe.model_validate(
        {
            "model": {"name": "xo"},
            "data": {"source": "digits"},
            "preprocessing": {
                "pixel_steps": [{"kind": "resize", "height": 9, "width": 9, "method": "box"}],
                "input_steps": [{"kind": "scale", "scale": 2 / 255, "offset": -1.0}],
            },
            "publish_as": model,
            "epochs": 1,
        }
    )
    preprocessing = Preprocessing(
        input=zoo.describe("xo").input,
        pixel_steps=(Resize(height=9, width=9, method="box"),),
        input_steps=(Scale(scale=2 / 255, offset=-1.0),),
    )
    network = zoo.create("xo")
    pixels, class_ids = draw_xo(1024)
    images = preprocessing.to_input(pixels)
    flat = np.asarray(type(network)(network.input, network.get_layer("flatten").output)(images))
    wanted = np.where(np.eye(2)[class_ids] == 1, 3.0, -3.0)
    votes = np.linalg.lstsq(np.c_[flat, np.ones(len(flat))], wanted, rcond=1e-2)[0]
    network.get_layer("logits").set_weights([votes[:-1].astype("f"), votes[-1].astype("f")])
    accuracy = float((np.asarray(network(images)).argmax(-1) == class_ids).mean())

    run = Run(place)
    run.write_record(
        RunRecord(
            recipe=recipe.model_dump(mode="json"),
            recipe_sha256=recipe.sha256(),
            data="drawn",
            data_sha256="",
            labels=LABELS,
            libraries={},
        )
    )
    run.write_preprocessing(preprocessing, {})
    network.save(run.model)
    run.write_holdout(Images(*draw_xo(32, seed=1)), LABELS)
    run.write_evaluation(
        Evaluation(metrics={"accuracy": Metric(value=accuracy)}, confusion=((0, 0), (0, 0)))
    )
    return publish(run, base_path)[1]
