"""Config loading: what is accepted, what is told about what is not, and the way through YAML and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from preftune.config import RECORD_KEYS, Loaded, dump_config, load_config, own_names
from preftune.errors import PreftuneError
from preftune.field_types import expected, fit_scalar, plain_kinds, plain_scalar
from preftune.methods.registry import METHODS
from preftune.trl_keys import NO_EFFECT, RENAMED, UNSUPPORTED

OUR_FIELDS = frozenset(name for method in METHODS.values() for name in method.config_class().model_fields)


class TinyConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    data: Path | None = None
    beta: float = Field(0.1, gt=0)
    max_steps: int = -1
    max_length: int | None = 1024
    bf16: bool = False
    resume: bool | str = False
    eval_strategy: Literal["no", "steps", "epoch"] = "no"
    loss_type: Literal["sigmoid"] = "sigmoid"
    report_to: tuple[str, ...] = ()
    lora_target_modules: str | list[str] = "all-linear"
    lr_scheduler_kwargs: dict[str, Any] = {}
    run_name: str | None = None
    dtype: str = "float32"

    @field_validator("dtype")
    @classmethod
    def _dtype_is_one_of_torch(cls, value: str) -> str:
        if not value.startswith(("float", "bfloat")):
            raise ValueError("dtype is a floating type of torch")
        return value

    @model_validator(mode="after")
    def _steps_or_epochs(self) -> TinyConfig:
        if self.max_steps == 0:
            raise ValueError("Training needs at least one step.")
        return self


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Loaded[TinyConfig]]:
    """Loads the text as a config file, `model: m` before it on line 1, the values over it."""

    def load_text(text: str, **values: Any) -> Loaded[TinyConfig]:
        file = tmp_path / "dpo.yaml"
        file.write_text(f"model: m\n{text}", encoding="utf-8")
        return load_config(TinyConfig, file=file, values=values)

    return load_text


# --- what is accepted -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("beta: 1e-6", "beta", 1e-6),
        ("beta: 1", "beta", 1.0),
        ("beta: '0.5'", "beta", 0.5),
        ("beta: .inf", "beta", float("inf")),
        ("max_steps: 010", "max_steps", 10),
        ("max_length: null", "max_length", None),
        ("max_length:", "max_length", None),
        ("eval_strategy: no", "eval_strategy", "no"),
        ("bf16: yes", "bf16", True),
        ("bf16: off", "bf16", False),
        ("resume: true", "resume", True),
        ("resume: out/run", "resume", "out/run"),
        ("run_name: 2026-01-01", "run_name", "2026-01-01"),
        ("run_name: 12:30:45", "run_name", "12:30:45"),
        ("run_name: 007", "run_name", "007"),
        ("run_name: '1e3'", "run_name", "1e3"),
        ("run_name: !!str 12", "run_name", "12"),
        ("report_to: [no, 1]", "report_to", ("no", "1")),
        ("report_to: wandb", "report_to", ("wandb",)),
        ("lora_target_modules: [q_proj, v_proj]", "lora_target_modules", ["q_proj", "v_proj"]),
        ("lora_target_modules: all-linear", "lora_target_modules", "all-linear"),
        ("loss_type: [sigmoid]", "loss_type", "sigmoid"),
        (
            "lr_scheduler_kwargs: {num_cycles: 2, min: 1e-7}",
            "lr_scheduler_kwargs",
            {"num_cycles": 2, "min": 1e-7},
        ),
    ],
)
def test_words_mean_what_the_field_takes(
    load: Callable[..., Loaded[TinyConfig]], line: str, name: str, value: object
) -> None:
    assert getattr(load(line).config, name) == value


def test_command_line_goes_over_the_file_and_the_file_over_the_base(tmp_path: Path) -> None:
    file = tmp_path / "dpo.yaml"
    file.write_text("beta: 0.2\nmax_steps: 7\n")
    base = {"model": "base", "beta": 0.5, "max_length": 8}
    loaded = load_config(TinyConfig, file=file, values={"max_steps": 9}, base=base)
    found = loaded.config
    assert (found.model, found.beta, found.max_steps, found.max_length) == ("base", 0.2, 9, 8)
    assert loaded.given == {"beta", "max_steps"}
    assert loaded.notes == ()


def test_value_that_the_command_line_replaces_need_not_be_right(
    load: Callable[..., Loaded[TinyConfig]],
) -> None:
    assert load("beta: small", beta=0.2).config.beta == 0.2


def test_no_file_is_needed() -> None:
    assert load_config(TinyConfig, file=None, values={"model": "m"}).config == TinyConfig(model="m")


# --- what is told ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("max_stps: 3", "dpo.yaml:2: There is no setting max_stps. Did you mean max_steps?"),
        ("max-steps: 3", "dpo.yaml:2: There is no setting max-steps. Did you mean max_steps?"),
        ("zzz: 3", "dpo.yaml:2: There is no setting zzz. --help lists the settings."),
        ("beta: fast", "dpo.yaml:2: beta should be a number, not 'fast'."),
        ("beta: true", "dpo.yaml:2: beta should be a number, not true."),
        ("beta: 0", "dpo.yaml:2: beta should be greater than 0, not 0."),
        ("max_steps: 1.5", "dpo.yaml:2: max_steps should be a whole number, not 1.5."),
        ("max_steps: true", "dpo.yaml:2: max_steps should be a whole number, not true."),
        ("max_length: long", "dpo.yaml:2: max_length should be a whole number or null, not 'long'."),
        ("bf16: 7", "dpo.yaml:2: bf16 should be true or false, not 7."),
        ("run_name: {a: 1}", "dpo.yaml:2: run_name should be text or null, not {'a': 1}."),
        ("eval_strategy: often", "eval_strategy should be one of no, steps, epoch, not 'often'."),
        ("dtype: int8", "dpo.yaml:2: dtype is a floating type of torch."),
        ("max_steps: 0", "Training needs at least one step."),
        ("beta: 0.1\n\nbeta: 0.2", "dpo.yaml:4: beta is given twice, in lines 2 and 4. Keep one."),
        ("lr_scheduler_kwargs:\n  a: 1\n  a: 2", "dpo.yaml:4: a is given twice, in lines 3 and 4."),
        ("beta: a: b", "dpo.yaml:2: This is not YAML"),
        ("\tbeta: 1", "This is not YAML"),
        ("beta: !!python/name:os.system", "dpo.yaml:2: This is not YAML"),
        ("? [a]\n: 1", "dpo.yaml:2: A key is one word."),
    ],
)
def test_mistake_in_the_file_is_told_with_key_line_and_mend(
    load: Callable[..., Loaded[TinyConfig]], line: str, told: str
) -> None:
    with pytest.raises(PreftuneError) as error:
        load(line)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_all_mistakes_come_in_one_message_a_line_each_in_the_order_of_the_file(
    load: Callable[..., Loaded[TinyConfig]],
) -> None:
    with pytest.raises(PreftuneError) as error:
        load("beta: fast\nmax_stps: 3\nfp16: true\nmax_steps: many\nbeta: slow\n", bf17=True, max_length="x")
    lines = str(error.value).splitlines()
    starts = ["dpo.yaml:3", "dpo.yaml:4", "dpo.yaml:5", "dpo.yaml:6", "dpo.yaml:6", "command line"]
    assert [any(start in line for line in lines) for start in starts] == [True] * 6
    assert [line.split("dpo.yaml:")[1][0] for line in lines if "dpo.yaml:" in line] == list("34566")
    assert "command line: There is no setting --bf17. Did you mean --bf16?" in lines
    assert "command line: --max_length should be a whole number or null, not 'x'." in lines


def test_setting_that_is_missing_is_named() -> None:
    with pytest.raises(PreftuneError, match=r"model is not given\. Give --model"):
        load_config(TinyConfig, file=None, values={})


@pytest.mark.parametrize("text", [b"\xff\xfe\x00", b"- a\n- b\n", b"just words", b"[" * 3000])
def test_file_that_is_no_config_is_told_and_not_fatal_otherwise(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "dpo.yaml"
    file.write_bytes(text)
    with pytest.raises(PreftuneError, match=r"dpo\.yaml"):
        load_config(TinyConfig, file=file, values={"model": "m"})


def test_file_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(PreftuneError, match="No such file"):
        load_config(TinyConfig, file=tmp_path / "none.yaml", values={})


def test_alias_that_holds_itself_ends(load: Callable[..., Loaded[TinyConfig]]) -> None:
    with pytest.raises(PreftuneError):
        load("run_name: &a [*a]")


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_config_or_a_preftune_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(text, encoding="utf-8", errors="replace")
    try:
        load_config(TinyConfig, file=file, values={"model": "m"})
    except PreftuneError as error:
        assert str(error)


# --- TRL's keys -----------------------------------------------------------------------------------------


def test_trl_names_are_read_as_ours_with_a_note(load: Callable[..., Loaded[TinyConfig]]) -> None:
    loaded = load("dataset_name: pairs.jsonl\ntorch_dtype: bfloat16", kl_penalty=0.3)
    assert (loaded.config.data, loaded.config.dtype, loaded.config.beta) == (
        Path("pairs.jsonl"),
        "bfloat16",
        0.3,
    )
    assert loaded.given == {"model", "data", "dtype", "beta"}
    assert [note.partition(": ")[2] for note in loaded.notes] == [
        "dataset_name is read as data.",
        "torch_dtype is read as dtype.",
        "--kl_penalty is read as beta, the weight that holds the policy near its reference.",
    ]


def test_two_names_of_one_setting_must_agree(load: Callable[..., Loaded[TinyConfig]]) -> None:
    assert load("model_name_or_path: m").config.model == "m"
    with pytest.raises(PreftuneError, match="model_name_or_path and model are the same setting"):
        load("model_name_or_path: other")


def test_keys_without_effect_are_noted_and_null_ones_are_not(
    load: Callable[..., Loaded[TinyConfig]],
) -> None:
    loaded = load("use_cpu: true\ndataset_num_proc: null\npadding_free: false\n")
    assert len(loaded.notes) == 2
    assert "dpo.yaml:2: use_cpu has no effect: " in loaded.notes[0]
    assert "dpo.yaml:4: padding_free has no effect: " in loaded.notes[1]
    assert loaded.given == {"model"}


@pytest.mark.parametrize(
    "line",
    ["push_to_hub: true", "group_by_length: yes", "deepspeed: ds.json", "fp16: true", "neftune_noise_alpha: 5"],
)
def test_keys_that_would_change_the_training_are_refused(load: Callable[..., Loaded[TinyConfig]], line: str) -> None:
    with pytest.raises(PreftuneError) as error:
        load(line)
    key = line.partition(":")[0]
    assert f"dpo.yaml:2: {key} is not supported as " in str(error.value)
    assert UNSUPPORTED[key][1] in str(error.value)


@pytest.mark.parametrize(
    "line",
    ["push_to_hub: false", "group_by_length: no", "deepspeed:", "fp16: false", "neftune_noise_alpha: 0.0"],
)
def test_unsupported_keys_that_ask_for_nothing_are_silent(load: Callable[..., Loaded[TinyConfig]], line: str) -> None:
    assert load(line).notes == ()


def test_a_key_stands_in_one_table_only() -> None:
    tables = [*RENAMED, *NO_EFFECT, *UNSUPPORTED]
    assert len(tables) == len(set(tables))
    assert {ours for ours, _ in RENAMED.values()} <= OUR_FIELDS
    everywhere = frozenset.intersection(*(frozenset(m.config_class().model_fields) for m in METHODS.values()))
    assert not everywhere & set(tables)
    assert not RECORD_KEYS & {*OUR_FIELDS, *tables}


@pytest.mark.parametrize("mend", [mend for _, mend in UNSUPPORTED.values()])
def test_mends_are_sentences(mend: str) -> None:
    assert mend[0].isupper()
    assert mend.endswith(".")


@pytest.mark.parity
@pytest.mark.parametrize("method", [name for name in METHODS if name != "ppo"])  # which TRL 1.16 has no more
def test_every_field_of_trl_and_transformers_has_its_place(method: str) -> None:
    """And TRL's defaults ask for nothing that is not here."""
    trl = pytest.importorskip("trl")
    transformers = pytest.importorskip("transformers")
    cls = METHODS[method].config_class()
    theirs = {
        field.name: field
        for config in (transformers.TrainingArguments, _trl_config(trl, method), trl.ScriptArguments, trl.ModelConfig)
        for field in fields(config)
        if field.init
    }
    assert len(theirs) > 140
    own = set(own_names(cls))
    assert set(theirs) - own - set(cls.model_fields) - set(RENAMED) - set(NO_EFFECT) - set(UNSUPPORTED) == set()

    places = {"model": "m", "data": "d", "output_dir": "o"}
    for name in set(theirs) & set(UNSUPPORTED) - set(cls.model_fields) - own:
        default = theirs[name].default
        value = theirs[name].default_factory() if default is MISSING else default
        assert load_config(cls, file=None, values=places | {name: value}).notes == ()


