"""Makes the parts of a run from its settings: text, vocabulary, model, batches. It writes nothing.

The same settings make the same parts; seeds are set on the way.
"""

from dataclasses import dataclass

import torch

from carousel.bundle.tokenizer import Tokenizer
from carousel_training.batches import Chances, EvaluationBatches, LanePlan, TrainingBatches
from carousel_training.corpus import Corpus, read_corpus
from carousel_training.evaluate import EvaluationText, measure_tokens
from carousel_training.model import ModelConfig, RecurrentLM
from carousel_training.precision import Compute
from carousel_training.randomness import seed_generators
from carousel_training.repeats import share_repeated
from carousel_training.sampled_softmax import NegativeSampler
from carousel_training.settings import Settings
from carousel_training.trainer import Trainer
from carousel_training.vocabulary import encode_text, learn_vocabulary


@dataclass(frozen=True, slots=True)
class Materials:
    """The parts of a run. The same settings always make the same parts.

    The precision in `settings` is no longer `auto`: a run that resumes elsewhere keeps the precision that it began
    with. `share_leaked` is the share of the validation text that stands word for word in the training text.
    """

    settings: Settings
    corpus: Corpus
    share_leaked: float
    tokenizer: Tokenizer
    trainer: Trainer
    valid: EvaluationText
    test: EvaluationText | None


def make_materials(settings: Settings, tokenizer: Tokenizer | None = None) -> Materials:
    """Reads, encodes and builds. Without a tokenizer, learns one from the training text. Raises TrainingError."""
    compute = Compute.choose(settings.compute)
    settings = settings.model_copy(update={"compute": compute.resolved(settings.compute)})
    corpus = read_corpus(settings.corpus)
    tokenizer = tokenizer or learn_vocabulary(corpus.train, settings.vocabulary)
    trainer = _build_trainer(settings, corpus.train, tokenizer, compute)
    valid = _prepare(settings, corpus.valid, tokenizer, compute)
    test = _prepare(settings, corpus.test, tokenizer, compute) if corpus.test else None
    return Materials(settings, corpus, share_repeated(corpus.train, corpus.valid), tokenizer, trainer, valid, test)


def _build_trainer(settings: Settings, text: str, tokenizer: Tokenizer, compute: Compute) -> Trainer:
    ids_N = torch.from_numpy(encode_text(tokenizer, text)).to(compute.device)
    plan = LanePlan(settings.batch.num_lanes, settings.batch.segment)
    batches = TrainingBatches(ids_N, tokenizer.start_id, plan, Chances(settings.seed, settings.batch.fresh))
    seed_generators(settings.seed)
    model = RecurrentLM(ModelConfig.from_settings(settings.model, tokenizer.size)).to(compute.device)
    model.begin_with_counts(batches.count_tokens(tokenizer.size))
    return Trainer(model, batches, settings.optimizer, compute, _build_sampler(settings, batches, tokenizer.size))


def _build_sampler(settings: Settings, batches: TrainingBatches, vocabulary_size: int) -> NegativeSampler | None:
    if settings.output.num_negatives is None:
        return None
    return NegativeSampler(batches.count_tokens(vocabulary_size), settings.output.num_negatives)


def _prepare(settings: Settings, text: str, tokenizer: Tokenizer, compute: Compute) -> EvaluationText:
    ids = encode_text(tokenizer, text)
    plan = LanePlan(settings.evaluation.num_lanes, settings.batch.segment)
    batches = EvaluationBatches(torch.from_numpy(ids).to(compute.device), tokenizer.start_id, plan)
    return EvaluationText(batches, measure_tokens(tokenizer, text, ids.tolist()))
