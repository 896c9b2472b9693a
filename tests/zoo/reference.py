"""Networks as torchvision and Caffe define them, from their own arrays in their own order.

Written on jax.lax alone, in [N, C, H, W], from the published definitions; nothing of the zoo or of
Keras is used, so that agreement shows that kernels, order, padding, pools and norms are right.
"""

import jax
import jax.numpy as jnp
import numpy as np


def conv(x, kernel, bias=None, stride=1, pad=0, groups=1):
    y = jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(pad, pad)] * 2,
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
        feature_group_count=groups,
    )
    return y if bias is None else y + bias.reshape(1, -1, 1, 1)


def pool(x, kernel, stride, pad=0, ceil=False, average=False):
    pads = []
    for size in x.shape[2:]:
        places = (size + 2 * pad - kernel) / stride
        places = int(np.ceil(places) if ceil else np.floor(places)) + 1
        pads.append((pad, max(0, (places - 1) * stride + kernel - size - pad)))
    start, join = (0.0, jax.lax.add) if average else (-jnp.inf, jax.lax.max)
    window, strides = (1, 1, kernel, kernel), (1, 1, stride, stride)
    y = jax.lax.reduce_window(x, start, join, window, strides, [(0, 0), (0, 0), *pads])
    return y / kernel**2 if average else y


