"""Settings are read, and what is wrong with them is one sentence that says where it stands."""

import json
import warnings
from pathlib import Path

import pytest
import yaml
from support.training_runs import TINY

from ddetr.main import main as ddetr
from deformable_detr_refine.training.azure import read_parameters
from deformable_detr_refine.training.settings import SettingsParser, read_settings, settings_text


@pytest.fixture
def file(tmp_path):
    """Writes a settings file."""

    def write(text: str):
        path = tmp_path / "own.yaml"
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("data: a\nlearning_rate: fast\n", [], "own.yaml:2: learning_rate is 'fast', expected a number"),
        ("max_steps: 2.5\n", [], "own.yaml:1: max_steps is '2.5', expected a whole number"),
        ("bf16: perhaps\n", [], "bf16 is 'perhaps', expected true or false"),
        ("eval_strategy: often\n", [], "eval_strategy is 'often', expected one of no, steps, epoch"),
        ("lr_drop_epochs: [40, late]\n", [], "lr_drop_epochs is '40 late', expected a list, each item a number"),
        ("\nlearning_rat: 1\n", [], "own.yaml:2: there is no setting 'learning_rat', did you mean 'learning_rate'?"),
        ("xyzzy: 1\n", [], "own.yaml:1: there is no setting 'xyzzy'. `ddetr train --help-all`"),
        ("seed: 1\nseed: 2\n", [], "own.yaml:2: seed stands there twice, in line 1 too"),
        (
            "gradient_checkpointing: true\nactivation_checkpointing: false\n",
            [],
            "own.yaml:2: activation_checkpointing stands there twice, in line 1 too, as gradient_checkpointing.",
        ),
        ("max_steps: 1\nmax-steps: 2\n", [], "own.yaml:2: max-steps stands there twice, in line 1 too, as max_steps."),
        ("gradient_checkpointing: perhaps\n", [], "gradient_checkpointing is 'perhaps', expected true or false"),
        ("activation_checkpointing: perhaps\n", [], "activation_checkpointing is 'perhaps', expected true or false"),
        ("seed: 1\n", ["--max-steps", "one"], "the command line: max-steps is 'one', expected a whole number"),
        ("seed: 1\n", ["--seed", "one"], "the command line: seed is 'one', expected a whole number"),
        ("seed: 1\n", ["--sed", "1"], "the command line: there is no setting 'sed', did you mean 'seed'?"),
        ("seed: 1\n", ["--seed"], "the command line: seed has no value, expected a whole number"),
        ("seed: 1\n", ["--seed", "1", "2"], "the command line: seed is '1 2', expected a whole number"),
        ("bf16: true\n", ["--fp16", "true"], "bf16 and fp16 exclude each other: give one of them"),
        (
            "save_strategy: epoch\nload_best_model_at_end: true\n",
            ["--eval_strategy", "no"],
            "make them the same, or add --load_best_model_at_end false.",
        ),
        (
            "model: trained\n",
            ["--backbone_weights", "pretrained"],
            "Give --model or --backbone_weights, not both: a trained detector has",
        ),
        (
            "split_every: 5\n",
            ["--validation_data", "other"],
            "Give --split_every or --validation_data, not both",
        ),
        ("shortest_edge: 800\n", ["--longest_edge", "300"], "shortest_edge 800 is above longest_edge 300."),
        ("seed: 1\n", ["--longest_edge", "300"], "longest_edge 300 needs shortest_edge"),
    ],
)
def test_what_is_wrong_is_one_sentence_that_says_where(text, words, said, file, capsys):
    assert ddetr(["train", file(text), *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and said in printed.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["own.yml"], "There is no settings file own.yml: did you mean own.yaml?"),
        (["config/own.yaml"], "There is no settings file config/own.yaml: did you mean configs/own.yaml?"),
        (["configs"], "There is no settings file configs: what is there is a folder."),
        (["--replay", "own.yaml"], "own.yaml is no batch that a training kept: give the not-finite-step-N.pt"),
        (
            ["own.yaml", "--backbone_weights", "own.pth", "--model_config", json.dumps(TINY)],
            "There is no file of backbone weights own.pth: check the path.",
        ),
    ],
)
def test_a_file_that_is_not_there_or_another_is_told_with_what_to_do(words, said, file, samples, monkeypatch, capsys):
    path = Path(file(f"data: {samples.parent}/annotations/fridge.json\nsplit_every: 2\noutput_dir: out\n"))
    (path.parent / "configs").mkdir()
    (path.parent / "configs" / "own.yaml").touch()
    monkeypatch.chdir(path.parent)
    assert ddetr(["train", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--max_steps", "4"], ["--freeze", "backbone"], ["--bf16"]])
def test_the_settings_file_comes_first(words, file):
    with pytest.raises(ValueError, match=r"The settings file comes first: ddetr train .*own\.yaml --"):
        read_settings([*words, file("seed: 1\n")])


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")  # pretending to be older
@pytest.mark.parametrize("name", ["gradient_checkpointing", "activation_checkpointing"])
def test_checkpointing_has_either_name_with_every_transformers(name, file, tmp_path, monkeypatch):
    action = SettingsParser.action
    words = [file(f"{name}_kwargs: {{use_reentrant: false}}\n"), f"--{name}", "true", "--output_dir", str(tmp_path)]
    with warnings.catch_warnings(action="error"):
        _, _, args = read_settings(words)
    assert args.gradient_checkpointing and args.gradient_checkpointing_kwargs == {"use_reentrant": False}
    of_5_20 = lambda self, word: None if word.startswith("--activation") else action(self, word)  # noqa: E731
    monkeypatch.setattr(SettingsParser, "action", of_5_20)
    assert read_settings([f"--{name}", "true", "--output_dir", str(tmp_path)])[2].gradient_checkpointing


def test_yamls_no_is_the_word_where_it_is_a_choice(file, tmp_path):
    text = f"eval_strategy: no\nsave_strategy: no\nlogging_strategy: off\nbf16: no\noutput_dir: {tmp_path}\n"
    _, _, args = read_settings([file(text)])
    assert (args.eval_strategy, args.save_strategy, args.logging_strategy, args.bf16) == ("no", "no", "no", False)


def test_the_command_line_wins_and_an_empty_list_is_one(file, tmp_path):
    path = file("seed: 1\nlearning-rate: 1e-3\nslow_parameters: [backbone]\nfreeze: []\n")
    model, _, args = read_settings([path, "--seed=2", "--slow_parameters", "--output_dir", str(tmp_path)])
    assert (args.seed, args.learning_rate, args.slow_parameters, model.freeze) == (2, 1e-3, [], [])


def test_a_mapping_on_the_command_line_is_added_to_the_files_key_by_key(file, tmp_path):
    text = "model_config: {d_model: 64, num_queries: 20}\nlr_scheduler_kwargs: {num_cycles: 2}\n"
    words = ['--model_config={"num_queries": 30}', "--lr_scheduler_kwargs", '{"last_epoch": -1}', "--output_dir"]
    model, _, args = read_settings([file(text), *words, str(tmp_path)])
    assert json.loads(model.model_config) == {"d_model": 64, "num_queries": 30}
    assert args.lr_scheduler_kwargs == {"num_cycles": 2, "last_epoch": -1}
    model, data, _ = read_settings([file("augmentation: [{type: RandomFlip}]\n"), "--augmentation", "none"])
    assert (model.model_config, data.augmentation) == ("{}", "none")


def test_a_detector_on_the_command_line_leaves_the_files_backbone_weights_out(file, tmp_path):
    words = ["--model", "trained", "--output_dir", str(tmp_path)]
    assert read_settings([file("backbone_weights: pretrained\n"), *words])[0].model == "trained"


def test_what_is_written_is_what_was_given(file, tmp_path):
    """Neither what TrainingArguments fill in, nor defaults, nor what is of this one run or secret."""
    given = {
        "data": "somewhere",
        "model_config": {"d_model": 64},
        "augmentation": [{"type": "RandomFlip", "prob": 0.5}],
        "learning_rate": 1e-3,
        "eval_strategy": "steps",
        "eval_steps": 5,
        "output_dir": str(tmp_path),
    }
    extra = {"weight_decay": 1e-4, "hub_token": "secret", "resume_from_checkpoint": True}
    settings = read_settings([file(yaml.safe_dump({**given, **extra}))])
    assert yaml.safe_load(settings_text(settings)) == given
    again = read_settings([file(settings_text(settings))])
    assert settings_text(again) == settings_text(settings)


def bomb(use: str) -> str:
    """Nine aliases of nine aliases of ...: 600 bytes that stand for 9**9 values."""
    levels = [f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 9)}]" for level in range(1, 10)]
    return "\n".join(["l0: &l0 [1, 2, 3]", *levels, use])


def merged() -> str:
    """Mappings merged into mappings, which YAML copies."""
    levels = [f"l{level}: &l{level}\n  <<: [{', '.join([f'*l{level - 1}'] * 9)}]" for level in range(1, 10)]
    return "\n".join(["l0: &l0 {a: 1}", *levels])


@pytest.mark.parametrize("text", [bomb("freeze: *l9"), bomb("model_config: *l9"), merged()])
@pytest.mark.parametrize("verb", ["train", "azure"])
def test_aliases_of_aliases_are_counted_before_they_are_made(text, verb, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    read = read_settings if verb == "train" else read_parameters
    with pytest.raises(ValueError, match=r"is not YAML: its aliases make .* values of \d+ characters"):
        read([str(file)])


def test_an_alias_is_as_good_as_its_value(file, tmp_path):
    text = "freeze: &parts [backbone]\nslow_parameters: *parts\n"
    model, _, training = read_settings([str(file(text)), "--output_dir", str(tmp_path)])
    assert model.freeze == training.slow_parameters == ["backbone"]
