"""The ``preftune`` command: finds the command, calls it, prints its result or its error, exits.

Nothing heavy is imported here: a command's module is imported when the command is called, and the list of
commands below is all that ``preftune --help`` needs.
"""

from __future__ import annotations

import difflib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Final

from cyclopts import App, CycloptsError, Parameter
from cyclopts.exceptions import UnusedCliTokensError

from preftune.cli.output import BAD_INPUT, DONE, Outcome, to_json
from preftune.errors import PreftuneError
from preftune.methods.registry import METHODS

INTERNAL_ERROR: Final = 70  # EX_SOFTWARE of sysexits.h
STOPPED: Final = 130  # 128 + SIGINT
PIPE_CLOSED: Final = 141  # 128 + SIGPIPE


@dataclass(frozen=True)
class Command:
    """Where a command lives, ``module:function``, and its line in the list of commands.

    ``takes_settings``: the function takes all tokens, any config name among them, and has its own help. A command
    with ``kinds`` is a word before one of these.
    """

    target: str
    line: str
    takes_settings: bool = False
    kinds: Mapping[str, Command] = field(default_factory=dict)


COMMANDS: Final[dict[str, Command]] = {
    "demo": Command(
        "preftune.cli.demo:demo",
        "The whole job on a small model: audit, DPO, evaluation, report.",
        takes_settings=True,
    ),
    **{
        name: Command(f"preftune.cli.train:{name}", method.line, takes_settings=True)
        for name, method in METHODS.items()
    },
    "run": Command("preftune.cli.pipeline:run", "The stages of a pipeline file in order: SFT, reward model, PPO ..."),
    "soup": Command("preftune.cli.soup:soup", "Models in between: the weights of aligned models, mixed."),
    "eval": Command("preftune.cli.evaluate:evaluate", "What a model is worth on held-out pairs, with intervals."),
    "compare": Command("preftune.cli.compare:compare", "Two models side by side on the same prompts."),
    "doctor": Command("preftune.cli.doctor:doctor", "What is wrong with a training run, ours or another tool's logs."),
    "audit": Command("preftune.cli.audit:audit", "What is wrong with preference data, row by row."),
    "advise": Command("preftune.cli.advise:advise", "Which method for these data, this model, this machine; and why."),
    "align": Command("preftune.cli.align:align", "The whole way: SFT, DPO, its plateau, RLHF if it pays, a gate."),
    "stress": Command("preftune.cli.stress:stress", "Which data problem costs most on this task."),
    "clean": Command("preftune.cli.clean:clean", "The data again, repaired; what is left out keeps its reason."),
    "make": Command(
        "preftune.cli.make_judge:make_judge",
        "New preference records: from a judge, a constitution, logs or the best of n.",
        kinds={
            "judge": Command(
                "preftune.cli.make_judge:make_judge", "Pairs of candidates that language models have judged."
            ),
            "constitution": Command(
                "preftune.cli.make_constitution:make_constitution", "Pairs of an answer and its revision by principles."
            ),
            "implicit": Command(
                "preftune.cli.make_implicit:make_implicit",
                "Labels or pairs from what users did: edits, clicks.",
            ),
            "best-of-n": Command(
                "preftune.cli.make_best_of_n:make_best_of_n", "Pairs of a model's best and worst of n answers."
            ),
        },
    ),
    "annotate": Command("preftune.cli.annotate:annotate", "The page where people choose the better answer."),
    "report": Command("preftune.cli.report:report", "The HTML page of a run, again."),
}

_HELP: Final = "Preference data in, an aligned language model out, with the evidence that it is one."
_KINDS_HELP: Final = {"preftune make": "New preference records, each with where it comes from."}
_MORE_HELP: Final = """Example:
  preftune demo
  preftune audit pairs.jsonl
  preftune dpo --model Qwen/Qwen3-0.6B --data pairs.jsonl --output out

`preftune COMMAND --help` explains a command. With every command:
  --json     one JSON document on standard output, all else on standard error
  --debug    the traceback of an error
  --version  the version
Exit codes: 0 done, 1 found something wrong, 2 wrong usage or bad input."""


