"""The layers the papers need and Keras lacks, in Keras 3 ops: they run on every backend."""

from zoo.layers.constraint import FilterRms
from zoo.layers.lenet import EuclideanRBF, FanInUniform, Subsampling, TableConv2D, scaled_tanh
from zoo.layers.local import LocallyConnected2D
from zoo.layers.maxout import Maxout
from zoo.layers.normalization import LocalResponseNormalization
from zoo.layers.pooling import CeilMaxPooling2D, SumPooling2D, ceil_fill
from zoo.layers.shortcut import ZeroPaddedShortcut
from zoo.layers.template import NormalizedTemplateConv2D

__all__ = [
    "CeilMaxPooling2D",
    "EuclideanRBF",
    "FanInUniform",
    "FilterRms",
    "LocalResponseNormalization",
    "LocallyConnected2D",
    "Maxout",
    "NormalizedTemplateConv2D",
    "Subsampling",
    "SumPooling2D",
    "TableConv2D",
    "ZeroPaddedShortcut",
    "ceil_fill",
    "scaled_tanh",
]
