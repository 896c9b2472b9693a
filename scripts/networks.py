"""Writes docs/networks.md from the catalog; `python scripts/networks.py --check` compares only."""

import re
import sys
from pathlib import Path

from zoo.catalog import SPECS
from zoo.cli import short
from zoo.weights.public import PUBLIC

PAGE = Path(__file__).parents[1] / "docs" / "networks.md"

# Which of the four ships this very form. Read from their sources: keras.applications 3.15,
# keras-hub at 71453d0, timm 1.0.29-dev, torchvision 0.28. "" is no, "yes" this form, else how
# theirs differs. keras-hub's ResNet strides in the 3x3 and pads its pool with zeros; its VGG has one dropout
# and timm's one, both of rate 0 unless it is set.
OTHERS = {
    "alexnet_owt": ("", "", "", "yes"),
    "vgg11": ("", "dropout 0", "dropout 0", "yes"),
    "vgg13": ("", "dropout 0", "dropout 0", "yes"),
    "vgg16": ("no dropout", "dropout 0", "dropout 0", "yes"),
    "vgg19": ("no dropout", "dropout 0", "dropout 0", "yes"),
    "vgg11_bn": ("", "", "dropout 0", "yes"),
    "vgg13_bn": ("", "", "dropout 0", "yes"),
    "vgg16_bn": ("", "", "dropout 0", "yes"),
    "vgg19_bn": ("", "", "dropout 0", "yes"),
    "googlenet_bn": ("", "", "", "yes"),
    "resnet18": ("", "v1.5", "v1.5", "v1.5"),
    "resnet34": ("", "v1.5", "v1.5", "v1.5"),
    "resnet18_v1_5": ("", "yes", "yes", "yes"),
    "resnet34_v1_5": ("", "yes", "yes", "yes"),
    "resnet50": ("with biases", "v1.5", "v1.5", "v1.5"),
    "resnet101": ("with biases", "v1.5", "v1.5", "v1.5"),
    "resnet152": ("with biases", "v1.5", "v1.5", "v1.5"),
    "resnet50_keras": ("yes", "", "", ""),
    "resnet101_keras": ("yes", "", "", ""),
    "resnet152_keras": ("yes", "", "", ""),
    "resnet50_v1_5": ("", "yes", "yes", "yes"),
    "resnet101_v1_5": ("", "yes", "yes", "yes"),
    "resnet152_v1_5": ("", "yes", "yes", "yes"),
    "densenet121": ("yes", "yes", "yes", "yes"),
    "densenet169": ("yes", "yes", "yes", "yes"),
    "densenet201": ("yes", "yes", "yes", "yes"),
    "densenet161": ("", "", "yes", "yes"),
}


SERVE = """\
### Serve public weights

```sh
convzoo publish vgg16 --weights keras --labels imagenet_class_index.json --base-path models
convzoo serve --base-path models
convzoo predict vgg16 photo.jpg
```

`--weights` takes a publisher of the table below (`keras`, `torchvision`, `timm`, `caffe`; downloaded once, and verified) or a file at hand: `.h5`, `.weights.h5` and `.keras` of keras.applications, `.safetensors`, `.pth`, `.caffemodel`. Where a publisher has another form of a network, that form is built: `resnet50 --weights keras` is `resnet50_keras`, `alexnet --weights torchvision` is `alexnet_owt`. The version has all that a run's has: images in and labels out, SavedModel and OpenVINO form, golden records, warm-up, hashes, a model card; it goes through `convzoo gate --data`, `promote`, `evaluate` and `explain` like any other.

- *Preprocessing* is the publisher's, with the crop that its figures were measured on: the shorter side becomes 256 pixels (Caffe squeezes the whole image to 256x256), and the input is cut out of the middle. Keras's examples squeeze the image to 224x224 instead (`load_img(..., target_size=(224, 224))`), so their answers differ a little. Photos are turned as their EXIF orientation says. Caffe's mean image is a file of its own: for AlexNet and CaffeNet its mean pixel stands in.
- *Labels* come from `--labels`: a text file with one a line, or JSON, also as `imagenet_class_index.json` (of two classes "crane" each gets its id). Without it classes are called `class 0`, `class 1`, ... A file with another number of classes than ImageNet's 1,000 is taken, too: its last layer says how many.
- *Images* (`--images`, anything that `convzoo evaluate` takes, or a folder of images without classes) give golden records, the baseline of drift, and what fewer bits need: `--precision int8` is refused without. Where they lie in folders that are called as the labels are, accuracy decides; else how often the answer stays fp32's. Up to 2,300 of them are drawn. Without images the golden records are of drawn ones, which show that engines agree, and bf16 and fp16 are published without knowing what they cost.
- *Origin*: the manifest and the card have the weights' name, URL, licence and SHA-256; a file that is a published one to the bit is known by its hash. Nothing is measured: the card says so, and states the publisher's figure beside its source.
"""


