"""All settings of a training run: frozen, each default written once. Unknown keys are refused by name.

They come from a TOML file, whose tables are the sections below, and from `section.key=value` overrides on top of it.
Paths are relative to the working directory. This module reads no corpus and builds nothing.
"""

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from carousel.bundle.chat import ChatFormat
from carousel.bundle.tokenizer import TokenizerKind
from carousel.setting_problems import explain_problem
from carousel_training.chat import check_chat
from carousel_training.errors import SettingsError

DEFAULT_MINUTES = 10.0

CellName = Literal[
    "elman",
    "lstm-1997",
    "lstm",
    "lstm-peephole",
    "lstm-peephole-dense",
    "lstm-coupled",
    "gru-2014",
    "gru",
    "lstm-depth-gated",
    "clockwork",
    "tdnn",
    "minlstm",
    "mingru",
    "rg-lru",
    "slstm",
    "mlstm",
]
CELLS_WITH_HEADS = ("slstm", "mlstm", "rg-lru")
CELLS_WITHOUT_BLOCKS = {  # and why
    "tdnn": "a window of tokens is not a layer",
    "lstm-depth-gated": "its gate opens to the memory of the layer below, which a block does not see",
}
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CorpusSettings(Section):
    """Where the text comes from. The fractions split `text`; `train`, `valid` and `test` stay as they are.

    Without any of them, the text is the package's own tales. A folder means the .txt, .md, .py and .log files in it and
    below, in sorted order and without hidden files; or the files that match `pattern`, such as **/*.rst. The validation
    part follows the training part, the test part follows the validation part. `drop_repeats` removes lines of `text`
    that repeat earlier ones, so that no part contains what another contains.
    """

    text: tuple[Path, ...] = ()
    train: tuple[Path, ...] = ()
    valid: tuple[Path, ...] = ()
    test: tuple[Path, ...] = ()
    pattern: str | None = None
    drop_repeats: bool = False
    valid_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    test_fraction: Fraction = 0.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.text and (self.train or self.valid or self.test):
            raise ValueError("text is split into parts; leave out either text, or train, valid and test")
        if bool(self.train) != bool(self.valid) or (self.test and not self.train):
            raise ValueError("train and valid go together, and test needs both")
        if self.drop_repeats and self.train:
            raise ValueError("drop_repeats is for text; train, valid and test stay as they are")
        if self.valid_fraction + self.test_fraction >= 1.0:
            raise ValueError("valid_fraction and test_fraction leave nothing to train on")
        return self


class VocabularySettings(Section):
    """What a token is. `size` bounds BPE. `max_words` bounds words: a larger output layer costs time in every step, and
    rare words teach little; a large number keeps all words. `min_count` bounds words and characters.
    """

    kind: TokenizerKind = TokenizerKind.BPE
    size: Annotated[int, Field(ge=256)] = 4096
    max_words: Annotated[int, Field(ge=3)] | None = 20_000
    min_count: Count = 1


