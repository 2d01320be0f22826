"""config.py: every rule refuses by name, precedence of sources, and help that comes from the comments."""

import argparse
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

import config

ROOT = Path(config.__file__).parent


def parser() -> argparse.ArgumentParser:
    with_settings = argparse.ArgumentParser(prog="prog", allow_abbrev=False)
    config.add_arguments(with_settings)
    return with_settings


def settings_of(*arguments: str) -> dict:
    return config.resolve(config.given(parser().parse_args(arguments)))


def test_the_constants_pass_their_own_rules_and_each_has_one():
    checked = config.check(config.defaults(), "config.py")
    assert set(checked) == set(config._RULES) == set(config.defaults())
    assert checked["LR"] == config.LR and checked["STAGE2_MIX"] == {"t2m": 0.7, "m2t": 0.18, "denoise": 0.12}


def test_command_line_beats_kept_beats_config(monkeypatch):
    monkeypatch.setattr(config, "LORA_R", 4)
    monkeypatch.setattr(config, "LORA_ALPHA", 5)
    monkeypatch.setattr(config, "SEED", 6)
    settings = config.resolve({"LORA_R": 40, "SEED": None}, {"LORA_R": 400, "LORA_ALPHA": 500})
    assert (settings["LORA_R"], settings["LORA_ALPHA"], settings["SEED"]) == (40, 500, 6)


@pytest.mark.parametrize(("arguments", "codec"), [
    ((), "data/sample_codec"), (("--data_json_path", "other.json"), None),
    (("--data_json_path", "other.json", "--codec_path", "other"), "other"),
    (("--data_json_path", "data/sample_motion.json"), "data/sample_codec"), (("--codec_path", "none"), None)])
def test_other_data_is_not_given_the_codec_of_the_sample(arguments, codec):
    assert settings_of(*arguments)["CODEC_PATH"] == codec


def test_other_data_does_not_change_the_codec_of_a_model_folder():
    assert config.resolve({"DATA_JSON_PATH": "other.json"}, {"CODEC_PATH": "kept"})["CODEC_PATH"] == "kept"


def test_resolve_leaves_the_constants_alone():
    config.resolve({})["STAGE2_MIX"]["t2m"] = 9
    config.defaults()["STAGE2_MIX"]["t2m"] = 9
    assert config.STAGE2_MIX["t2m"] == 0.7


@pytest.mark.parametrize(("name", "value", "expected"), [
    ("DATA_JSON_PATH", " ", "text that is not blank"),
    ("DATA_JSON_PATH", Path("a.json"), "text that is not blank"),
    ("WORK_DIR", None, "text that is not blank"),
    ("SEED", -1, "an integer from 0"),
    ("SEED", 2**32, "an integer from 0 to 4,294,967,295"),
    ("MAX_SEQ_LEN", 512.0, "an integer from 16"),
    ("MAX_SEQ_LEN", 8, "an integer from 16"),
    ("CODEBOOK_SIZE", 0, "an integer from 1 to 1,000,000, a dict or a list of such numbers"),
    ("HELDOUT_SHARE", 0.2, "a number from 0 to 0.125"),
    ("HELDOUT_SHARE", True, "a number from 0"),
    ("HELDOUT_MAX", -1, "an integer from 0"),
    ("MODEL_NAME", "", "text that is not blank"),
    ("DTYPE", "fp16", "one of auto, bfloat16, float32, float16"),
    ("LORA_R", 0, "an integer from 1"),
    ("LORA_ALPHA", "32", "an integer from 1"),
    ("BATCH_TRAIN", True, "an integer from 1"),
    ("GRAD_ACCUM", 0, "an integer from 1"),
    ("LR", 0, "a number above 0 and at most 1"),
    ("LR", math.nan, "a number above 0 and at most 1"),
    ("LR", math.inf, "a number above 0 and at most 1"),
    ("LR_NEW_ROWS", "1e-2", "a number above 0"),
    ("EPOCHS_S1", -1, "an integer from 0"),
    ("EPOCHS_S2", 0.5, "an integer from 0"),
    ("EPOCHS_S3", None, "an integer from 0"),
    ("SAVE_STEPS", 0, "an integer from 1"),
    ("STAGE2_MIX", {"t2m": 0.5, "m2t": 0.5}, "exactly t2m, m2t, denoise"),
    ("STAGE2_MIX", {"t2m": 0.5, "m2t": 0.3, "denoise": 0.2, "x": 0.0}, "exactly t2m, m2t, denoise"),
    ("STAGE2_MIX", {"t2m": 0.5, "m2t": 0.3, "denoise": 0.2001}, "add up to 1"),
    ("STAGE2_MIX", {"t2m": 1.2, "m2t": -0.2, "denoise": 0.0}, "shares of 0 or more"),
    ("STAGE2_MIX", [0.5, 0.3, 0.2], "shares of 0 or more"),
    ("STAGE3_MIX", {"t2m": 1.0}, "exactly t2m, m2t, denoise"),
    ("CODEBOOK_PATH", " ", "text that is not blank, or None"),
    ("HISTORY_NOISE", 1.1, "a number from 0 to 1"),
    ("LOAD_IN_4BIT", 1, "True or False"),
    ("MAX_MINUTES", 0, "a number above 0"),
    ("PID_DROPOUT", 1.01, "a number from 0 to 1"),
    ("CAPTION_DROPOUT", -0.1, "a number from 0 to 1"),
    ("EDIT_CAPTIONS", 2, "a number from 0 to 1"),
    ("GEN_GUIDANCE", -1, "a number from 0 to 100"),
    ("CODEC_PATH", " ", "text that is not blank, or None"),
    ("REPORT_PAGE", 1, "True or False"),
    ("REPORT_TO", "mlflow", "one of none, tensorboard, wandb"),
    ("GEN_TEMPERATURE", -0.1, "a number from 0"),
    ("GEN_TOP_P", 0, "a number above 0 and at most 1"),
    ("GEN_TOP_K", -1, "an integer from 0"),
    ("TOKENS_PER_SECOND", 0, "a number above 0 and at most 10000, or None"),
    ("GEN_END_LOGIT_SLOPE", -math.inf, "a number from 0"),
    ("EVAL_BATCH", 0, "an integer from 1"),
])
def test_each_rule_refuses_with_name_value_expectation_and_source(name, value, expected):
    with pytest.raises(config.SettingError) as caught:
        config.check({name: value}, "output/settings.json")
    assert str(caught.value).startswith(f"output/settings.json: {name} is {value!r}, expected ")
    assert expected in str(caught.value)


