"""The one table of networks: what is known of each, and where its builder is.

Figures are the paper's (or the named source's) and are proven against the built networks by
`tests/conformance/test_zoo.py`.
"""

import inspect
from collections.abc import Iterable, Mapping
from importlib import import_module
from numbers import Integral
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from zoo.errors import UsageError
from zoo.spec import ImageInput, ModelSpec, PublishedError
from zoo.suggest import unknown

if TYPE_CHECKING:
    import keras

# Background -0.1, ink 1.175, so that the mean is near 0 and the variance near 1 [lecun1998].
LENET_INPUT = ImageInput(height=32, width=32, channels=1, colour="gray", value_range=(-0.1, 1.175))
CENTRED = (-127.5, 127.5)
IMAGENET = ImageInput(height=224, width=224, channels=3, value_range=CENTRED)
IMAGENET_227 = IMAGENET.model_copy(update={"height": 227, "width": 227, "colour": "bgr"})
IMAGENET_BGR = IMAGENET.model_copy(update={"colour": "bgr"})
STANDARDISED = ImageInput(height=224, width=224, channels=3, value_range=(-2.2, 2.7))
CIFAR = ImageInput(height=32, width=32, channels=3, value_range=(-2.5, 2.8))
PICTURE = ImageInput(height=9, width=9, channels=1, colour="gray", value_range=(-1.0, 1.0))

ILSVRC = "ILSVRC-2012 validation"
ADAPTED = "An adaptation for 32x32 images, not a published network."


def _error(
    top1: float | None, top5: float | None, source: str, data: str = ILSVRC
) -> PublishedError:
    return PublishedError(data=data, top1=top1, top5=top5, source=source)


def _vgg(
    name: str,
    configuration: str,
    title: str,
    parameters: int,
    macs: int,
    errors: tuple[PublishedError, ...] = (),
    note: str = "",
    **options: bool,
) -> ModelSpec:
    return ModelSpec(
        name=name,
        title=title,
        year=2014,
        paper="simonyan2015",
        builder="zoo.models.vgg:vgg",
        options={"configuration": configuration, "name": name, **options},
        input=STANDARDISED if options.get("batch_norm") else IMAGENET_BGR,
        num_classes=1000,
        parameters=parameters,
        macs=macs,
        errors=errors,
        note=note,
    )


# Form -> (suffix of the name and title, options, input, note).
_RESNET_FORMS: dict[str, tuple[str, str, dict[str, object], ImageInput, str]] = {
    "v1": ("", "", {"version": "v1", "pool": "ceil"}, IMAGENET_BGR, ""),
    "v1.5": (
        "_v1_5",
        " v1.5",
        {"version": "v1.5", "pool": "pad"},
        STANDARDISED,
        "torchvision's form: bottlenecks stride in their 3x3, the pool is padded.",
    ),
    "keras": (
        "_keras",
        ", keras.applications' form",
        {"version": "v1", "pool": "pad", "use_bias": True, "epsilon": 1.001e-5},
        IMAGENET_BGR,
        "keras.applications' form: biases in the convolutions, padded pool.",
    ),
}


def _resnet(
    depth: int,
    form: str,
    parameters: int,
    macs: int,
    errors: tuple[PublishedError, ...] = (),
) -> ModelSpec:
    suffix, words, options, image, note = _RESNET_FORMS[form]
    name = f"resnet{depth}{suffix}"
    return ModelSpec(
        name=name,
        title=f"ResNet-{depth}{words}",
        year=2015,
        paper="he2016",
        builder="zoo.models.resnet:resnet",
        options={"depth": depth, "name": name, **options},
        input=image,
        num_classes=1000,
        parameters=parameters,
        macs=macs,
        errors=errors,
        note=note,
    )


def _resnet_cifar(depth: int, parameters: int, macs: int, error: float | None) -> ModelSpec:
    name = f"resnet{depth}"
    source = "[he2016] table 6"
    return ModelSpec(
        name=name,
        title=f"ResNet-{depth} for CIFAR",
        year=2015,
        paper="he2016",
        builder="zoo.models.resnet:resnet_cifar",
        options={"depth": depth, "name": name},
        input=CIFAR,
        num_classes=10,
        parameters=parameters,
        macs=macs,
        errors=() if error is None else (_error(error, None, source, "CIFAR-10 test"),),
        note="Option A: shortcuts without parameters.",
    )