class ModelSettings(Section):
    """The network. A tied output shares the embedding's matrix, through a projection if the sizes differ.

    `dropout` acts on inputs, between layers and on outputs, unless these have a share of their own; with
    `locked_dropout` a mask lasts for a segment. `embedding_dropout` drops whole words, `weight_drop` single recurrent
    weights. The penalties multiply the mean square of the top layer's activations and of their change from step to
    step. `window` is the number of tokens that the time-delay network sees, `num_clocks` the number of the clockwork
    net's groups, `num_heads` the number of blocks of sLSTM, mLSTM and RG-LRU; other cells ignore them. With the `block`
    residual, each layer stands between a norm and a gated feed-forward net of `mlp_expansion` times the hidden size,
    beside a path that skips them. To each embedding the model adds the hashed n-grams, of 2 to `ngram_order` tokens,
    that end there (1: none). Each size has `ngram_buckets` rows; `ngram_dropout` acts on their sum.
    """

    cell: CellName = "lstm"
    block: Literal["plain", "residual"] = "plain"
    num_layers: Count = 1
    hidden_size: Count = 256
    embedding_size: Count = 256
    tied: bool = True
    dropout: Fraction = 0.2
    locked_dropout: bool = False
    input_dropout: Fraction | None = None
    layer_dropout: Fraction | None = None
    output_dropout: Fraction | None = None
    embedding_dropout: Fraction = 0.0
    weight_drop: Fraction = 0.0
    activation_penalty: Annotated[float, Field(ge=0.0)] = 0.0
    temporal_penalty: Annotated[float, Field(ge=0.0)] = 0.0
    window: Count = 8
    num_clocks: Count = 4
    num_heads: Count = 4
    mlp_expansion: Count = 3
    ngram_order: Annotated[int, Field(ge=1, le=8)] = 1
    ngram_buckets: Annotated[int, Field(ge=1, le=2**24)] = 8192
    ngram_dropout: Fraction = 0.5

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.ngram_order > 1 and self.cell == "tdnn":
            raise ValueError("ngram_order is not for tdnn, whose window shows the same tokens; leave it at 1")
        if self.cell == "clockwork" and self.hidden_size % self.num_clocks:
            raise ValueError(f"a clockwork net's hidden_size must be a multiple of num_clocks, {self.num_clocks}")
        if self.block == "residual" and self.cell in CELLS_WITHOUT_BLOCKS:
            raise ValueError(f"{self.cell} cannot be in residual blocks: {CELLS_WITHOUT_BLOCKS[self.cell]}")
        if self.hidden_size % self.width_multiple:
            raise ValueError(f"hidden_size of {self.cell} must be a multiple of num_heads, {self.num_heads}")
        return self

    @property
    def width_multiple(self) -> int:
        """The number of which the cell's hidden size must be a multiple."""
        if self.cell == "clockwork":
            return self.num_clocks
        return self.num_heads if self.cell in CELLS_WITH_HEADS else 1


class OutputSettings(Section):
    """How the output layer learns: against all words (none), or for each segment against `num_negatives` drawn words,
    which pays for large vocabularies. Validation, export and serving use all words in both cases.
    """

    num_negatives: Count | None = None