def test_every_constant_has_a_refusal_above():
    tested = {case[0] for mark in test_each_rule_refuses_with_name_value_expectation_and_source.pytestmark
              for case in mark.args[1]}
    assert tested == set(config._RULES)


def test_ints_become_floats_and_limits_are_allowed():
    checked = config.check({"LR": 1, "GEN_TEMPERATURE": 0, "GEN_TOP_P": 1, "CODEBOOK_SIZE": None,
                            "STAGE2_MIX": {"denoise": 0, "t2m": 1, "m2t": 1e-7}}, "x")
    assert checked["LR"] == 1.0 and isinstance(checked["LR"], float)
    assert checked["GEN_TEMPERATURE"] == 0 and checked["CODEBOOK_SIZE"] is None
    assert list(checked["STAGE2_MIX"]) == ["t2m", "m2t", "denoise"]


def test_all_bad_settings_are_named_together():
    with pytest.raises(config.SettingError) as caught:
        config.check({"LR": -1, "SEED": "x", "LORA_R": 8}, "config.py")
    assert [line.split(" is ")[0] for line in str(caught.value).splitlines()] == [
        "config.py: LR", "config.py: SEED"]


@pytest.mark.parametrize(("name", "suggestion"), [
    ("LORA_RANK", "LORA_R"), ("BATCH_TRIAN", "BATCH_TRAIN"), ("lr_new_row", "LR_NEW_ROWS")])
def test_an_unknown_name_gets_a_suggestion(name, suggestion):
    with pytest.raises(config.SettingError, match=f"kept.json: unknown setting {name}; did you mean {suggestion}"):
        config.resolve({}, {name: 1}, "kept.json")


def test_an_unknown_name_without_a_similar_one_lists_the_settings():
    with pytest.raises(config.SettingError, match="unknown setting ZZZZ; the settings are .*EVAL_BATCH"):
        config.check({"ZZZZ": 1}, "command line")


def test_a_constant_added_to_config_is_refused_and_a_deleted_one_missed(monkeypatch):
    monkeypatch.setattr(config, "WARMUP", 3, raising=False)
    with pytest.raises(config.SettingError, match="config.py: unknown setting WARMUP"):
        config.resolve({})
    monkeypatch.undo()
    monkeypatch.delattr(config, "LR")
    with pytest.raises(config.SettingError, match="config.py: LR is missing"):
        config.resolve({})


@pytest.mark.parametrize(("sources", "message"), [
    (({"LR": 0}, None), "command line: LR is 0"),
    (({}, {"LR": 0}), "settings.json: LR is 0"),
    (({"LR": 0.1}, {"LR": "no"}), "settings.json: LR is 'no'")])
def test_resolve_names_the_source(sources, message):
    with pytest.raises(config.SettingError, match=message):
        config.resolve(*sources)


