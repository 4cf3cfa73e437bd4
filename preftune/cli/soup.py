"""``preftune soup``: models between aligned models, and what each mixture is worth."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from preftune.cli.output import Outcome
from preftune.cli.screen import notify, progress, show
from preftune.errors import PreftuneError


def soup(
    models: Annotated[list[str], Parameter(allow_leading_hyphen=False)],
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    weights: str | None = None,
    steps: int | None = None,
    data: str | None = None,
    rewards: Annotated[list[str] | None, Parameter(negative=())] = None,
    split: str = "test",
    num_prompts: int = 64,
    max_length: int = 1024,
    max_new_tokens: int = 128,
    batch_size: int = 16,
    dtype: str = "auto",
    seed: int = 42,
    trust_remote_code: bool = False,
) -> Outcome:
    """The weighted mean of aligned models' weights ("rewarded soups"), as a model folder.

    Models that were trained from one start towards different goals can be mixed without training: whole models of
    one architecture, or LoRA adapters of one base. --steps gives a sweep of two, and with --data and --rewards each
    mixture answers the prompts and is judged by every reward: the page shows which are worth choosing.

    Example:
      preftune soup helpful brief --weights 0.7,0.3 -o between
      preftune soup helpful brief --steps 5 -o sweep --data prompts.jsonl --rewards rm-helpful rm-brief

    Parameters
    ----------
    models: Model folders, adapter folders or run folders.
    output: The new model's folder; of a sweep the folder that holds one a step.
    weights: One for each model, with commas between; they sum to 1. Unset: equal ones.
    steps: So many mixtures of two models, from all of the first to all of the second.
    data: Prompts to answer; of rows with answers the prompts are read.
    rewards: What judges the answers: reward model folders, names, module:function.
    split: Split of a hub data set or datasets folder.
    num_prompts: Most prompts answered.
    max_length: Most tokens of prompt and answer together.
    max_new_tokens: Most tokens of an answer.
    batch_size: Answers scored at once.
    dtype: auto, float32 or bfloat16.
    seed: Seed of the answers.
    trust_remote_code: Run code that comes with the models.
    """
    if bool(data) != bool(rewards):
        raise PreftuneError("To judge the mixtures, prompts and rewards are needed.", mend="Give --data and --rewards.")
    if steps is not None and weights is not None:
        raise PreftuneError("--steps chooses the weights itself.", mend="Leave out --weights or --steps.")
    from preftune.cli.quiet import quieten_libraries

    quieten_libraries()
    from preftune.evaluate.model import model_folder

    folders = [Path(model_folder(model)) for model in models]
    shares = _asked_weights(weights, len(folders))
    prompts = _prompts(data, split, num_prompts) if data else []
    opened = _open_rewards(rewards, batch_size, max_length) if rewards else None
    soups = _make(folders, shares, steps, output)
    document: dict[str, Any] = {"models": [str(folder) for folder in folders], "soups": soups}
    if opened is not None:
        how = {"max_length": max_length, "max_new_tokens": max_new_tokens, "seed": seed}
        loading = {"dtype": dtype, "trust_remote_code": trust_remote_code}
        _judge(soups, opened, prompts, how, loading)
        document |= {"rewards": list(opened.names), "data": data}
    _tell(document)
    if steps is not None:
        from preftune.durable import write_json
        from preftune.report.soup_page import write_soup_page

        document["made"] = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(output / "soups.json", document)
        document["report"] = str(write_soup_page(document, output / "report.html"))
        show(f"The page is {document['report']}.")
    return Outcome(document)


def _asked_weights(text: str | None, models: int) -> list[float]:
    if text is None:
        return [1 / models] * models
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise PreftuneError(
            f"{text!r} is no list of weights.", where="--weights", mend="For example --weights 0.7,0.3."
        ) from error


def _make(folders: Sequence[Path], weights: Sequence[float], steps: int | None, output: Path) -> list[dict[str, Any]]:
    """The mixtures on disk: one, or one a step."""
    from preftune.models.soups import interpolate, sweep_weights

    if steps is None:
        with progress("mixing weights", None):
            return [{"weights": list(weights), "folder": str(interpolate(folders, weights, output))}]
    if len(folders) != 2:
        raise PreftuneError(f"A sweep is between two models, not {len(folders)}.", where="--steps", mend="Give two.")
    chosen = sweep_weights(steps)
    if output.exists() and any(output.iterdir()):
        raise PreftuneError("There is something here already.", where=str(output), mend="Choose another --output.")
    soups = []
    with progress("mixing weights", len(chosen)) as bar:
        for number, pair in enumerate(chosen, start=1):
            folder = interpolate(folders, pair, output / f"{number:02d}")
            soups.append({"weights": list(pair), "folder": str(folder)})
            bar.advance()
    return soups


def _prompts(data: str, split: str, limit: int) -> Sequence[Any]:
    from preftune.data.read import read_prompts

    reading = read_prompts(data, split=split)
    if reading.rejected:
        notify(f"{len(reading.rejected)} of {reading.read} rows left out: {reading.reasons()}")
    return reading.records[:limit]


def _judge(
    soups: Sequence[dict[str, Any]], rewards: Any, prompts: Sequence[Any], how: dict[str, Any], loading: dict[str, Any]
) -> None:
    """Puts each mixture's measures beside its weights; the mixtures are loaded one after the other."""
    from preftune.evaluate.answer_rewards import reward_measures
    from preftune.evaluate.model import open_model
    from preftune.models.settings import ModelConfig

    for soup in soups:
        config = ModelConfig.model_validate({"model": soup["folder"], **loading})
        with progress(f"loading {config.model}", None):
            model = open_model(config, notify)
        measures = reward_measures(model, prompts, rewards, progress=progress, **how)
        soup["measures"] = {name: measure.as_dict() for name, measure in measures.items()}


def _open_rewards(names: Sequence[str], batch_size: int, max_length: int) -> Any:
    from preftune.evaluate.model import model_folder
    from preftune.rewards.naming import open_rewards

    with progress(f"opening {', '.join(names)}", None):
        places = [model_folder(name) for name in names]
        return open_rewards(places, note=notify, max_length=max_length, batch_size=batch_size)


def _tell(document: dict[str, Any]) -> None:
    from preftune.cli.summary import measures_table

    for soup in document["soups"]:
        title = f"{' / '.join(f'{weight:.2f}' for weight in soup['weights'])}: {soup['folder']}"
        show(measures_table(title, soup["measures"]) if "measures" in soup else title)