def _trl_config(trl: Any, method: str) -> Any:
    if method == "orpo":
        from trl.experimental.orpo import ORPOConfig as Config
    elif method == "simpo":
        from trl.experimental.cpo import CPOConfig as Config
    elif method == "online-dpo":
        from trl.experimental.online_dpo import OnlineDPOConfig as Config
    else:
        names = {"sft": "SFTConfig", "reward": "RewardConfig", "kto": "KTOConfig"}
        names |= {"grpo": "GRPOConfig", "rloo": "RLOOConfig"}
        Config = getattr(trl, names.get(method, "DPOConfig"))
    return Config


# --- to YAML and back -----------------------------------------------------------------------------------


def test_dumped_config_has_every_value_and_loads_again(load: Callable[..., Loaded[TinyConfig]]) -> None:
    config = TinyConfig(model="m", data=Path("a/b.jsonl"), report_to=("no", "1e-6"), beta=1e-7)
    extra: dict[str, Any] = {"versions": {"torch": "2.13.0"}, "command": ["preftune", "dpo"], "method": "dpo"}
    text = dump_config(config, extra)
    for name in (*TinyConfig.model_fields, *extra):
        assert f"\n{name}:" in f"\n{text}"
    again = load(text.replace("model: m\n", "", 1))
    assert again.config == config
    assert again.notes == ()


