"""What can be wrong with a data set, looked for before anything is trained on it."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from training.data.store import Seen
from zoo.frozen import Frozen

# Two images are near duplicates when their thumbnails differ by at most this, in gray levels
# (root mean square): recompression and a change of one pixel stay below, another photograph does
# not.
NEAR_LEVELS = 3.0

# Beyond this many images near duplicates are not looked for: the search would take minutes.
MOST_FOR_NEAR = 200_000

IMBALANCE = 10.0
LISTED = 20


class PartReport(Frozen):
    """One part: how many images of each class, and how large they are.

    Attributes:
        classes: Images of each class.
        sizes: "height x width x channels" to the number of images, the commonest first; at most 20.
        corrupt: Name to reason.
        duplicates: Names of images with equal pixels, in groups; at most 20 groups.
        duplicate_images: How many images equal an earlier one.
        turned: Names of images whose EXIF orientation is not 1; at most 20.
        turned_images: How many there are.
        mean: Mean of all gray thumbnails, 0..255.
        std: Their standard deviation.
    """

    images: int
    classes: dict[str, int]
    sizes: dict[str, int]
    corrupt: dict[str, str]
    duplicates: tuple[tuple[str, ...], ...]
    duplicate_images: int
    turned: tuple[str, ...] = ()
    turned_images: int = 0
    mean: float
    std: float


class DataReport(Frozen):
    """A whole data set.

    Attributes:
        leaked: Test images whose pixels are in the training or validation part: (test, other).
        leaked_images: How many there are; `leaked` lists at most 20.
        near_duplicates: Pairs of images that look the same at 16x16, across parts; at most 20.
        near_duplicate_images: Test images that have such a twin in the training part; None when
            the set is too large to look.
        problems: What must be put right before training.
        warnings: What should be known.
    """

    name: str
    labels: tuple[str, ...]
    parts: dict[str, PartReport]
    leaked: tuple[tuple[str, str], ...]
    leaked_images: int
    near_duplicates: tuple[tuple[str, str], ...]
    near_duplicate_images: int | None
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def check(
    name: str,
    labels: Sequence[str],
    seen: Mapping[str, Seen],
    *,
    on_corrupt: str = "stop",
    notes: Sequence[str] = (),
) -> DataReport:
    """Reports on a data set.

    Args:
        name: The data set's.
        labels: The class names.
        seen: What was seen of each part ("train", "validation", "test").
        on_corrupt: With "skip", corrupt images are warned of and are no problem.
        notes: What the source left out; they become warnings.
    """
    parts = {part: _part(each, labels) for part, each in seen.items()}
    leaked = _leaked(seen)
    near, near_images = _near_duplicates(seen)
    problems, warnings = _judge(parts, labels, on_corrupt=on_corrupt)
    warnings += notes
    if leaked:
        warnings.append(
            f"{len(leaked)} of {parts['test'].images:,} test images are also in the training or "
            f"validation part, e.g. {leaked[0][0]} = {leaked[0][1]}: the measured accuracy is "
            "too good."
        )
    if near_images is None:
        warnings.append(f"More than {MOST_FOR_NEAR:,} images: near duplicates were not looked for.")
    elif near_images > len({test for test, _ in leaked}):
        warnings.append(
            f"{near_images} test images look the same as a training image at 16x16, "
            f"e.g. {near[0][0]} and {near[0][1]}."
        )
    return DataReport(
        name=name,
        labels=tuple(labels),
        parts=parts,
        leaked=tuple(leaked[:LISTED]),
        leaked_images=len(leaked),
        near_duplicates=tuple(near[:LISTED]),
        near_duplicate_images=near_images,
        problems=tuple(problems),
        warnings=tuple(warnings),
    )


def _part(seen: Seen, labels: Sequence[str]) -> PartReport:
    counts = np.bincount(seen.class_ids, minlength=len(labels))
    sizes, size_counts = np.unique(seen.sizes, axis=0, return_counts=True)
    groups: dict[str, list[str]] = {}
    for name, digest in zip(seen.names, seen.hashes, strict=True):
        groups.setdefault(digest, []).append(name)
    equal = [tuple(names) for names in groups.values() if len(names) > 1]
    order = np.argsort(-size_counts)[:LISTED]
    return PartReport(
        images=len(seen.names),
        classes={label: int(count) for label, count in zip(labels, counts, strict=True)},
        sizes={" x ".join(map(str, sizes[each])): int(size_counts[each]) for each in order},
        corrupt=seen.corrupt,
        duplicates=tuple(names[:5] for names in equal[:LISTED]),
        duplicate_images=sum(len(names) - 1 for names in equal),
        turned=seen.turned[:LISTED],
        turned_images=len(seen.turned),
        mean=float(seen.thumbnails.mean()) if len(seen.names) else 0.0,
        std=float(seen.thumbnails.std()) if len(seen.names) else 0.0,
    )


def _judge(
    parts: Mapping[str, PartReport], labels: Sequence[str], *, on_corrupt: str
) -> tuple[list[str], list[str]]:
    problems: list[str] = []
    warnings: list[str] = []
    corrupt = {name: why for part in parts.values() for name, why in part.corrupt.items()}
    if corrupt:
        first, why = next(iter(corrupt.items()))
        place = warnings if on_corrupt == "skip" else problems
        place.append(f"{len(corrupt)} corrupt images, e.g. {first}: {why}")
    if len(labels) < 2:
        problems.append(
            f"There is one class only, {labels[0]!r}: with nothing to tell it from, every answer is "
            "right."
        )
    spelled: dict[str, list[str]] = {}
    for label in labels:
        spelled.setdefault(" ".join(label.casefold().split()), []).append(label)
    warnings += [
        f"The classes {' and '.join(map(repr, same))} differ in case or spaces alone: are they one?"
        for same in spelled.values()
        if len(same) > 1
    ]
    train, test = parts["train"], parts["test"]
    problems += [
        f"The {part} part has no images." for part in ("train", "test") if not parts[part].images
    ]
    empty = [label for label in labels if not train.classes[label]]
    if empty and train.images:
        problems.append(f"Classes without a training image: {', '.join(empty)}.")
    unmeasured = [label for label in labels if not test.classes[label]]
    if unmeasured and test.images:
        warnings.append(f"Classes without a test image: {', '.join(unmeasured)}.")
    counts = [count for count in train.classes.values() if count]
    if counts and max(counts) > IMBALANCE * min(counts):
        least = min(train.classes, key=lambda label: train.classes[label] or max(counts))
        warnings.append(
            f"The classes are unbalanced: {min(counts):,} images of {least!r} against "
            f"{max(counts):,} of the largest."
        )
    for name, part in parts.items():
        if part.turned_images:
            warnings.append(
                f"{part.turned_images} images of the {name} part say that they do not lie upright "
                f"(EXIF orientation), e.g. {part.turned[0]}; they are turned, unless "
                "preprocessing.upright is false."
            )
        channels = {size.rsplit(" ", 1)[1] for size in part.sizes}
        if len(channels) > 1:
            warnings.append(f"The {name} part mixes gray and colour images.")
        if part.duplicate_images:
            warnings.append(
                f"{part.duplicate_images} images of the {name} part equal another one there, "
                f"e.g. {' = '.join(part.duplicates[0][:2])}."
            )
    return problems, warnings


def _leaked(seen: Mapping[str, Seen]) -> list[tuple[str, str]]:
    """Test images whose pixels are elsewhere, too."""
    others = {
        digest: name
        for part in ("validation", "train")
        for name, digest in zip(seen[part].names, seen[part].hashes, strict=True)
    }
    test = seen["test"]
    return [
        (name, others[digest])
        for name, digest in zip(test.names, test.hashes, strict=True)
        if digest in others
    ]


def _near_duplicates(seen: Mapping[str, Seen]) -> tuple[list[tuple[str, str]], int | None]:
    """(test, training) pairs that look the same, nearest first, and how many test images have one."""
    train, test = seen["train"], seen["test"]
    if not len(train.names) or not len(test.names):
        return [], 0
    if len(train.names) + len(test.names) > MOST_FOR_NEAR:
        return [], None
    from sklearn.neighbors import KDTree

    # An orthonormal projection never enlarges a distance, so a small radius in eight dimensions
    # finds every pair, and the few that are found are measured in all of them.
    axes = _principal_axes(train.thumbnails)
    radius = NEAR_LEVELS * np.sqrt(train.thumbnails.shape[1])
    tree = KDTree(train.thumbnails.astype(np.float32) @ axes)
    found: list[tuple[float, str, str]] = []
    for row, rows in enumerate(
        tree.query_radius(test.thumbnails.astype(np.float32) @ axes, radius)
    ):
        if not len(rows):
            continue
        gaps = train.thumbnails[rows].astype(np.float32) - test.thumbnails[row]
        distances = np.sqrt(np.square(gaps).mean(axis=1))
        nearest = int(distances.argmin())
        if distances[nearest] <= NEAR_LEVELS:
            found.append((float(distances[nearest]), test.names[row], train.names[rows[nearest]]))
    found.sort()
    return [(test_name, train_name) for _, test_name, train_name in found], len(found)


def _principal_axes(thumbnails: NDArray[np.uint8], number: int = 8) -> NDArray[np.float32]:
    """The directions [256, number] in which the thumbnails differ most, orthonormal."""
    some = thumbnails[:: max(1, len(thumbnails) // 5000)].astype(np.float32)
    covariance = np.cov(some, rowvar=False) if len(some) > 1 else np.eye(some.shape[1])
    axes: NDArray[np.float32] = np.linalg.eigh(covariance)[1][:, -number:].astype(np.float32)
    return axes
