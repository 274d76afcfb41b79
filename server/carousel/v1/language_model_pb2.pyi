from carousel.v1 import types_pb2 as _types_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "seed")
    class LogitBiasEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: float
        def __init__(self, key: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: _containers.ScalarMap[int, float]
    seed: int
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., logit_bias: _Optional[_Mapping[int, float]] = ..., seed: _Optional[int] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("session_id", "model", "input", "sampling", "max_tokens", "stop", "stop_ids", "num_log_probabilities", "content", "request_id", "expected_position", "state", "n")
    class Content(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CONTENT_UNSPECIFIED: _ClassVar[GenerateRequest.Content]
        CONTENT_TEXT: _ClassVar[GenerateRequest.Content]
        CONTENT_IDS: _ClassVar[GenerateRequest.Content]
        CONTENT_BOTH: _ClassVar[GenerateRequest.Content]
    CONTENT_UNSPECIFIED: GenerateRequest.Content
    CONTENT_TEXT: GenerateRequest.Content
    CONTENT_IDS: GenerateRequest.Content
    CONTENT_BOTH: GenerateRequest.Content
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    STOP_IDS_FIELD_NUMBER: _ClassVar[int]
    NUM_LOG_PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_POSITION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    model: str
    input: _types_pb2.Input
    sampling: Sampling
    max_tokens: int
    stop: _containers.RepeatedScalarFieldContainer[str]
    stop_ids: _containers.RepeatedScalarFieldContainer[int]
    num_log_probabilities: int
    content: GenerateRequest.Content
    request_id: str
    expected_position: int
    state: bytes
    n: int
    def __init__(self, session_id: _Optional[str] = ..., model: _Optional[str] = ..., input: _Optional[_Union[_types_pb2.Input, _Mapping]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., max_tokens: _Optional[int] = ..., stop: _Optional[_Iterable[str]] = ..., stop_ids: _Optional[_Iterable[int]] = ..., num_log_probabilities: _Optional[int] = ..., content: _Optional[_Union[GenerateRequest.Content, str]] = ..., request_id: _Optional[str] = ..., expected_position: _Optional[int] = ..., state: _Optional[bytes] = ..., n: _Optional[int] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("tokens", "text", "finished", "branch")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedCompositeFieldContainer[GeneratedToken]
    text: str
    finished: Finished
    branch: int
    def __init__(self, tokens: _Optional[_Iterable[_Union[GeneratedToken, _Mapping]]] = ..., text: _Optional[str] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ..., branch: _Optional[int] = ...) -> None: ...

class GeneratedToken(_message.Message):
    __slots__ = ("id", "log_probability", "candidates")
    ID_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    id: int
    log_probability: float
    candidates: _containers.RepeatedCompositeFieldContainer[_types_pb2.Candidate]
    def __init__(self, id: _Optional[int] = ..., log_probability: _Optional[float] = ..., candidates: _Optional[_Iterable[_Union[_types_pb2.Candidate, _Mapping]]] = ...) -> None: ...

class Finished(_message.Message):
    __slots__ = ("reason", "stop", "position", "num_input_tokens", "num_generated_tokens", "seed", "durable_position", "state", "is_replay")
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REASON_UNSPECIFIED: _ClassVar[Finished.Reason]
        REASON_LENGTH: _ClassVar[Finished.Reason]
        REASON_STOP: _ClassVar[Finished.Reason]
        REASON_STOP_ID: _ClassVar[Finished.Reason]
    REASON_UNSPECIFIED: Finished.Reason
    REASON_LENGTH: Finished.Reason
    REASON_STOP: Finished.Reason
    REASON_STOP_ID: Finished.Reason
    REASON_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    NUM_INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_GENERATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    DURABLE_POSITION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    IS_REPLAY_FIELD_NUMBER: _ClassVar[int]
    reason: Finished.Reason
    stop: str
    position: int
    num_input_tokens: int
    num_generated_tokens: int
    seed: int
    durable_position: int
    state: bytes
    is_replay: bool
    def __init__(self, reason: _Optional[_Union[Finished.Reason, str]] = ..., stop: _Optional[str] = ..., position: _Optional[int] = ..., num_input_tokens: _Optional[int] = ..., num_generated_tokens: _Optional[int] = ..., seed: _Optional[int] = ..., durable_position: _Optional[int] = ..., state: _Optional[bytes] = ..., is_replay: _Optional[bool] = ...) -> None: ...

class PredictRequest(_message.Message):
    __slots__ = ("session_id", "model", "input", "k", "word_prefix", "num_words", "request_id", "expected_position", "state")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    WORD_PREFIX_FIELD_NUMBER: _ClassVar[int]
    NUM_WORDS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_POSITION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    model: str
    input: _types_pb2.Input
    k: int
    word_prefix: str
    num_words: int
    request_id: str
    expected_position: int
    state: bytes
    def __init__(self, session_id: _Optional[str] = ..., model: _Optional[str] = ..., input: _Optional[_Union[_types_pb2.Input, _Mapping]] = ..., k: _Optional[int] = ..., word_prefix: _Optional[str] = ..., num_words: _Optional[int] = ..., request_id: _Optional[str] = ..., expected_position: _Optional[int] = ..., state: _Optional[bytes] = ...) -> None: ...

class PredictResponse(_message.Message):
    __slots__ = ("candidates", "words", "position", "durable_position", "state", "is_replay")
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    DURABLE_POSITION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    IS_REPLAY_FIELD_NUMBER: _ClassVar[int]
    candidates: _containers.RepeatedCompositeFieldContainer[_types_pb2.Candidate]
    words: _containers.RepeatedCompositeFieldContainer[Word]
    position: int
    durable_position: int
    state: bytes
    is_replay: bool
    def __init__(self, candidates: _Optional[_Iterable[_Union[_types_pb2.Candidate, _Mapping]]] = ..., words: _Optional[_Iterable[_Union[Word, _Mapping]]] = ..., position: _Optional[int] = ..., durable_position: _Optional[int] = ..., state: _Optional[bytes] = ..., is_replay: _Optional[bool] = ...) -> None: ...

class Word(_message.Message):
    __slots__ = ("text", "log_probability")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    text: str
    log_probability: float
    def __init__(self, text: _Optional[str] = ..., log_probability: _Optional[float] = ...) -> None: ...

class PredictManyRequest(_message.Message):
    __slots__ = ("items",)
    class Item(_message.Message):
        __slots__ = ("tag", "request", "close")
        TAG_FIELD_NUMBER: _ClassVar[int]
        REQUEST_FIELD_NUMBER: _ClassVar[int]
        CLOSE_FIELD_NUMBER: _ClassVar[int]
        tag: int
        request: PredictRequest
        close: bool
        def __init__(self, tag: _Optional[int] = ..., request: _Optional[_Union[PredictRequest, _Mapping]] = ..., close: _Optional[bool] = ...) -> None: ...
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[PredictManyRequest.Item]
    def __init__(self, items: _Optional[_Iterable[_Union[PredictManyRequest.Item, _Mapping]]] = ...) -> None: ...

class PredictManyResponse(_message.Message):
    __slots__ = ("items",)
    class Item(_message.Message):
        __slots__ = ("tag", "response", "status")
        TAG_FIELD_NUMBER: _ClassVar[int]
        RESPONSE_FIELD_NUMBER: _ClassVar[int]
        STATUS_FIELD_NUMBER: _ClassVar[int]
        tag: int
        response: PredictResponse
        status: _status_pb2.Status
        def __init__(self, tag: _Optional[int] = ..., response: _Optional[_Union[PredictResponse, _Mapping]] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[PredictManyResponse.Item]
    def __init__(self, items: _Optional[_Iterable[_Union[PredictManyResponse.Item, _Mapping]]] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("session_id", "model", "input", "g", "request_id", "expected_position", "state")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    G_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_POSITION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    model: str
    input: _types_pb2.Input
    g: int
    request_id: str
    expected_position: int
    state: bytes
    def __init__(self, session_id: _Optional[str] = ..., model: _Optional[str] = ..., input: _Optional[_Union[_types_pb2.Input, _Mapping]] = ..., g: _Optional[int] = ..., request_id: _Optional[str] = ..., expected_position: _Optional[int] = ..., state: _Optional[bytes] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("tokens", "totals")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedCompositeFieldContainer[ScoredToken]
    totals: ScoreTotals
    def __init__(self, tokens: _Optional[_Iterable[_Union[ScoredToken, _Mapping]]] = ..., totals: _Optional[_Union[ScoreTotals, _Mapping]] = ...) -> None: ...

class ScoredToken(_message.Message):
    __slots__ = ("id", "log_probability", "rank", "is_hit", "text")
    ID_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    IS_HIT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    id: int
    log_probability: float
    rank: int
    is_hit: bool
    text: str
    def __init__(self, id: _Optional[int] = ..., log_probability: _Optional[float] = ..., rank: _Optional[int] = ..., is_hit: _Optional[bool] = ..., text: _Optional[str] = ...) -> None: ...

class ScoreTotals(_message.Message):
    __slots__ = ("num_tokens", "log_probability", "perplexity", "num_hits", "position", "durable_position", "state", "is_replay")
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    PERPLEXITY_FIELD_NUMBER: _ClassVar[int]
    NUM_HITS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    DURABLE_POSITION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    IS_REPLAY_FIELD_NUMBER: _ClassVar[int]
    num_tokens: int
    log_probability: float
    perplexity: float
    num_hits: int
    position: int
    durable_position: int
    state: bytes
    is_replay: bool
    def __init__(self, num_tokens: _Optional[int] = ..., log_probability: _Optional[float] = ..., perplexity: _Optional[float] = ..., num_hits: _Optional[int] = ..., position: _Optional[int] = ..., durable_position: _Optional[int] = ..., state: _Optional[bytes] = ..., is_replay: _Optional[bool] = ...) -> None: ...

class TokenizeRequest(_message.Message):
    __slots__ = ("model", "text")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    model: str
    text: str
    def __init__(self, model: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class TokenizeResponse(_message.Message):
    __slots__ = ("tokens",)
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedCompositeFieldContainer[Token]
    def __init__(self, tokens: _Optional[_Iterable[_Union[Token, _Mapping]]] = ...) -> None: ...

class Token(_message.Message):
    __slots__ = ("id", "text")
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    id: int
    text: str
    def __init__(self, id: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class DetokenizeRequest(_message.Message):
    __slots__ = ("model", "ids")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    model: str
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, model: _Optional[str] = ..., ids: _Optional[_Iterable[int]] = ...) -> None: ...

class DetokenizeResponse(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "digest", "cell", "num_layers", "hidden_size", "vocabulary_size", "num_parameters", "precision", "tokenizer", "state_bytes", "provider", "limits", "training_json", "block", "has_chat_template")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CELL_FIELD_NUMBER: _ClassVar[int]
    NUM_LAYERS_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_SIZE_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    NUM_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FIELD_NUMBER: _ClassVar[int]
    STATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    TRAINING_JSON_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    HAS_CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    cell: str
    num_layers: int
    hidden_size: int
    vocabulary_size: int
    num_parameters: int
    precision: str
    tokenizer: str
    state_bytes: int
    provider: str
    limits: Limits
    training_json: str
    block: str
    has_chat_template: bool
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ..., cell: _Optional[str] = ..., num_layers: _Optional[int] = ..., hidden_size: _Optional[int] = ..., vocabulary_size: _Optional[int] = ..., num_parameters: _Optional[int] = ..., precision: _Optional[str] = ..., tokenizer: _Optional[str] = ..., state_bytes: _Optional[int] = ..., provider: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., training_json: _Optional[str] = ..., block: _Optional[str] = ..., has_chat_template: _Optional[bool] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_input_tokens", "max_generated_tokens", "max_message_bytes", "penalty_window", "max_input_bytes", "max_answer_items", "max_stop_ids", "max_sequences_per_stream", "max_waiting_per_stream")
    MAX_INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_GENERATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PENALTY_WINDOW_FIELD_NUMBER: _ClassVar[int]
    MAX_INPUT_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_ANSWER_ITEMS_FIELD_NUMBER: _ClassVar[int]
    MAX_STOP_IDS_FIELD_NUMBER: _ClassVar[int]
    MAX_SEQUENCES_PER_STREAM_FIELD_NUMBER: _ClassVar[int]
    MAX_WAITING_PER_STREAM_FIELD_NUMBER: _ClassVar[int]
    max_input_tokens: int
    max_generated_tokens: int
    max_message_bytes: int
    penalty_window: int
    max_input_bytes: int
    max_answer_items: int
    max_stop_ids: int
    max_sequences_per_stream: int
    max_waiting_per_stream: int
    def __init__(self, max_input_tokens: _Optional[int] = ..., max_generated_tokens: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., penalty_window: _Optional[int] = ..., max_input_bytes: _Optional[int] = ..., max_answer_items: _Optional[int] = ..., max_stop_ids: _Optional[int] = ..., max_sequences_per_stream: _Optional[int] = ..., max_waiting_per_stream: _Optional[int] = ...) -> None: ...
