"""Random networks to export."""

import torch

from carousel_training.model import ModelConfig, RecurrentLM


def build_model(
    cell: str = "lstm",
    num_layers: int = 1,
    embedding_size: int = 12,
    *,
    tied: bool = True,
    vocabulary_size: int = 29,
    gain: float = 2.0,
    block: str = "plain",
    ngram_order: int = 1,
) -> RecurrentLM:
    """Makes a random network. With the usual gain its states and logits differ widely; an Elman net is then chaotic."""
    torch.manual_seed(11)
    sizes = (num_layers, 12, embedding_size)
    shape = {"block": block, "ngram_order": ngram_order, "ngram_buckets": 64}
    model = RecurrentLM(ModelConfig(vocabulary_size, cell, *sizes, tied, dropout=0.4, **shape))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(gain).add_(0.1 * torch.randn_like(parameter))
    return model.eval()
