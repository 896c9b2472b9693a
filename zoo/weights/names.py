"""How others name the layers of a network: keras.applications, torchvision, Caffe.

Each function takes one of our layer names and gives theirs, without the array's own suffix; None
for a layer that the network has not.
"""

import re
from collections.abc import Callable

from zoo.errors import UsageError
from zoo.suggest import unknown

Rename = Callable[[str], str | None]

_BLOCK = re.compile(r"conv(\d)_(\d+)_(a|b|c|shortcut)(_bn)?")
_DENSE = re.compile(r"conv(\d)_(\d+)_(\d)(_bn)?")
_TRANSITION = re.compile(r"pool(\d)_(conv|bn)")


def _table(names: dict[str, str]) -> Rename:
    return names.get


# --- VGG ----------------------------------------------------------------------------------------


def _vgg_stages(network: str) -> list[str]:
    from zoo.catalog import CATALOG
    from zoo.models.vgg import CONFIGURATIONS

    stages = CONFIGURATIONS[str(CATALOG[network].options["configuration"])]
    return [
        f"conv{stage}_{step}"
        for stage, kernels in enumerate(stages, start=1)
        for step in range(1, len(kernels) + 1)
    ]


def vgg_keras(network: str) -> Rename:
    """block1_conv1, ..., fc1, fc2, predictions."""
    names = {name: f"block{name[4]}_conv{name[6:]}" for name in _vgg_stages(network)}
    return _table(names | {"fc6": "fc1", "fc7": "fc2", "logits": "predictions"})


def vgg_torch(network: str) -> Rename:
    """features.0, ..., classifier.0, classifier.3, classifier.6."""
    names: dict[str, str] = {}
    place, stage = 0, "1"
    step = 3 if network.endswith("_bn") else 2
    for name in _vgg_stages(network):
        if name[4] != stage:  # a pool stands between the stages
            place, stage = place + 1, name[4]
        names[name] = f"features.{place}"
        names[f"{name}_bn"] = f"features.{place + 1}"
        place += step
    return _table(names | {"fc6": "classifier.0", "fc7": "classifier.3", "logits": "classifier.6"})


def chain_caffe(_: str) -> Rename:
    """The same names, but for the classifier: fc8."""
    return lambda name: "fc8" if name == "logits" else name


# --- AlexNet ------------------------------------------------------------------------------------


def alexnet_torch(_: str) -> Rename:
    """features.0, 3, 6, 8, 10; classifier.1, 4, 6."""
    return _table(
        dict(
            zip(
                (f"conv{n}" for n in range(1, 6)),
                (f"features.{n}" for n in (0, 3, 6, 8, 10)),
                strict=True,
            )
        )
        | {"fc6": "classifier.1", "fc7": "classifier.4", "logits": "classifier.6"}
    )


# --- GoogLeNet ----------------------------------------------------------------------------------


def googlenet_caffe(_: str) -> Rename:
    """conv1/7x7_s2, inception_3a/1x1, ..., loss3/classifier."""
    names = {
        "conv1": "conv1/7x7_s2",
        "conv2_reduce": "conv2/3x3_reduce",
        "conv2": "conv2/3x3",
        "logits": "loss3/classifier",
    }
    for number in ("1", "2"):
        names |= {
            f"aux{number}_conv": f"loss{number}/conv",
            f"aux{number}_fc": f"loss{number}/fc",
            f"aux{number}": f"loss{number}/classifier",
        }

    def rename(name: str) -> str | None:
        if name in names:
            return names[name]
        if not name.startswith("inception"):
            return None
        block, _, branch = name.removeprefix("inception").partition("_")
        return f"inception_{block}/{'pool_proj' if branch == 'proj' else branch}"

    return rename


def googlenet_torch(_: str) -> Rename:
    """conv1.conv, inception3a.branch2.0.conv, aux1.fc1, fc."""
    branches = {
        "1x1": "branch1",
        "3x3_reduce": "branch2.0",
        "3x3": "branch2.1",
        "5x5_reduce": "branch3.0",
        "5x5": "branch3.1",
        "proj": "branch4.1",
    }

    def rename(name: str) -> str | None:
        if name == "logits":
            return "fc"
        base, part = (name.removesuffix("_bn"), "bn") if name.endswith("_bn") else (name, "conv")
        if base.startswith("inception"):
            block, _, branch = base.partition("_")
            return f"{block}.{branches[branch]}.{part}" if branch in branches else None
        if base.startswith("aux"):
            head, _, which = base.partition("_")
            theirs = {"conv": f"{head}.conv.{part}", "fc": f"{head}.fc1", "": f"{head}.fc2"}
            return theirs.get(which)
        return f"{base}.{part}"

    return rename


# --- ResNet -------------------------------------------------------------------------------------


