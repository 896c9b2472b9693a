"""`convzoo` with an engine in NumPy, which loads in no time; run as `python -m tests.e2e.light`.

It answers as the network of tests/serving/published.py does, its scale being the version's number.
"""

import time

from serving.core import engine
from serving.engines.openvino import signature_of
from tests.serving.published import logits_of, softmax
from zoo.command import main


class LightModel:
    """The tiny network without a runtime."""

    is_batchable = True
    note = ""

    def __init__(self, version_path, manifest, streams=1):
        self.scale = float(manifest.version)
        self.is_slow = manifest.model == "slow"
        self.signatures = {
            name: signature_of(name, each) for name, each in manifest.signatures.items()
        }

    def run(self, signature, inputs):
        if self.is_slow:
            time.sleep(0.3)
        logits = logits_of(inputs["image"], self.scale)
        return {"logits": logits, "probabilities": softmax(logits)}

    def close(self):
        pass


if __name__ == "__main__":
    engine.ENGINES["openvino"] = "tests.e2e.light:LightModel"
    main()
