"""A model for Triton's Python backend: the sum of each row. Runs in Triton's environment."""

import time

import triton_python_backend_utils as backend


class TritonPythonModel:
    def initialize(self, args):
        if args["model_name"] == "slow":
            time.sleep(1)

    def execute(self, requests):
        answers = []
        for request in requests:
            rows = backend.get_input_tensor_by_name(request, "x").as_numpy()
            sums = backend.Tensor("total", rows.reshape(len(rows), -1).sum(1, keepdims=True))
            answers.append(backend.InferenceResponse([sums]))
        return answers