def resnet_keras(_: str) -> Rename:
    """conv1_conv, conv2_block1_1_conv, conv2_block1_0_conv (the shortcut), predictions."""
    places = {"a": "1", "b": "2", "c": "3", "shortcut": "0"}

    def rename(name: str) -> str | None:
        if name in ("conv1", "conv1_bn"):
            return "conv1_conv" if name == "conv1" else "conv1_bn"
        if name == "logits":
            return "predictions"
        if (found := _BLOCK.fullmatch(name)) is None:
            return None
        stage, block, place, norm = found.groups()
        return f"conv{stage}_block{block}_{places[place]}_{'bn' if norm else 'conv'}"

    return rename


def resnet_torch(_: str) -> Rename:
    """conv1, bn1, layer1.0.conv1, layer1.0.downsample.0, fc."""

    def rename(name: str) -> str | None:
        known = {"conv1": "conv1", "conv1_bn": "bn1", "logits": "fc"}
        if name in known:
            return known[name]
        if (found := _BLOCK.fullmatch(name)) is None:
            return None
        stage, block, place, norm = found.groups()
        prefix = f"layer{int(stage) - 1}.{int(block) - 1}"
        if place == "shortcut":
            return f"{prefix}.downsample.{1 if norm else 0}"
        return f"{prefix}.{'bn' if norm else 'conv'}{'abc'.index(place) + 1}"

    return rename


# --- DenseNet -----------------------------------------------------------------------------------


def densenet_keras(_: str) -> Rename:
    """conv1_conv, conv2_block1_0_bn, pool2_conv, bn, predictions."""
    known = {
        "conv1": "conv1_conv",
        "conv1_bn": "conv1_bn",
        "features_bn": "bn",
        "logits": "predictions",
    }

    def rename(name: str) -> str | None:
        if name in known or _TRANSITION.fullmatch(name):
            return known.get(name, name)
        if (found := _DENSE.fullmatch(name)) is None:
            return None
        stage, block, place, norm = found.groups()
        return f"conv{stage}_block{block}_{place}_{'bn' if norm else 'conv'}"

    return rename


def densenet_torch(_: str) -> Rename:
    """features.conv0, features.denseblock1.denselayer1.norm1, features.transition1.conv, classifier."""
    known = {
        "conv1": "features.conv0",
        "conv1_bn": "features.norm0",
        "features_bn": "features.norm5",
        "logits": "classifier",
    }

    def rename(name: str) -> str | None:
        if name in known:
            return known[name]
        if transition := _TRANSITION.fullmatch(name):
            part = "norm" if transition[2] == "bn" else "conv"
            return f"features.transition{int(transition[1]) - 1}.{part}"
        if (found := _DENSE.fullmatch(name)) is None:
            return None
        stage, block, place, norm = found.groups()
        number = int(place) + 1 if norm else int(place)
        layer = f"features.denseblock{int(stage) - 1}.denselayer{block}"
        return f"{layer}.{'norm' if norm else 'conv'}{number}"

    return rename


_VGG = ("vgg11", "vgg13", "vgg16", "vgg19")

# Dialect -> the networks that are published in it. Forms of a network that compute something else
# from arrays of the same shapes, such as ResNet v1 and v1.5, are kept apart here.
_RULES: dict[str, dict[str, Callable[[str], Rename]]] = {
    "keras": {
        **dict.fromkeys(("vgg16", "vgg19"), vgg_keras),
        **dict.fromkeys((f"resnet{depth}_keras" for depth in (50, 101, 152)), resnet_keras),
        **dict.fromkeys((f"densenet{depth}" for depth in (121, 169, 201)), densenet_keras),
    },
    "torch": {
        **dict.fromkeys((*_VGG, *(f"{name}_bn" for name in _VGG)), vgg_torch),
        "alexnet_owt": alexnet_torch,
        "googlenet_bn": googlenet_torch,
        **dict.fromkeys((f"resnet{depth}_v1_5" for depth in (18, 34, 50, 101, 152)), resnet_torch),
        **dict.fromkeys((f"densenet{depth}" for depth in (121, 161, 169, 201)), densenet_torch),
    },
    "caffe": {
        **dict.fromkeys(("alexnet", "caffenet", "vgg16", "vgg19"), chain_caffe),
        "googlenet": googlenet_caffe,
    },
}


def has_rule(network: str, dialect: str) -> bool:
    """Whether somebody publishes this network so."""
    return network in _RULES[dialect]


def rule(network: str, dialect: str) -> Rename:
    """How `dialect` names the layers of `network`.

    Raises:
        UsageError: nobody publishes this network so.
    """
    rules = _RULES[dialect]
    if network in rules:
        return rules[network](network)
    known = [f"{name} ({kind})" for kind, names in _RULES.items() for name in names]
    raise UsageError(
        unknown("rule for weights of", f"{network} ({dialect})", known, most=len(known))
    )
