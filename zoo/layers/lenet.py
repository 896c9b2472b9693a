"""LeNet-5's own layers [lecun1998].

Array names: n image, h row, w column, c channel, k class.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

# f(a) = A tanh(S a), with f(1) = 1 and f(-1) = -1 [lecun1998, appendix A].
SCALED_TANH_AMPLITUDE = 1.7159
SCALED_TANH_SLOPE = 2 / 3


@keras.saving.register_keras_serializable(package="convzoo")
def scaled_tanh(x: Any) -> Any:
    """1.7159 tanh(2x/3): the squashing function of LeNet-5 [lecun1998, appendix A]."""
    return SCALED_TANH_AMPLITUDE * ops.tanh(SCALED_TANH_SLOPE * x)


@keras.saving.register_keras_serializable(package="convzoo")
class FanInUniform(keras.initializers.Initializer):
    """Uniform in (-gain/F, gain/F), F the inputs of a unit [lecun1998, section III.A: gain 2.4].

    Args:
        fan_in: F; one number, or one for each value along the last axis.
        gain: The paper's 2.4.
        seed: For reproducible draws.
    """

    def __init__(
        self, fan_in: float | Sequence[float], gain: float = 2.4, seed: int | None = None
    ) -> None:
        self.fan_in = fan_in
        self.gain = gain
        self.seed = seed if seed is not None else keras.random.SeedGenerator()

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        """A tensor of that shape."""
        draws = keras.random.uniform(shape, -self.gain, self.gain, dtype=dtype, seed=self.seed)
        return draws / ops.cast(ops.convert_to_tensor(self.fan_in), draws.dtype)

    def get_config(self) -> dict[str, Any]:
        """What rebuilds this initialiser."""
        seed = self.seed if isinstance(self.seed, int) else None
        return {"fan_in": self.fan_in, "gain": self.gain, "seed": seed}


@keras.saving.register_keras_serializable(package="convzoo")
class Subsampling(keras.layers.Layer):
    """LeNet-5's S layers: y = f(coefficient * sum(2x2 inputs) + bias), two numbers a map.

    Inputs [N, H, W, C], outputs [N, H // 2, W // 2, C]; 2 C trainable parameters
    [lecun1998, section II.B, layer S2].

    Args:
        activation: f; the scaled tanh in the paper.
    """

    def __init__(self, activation: Any = scaled_tanh, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.activation = keras.activations.get(activation)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Makes one coefficient and one bias for each map."""
        shape = (input_shape[-1],)
        self.coefficient = self.add_weight(
            name="coefficient", shape=shape, initializer=FanInUniform(4)
        )
        self.bias = self.add_weight(name="bias", shape=shape, initializer=FanInUniform(4))

    def call(self, inputs: Any) -> Any:
        """[N, H, W, C] -> [N, H // 2, W // 2, C]."""
        sums = 4.0 * ops.average_pool(inputs, 2, 2, padding="valid")
        return self.activation(self.coefficient * sums + self.bias)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Half the height and width, rounded down."""
        n, h, w, c = input_shape
        return (n, None if h is None else h // 2, None if w is None else w // 2, c)

    def get_config(self) -> dict[str, Any]:
        """What rebuilds this layer."""
        activation = keras.activations.serialize(self.activation)
        return {**super().get_config(), "activation": activation}


@keras.saving.register_keras_serializable(package="convzoo")
class TableConv2D(keras.layers.Layer):
    """A convolution in which each output map sees only some input maps: LeNet-5's C3.

    Weights exist only for the connections in the table. Inputs [N, H, W, C], valid padding,
    stride 1 [lecun1998, section II.B, table I].

    Args:
        table: For each output map the input maps that it sees.
        kernel_size: Height and width of the kernels.
        activation: As in Keras.
    """

    def __init__(
        self,
        table: Sequence[Sequence[int]],
        kernel_size: int,
        activation: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.table = [list(row) for row in table]
        self.kernel_size = kernel_size
        self.activation = keras.activations.get(activation)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Makes one kernel for each connection, one bias for each output map."""
        channels = int(input_shape[-1] or 0)
        edges = [(source, target) for target, row in enumerate(self.table) for source in row]
        area = self.kernel_size**2
        self.kernel = self.add_weight(
            name="kernel",
            shape=(area, len(edges)),
            initializer=FanInUniform(
                [float(area * len(self.table[target])) for _, target in edges]
            ),
        )
        self.bias = self.add_weight(
            name="bias",
            shape=(len(self.table),),
            initializer=FanInUniform([float(area * len(row)) for row in self.table]),
        )
        # Row e is one-hot at connection e's place in the dense kernel: kernel @ places is dense.
        width = channels * len(self.table)
        self._places = [
            [float(source * len(self.table) + target == place) for place in range(width)]
            for source, target in edges
        ]
        self._dense_shape = (self.kernel_size, self.kernel_size, channels, len(self.table))

    def call(self, inputs: Any) -> Any:
        """[N, H, W, C] -> [N, H - k + 1, W - k + 1, len(table)]."""
        places = ops.convert_to_tensor(self._places, dtype=self.compute_dtype)
        kernel = ops.reshape(ops.matmul(self.kernel, places), self._dense_shape)
        return self.activation(ops.conv(inputs, kernel, padding="valid") + self.bias)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Valid padding, stride 1."""
        n, h, w, _ = input_shape
        less = self.kernel_size - 1
        return (
            n,
            None if h is None else h - less,
            None if w is None else w - less,
            len(self.table),
        )

    def get_config(self) -> dict[str, Any]:
        """What rebuilds this layer."""
        return {
            **super().get_config(),
            "table": self.table,
            "kernel_size": self.kernel_size,
            "activation": keras.activations.serialize(self.activation),
        }


@keras.saving.register_keras_serializable(package="convzoo")
class EuclideanRBF(keras.layers.Layer):
    """LeNet-5's output: for each class the squared distance to its fixed code, negated.

    y_k = -sum_i (x_i - code_ki)^2, so that the largest output wins and softmax cross-entropy
    applies; the paper's y is the distance itself [lecun1998, section II.B]. Inputs [N, D],
    outputs [N, K]; K * D fixed parameters, none trainable.

    Args:
        codes: K codes of D numbers, each -1 or 1.
    """

    def __init__(self, codes: Sequence[Sequence[float]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.codes = [[float(value) for value in code] for code in codes]

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Keeps the codes as weights that do not train."""
        size = len(self.codes[0])
        if input_shape[-1] != size:
            raise ValueError(f"The codes have {size} values; the input has {input_shape[-1]}.")
        self.code = self.add_weight(
            name="code",
            shape=(len(self.codes), size),
            initializer=keras.initializers.Constant(self.codes),
            trainable=False,
        )

    def call(self, inputs: Any) -> Any:
        """[N, D] -> [N, K]."""
        differences = ops.expand_dims(inputs, 1) - ops.expand_dims(self.code, 0)
        return -ops.sum(ops.square(differences), axis=-1)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """One value for each code."""
        return (input_shape[0], len(self.codes))

    def get_config(self) -> dict[str, Any]:
        """What rebuilds this layer."""
        return {**super().get_config(), "codes": self.codes}
