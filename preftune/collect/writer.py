"""Which model writes, where it runs, and what it may cost: from settings to an open generator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from preftune.collect.generation import Generator, Note, open_local
from preftune.errors import PreftuneError

if TYPE_CHECKING:
    from preftune.collect.judge import Judge

Where: TypeAlias = Literal["local", "openai", "anthropic"]


@dataclass(frozen=True)
class Writer:
    """A model by name: MODEL, PROVIDER:MODEL or MODEL@URL.

    What is not said is local, but for names that begin as Anthropic's and OpenAI's do, and for an address. ``max_cost``
    (US dollars) ends the job before it is passed; ``journal`` keeps each answer of an endpoint.
    """

    model: str
    provider: Where | None = None
    base_url: str | None = None
    key_env: str | None = None
    tokenizer: str | None = None
    dtype: str = "auto"
    trust_remote_code: bool = False
    concurrency: int = 16
    requests_per_minute: float | None = None
    max_cost: float | None = None
    price_in: float | None = None
    price_out: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    journal: Path | None = None

    @cached_property
    def named(self) -> Judge:
        """The model with its provider, address and price."""
        from preftune.collect.judge import judge_named
        from preftune.collect.prices import find_price

        return judge_named(
            self.model,
            provider=self.provider or self._provider(),
            base_url=self.base_url,
            key_env=self.key_env,
            price=lambda model, is_free: find_price(model, self.price_in, self.price_out, is_free=is_free),
            extra=self.extra,
        )

    def _provider(self) -> Where | None:
        """None where the address, or the name, says it."""
        says = self.base_url is not None or "@http" in self.model
        return (
            None if says or self.model.startswith("claude-") else "openai" if self.model.startswith("gpt-") else "local"
        )


@contextmanager
def opened(writer: Writer, note: Note | None = None) -> Iterator[Generator]:
    """The model, ready to write; an endpoint's journal is closed at the end."""
    tell, named = note or (lambda _: None), writer.named
    if named.provider == "local":
        yield _local(writer, tell)
        return
    from preftune.collect.calls import Budget, Limits
    from preftune.collect.endpoint_model import EndpointModel
    from preftune.collect.journal import open_journal

    if writer.max_cost is not None and named.price is None:
        mend = "Give --price-in and --price-out, in US dollars for a million tokens."
        raise PreftuneError(f"The price of {named.model} is not known, so costs cannot be capped.", mend=mend)
    limits = Limits(concurrency=writer.concurrency, requests_per_minute=writer.requests_per_minute)
    model = EndpointModel(
        named.model,
        named.provider,
        named.base_url,
        named.key_env,
        limits,
        budget=Budget(writer.max_cost),
        price=named.price,
        extra=named.extra,
        note=tell,
    )
    if writer.journal is None:
        yield model
        return
    with open_journal(writer.journal) as journal:
        model.journal = journal
        yield model


def _local(writer: Writer, note: Note) -> Generator:
    from pydantic import ValidationError

    from preftune.models.settings import ModelConfig

    if writer.max_cost is not None:
        raise PreftuneError("A model on this machine has no price.", mend="Leave --max-cost out.")
    names = ("tokenizer", "dtype", "trust_remote_code")
    values = {"model": writer.named.model} | {name: getattr(writer, name) for name in names}
    try:
        config = ModelConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise PreftuneError(f"{first['loc'][0]}: {first['msg']}.", mend="See --help.") from error
    return open_local(config, note)
