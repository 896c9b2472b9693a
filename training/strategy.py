"""Several devices or machines: what `tf.distribute` is asked for. Nothing else knows about devices.

A worker of several is started with TF_CONFIG, as Kubernetes jobs and Ray set it:
{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}
"""

import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from training.interrupt import killable
from training.recipe import Recipe
from zoo.errors import InterruptedRunError, UsageError

# What TensorFlow raises in the other workers when one is gone.
LOST = (
    *(tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError),
    *(tf.errors.InternalError, tf.errors.CancelledError),
)


class Devices:
    """One device, or several that take each step together.

    Attributes:
        replicas: How many share a step, over all workers.
        workers: How many processes there are.
        is_chief: Whether this process writes.
    """

    def __init__(self, kind: str) -> None:
        self._strategy = _strategy(kind)
        self.replicas = 1 if self._strategy is None else self._strategy.num_replicas_in_sync
        self.workers, self._index = _workers() if kind == "multi_worker" else (1, 0)
        self.is_chief = self._index == 0

    def check(self, recipe: Recipe) -> None:
        """Refuses a batch that cannot be shared.

        Raises:
            UsageError: the batch size is no multiple of the number of replicas.
        """
        if recipe.batch_size % self.replicas:
            raise UsageError(
                f"batch_size={recipe.batch_size} cannot be shared by {self.replicas} replicas; "
                f"choose a multiple of {self.replicas}."
            )

    def scope(self) -> Any:
        """Where variables are made."""
        return (
            tf.distribute.get_strategy().scope()
            if self._strategy is None
            else (self._strategy.scope())
        )

    def distribute(self, dataset: Callable[[slice], Any]) -> Any:
        """An iterator over each step's batches.

        Args:
            dataset: From the places of the replicas in each step, as a slice, to their batches.
        """
        if self._strategy is None:
            return iter(dataset(slice(0, 1)))
        mine = self.replicas // self.workers
        first = self._index * mine
        return iter(
            self._strategy.distribute_datasets_from_function(
                lambda _: dataset(slice(first, first + mine))
            )
        )

    def run(self, step: Callable[..., Any], batch: Any) -> Any:
        """Runs a step on every replica and adds up what each gives (a tensor each)."""
        if self._strategy is None:
            return step(batch)
        results = self._strategy.run(step, args=(batch,))
        return tuple(self._strategy.reduce("SUM", each, axis=None) for each in results)

    def sum_gradients(self, gradients: list[Any]) -> list[Any]:
        """Inside a step: the sum over replicas."""
        if self._strategy is None:
            return gradients
        context = tf.distribute.get_replica_context()
        summed: list[Any] = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        return summed

    def agree(self, values: "np.typing.ArrayLike") -> Any:
        """The chief's values, in every worker: an array of float64."""
        array = np.asarray(values, dtype=np.float64)
        return self._sum(array if self.is_chief else np.zeros_like(array))

    def any(self, *, here: bool) -> bool:
        """Whether it holds in any worker."""
        return bool(here) if self.workers == 1 else bool(self._sum(np.float64(here)))

    def _sum(self, array: Any) -> Any:
        if self._strategy is None or self.workers == 1:
            return array
        local = tf.constant(array)
        # Each worker's first replica speaks for it.
        per_replica = self._strategy.experimental_distribute_values_from_function(
            lambda context: (
                local
                if context.replica_id_in_sync_group % (self.replicas // self.workers) == 0
                else tf.zeros_like(local)
            )
        )
        return self._strategy.reduce("SUM", per_replica, axis=None).numpy()


def lost_worker(error: Exception, run: str) -> InterruptedRunError:
    """What a user is told when another worker is gone."""
    return InterruptedRunError(
        f"Another worker was lost ({type(error).__name__}: {str(error).splitlines()[0][:200]}). "
        f"Start all workers again: they go on from the last checkpoint in {run}."
    )


def _strategy(kind: str) -> Any:
    match kind:
        case "mirrored":
            return tf.distribute.MirroredStrategy()
        case "multi_worker":
            _workers()
            # It waits for all other workers.
            with killable():
                return tf.distribute.MultiWorkerMirroredStrategy()
        case _:
            return None


def _workers() -> tuple[int, int]:
    """How many workers TF_CONFIG names, and which this one is."""
    try:
        config = json.loads(os.environ["TF_CONFIG"])
        cluster, task = config["cluster"], config["task"]
        chiefs = len(cluster.get("chief", ()))
        number = chiefs + len(cluster.get("worker", ()))
        index = int(task["index"]) + (chiefs if task["type"] == "worker" else 0)
        known = task["type"] in ("chief", "worker") and 0 <= index < number
    except KeyError as error:
        raise UsageError(
            'strategy multi_worker needs TF_CONFIG: {"cluster": {"worker": ["host:port", ...]}, '
            f'"task": {{"type": "worker", "index": 0}}}}; it lacks {error}.'
        ) from error
    except (ValueError, TypeError) as error:
        raise UsageError(f"TF_CONFIG is not valid: {error}.") from error
    if not known:
        raise UsageError(f"TF_CONFIG's task {task} is none of its cluster's {number} workers.")
    return number, index


def is_chief(recipe: Recipe) -> bool:
    """Whether this process writes, known before any strategy is made."""
    return recipe.strategy != "multi_worker" or _workers()[1] == 0