def test_extras_that_could_not_be_read_again_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="colour"):
        dump_config(TinyConfig(model="m"), {"colour": "red"})


_WORDS = st.sampled_from(["no", "yes", "1e-6", "0x1f", "010", "08", "1_000", "12:30", "~", "null", "", ".inf", "<<"])
_TEXTS = _WORDS | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(
    config=st.builds(
        TinyConfig,
        model=_TEXTS,
        beta=st.floats(min_value=0, exclude_min=True),
        max_steps=st.integers().filter(bool),
        max_length=st.none() | st.integers(),
        data=st.none(),
        resume=st.booleans(),
        loss_type=st.just("sigmoid"),
        eval_strategy=st.sampled_from(["no", "steps", "epoch"]),
        report_to=st.lists(_TEXTS, max_size=3).map(tuple),
        lora_target_modules=st.lists(_TEXTS, min_size=2, max_size=3),
        lr_scheduler_kwargs=st.dictionaries(_TEXTS, _TEXTS | st.integers() | st.booleans(), max_size=2),
        run_name=st.none() | _TEXTS,
        dtype=st.just("bfloat16"),
    )
)
@settings(max_examples=200, deadline=None)
def test_any_config_comes_back_from_yaml_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, config: TinyConfig
) -> None:
    file = tmp_path_factory.getbasetemp() / "config.yaml"
    file.write_text(dump_config(config, {"data_fingerprint": "0e1"}), encoding="utf-8", newline="\n")
    assert load_config(TinyConfig, file=file, values={}).config == config


# --- types ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "a whole number"),
        (int | float | None, "a number or null"),
        (bool | str, "true or false or text"),
        (list[str] | None, "a list or null"),
        (Literal["a", "b"] | None, "one of a, b or null"),
        (Literal["sigmoid"], "sigmoid"),
        (Path, "text"),
        (dict[str, int], "a mapping"),
    ],
)
def test_types_in_words(annotation: Any, words: str) -> None:
    assert expected(annotation) == words


@given(st.floats(allow_nan=False))
def test_numbers_are_read_as_python_writes_them(number: float) -> None:
    assert plain_scalar(repr(number).replace("inf", ".inf")) == number


@pytest.mark.parametrize("text", ["no", "12", "1e3", "true", "out"])
def test_text_fields_keep_the_text(text: str) -> None:
    assert fit_scalar(text, plain_kinds(str)) == text
