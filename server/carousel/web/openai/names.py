"""OpenAI's names of fields."""

PARAMS = {
    "input": "prompt",
    "num_log_probabilities": "logprobs",
    "num_candidates": "logprobs",
    "stop_ids": "stop_token_ids",
    "request_id": "Idempotency-Key",
    "ids": "tokens",
}
