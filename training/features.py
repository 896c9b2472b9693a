"""A trained network as a fixed feature extractor, with scikit-learn's classifiers on top.

After the observation that a layer of a network trained for one task, and a linear classifier on
it, go far in another [donahue2014].
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training import predictor
from training.data import sources
from training.data.store import store
from training.evaluate import proportion
from zoo.artifact import Metric
from zoo.errors import DataError, UsageError
from zoo.frozen import Frozen
from zoo.suggest import unknown

NEIGHBOURS = 5


class FeatureReport(Frozen):
    """How far simple classifiers get with a layer's outputs.

    Attributes:
        layer: The layer's name.
        dimensions: Values an image.
        classifiers: Each one's accuracy on the test part.
    """

    layer: str
    dimensions: int
    train_images: int
    test_images: int
    classifiers: dict[str, Metric]


def classify_features(
    path: Path,
    source: str,
    layer: str | None = None,
    out: Path | None = None,
    talk: Callable[[str], None] = lambda _: None,
) -> FeatureReport:
    """Fits classifiers on a layer's outputs for the training part, and measures them on the test part.

    Args:
        path: A published version or a run.
        source: As `training.data.sources.find` takes it; its classes need not be the network's.
        layer: The layer's name; the input of the last layer with weights when None.
        out: An .npz file for the features: x_train, y_train, x_test, y_test, labels.
        talk: Takes one line for each stage.

    Raises:
        UsageError: no such layer; names those there are.
        DataError: the training part is too small to fit classifiers on.
    """
    found = predictor.load(path)
    chosen = layer or penultimate(found.model)
    names = [each.name for each in found.model.layers]
    if chosen not in names:
        raise UsageError(unknown("layer", chosen, names))
    data = sources.find(source)
    preprocessing = found.preprocessing
    stored = store(data.load(), preprocessing, on_corrupt=data.on_corrupt)
    train = stored.dataset.train
    classes = len(np.unique(train.class_ids))
    if classes < 2 or len(train) < NEIGHBOURS:
        raise DataError(
            f"The training part of {source!r} has {len(train)} images of {classes} classes; "
            f"classifiers need at least {NEIGHBOURS} images and 2 classes."
        )
    parts = {}
    for name in ("train", "test"):
        images = stored.dataset.parts()[name]
        talk(f"{chosen} of {len(images):,} images of the {name} part")
        values = found.of_layer(iter(images.pixels_nhwc), chosen)
        parts[name] = (values.reshape(len(values), -1), images.class_ids)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            out,
            allow_pickle=False,
            x_train=parts["train"][0],
            y_train=parts["train"][1],
            x_test=parts["test"][0],
            y_test=parts["test"][1],
            labels=np.array(stored.dataset.labels),
        )
    (x_train, y_train), (x_test, y_test) = parts["train"], parts["test"]
    classifiers = {}
    for name, classifier in make_classifiers().items():
        talk(name)
        classifier.fit(x_train, y_train)
        right: NDArray[np.bool_] = classifier.predict(x_test) == y_test
        classifiers[name] = proportion(int(right.sum()), len(right))
    return FeatureReport(
        layer=chosen,
        dimensions=x_train.shape[1],
        train_images=len(x_train),
        test_images=len(x_test),
        classifiers=classifiers,
    )


def penultimate(model: Any) -> str:
    """The layer whose output the last layer with weights takes."""
    last = next(layer for layer in reversed(model.layers) if layer.weights)
    name: str = last.input._keras_history.operation.name  # noqa: SLF001 - Keras has no other way
    return name


def make_classifiers() -> dict[str, Any]:
    """scikit-learn's classifiers by name, each on standardised features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    return {
        "logistic regression": make_pipeline(
            StandardScaler(), LogisticRegression(C=0.1, max_iter=300)
        ),
        "linear SVM": make_pipeline(StandardScaler(), LinearSVC(C=0.01, max_iter=3000)),
        f"{NEIGHBOURS} nearest neighbours": make_pipeline(
            StandardScaler(), KNeighborsClassifier(NEIGHBOURS)
        ),
    }
