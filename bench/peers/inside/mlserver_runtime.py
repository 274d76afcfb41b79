"""What MLServer runs: the graphs for the batch that its adaptive batching brings.

Batching merges the requests' parameters into one, so the sequence id travels in the tensor: sequence, flags, token.
"""

from pathlib import Path

import numpy as np
from graph_steps import Sequences
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

START, END = 1, 2


class SequenceRuntime(MLModel):
    async def load(self) -> bool:
        extra = self.settings.parameters.extra
        self._sequences = Sequences(Path(extra["bundle"]), extra["num_threads"], extra["num_candidates"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        turns_B3 = np.array(payload.inputs[0].data.root, np.int64).reshape(-1, 3)
        sequences = turns_B3[:, 0].tolist()
        flags_B = turns_B3[:, 1]
        for row in np.flatnonzero(flags_B & START):
            self._sequences.start(sequences[row])
        candidates_BK = self._sequences.step(sequences, np.ascontiguousarray(turns_B3[:, 2]))
        for row in np.flatnonzero(flags_B & END):
            self._sequences.end(sequences[row])
        shape = list(candidates_BK.shape)
        answer = ResponseOutput(name="CANDIDATES", shape=shape, datatype="INT64", data=candidates_BK.ravel().tolist())
        return InferenceResponse(model_name=self.name, outputs=[answer])