def _densenet(
    depth: int,
    blocks: tuple[int, ...],
    parameters: int,
    macs: int,
    top1: float,
    growth: int = 32,
) -> ModelSpec:
    name = f"densenet{depth}"
    return ModelSpec(
        name=name,
        title=f"DenseNet-{depth}",
        year=2016,
        paper="huang2017",
        builder="zoo.models.densenet:densenet",
        options={"blocks": blocks, "growth": growth, "name": name},
        input=STANDARDISED,
        num_classes=1000,
        parameters=parameters,
        macs=macs,
        errors=(_error(top1, None, "the authors' released models, single crop"),),
    )


def _adapted(
    name: str,
    title: str,
    year: int,
    paper: str,
    builder: str,
    parameters: int,
    macs: int,
    options: dict[str, object] | None = None,
) -> ModelSpec:
    return ModelSpec(
        name=name,
        title=title,
        year=year,
        paper=paper,
        builder=builder,
        options=options or {},
        input=CIFAR,
        num_classes=10,
        parameters=parameters,
        macs=macs,
        note=ADAPTED,
    )


SPECS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="lenet5",
        title="LeNet-5 (1998)",
        year=1998,
        paper="lecun1998",
        builder="zoo.models.lenet:lenet5",
        input=LENET_INPUT,
        num_classes=10,
        parameters=60_000,
        macs=325_680,
        errors=(
            _error(0.95, None, "[lecun1998] section III.B", "MNIST test"),
            _error(0.8, None, "[lecun1998] section III.B", "MNIST test, with distortions"),
        ),
        note="C3 table, trainable subsampling, scaled tanh, RBF output.",
    ),
    ModelSpec(
        name="lenet5_modern",
        title="LeNet-5, modern form",
        year=1998,
        paper="lecun1998",
        builder="zoo.models.lenet:lenet5_modern",
        input=LENET_INPUT,
        num_classes=10,
        parameters=61_706,
        macs=416_520,
        note="What is usually called LeNet-5: all maps connected, average pooling, softmax output.",
    ),
    ModelSpec(
        name="lenet_caffe",
        title="Caffe's LeNet",
        year=2014,
        paper="jia2014",
        builder="zoo.models.lenet:lenet_caffe",
        input=LENET_INPUT.model_copy(update={"height": 28, "width": 28, "value_range": (0, 1)}),
        num_classes=10,
        parameters=431_080,
        macs=2_293_000,
        note="Caffe's MNIST example: 20 and 50 maps, max pooling, 500 ReLU units. Not LeNet-5.",
    ),
    ModelSpec(
        name="alexnet",
        title="AlexNet",
        year=2012,
        paper="krizhevsky2012",
        builder="zoo.models.alexnet:alexnet",
        input=IMAGENET,
        num_classes=1000,
        parameters=60_965_224,
        macs=724_406_816,
        errors=(_error(40.7, 18.2, "[krizhevsky2012] table 2"),),
        note="Two groups, LRN after ReLU, overlapping pools.",
    ),
    ModelSpec(
        name="caffenet",
        title="CaffeNet",
        year=2014,
        paper="jia2014",
        builder="zoo.models.alexnet:alexnet",
        options={"order": "pool-norm", "lrn": "caffe"},
        input=IMAGENET_227,
        num_classes=1000,
        parameters=60_965_224,
        macs=724_406_816,
        errors=(_error(42.6, 19.6, "Caffe's model zoo, centre crop"),),
        note="AlexNet with the pool before the normalisation.",
    ),
    ModelSpec(
        name="alexnet_owt",
        title="AlexNet, one weird trick",
        year=2014,
        paper="krizhevsky2014",
        builder="zoo.models.alexnet:alexnet_owt",
        input=STANDARDISED,
        num_classes=1000,
        parameters=61_100_840,
        macs=714_188_480,
        errors=(_error(43.478, 20.934, "torchvision's weights, centre crop"),),
        note="torchvision's AlexNet: no groups, no LRN.",
    ),
    ModelSpec(
        name="zfnet",
        title="ZFNet",
        year=2013,
        paper="zeiler2014",
        builder="zoo.models.zfnet:zfnet",
        input=IMAGENET,
        num_classes=1000,
        parameters=62_357_608,
        macs=1_168_032_896,
        errors=(_error(38.4, 16.5, "[zeiler2014] table 2"),),
    ),
    ModelSpec(
        name="zfnet_wide",
        title="ZFNet (b), 512-1024-512",
        year=2013,
        paper="zeiler2014",
        builder="zoo.models.zfnet:zfnet",
        options={"widths": (512, 1024, 512), "name": "zfnet_wide"},
        input=IMAGENET,
        num_classes=1000,
        parameters=107_627_624,
        macs=2_476_704_896,
        errors=(_error(37.5, 16.0, "[zeiler2014] table 2"),),
    ),
    _vgg(
        "vgg11",
        "A",
        "VGG-11 (A)",
        132_863_336,
        7_609_090_048,
        (_error(29.6, 10.4, "[simonyan2015] table 3"),),
    ),
    _vgg(
        "vgg11_lrn",
        "A",
        "VGG-11 with LRN (A-LRN)",
        132_863_336,
        7_609_090_048,
        (_error(29.7, 10.5, "[simonyan2015] table 3"),),
        lrn=True,
    ),
    _vgg(
        "vgg13",
        "B",
        "VGG-13 (B)",
        133_047_848,
        11_308_466_176,
        (_error(28.7, 9.9, "[simonyan2015] table 3"),),
    ),
    _vgg(
        "vgg16_c",
        "C",
        "VGG-16 (C)",
        133_638_952,
        11_770_888_192,
        (_error(27.3, 8.8, "[simonyan2015] table 3, scale jittering"),),
        "The third convolution of stages 3 to 5 is 1x1.",
    ),
    _vgg(
        "vgg16",
        "D",
        "VGG-16 (D)",
        138_357_544,
        15_470_264_320,
        (_error(25.6, 8.1, "[simonyan2015] table 3, scale jittering"),),
    ),
    _vgg(
        "vgg19",
        "E",
        "VGG-19 (E)",
        143_667_240,
        19_632_062_464,
        (_error(25.5, 8.0, "[simonyan2015] table 3, scale jittering"),),
    ),
    _vgg(
        "vgg11_bn",
        "A",
        "VGG-11 with batch norm",
        132_868_840,
        7_609_090_048,
        note="torchvision's form.",
        batch_norm=True,
    ),
    _vgg(
        "vgg13_bn",
        "B",
        "VGG-13 with batch norm",
        133_053_736,
        11_308_466_176,
        note="torchvision's form.",
        batch_norm=True,
    ),
    _vgg(
        "vgg16_bn",
        "D",
        "VGG-16 with batch norm",
        138_365_992,
        15_470_264_320,
        note="torchvision's form.",
        batch_norm=True,
    ),
    _vgg(
        "vgg19_bn",
        "E",
        "VGG-19 with batch norm",
        143_678_248,
        19_632_062_464,
        note="torchvision's form.",
        batch_norm=True,
    ),
    ModelSpec(
        name="googlenet",
        title="GoogLeNet",
        year=2014,
        paper="szegedy2015",
        builder="zoo.models.googlenet:googlenet",
        input=IMAGENET_BGR,
        num_classes=1000,
        parameters=6_998_552,
        macs=1_582_671_872,
        errors=(_error(None, 10.07, "[szegedy2015] table 3, one model, one crop"),),
        note="auxiliary=True adds both classifiers for training.",
    ),
    ModelSpec(
        name="googlenet_bn",
        title="GoogLeNet with batch norm",
        year=2018,
        paper="szegedy2015",
        builder="zoo.models.googlenet:googlenet_bn",
        input=ImageInput(height=224, width=224, channels=3, value_range=(-1, 1)),
        num_classes=1000,
        parameters=6_624_904,
        macs=1_498_376_192,
        note="torchvision's form: a 3x3 in the 5x5 branch, no LRN, the last pool 2x2.",
    ),
    _resnet(18, "v1", 11_689_512, 1_814_073_344),
    _resnet(
        34,
        "v1",
        21_797_672,
        3_663_761_408,
        (_error(24.52, 7.46, "[he2016] table 3, option B, ten crops"),),
    ),
    _resnet(
        50, "v1", 25_557_032, 3_857_973_248, (_error(22.85, 6.71, "[he2016] table 3, ten crops"),)
    ),
    _resnet(
        101, "v1", 44_549_160, 7_570_194_432, (_error(21.75, 6.05, "[he2016] table 3, ten crops"),)
    ),
    _resnet(
        152, "v1", 60_192_808, 11_282_415_616, (_error(21.43, 5.71, "[he2016] table 3, ten crops"),)
    ),
    _resnet(18, "v1.5", 11_689_512, 1_814_073_344),
    _resnet(34, "v1.5", 21_797_672, 3_663_761_408),
    _resnet(50, "v1.5", 25_557_032, 4_089_184_256),
    _resnet(101, "v1.5", 44_549_160, 7_801_405_440),
    _resnet(152, "v1.5", 60_192_808, 11_513_626_624),
    _resnet(50, "keras", 25_583_592, 3_857_973_248),
    _resnet(101, "keras", 44_601_832, 7_570_194_432),
    _resnet(152, "keras", 60_268_520, 11_282_415_616),
    _resnet_cifar(20, 269_722, 40_551_040, 8.75),
    _resnet_cifar(32, 464_154, 68_862_592, 7.51),
    _resnet_cifar(44, 658_586, 97_174_144, 7.17),
    _resnet_cifar(56, 853_018, 125_485_696, 6.97),
    _resnet_cifar(110, 1_727_962, 252_887_680, 6.43),
    _densenet(121, (6, 12, 24, 16), 7_978_856, 2_834_161_664, 25.0),
    _densenet(169, (6, 12, 32, 32), 14_149_480, 3_359_843_328, 23.6),
    _densenet(201, (6, 12, 48, 32), 20_013_928, 4_291_365_888, 22.5),
    _densenet(161, (6, 12, 36, 24), 28_681_000, 7_727_907_072, 22.2, growth=48),
    ModelSpec(
        name="densenet_bc100_cifar",
        title="DenseNet-BC, 100 layers, k=12",
        year=2016,
        paper="huang2017",
        builder="zoo.models.densenet:densenet_cifar",
        options={"depth": 100, "growth": 12, "bottleneck": True, "name": "densenet_bc100_cifar"},
        input=CIFAR,
        num_classes=10,
        parameters=769_162,
        macs=287_929_692,
        errors=(_error(4.51, None, "[huang2017] table 2, with augmentation", "CIFAR-10 test"),),
    ),
    ModelSpec(
        name="densenet40_cifar",
        title="DenseNet, 40 layers, k=12",
        year=2016,
        paper="huang2017",
        builder="zoo.models.densenet:densenet_cifar",
        options={"depth": 40, "growth": 12, "bottleneck": False, "name": "densenet40_cifar"},
        input=CIFAR,
        num_classes=10,
        parameters=1_019_722,
        macs=264_812_928,
        errors=(_error(5.24, None, "[huang2017] table 2, with augmentation", "CIFAR-10 test"),),
    ),
    _adapted(
        "alexnet_cifar",
        "AlexNet for CIFAR",
        2012,
        "krizhevsky2012",
        "zoo.models.alexnet:alexnet_cifar",
        3_672_906,
        34_689_024,
    ),
    _adapted(
        "zfnet_cifar",
        "ZFNet for CIFAR",
        2013,
        "zeiler2014",
        "zoo.models.zfnet:zfnet_cifar",
        3_917_386,
        117_380_096,
    ),
    _adapted(
        "vgg11_cifar",
        "VGG-11 for CIFAR",
        2014,
        "simonyan2015",
        "zoo.models.vgg:vgg_cifar",
        9_494_282,
        153_031_680,
        {"configuration": "A", "name": "vgg11_cifar"},
    ),
    _adapted(
        "vgg16_cifar",
        "VGG-16 for CIFAR",
        2014,
        "simonyan2015",
        "zoo.models.vgg:vgg_cifar",
        14_991_434,
        313_463_808,
        {"configuration": "D", "name": "vgg16_cifar"},
    ),
    _adapted(
        "googlenet_cifar",
        "GoogLeNet for CIFAR",
        2014,
        "szegedy2015",
        "zoo.models.googlenet:googlenet_cifar",
        5_871_914,
        1_447_241_728,
    ),
    ModelSpec(
        name="convnet",
        title="Any simple convolutional network",
        year=2016,
        paper="cs231n",
        builder="zoo.models.convnet:convnet",
        input=CIFAR,
        num_classes=10,
        parameters=1_116_970,
        macs=25_528_832,
        note="[[CONV -> RELU]*N -> POOL?]*M -> [FC -> RELU]*K -> FC, from a spec; figures are of its defaults.",
    ),
    ModelSpec(
        name="xo",
        title="X or O",
        year=2016,
        paper="rohrer2016",
        builder="zoo.models.xo:xo",
        input=PICTURE,
        num_classes=2,
        parameters=128,
        macs=1_419,
        note="Three 3x3 features set by hand: both diagonals and a cross.",
    ),
)