def page() -> str:
    """The whole page."""
    lines = [
        "# The networks",
        "",
        "Written by `scripts/networks.py` from the catalog; `make check` compares. Every figure is",
        "held against the built network by `tests/conformance/test_zoo.py`.",
        "",
        "Parameters are trainable ones. MACs are multiply-accumulates of one image in convolutions",
        "and dense layers. Errors are top-1/top-5 in per cent, as published, with where and how they",
        "were measured: ten crops or scales give less than one. The last four columns say who else",
        "ships this very form, or how theirs differs.",
        "",
        "| name | year | paper | input | parameters | MACs | error | keras.applications | keras-hub | timm | torchvision |",
        "|---|---|---|---|---:|---:|---|---|---|---|---|",
    ]
    for spec in SPECS:
        error = "; ".join(
            f"{'/'.join('-' if each is None else f'{each:g}' for each in (e.top1, e.top5))} "
            f"({e.data}: {e.source.removeprefix(f'[{spec.paper}] ')})"
            for e in spec.errors
        )
        others = OTHERS.get(spec.name, ("", "", "", ""))
        cells = (
            f"`{spec.name}`",
            str(spec.year),
            f"[{spec.paper}](references.bib)",
            "x".join(map(str, spec.input.shape)),
            f"{spec.parameters:,}",
            short(spec.macs),
            error,
            *others,
        )
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "## Notes", ""]
    lines += [f"- `{spec.name}`: {spec.note}" for spec in SPECS if spec.note]
    lines += [
        "",
        "## Public weights",
        "",
        "Where `keras.applications.VGG16()` stood:",
        "",
        "```python",
        "import zoo",
        "",
        'model = zoo.create("vgg16")  # gives logits, where theirs gives probabilities',
        'zoo.weights.load(model, zoo.weights.fetch("vgg16/keras"))',
        "```",
        "",
        "Images go in as the table says under *what the network must be given*; [`convzoo publish`](#serve-public-weights) does that by itself. `convzoo train images --init-from FILE model.name=vgg16` starts from such a file, on classes of your own, when its `preprocessing` gives the same; what is published then takes images as they are.",
        "",
        "`zoo.weights.fetch(name)` downloads when asked, verifies and keeps; `zoo.weights.load(model, path)` reads. A file is refused when its arrays fit but its network does not: more arrays than the network takes, another form of ResNet, or, in a caffemodel, a normalisation that stands elsewhere (AlexNet's weights in CaffeNet) or computes something else.",
        "",
        SERVE,
        "### All of them",
        "",
        "| name | top-1 error | what the network must be given | options of `zoo.create` | licence |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| `{each.name}` | {'' if each.top1_error is None else f'{each.top1_error:g}'} | "
        f"{each.preprocessing} | {_options(each.options)} | {each.licence} |"
        for each in PUBLIC.values()
    ]
    return "\n".join(lines) + "\n"


def _options(options: dict[str, object]) -> str:
    return ", ".join(f"`{name}={value!r}`" for name, value in options.items())


def papers() -> set[str]:
    """The keys in references.bib."""
    return set(re.findall(r"@\w+\{(\w+),", PAGE.with_name("references.bib").read_text("utf-8")))


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(0 if PAGE.read_text(encoding="utf-8") == page() else f"{PAGE} is out of date")
    PAGE.write_text(page(), encoding="utf-8")