def main(argv: Sequence[str] | None = None, commands: Mapping[str, Command] = COMMANDS) -> int:
    """Runs the command that ``argv`` names, ``sys.argv`` by default, and gives the exit code."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # our own bars stand in for the libraries'; read when tqdm is imported
    tokens, flags = _take_flags(list(sys.argv[1:] if argv is None else argv))
    as_json, debug = "--json" in flags, "--debug" in flags
    try:
        if "--version" in flags:
            return _print_version(as_json)
        if not as_json:
            return _run(tokens, commands).exit_code
        # What a command or a library prints must not mix with the document.
        with redirect_stdout(sys.stderr):
            outcome = _run(tokens, commands)
        _print_document(outcome.document)
        return outcome.exit_code
    except BrokenPipeError:
        return _leave_pipe()
    except (Exception, KeyboardInterrupt) as error:
        return _fail(error, as_json, debug)


# --- running --------------------------------------------------------------------------------------------


def _take_flags(argv: list[str]) -> tuple[list[str], set[str]]:
    """The tokens without the flags that belong to every command; after ``--`` nothing is a flag."""
    end = argv.index("--") if "--" in argv else len(argv)
    flags = {token for token in argv[:end] if token in ("--json", "--debug", "--version")}
    return [token for token in argv[:end] if token not in flags] + argv[end:], flags


def _run(tokens: Sequence[str], commands: Mapping[str, Command]) -> Outcome:
    result = _called("preftune", tokens, commands)
    sys.stdout.flush()  # a closed pipe shows here and not while Python shuts down
    return result if isinstance(result, Outcome) else Outcome({})


def _called(program: str, tokens: Sequence[str], commands: Mapping[str, Command]) -> Any:
    name, *rest = tokens or ["--help"]
    if name in ("--help", "-h"):
        return _call(_root(program, commands), [name])
    if name not in commands:
        raise _unknown(program, name, commands)
    whole, command = f"{program} {name}", commands[name]
    if command.kinds:
        return _called(whole, rest, command.kinds)
    return _call(_app(whole, command), _join_switches(rest))


def _unknown(program: str, name: str, commands: Mapping[str, Command]) -> PreftuneError:
    known = ["--help", "--version", "--json", "--debug"] if name.startswith("-") else list(commands)
    nearest = difflib.get_close_matches(name, known, n=1)
    mend = f"Did you mean `{program} {nearest[0]}`?" if nearest else f"`{program} --help` lists the commands."
    return PreftuneError(f"There is no {'option' if name.startswith('-') else 'command'} {name}.", mend=mend)


def _call(app: App, tokens: Sequence[str]) -> Any:
    try:
        return app(tokens, exit_on_error=False, print_error=False)
    except UnusedCliTokensError as error:
        left = " ".join(error.unused_tokens or [])
        raise PreftuneError(f"Nothing is expected at {left!r}.", mend=_see_help(app)) from error
    except CycloptsError as error:
        raise PreftuneError(str(error).strip(), mend=_see_help(app)) from error


def _see_help(app: App) -> str:
    return f"See `{app.name[0]} --help`."


def _root(program: str, commands: Mapping[str, Command]) -> App:
    """The app that lists the commands, without importing one."""
    is_whole = program == "preftune"
    more = _MORE_HELP if is_whole else f"`{program} COMMAND --help` explains a command."
    app = _new_app(program, help=_HELP if is_whole else _KINDS_HELP[program], help_epilogue=more)
    for position, (name, command) in enumerate(commands.items()):
        app.command(command.target, name=name, help=command.line, sort_key=position)
    return app


def _app(program: str, command: Command) -> App:
    """The app of one command, its help the function's docstring."""
    module, _, function = command.target.partition(":")
    call: Callable[..., Any] = getattr(import_module(module), function)
    text, example = _split_example(inspect.getdoc(call) or command.line)
    call.__doc__ = _as_numpydoc(text)  # where the descriptions of the parameters are looked for
    app = _new_app(
        program,
        help=_flowing(text),
        help_epilogue=example,
        help_flags=[] if command.takes_settings else ["--help", "-h"],
    )
    app.default(call)
    return app


