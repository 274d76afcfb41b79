"""Settings come from a file and overrides, and a refusal names the setting."""

from pathlib import Path

import pytest

from carousel.bundle.chat import ChatFormat
from carousel_training.errors import SettingsError
from carousel_training.settings import DEFAULT_MINUTES, CorpusSettings, Settings


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    """A key=value override replaces the file's value and leaves its neighbours."""
    config = tmp_path / "run.toml"
    config.write_text('seed = 3\n[model]\ncell = "gru"\nhidden_size = 8\n')
    settings = Settings.load(config, ["model.hidden_size=32", "vocabulary.kind=byte", "seed=4"])
    assert (settings.seed, settings.model.cell, settings.model.hidden_size) == (4, "gru", 32)
    assert settings.vocabulary.kind == "byte"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.hiden_size=32", r"unknown setting model.hiden_size; did you mean model.hidden_size\?$"),
        ("modle.hidden_size=32", r"unknown setting modle; did you mean model\?$"),
        ("nonsense=32", r"unknown setting nonsense \(`carousel-train settings` lists them\)$"),
        ("model.hidden_size=0", "model.hidden_size: must be at least 1, not '0'$"),
        ("model.hidden_size=1.5", "model.hidden_size: must be a whole number, not '1.5'$"),
        ("model.hidden_size=[1]", "model.hidden_size: must be a whole number, not '\\[1\\]'$"),
        ("model.tied=2", "model.tied: must be true or false, not '2'$"),
        ("model.dropout=nan", "model.dropout: must be "),
        ("model.cell=jordan", "model.cell"),
        ("model.ngram_order=9", "model.ngram_order: must be at most 8, not '9'$"),
        ("budget.max_minutes=-1", "budget.max_minutes"),
        ("seed.x=1", "seed"),
        ("hidden_size", "section.key=value"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(override: str, sentence: str) -> None:
    """An unknown key or a value out of range is an error that names it."""
    with pytest.raises(SettingsError, match=sentence):
        Settings.load(None, [override])


def test_ngrams_are_not_for_a_window_of_tokens() -> None:
    """The time-delay network sees the same tokens; the two together are refused."""
    with pytest.raises(SettingsError, match="ngram_order is not for tdnn"):
        Settings.load(None, ["model.cell=tdnn", "model.ngram_order=3"])
    assert Settings.load(None, ["model.cell=tdnn"]).model.ngram_order == 1


def test_an_unknown_key_in_the_file_is_refused(tmp_path: Path) -> None:
    """An unknown key in the file is refused as on the command line."""
    config = tmp_path / "run.toml"
    config.write_text("[optimizer]\nlearning_rat = 0.1\n")
    with pytest.raises(SettingsError, match="unknown setting optimizer.learning_rat"):
        Settings.load(config)


@pytest.mark.parametrize("content", ["[model", "x = \xff"])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, content: str) -> None:
    """A configuration file that is not TOML is an error with its path."""
    config = tmp_path / "run.toml"
    config.write_bytes(content.encode("latin-1"))
    with pytest.raises(SettingsError, match="run.toml is not TOML"):
        Settings.load(config)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A missing configuration file is an error with its path."""
    with pytest.raises(SettingsError, match="cannot read .*absent.toml"):
        Settings.load(tmp_path / "absent.toml")


def test_a_run_without_bounds_gets_the_default_minutes() -> None:
    """A run without bounds gets the default minutes. A run with a bound in steps gets none."""
    assert Settings.load(None).budget.max_minutes == DEFAULT_MINUTES
    assert Settings.load(None, ["budget.patience=3"]).budget.max_minutes == DEFAULT_MINUTES
    assert Settings.load(None, ["budget.max_steps=10"]).budget.max_minutes is None


def test_settings_survive_json() -> None:
    """The settings in a checkpoint parse to equal settings."""
    settings = Settings.load(None, ["corpus.text=['a.txt', 'b']", "budget.max_steps=10", "model.tied=false"])
    assert Settings.parse(settings.as_json()) == settings


def test_a_text_to_split_and_given_parts_exclude_each_other() -> None:
    """Two sources of the validation text are refused."""
    with pytest.raises(SettingsError, match="corpus: text is split into parts"):
        Settings.load(None, ["corpus.text=['a']", "corpus.train=['b']", "corpus.valid=['c']"])


def test_the_demo_is_bounded_in_minutes_and_needs_no_files() -> None:
    """The demo's settings parse, train for a minute and a half, and read the package's own text."""
    settings = Settings.load(Path(__file__).parents[2] / "training" / "demo.toml")
    assert settings.budget.max_minutes == 1.5
    assert settings.corpus == CorpusSettings()


def test_a_chat_template_is_text_or_a_file(tmp_path: Path) -> None:
    """The file is read once: what the run keeps is the text."""
    text = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    file, config = tmp_path / "chat.jinja", tmp_path / "run.toml"
    file.write_text(text)
    config.write_text(f"[chat]\ntemplate = '''{text}'''\nstops = [\"\\nuser:\"]\n")
    inline = Settings.load(config)
    filed = Settings.load(None, [f"chat.template_file={file}", 'chat.stops=["\\nuser:"]'])
    assert inline.chat == filed.chat
    assert filed.chat.format == ChatFormat(text, ("\nuser:",))
    file.unlink()
    assert Settings.parse(filed.as_json()) == filed
    assert Settings().chat.format is None


ALL = "chat.template={{ messages | map(attribute='content') | join }}"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["chat.template_file=/nowhere"], "chat: cannot read /nowhere"),
        (["chat.template_file=/"], "chat: cannot read /"),
        (["chat.template={{ messages", "chat.template_file=/nowhere"], "either template or template_file"),
        (["chat.template={% for m in messages %}"], "chat: line 1 of the chat template"),
        (["chat.template=''"], "chat: the chat template must have"),
        (["chat.template={{ messages[0].content }}"], "leaves 'It is Monday.' out"),
        (["chat.template={{ messages[0].text }}"], "chat: a sample conversation is refused"),
        (["chat.template={{ bos_token }}"], "'bos_token' is undefined"),
        ([ALL, 'chat.stops=["#"]'], "no stop follows"),
        ([ALL, 'chat.stops=[""]'], "from 1 to 256 bytes"),
        (['chat.stops=["#"]'], "chat: stops are for a template"),
    ],
)
def test_a_chat_template_that_does_not_work_is_refused(overrides: list[str], sentence: str) -> None:
    """Before anything is trained, by a conversation of three messages."""
    with pytest.raises(SettingsError, match=sentence):
        Settings.load(None, overrides)
    assert Settings.load(None, [ALL, 'chat.stops=["And"]']).chat.format is not None