def lrn(x, k=1.0, n=5, alpha=1e-4, beta=0.75):
    """Caffe's: alpha is divided by n."""
    squares = jnp.pad(x**2, ((0, 0), (n // 2, n // 2), (0, 0), (0, 0)))
    total = sum(squares[:, i : i + x.shape[1]] for i in range(n))
    return x / (k + alpha / n * total) ** beta


def norm(x, w, name, eps):
    def at(part):
        return w[f"{name}.{part}"].reshape(1, -1, 1, 1)

    return (x - at("running_mean")) / jnp.sqrt(at("running_var") + eps) * at("weight") + at("bias")


def relu(x):
    return jnp.maximum(x, 0)


def dense(x, kernel, bias):
    return x.reshape(len(x), -1) @ kernel.T + bias


def caffe_alexnet(w, x):
    """bvlc_alexnet: relu, norm, pool."""
    for index, (stride, pad, groups) in enumerate(
        ((4, 0, 1), (1, 2, 2), (1, 1, 1), (1, 1, 2), (1, 1, 2)), 1
    ):
        x = relu(conv(x, w[f"conv{index}/0"], w[f"conv{index}/1"], stride, pad, groups))
        if index < 3:
            x = lrn(x)
        if index in (1, 2, 5):
            x = pool(x, 3, 2, ceil=True)
    for name in ("fc6", "fc7"):
        x = relu(dense(x, w[f"{name}/0"], w[f"{name}/1"]))
    return dense(x, w["fc8/0"], w["fc8/1"])


def caffe_googlenet(w, x):
    def layer(x, name, **options):
        return relu(conv(x, w[f"{name}/0"], w[f"{name}/1"], **options))

    x = pool(layer(x, "conv1/7x7_s2", stride=2, pad=3), 3, 2, ceil=True)
    x = layer(layer(lrn(x), "conv2/3x3_reduce"), "conv2/3x3", pad=1)
    x = pool(lrn(x), 3, 2, ceil=True)
    for block in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        p = f"inception_{block}"
        x = jnp.concatenate(
            [
                layer(x, f"{p}/1x1"),
                layer(layer(x, f"{p}/3x3_reduce"), f"{p}/3x3", pad=1),
                layer(layer(x, f"{p}/5x5_reduce"), f"{p}/5x5", pad=2),
                layer(pool(x, 3, 1, pad=1), f"{p}/pool_proj"),
            ],
            axis=1,
        )
        if block in ("3b", "4e"):
            x = pool(x, 3, 2, ceil=True)
    return dense(x.mean((2, 3)), w["loss3/classifier/0"], w["loss3/classifier/1"])


def torch_alexnet(w, x):
    for index, (place, stride, pad) in enumerate(
        ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)), 1
    ):
        x = relu(conv(x, w[f"features.{place}.weight"], w[f"features.{place}.bias"], stride, pad))
        if index in (1, 2, 5):
            x = pool(x, 3, 2)
    for place in (1, 4):
        x = relu(dense(x, w[f"classifier.{place}.weight"], w[f"classifier.{place}.bias"]))
    return dense(x, w["classifier.6.weight"], w["classifier.6.bias"])


def torch_vgg11_bn(w, x):
    place = 0
    for width in (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"):
        if width == "M":
            x, place = pool(x, 2, 2), place + 1
            continue
        x = conv(x, w[f"features.{place}.weight"], w[f"features.{place}.bias"], pad=1)
        x, place = relu(norm(x, w, f"features.{place + 1}", 1e-5)), place + 3
    for number in (0, 3):
        x = relu(dense(x, w[f"classifier.{number}.weight"], w[f"classifier.{number}.bias"]))
    return dense(x, w["classifier.6.weight"], w["classifier.6.bias"])


def torch_resnet50(w, x):
    x = relu(norm(conv(x, w["conv1.weight"], stride=2, pad=3), w, "bn1", 1e-5))
    x = pool(x, 3, 2, pad=1)
    for layer, count in enumerate((3, 4, 6, 3), 1):
        for block in range(count):
            p = f"layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            y = relu(norm(conv(x, w[f"{p}.conv1.weight"]), w, f"{p}.bn1", 1e-5))
            y = relu(
                norm(conv(y, w[f"{p}.conv2.weight"], stride=stride, pad=1), w, f"{p}.bn2", 1e-5)
            )
            y = norm(conv(y, w[f"{p}.conv3.weight"]), w, f"{p}.bn3", 1e-5)
            if block == 0:
                x = norm(
                    conv(x, w[f"{p}.downsample.0.weight"], stride=stride),
                    w,
                    f"{p}.downsample.1",
                    1e-5,
                )
            x = relu(x + y)
    return dense(x.mean((2, 3)), w["fc.weight"], w["fc.bias"])


def torch_resnet18(w, x):
    x = relu(norm(conv(x, w["conv1.weight"], stride=2, pad=3), w, "bn1", 1e-5))
    x = pool(x, 3, 2, pad=1)
    for layer in (1, 2, 3, 4):
        for block in (0, 1):
            p = f"layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            y = relu(
                norm(conv(x, w[f"{p}.conv1.weight"], stride=stride, pad=1), w, f"{p}.bn1", 1e-5)
            )
            y = norm(conv(y, w[f"{p}.conv2.weight"], pad=1), w, f"{p}.bn2", 1e-5)
            if stride == 2:
                x = norm(
                    conv(x, w[f"{p}.downsample.0.weight"], stride=2), w, f"{p}.downsample.1", 1e-5
                )
            x = relu(x + y)
    return dense(x.mean((2, 3)), w["fc.weight"], w["fc.bias"])


def torch_densenet121(w, x):
    x = relu(norm(conv(x, w["features.conv0.weight"], stride=2, pad=3), w, "features.norm0", 1e-5))
    x = pool(x, 3, 2, pad=1)
    for block, count in enumerate((6, 12, 24, 16), 1):
        for layer in range(1, count + 1):
            p = f"features.denseblock{block}.denselayer{layer}"
            y = conv(relu(norm(x, w, f"{p}.norm1", 1e-5)), w[f"{p}.conv1.weight"])
            y = conv(relu(norm(y, w, f"{p}.norm2", 1e-5)), w[f"{p}.conv2.weight"], pad=1)
            x = jnp.concatenate([x, y], axis=1)
        if block < 4:
            p = f"features.transition{block}"
            x = pool(
                conv(relu(norm(x, w, f"{p}.norm", 1e-5)), w[f"{p}.conv.weight"]), 2, 2, average=True
            )
    x = relu(norm(x, w, "features.norm5", 1e-5))
    return dense(x.mean((2, 3)), w["classifier.weight"], w["classifier.bias"])


def torch_googlenet(w, x):
    def layer(x, name, **options):
        return relu(norm(conv(x, w[f"{name}.conv.weight"], **options), w, f"{name}.bn", 1e-3))

    x = pool(layer(x, "conv1", stride=2, pad=3), 3, 2, ceil=True)
    x = pool(layer(layer(x, "conv2"), "conv3", pad=1), 3, 2, ceil=True)
    for block in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        p = f"inception{block}"
        x = jnp.concatenate(
            [
                layer(x, f"{p}.branch1"),
                layer(layer(x, f"{p}.branch2.0"), f"{p}.branch2.1", pad=1),
                layer(layer(x, f"{p}.branch3.0"), f"{p}.branch3.1", pad=1),
                layer(pool(x, 3, 1, pad=1, ceil=True), f"{p}.branch4.1"),
            ],
            axis=1,
        )
        if block == "3b":
            x = pool(x, 3, 2, ceil=True)
        if block == "4e":
            x = pool(x, 2, 2, ceil=True)
    return dense(x.mean((2, 3)), w["fc.weight"], w["fc.bias"])