def test_help_shows_each_constants_comment_and_default():
    squeeze = "".join
    help_text = squeeze(parser().format_help().split())
    source = (ROOT / "config.py").read_text("utf-8")
    for name, value in config.defaults().items():
        comment = re.search(rf"((?:^#.*\n)+)^{name} = ", source, re.M)
        assert comment, f"{name} has no comment"
        text = comment[1].replace("# ", " ").replace("#", " ")
        assert len(text.split()) >= 5, name
        assert squeeze(text.split()) + "Default:" + squeeze(config.spell(value).split()) in help_text, name


def test_a_comment_may_hold_a_percent_sign(monkeypatch):
    monkeypatch.setattr(config, "_comments", lambda: {"LR": "5 % of it, %s."})
    assert "5 % of it, %s." in parser().format_help()


def test_flags_are_lower_case_and_become_values():
    settings = settings_of("--lr", "1e-3", "--stage2_mix", "t2m=0.6,m2t=0.4,denoise=0", "--gen_top_k", "5",
                           "--work_dir", "elsewhere")
    assert settings["LR"] == 1e-3 and settings["GEN_TOP_K"] == 5 and settings["WORK_DIR"] == "elsewhere"
    assert settings["STAGE2_MIX"] == {"t2m": 0.6, "m2t": 0.4, "denoise": 0.0}
    assert settings["LORA_R"] == config.LORA_R


def test_flags_not_given_are_none_and_zero_counts_as_given():
    args = parser().parse_args(["--seed", "0"])
    assert args.lr is None and config.given(args) == {"SEED": 0}
    assert config.resolve(config.given(args), {"SEED": 7})["SEED"] == 0


def test_codebook_size_none_on_the_command_line_beats_a_kept_number():
    args = parser().parse_args(["--codebook_size", "none"])
    assert config.resolve(config.given(args), {"CODEBOOK_SIZE": 512})["CODEBOOK_SIZE"] is None
    assert config.resolve({}, {"CODEBOOK_SIZE": 512})["CODEBOOK_SIZE"] == 512


@pytest.mark.parametrize("arguments", [
    ["--lr", "fast"], ["--lr", "-1"], ["--lr", "nan"], ["--seed", "1.5"], ["--dtype", "int8"],
    ["--stage2_mix", "t2m=1"], ["--stage2_mix", "t2m=0.5,t2m=0.5,m2t=0.3,denoise=0.2"],
    ["--stage2_mix", "half"], ["--model_name", ""]])
def test_a_bad_flag_exits_2_naming_flag_and_value(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(arguments)
    message = capsys.readouterr().err
    assert caught.value.code == 2
    assert f"argument {arguments[0]}: found {arguments[1]!r}, expected " in message and "Traceback" not in message


def test_a_shortened_flag_is_refused(capsys):
    with pytest.raises(SystemExit):
        parser().parse_args(["--lora", "3"])
    assert "unrecognized arguments: --lora" in capsys.readouterr().err


def test_only_the_named_flags_are_added():
    few = argparse.ArgumentParser()
    config.add_arguments(few, ["LR", "SEED"])
    assert set(vars(few.parse_args([]))) == {"lr", "seed"}


def test_training_settings_and_their_differences():
    assert set(config._RULES) - set(config.TRAINING) == {
        "DATA_JSON_PATH", "WORK_DIR", "SAVE_STEPS", "REPORT_TO", "REPORT_PAGE", "CODEC_PATH", "TOKENS_PER_SECOND",
        "EVAL_BATCH", "GEN_TEMPERATURE", "GEN_TOP_P", "GEN_TOP_K", "GEN_END_LOGIT_SLOPE", "GEN_GUIDANCE"}
    old = config.resolve({})
    new = config.resolve({"LR": 0.001, "WORK_DIR": "x", "CODEBOOK_SIZE": 512,
                          "STAGE2_MIX": {"t2m": 1, "m2t": 0, "denoise": 0}})
    assert config.differences(old, new, ["LR"]) == ["LR: none before, 0.001 now"]
    assert config.differences(old, new) == [
        "CODEBOOK_SIZE: none before, 512 now", "LR: none before, 0.001 now",
        "STAGE2_MIX: t2m=0.7,m2t=0.18,denoise=0.12 before, t2m=1,m2t=0,denoise=0 now"]
    assert config.differences({}, {"LR": 0.1}, ["LR"]) == ["LR: absent before, 0.1 now"]


def test_importing_is_quick_and_needs_only_the_standard_library():
    code = ("import sys, time; before = set(sys.modules); start = time.perf_counter(); import config; "
            "print(time.perf_counter() - start, *(set(sys.modules) - before - {'config'}))")
    times = []
    for _ in range(3):  # the quickest of three: other programs share the machine
        seconds, *modules = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, text=True, check=True,
                                           capture_output=True).stdout.split()
        times.append(float(seconds))
        assert {name.split(".")[0] for name in modules} <= set(sys.stdlib_module_names)
    assert min(times) < 0.2
