"""Which file, and which form of a network, somebody means by a name and by "keras" or a path."""

from dataclasses import dataclass
from pathlib import Path

from zoo.catalog import CATALOG, describe
from zoo.errors import DataError, UsageError
from zoo.suggest import unknown
from zoo.weights.names import has_rule, rule
from zoo.weights.public import PUBLIC, PublicWeights, digest, fetch

# What others publish under a network's plain name may be another form of it.
SUFFIXES = ("", "_owt", "_bn", "_keras", "_v1_5")

# Of a file: its suffix, the dialect of its names, and whose weights are written so.
_DIALECTS = {
    ".h5": ("keras", "keras"),
    ".keras": ("keras", "keras"),
    ".safetensors": ("torch", "torchvision"),
    ".pth": ("torch", "torchvision"),
    ".pt": ("torch", "torchvision"),
    ".bin": ("torch", "torchvision"),
    ".caffemodel": ("caffe", "caffe"),
}


@dataclass(frozen=True, slots=True)
class Chosen:
    """A file of weights and the network that takes it.

    Attributes:
        network: The catalog name of the form that these weights are for.
        path: The file.
        declared: Whose input and options these weights have.
        public: The published file that this one is, to the bit; None of any other.
    """

    network: str
    path: Path
    declared: PublicWeights
    public: PublicWeights | None


def choose(network: str, weights: str) -> Chosen:
    """Finds weights for a network.

    Args:
        network: A catalog name; where the publisher has another form of it, e.g. keras.applications
            of resnet50, that form is taken.
        weights: A publisher, e.g. "keras" (downloaded once, and verified), or a file.

    Raises:
        UsageError: no such network, or nobody publishes it so.
        DataError: the file is not there, or what was downloaded is not what was published.
    """
    describe(network)
    forms = [name for suffix in SUFFIXES if (name := network + suffix) in CATALOG]
    public = {
        each.name.partition("/")[2]: each
        for form in reversed(forms)
        for each in PUBLIC.values()
        if each.network == form
    }
    if weights in public:
        found = public[weights]
        path = fetch(found.name)
        if not _is(found, path):
            raise DataError(
                f"{path} is not {found.name} any more: its {found.algorithm} is another. Remove "
                "it, and it is downloaded again."
            )
        return Chosen(found.network, path, found, found)
    path = Path(weights)
    if not path.is_file():
        if path.suffix in _DIALECTS or path.exists():
            raise DataError(f"There is no file of weights {weights}.")
        raise UsageError(
            unknown(f"public weights of {network}", weights, public)
            + f" A file works too: {', '.join(_DIALECTS)}."
        )
    if path.suffix not in _DIALECTS:
        raise DataError(f"{path} ends in {path.suffix or 'nothing'}; {', '.join(_DIALECTS)} work.")
    dialect, publisher = _DIALECTS[path.suffix]
    form = next((name for name in forms if has_rule(name, dialect)), None)
    if form is None:
        rule(network, dialect)
        raise AssertionError(network)
    # Oxford's VGG is the same in Caffe's files as in Keras's.
    declared = PUBLIC.get(f"{form}/{publisher}") or PUBLIC[f"{form}/keras"]
    known = (each for each in PUBLIC.values() if each.network == form and _is(each, path))
    return Chosen(form, path, declared, next(known, None))


def _is(weights: PublicWeights, path: Path) -> bool:
    is_alike = path.suffix == Path(weights.url).suffix
    return is_alike and digest(path, weights.algorithm).startswith(weights.digest)
