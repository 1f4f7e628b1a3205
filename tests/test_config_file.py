"""Options from a YAML file are those that a command line would give, and what is on the command line goes first."""

import pytest

from hf_e2kd.config_file import expanded, option_words, read_config


@pytest.fixture
def file(tmp_path):
    """A function that writes a file, and gives its path."""

    def write(text: str) -> str:
        (tmp_path / "options.yaml").write_text(text)
        return str(tmp_path / "options.yaml")

    return write


def test_options_become_the_words_of_a_command_line(file):
    """Prevents: a number, a list, a switch or JSON that is read otherwise than from the command line."""
    path = file(
        "learning-rate: 5e-5\nbf16: true\ncompare: false\ntext_column: [premise, hypothesis]\n"
        "terms: {hint: {weight: 0.5}}\ndataset:\nseeds: 3\n"
    )
    assert expanded(["--seeds", "4", f"--config={path}", "--smoke"]) == [
        *("--learning_rate", "5e-05", "--bf16", "true", "--compare", "false"),
        *("--text_column", "premise", "hypothesis", "--terms", '{"hint": {"weight": 0.5}}', "--seeds", "3"),
        *("--seeds", "4", "--smoke"),
    ]
    assert expanded(["--config", file(""), "--a"]) == ["--a"] and option_words("a", 1) == ["--a", "1"]
    assert read_config(file("a-b: 1\nc:"), ["a_b", "c"]) == {"a_b": 1}


def test_texts_that_look_like_booleans_and_numbers(file):
    """Prevents: the strategy `no` as "false", a commit or a split in base 8 or 60, a weight of 1e-3 as JSON's text."""
    path = file(
        "save_strategy: no\non: value\nrevision: 0123456\nsplit: 12:30\ncommit: 12e4567\nterms: {hint: {weight: 1e-3}}"
    )
    assert expanded(["--config", path]) == [
        *("--save_strategy", "no", "--on", "value", "--revision", "0123456", "--split", "12:30"),
        *("--commit", "12e4567", "--terms", '{"hint": {"weight": 0.001}}'),
    ]
    found = {"a": -3, "b": 0.5, "c": True, "d": 500, "f": 500}
    assert read_config(file("a: -3\nb: 0.5\nc: True\nd: .5e3\ne: ~\nf: 5E+2")) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1", "unknown option 'learning_rat'. Did you mean 'learning_rate'?"),
        ("zebra: 1", "unknown option 'zebra'. --help lists the options."),
        ("- a\n- b", "should hold options by name"),
        ("3: a", "should hold options by name"),
        ("a: [", "is no YAML: .* line 1"),
        ("seed: 1\nseed: 2", "names 'seed' twice"),
        ("learning-rate: 1\nseed: 3\nlearning_rate: 2", "names 'learning_rate' twice"),
    ],
)
def test_wrong_files(file, text, message):
    """Prevents: an option that is misspelt in a file, and silently keeps its default."""
    with pytest.raises(ValueError, match=message):
        expanded(["--config", file(text)], ["learning_rate", "seed"])


@pytest.mark.parametrize("words", [["--config"], ["--config", "--seeds", "3"], ["--config="]])
def test_no_file(words, tmp_path, monkeypatch):
    """Prevents: a traceback for a file that isn't there."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="--config needs a file|can't be read: Is a directory|No such file"):
        expanded(words)