CATALOG: Mapping[str, ModelSpec] = MappingProxyType({spec.name: spec for spec in SPECS})


def list_models() -> tuple[str, ...]:
    """The catalog names, in the order of the table."""
    return tuple(CATALOG)


def describe(name: str) -> ModelSpec:
    """What is known of a network; builds nothing.

    Raises:
        UsageError: no such network; names those that are close.
    """
    try:
        return CATALOG[name]
    except KeyError:
        raise UsageError(unknown("model", name, CATALOG)) from None


def create(
    name: str,
    *,
    input_shape: tuple[int, int, int] | None = None,
    num_classes: int | None = None,
    include_top: bool = True,
    **options: Any,
) -> "keras.Model":
    """Builds a network with freshly initialised weights.

    Args:
        name: A catalog name, e.g. "lenet5"; `list_models()` has them all.
        input_shape: (height, width, channels); the paper's when None.
        num_classes: Size of the output; the paper's when None.
        include_top: False leaves out the classifier: the output is the last feature maps.
        **options: What else this network's builder takes.

    Returns:
        A flat Keras model from "image", float32 [N, height, width, channels], to "logits",
        float32 [N, num_classes].

    Raises:
        UsageError: an unknown network or option, or a size the network cannot take; Keras set to
            channels first, where these networks would be others.
        ModuleNotFoundError: Keras is not installed; names the extra that brings it.
    """
    spec = describe(name)
    check_options(name, options)
    builder = _builder(spec)
    if num_classes is not None and not _is_count(num_classes):
        raise UsageError(f"{name} needs at least one class; found num_classes={num_classes!r}.")
    if input_shape is not None and not (
        isinstance(input_shape, Iterable)
        and all(size is None or isinstance(size, Integral) for size in input_shape)
    ):
        raise UsageError(
            f"{name} takes an input_shape of three whole numbers, [height, width, channels]; "
            f"found {input_shape!r}."
        )
    import keras

    if keras.config.image_data_format() != "channels_last":
        raise UsageError(
            f"{name} is built for images [height, width, channels], and Keras is set to "
            "channels_first; keras.config.set_image_data_format('channels_last') mends it."
        )
    # Of convnet, the spec among the options says both; every other network has the row's.
    if input_shape is None and "spec" not in options:
        input_shape = spec.input.shape
    if num_classes is None and "spec" not in options:
        num_classes = spec.num_classes
    model: keras.Model = builder(
        input_shape=None if input_shape is None else tuple(input_shape),
        num_classes=num_classes,
        include_top=include_top,
        **{**spec.options, **options},
    )
    return model


def check_options(name: str, options: Iterable[str]) -> None:
    """Holds names of options against what a network's builder takes.

    Raises:
        UsageError: an unknown network or option; names those there are.
    """
    spec = describe(name)
    known = {
        parameter
        for parameter in inspect.signature(_builder(spec)).parameters
        if parameter not in ("input_shape", "num_classes", "include_top", *spec.options)
    }
    for option in options:
        if option not in known:
            raise UsageError(unknown(f"option of {name}", option, known))


def _builder(spec: ModelSpec) -> Any:
    module, function = spec.builder.split(":")
    try:
        return getattr(import_module(module), function)
    except ModuleNotFoundError as error:
        if error.name not in ("keras", "tensorflow"):
            raise
        raise ModuleNotFoundError(
            f"Building {spec.name} needs {error.name}, which is not installed: "
            "pip install 'convzoo[train]'.",
            name=error.name,
        ) from error


def _is_count(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1