def _flowing(docstring: str) -> str:
    """The text before the parameters, each paragraph in one line: the screen breaks it where it ends."""
    before, _, _ = docstring.partition("Parameters\n----------\n")
    return re.sub(r"(?<!\n)\n(?!\n)", " ", before.strip())


def _as_numpydoc(docstring: str) -> str:
    """Our parameters, ``name: what it is``, as numpydoc has them: what they are on a line of its own."""
    before, heading, parameters = docstring.partition("Parameters\n----------\n")
    return before + heading + re.sub(r"^(\w+): ", r"\1\n    ", parameters, flags=re.MULTILINE)


def _split_example(docstring: str) -> tuple[str, str | None]:
    """The docstring without its example, which the docstring parser would drop, and the example."""
    found = re.search(r"^Examples?:[ \t]*\n(?:[ \t]*\n|[ \t]+\S.*(?:\n|\Z))+", docstring, re.MULTILINE)
    if not found:
        return docstring, None
    lines = [line for line in found[0].splitlines() if line.strip()]
    return docstring[: found.start()] + docstring[found.end() :], "\n".join(lines)


def _new_app(name: str, **options: Any) -> App:
    return App(
        name=name,
        version_flags=[],
        help_format="plaintext",  # markdown would cost 30 ms
        default_parameter=Parameter(consume_multiple=True, negative_iterable=()),
        result_action="return_value",
        suppress_keyboard_interrupt=False,  # main gives it its line and its document
        **options,
    )


def _join_switches(tokens: Sequence[str]) -> list[str]:
    """``--strict true`` as ``--strict=true``, and ``--max_rows`` as ``--max-rows``."""
    joined: list[str] = []
    for position, token in enumerate(tokens):
        if token == "--":
            return joined + list(tokens[position:])
        follows_option = bool(joined) and joined[-1].startswith("--") and "=" not in joined[-1]
        if follows_option and token.lower() in ("true", "false"):
            joined[-1] += f"={token.lower()}"
        else:
            joined.append(_option_spelling(token))
    return joined


def _option_spelling(token: str) -> str:
    if not re.match(r"--[A-Za-z]", token):
        return token
    name, equals, value = token.partition("=")
    return name.replace("_", "-") + equals + value


# --- what is printed ------------------------------------------------------------------------------------


def _print_version(as_json: bool) -> int:
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version("preftune")
    except PackageNotFoundError:  # run from a source tree that is not installed
        number = "unknown"
    if as_json:
        _print_document({"version": number})
    else:
        print(f"preftune {number}", flush=True)
    return DONE


def _print_document(document: Mapping[str, Any]) -> None:
    print(to_json(document), flush=True)


def _fail(error: BaseException, as_json: bool, debug: bool) -> int:
    """Tells the error, as a document too where one is expected, and gives its exit code."""
    from preftune.cli.screen import tell_error

    shown, code = _shown(error)
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    if code == STOPPED:
        print(shown, file=sys.stderr)
    else:
        tell_error(str(shown))
    if as_json:
        try:
            _print_document({"error": {"what": shown.what, "where": shown.where, "mend": shown.mend}})
        except BrokenPipeError:
            return _leave_pipe()
    return code


def _shown(error: BaseException) -> tuple[PreftuneError, int]:
    if isinstance(error, PreftuneError):
        return error, BAD_INPUT
    if isinstance(error, KeyboardInterrupt):
        return PreftuneError("stopped"), STOPPED
    what = f"internal error: {type(error).__name__}: {' '.join(str(error).split())}"
    return PreftuneError(what.rstrip(": ") + ".", mend="Run again with --debug to see where."), INTERNAL_ERROR


def _leave_pipe() -> int:
    """The reader is gone: standard output is turned away, for Python flushes it once more at the end."""
    with suppress(OSError, ValueError):  # where no real file is behind standard output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return PIPE_CLOSED


if __name__ == "__main__":
    raise SystemExit(main())
