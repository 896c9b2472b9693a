"""The small network of the probe's tests, once in JAX and once as the deconvnet paper has it."""

import numpy as np


def weights_of(probe):
    return {name: probe.weights(name) for name in ("conv1", "conv2", "logits")}


def jax_scores(x, weights, *, rule="relu", since=None, until=None):
    """Logits; from the output of `since` on, or up to the output of `until`."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    @jax.custom_vjp
    def guided(value):
        return jnp.maximum(value, 0)

    guided.defvjp(
        lambda value: (jnp.maximum(value, 0), value),
        lambda value, signal: (jnp.where((value > 0) & (signal > 0), signal, 0),),
    )
    rectify = guided if rule == "guided" else jax.nn.relu

    def convolve(value, name):
        layout = ("NHWC", "HWIO", "NHWC")
        found = lax.conv_general_dilated(
            value, weights[name]["kernel"], (1, 1), "VALID", dimension_numbers=layout
        )
        return found + weights[name]["bias"]

    if since != "conv1":
        x = rectify(convolve(jnp.asarray(x), "conv1"))
    if until == "conv1":
        return x
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = rectify(convolve(x, "conv2"))
    return x.reshape(len(x), -1) @ weights["logits"]["kernel"] + weights["logits"]["bias"]


def pool_with_switches(maps_hwc, size=2):
    """Maxima of each window, and where they were: (row, column) on the unpooled map."""
    rows, columns, channels = (
        maps_hwc.shape[0] // size,
        maps_hwc.shape[1] // size,
        maps_hwc.shape[2],
    )
    pooled = np.zeros((rows, columns, channels), np.float32)
    switches = np.zeros((rows, columns, channels, 2), int)
    for row in range(rows):
        for column in range(columns):
            for channel in range(channels):
                window = maps_hwc[
                    row * size : row * size + size, column * size : column * size + size, channel
                ]
                at = np.unravel_index(window.argmax(), window.shape)
                pooled[row, column, channel] = window[at]
                switches[row, column, channel] = (row * size + at[0], column * size + at[1])
    return pooled, switches


def unpool(signal_hwc, switches, shape):
    """Puts each value where its maximum was."""
    full = np.zeros(shape, np.float32)
    for row, column, channel in np.ndindex(*signal_hwc.shape):
        y, x = switches[row, column, channel]
        full[y, x, channel] += signal_hwc[row, column, channel]
    return full


def convolve_back(signal_hwf, kernel_hwcf):
    """The transposed convolution: every value lays its filter down, weighted."""
    rows, columns, filters = signal_hwf.shape
    high, wide, channels, _ = kernel_hwcf.shape
    below = np.zeros((rows + high - 1, columns + wide - 1, channels), np.float32)
    for row, column, index in np.ndindex(rows, columns, filters):
        below[row : row + high, column : column + wide] += (
            signal_hwf[row, column, index] * kernel_hwcf[..., index]
        )
    return below
