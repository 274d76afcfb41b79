"""The contract of a bundle's two graphs: the names of their inputs and outputs. The exporter writes them, the engine
reads them.

``core``: ids [B,T] int64, lengths [B] int32 (1..T, rows are right-padded), one input [B, *shape] per state tensor ->
hidden [B,T,H] float32, one output [B, *shape] per state tensor: the state after each row's last real token.

``head``: hidden [N,H] float32, targets [N] int64 or none, num_candidates [1] int64, temperatures [N] float32 above 0 or
none -> logits [N,V]; candidate_logits and candidate_ids [N,K], highest first, the lower id first among equals;
log_normalizer [N], the log of the sum of exp(logits); target_logits [N]; target_ranks [N] int64, the number of tokens
whose logit is above the target's. Without targets there are no target_logits and target_ranks. probabilities [N,V], the
softmax of logits / temperature; absent without temperatures.
"""

IDS = "ids"
LENGTHS = "lengths"
HIDDEN = "hidden"
TARGETS = "targets"
NUM_CANDIDATES = "num_candidates"
TEMPERATURES = "temperatures"
LOGITS = "logits"
CANDIDATE_LOGITS = "candidate_logits"
CANDIDATE_IDS = "candidate_ids"
LOG_NORMALIZER = "log_normalizer"
TARGET_LOGITS = "target_logits"
TARGET_RANKS = "target_ranks"
PROBABILITIES = "probabilities"
