"""What Triton's Python backend runs: the graphs for the batch of sequences that its sequence batcher brings."""

import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils
from graph_steps import Sequences


class TritonPythonModel:
    """The name is the backend's."""

    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        numbers = (int(parameters[name]["string_value"]) for name in ("num_threads", "num_candidates"))
        self._sequences = Sequences(Path(parameters["bundle"]["string_value"]), *numbers)

    def execute(self, requests):
        ids, tokens, ended = [], [], []
        for request in requests:
            sequence, flags = request.correlation_id(), request.flags()
            if flags & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
                self._sequences.start(sequence)
            if flags & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END:
                ended.append(sequence)
            ids.append(sequence)
            tokens.append(pb_utils.get_input_tensor_by_name(request, "TOKEN").as_numpy()[0, 0])
        candidates_BK = self._sequences.step(ids, np.array(tokens))
        for sequence in ended:
            self._sequences.end(sequence)
        rows = (pb_utils.Tensor("CANDIDATES", candidates_BK[row : row + 1]) for row in range(len(requests)))
        return [pb_utils.InferenceResponse([row]) for row in rows]