class OptimizerSettings(Section):
    """The optimiser and its learning rate over the run. `learning_rate` is the peak (none: a rate at which the cell
    trains well with AdamW), `final_fraction` of it the end. With `muon`, the matrices that multiply hidden vectors take
    orthogonal steps at `matrix_learning_rate`, by `matrix_iterations` of Newton and Schulz, and AdamW trains everything
    else. `averaging` uses the mean of the weights for validation and for the best checkpoint: `tail` from the share
    `average_from` of the run on, `non-monotone` from the first validation that is worse than the best of all but the
    `average_after_worse` before it.
    """

    kind: Literal["adamw", "sgd", "muon"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0.0)] | None = None
    schedule: Literal["one-cycle", "cosine", "constant"] = "one-cycle"
    warmup_fraction: Fraction = 0.1
    final_fraction: Annotated[float, Field(ge=0.0, le=1.0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    matrix_learning_rate: Annotated[float, Field(gt=0.0)] = 0.02
    matrix_weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    matrix_iterations: Annotated[int, Field(ge=1, lt=100)] = 5
    beta1: Fraction = 0.9
    beta2: Fraction = 0.99
    clip_norm: Annotated[float, Field(gt=0.0)] = 1.0
    averaging: Literal["none", "tail", "non-monotone"] = "none"
    average_from: Fraction = 0.5
    average_after_worse: Annotated[int, Field(ge=0)] = 5

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "sgd" and self.learning_rate is None:
            raise ValueError("sgd has no learning_rate of its own; give one")
        return self


class BatchSettings(Section):
    """Sets truncated back-propagation: `num_lanes` contiguous texts side by side, cut after every `segment` tokens.
    With the probability `fresh` a lane starts a segment from the initial state and the start token, as a session does.
    """

    num_lanes: Count = 32
    segment: Count = 64
    fresh: Fraction = 1 / 16


class BudgetSettings(Section):
    """When to stop: at the first of the bounds. `patience` counts evaluations without a new best.

    The learning rate follows max(steps / max_steps, minutes / max_minutes), so a run bounded by steps alone is a
    function of its seed, and a run bounded by minutes is not.
    """

    max_steps: Count | None = None
    max_minutes: Annotated[float, Field(gt=0.0)] | None = None
    patience: Count | None = None

    @model_validator(mode="before")
    @classmethod
    def _bound(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("max_steps") is None and given.get("max_minutes") is None:
            return {**given, "max_minutes": DEFAULT_MINUTES}
        return given


class EvaluationSettings(Section):
    """How often and how the validation text is read, and the sample that goes with it. `log_every` counts steps too."""

    every_steps: Count = 250
    log_every: Count = 25
    num_lanes: Count = 16
    sample_tokens: Annotated[int, Field(ge=0)] = 64
    sample_temperature: Annotated[float, Field(gt=0.0)] = 0.7


class ChatSettings(Section):
    """How a conversation becomes text, where the corpus holds conversations: a Jinja template over `messages`, here or
    in the file `template_file`, and the strings that end an assistant's turn. The bundle carries them, for chats.
    """

    template: str | None = None
    template_file: Path | None = None
    stops: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        """Puts the file's content in its place, so that a run needs it only once."""
        if not isinstance(given, Mapping) or given.get("template_file") is None:
            return given
        if given.get("template") is not None:
            raise ValueError("give either template or template_file")
        try:
            text = Path(given["template_file"]).read_text(encoding="utf-8")
        except (OSError, TypeError, ValueError) as error:
            raise ValueError(f"cannot read {given['template_file']}: {error}") from error
        return {**given, "template": text, "template_file": None}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.stops and self.template is None:
            raise ValueError("stops are for a template")
        if (chat := self.format) is not None:
            check_chat(chat)
        return self

    @property
    def format(self) -> ChatFormat | None:
        return None if self.template is None else ChatFormat(self.template, self.stops)


class ComputeSettings(Section):
    """The device and its arithmetic. `threads` is torch's pool on the CPU; none leaves it to torch."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: Count | None = None


class Settings(Section):
    """Holds all settings of a run."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    corpus: CorpusSettings = CorpusSettings()
    vocabulary: VocabularySettings = VocabularySettings()
    model: ModelSettings = ModelSettings()
    output: OutputSettings = OutputSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    batch: BatchSettings = BatchSettings()
    budget: BudgetSettings = BudgetSettings(max_minutes=DEFAULT_MINUTES)
    evaluation: EvaluationSettings = EvaluationSettings()
    compute: ComputeSettings = ComputeSettings()
    chat: ChatSettings = ChatSettings()

    @classmethod
    def parse(cls, facts: Mapping[str, Any]) -> "Settings":
        """Reads nested plain values. Raises SettingsError with the name of the first wrong setting."""
        try:
            return cls.model_validate(facts)
        except ValidationError as error:
            raise SettingsError(_sentence(error)) from error

    @classmethod
    def load(cls, config: Path | None, overrides: Iterable[str] = ()) -> "Settings":
        """Reads the file and applies `section.key=value` overrides. Raises SettingsError."""
        facts = {} if config is None else _read(config)
        for override in overrides:
            _apply(facts, override)
        return cls.parse(facts)

    def as_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


def _read(config: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read {config}: {error.strerror or error}") from error
    except ValueError as error:
        raise SettingsError(f"{config} is not TOML: {error}") from error


def _apply(facts: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise SettingsError(f"{override!r} is not of the form section.key=value")
    *sections, key = path.strip().split(".")
    table = facts
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise SettingsError(f"{path} is not a setting: {section} has no keys")
    table[key] = _value(text.strip())


def _value(text: str) -> Any:
    """Reads a TOML value, or the text itself, so that `model.cell=gru` needs no quotes in a shell."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _sentence(error: ValidationError) -> str:
    return explain_problem(error.errors(include_url=False)[0], _names(Settings), "carousel-train settings")


def _names(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yields all settings and sections, as overrides name them."""
    for key, field in section.model_fields.items():
        yield prefix + key
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _names(field.annotation, f"{key}.")
