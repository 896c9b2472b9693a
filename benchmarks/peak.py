"""What OpenVINO's kernels multiply at most on this processor, and so how fast a network can be.

    python -m benchmarks.peak [vgg16 ...]

Runs matrix products and convolutions of friendly sizes in OpenVINO, in fp32 and in eight bits, keeps
the best of each type as the peak, and divides the networks' multiply-accumulates by it. Bringing
weights from memory, and whatever is no multiplication, comes on top.
"""

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset14 as ops

import zoo

SECONDS = 1.5
# Layers of one size, one behind the other, so that what turns floats into eight bits does not count.
DEPTH = 6
# Rows and inputs of a product; side and channels of a convolution 3x3.
PRODUCTS = ((1024, 1024), (2048, 2048))
CONVOLUTIONS = ((56, 256), (28, 512), (112, 128))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=["vgg16"])
    networks = parser.parse_args().networks
    for precision in ("fp32", "int8"):
        found = {name: macs / fastest(model) for name, macs, model in layers(precision)}
        best = max(found, key=found.__getitem__)
        print(f"{precision}: {found[best] / 1e9:.0f} GMAC/s at most ({best})")
        for name in networks:
            macs = zoo.describe(name).macs
            least = macs / found[best]
            print(f"  {name}: {macs / 1e9:.2f} GMAC, {least * 1e3:.1f} ms at least")


def layers(precision: str) -> Iterator[tuple[str, int, ov.Model]]:
    """Layers of one type: name, multiply-accumulates, network."""
    as_it_is = {"transpose_a": False, "transpose_b": False}
    for rows, inputs in PRODUCTS:
        image = ops.parameter([rows, inputs], np.float32)
        last = quantised(image, precision)
        for _ in range(DEPTH):
            weights = quantised(ops.constant(drawn(inputs, inputs)), precision)
            last = quantised(ops.matmul(last, weights, **as_it_is), precision)
        yield f"product {rows}x{inputs}", DEPTH * rows * inputs**2, ov.Model([last], [image])
    for side, channels in CONVOLUTIONS:
        image = ops.parameter([1, channels, side, side], np.float32)
        last = quantised(image, precision)
        for _ in range(DEPTH):
            weights = quantised(ops.constant(drawn(channels, channels, 3, 3)), precision)
            made = ops.convolution(last, weights, [1, 1], [1, 1], [1, 1], [1, 1])
            last = quantised(made, precision)
        macs = DEPTH * 9 * side**2 * channels**2
        yield f"convolution {side}x{side}x{channels}", macs, ov.Model([last], [image])


def drawn(*shape: int) -> Any:
    """Numbers around 0."""
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def quantised(node: Any, precision: str) -> Any:
    """A tensor, in eight bits when asked for."""
    if precision == "fp32":
        return node
    low, high = (np.float32(each) for each in (-1.28, 1.27))
    return ops.fake_quantize(node, low, high, low, high, 256)


def fastest(model: ov.Model) -> float:
    """The shortest of many runs, in seconds."""
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()
    request.infer({0: np.random.default_rng(1).uniform(-1, 1, model.inputs[0].shape)})
    best, until = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        started = time.perf_counter()
        request.infer()
        best = min(best, time.perf_counter() - started)
    return best


if __name__ == "__main__":
    main()
