"""The command line: flags generated from the signatures of the functions that do the work, and their results as text.

The only module outside `worldsim.play` that may know all packages. It imports the function behind a command when that command is given,
and nothing before; it holds no behaviour of its own beyond wording and exit codes (0 done, 2 the user can mend it,
130 interrupted).
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import errno
import importlib
import importlib.metadata
import inspect
import os
import re
import sys
import traceback
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import docstring_parser
from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter, Namespace, set_parsing_settings

import worldsim
from worldsim.commands import COMMANDS, Command
from worldsim.errors import UsageError, suggestion

USER_ERROR, INTERRUPTED = 2, 130
_SYSTEM_REFUSALS = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOTDIR, errno.EISDIR
}  # fmt: skip
_LESS = {
    "train": "--config.gradient_accumulation 4 (the same steps in smaller parts), or a smaller --preset",
    "plan": "a smaller --settings.candidates",
}
"""By command, what makes do with less memory."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code; ``argv`` defaults to the process's arguments."""
    words = [_underscored(word) for word in (sys.argv[1:] if argv is None else argv)] or ["--help"]
    first = next((word for word in words if not word.startswith("-")), "")
    name = first if first in COMMANDS else None
    debug = "--debug" in words
    here = str(Path.cwd())
    if here not in sys.path:  # as with python -m: a user's own environments and predictors lie where they work
        sys.path.append(here)
    try:
        function = None if name is None else _function(COMMANDS[name].target)
        options = _parse(words, name, function)
        assert name is not None and function is not None  # _parse refuses everything else
        if options.get("out") is not None:
            _check_writable(Path(options["out"]).absolute())
        result = _called(COMMANDS[name], function, options)
        if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun starts, the first one speaks
            print(COMMANDS[name].report(result, options))
    except UsageError as error:
        return _say(str(error), debug=debug)
    except ModuleNotFoundError as error:
        extras = _extras_with(error.name or "")
        if not extras:
            raise
        wanted = f"worldsim {name} needs {error.name!r}, which comes with the extra {' or '.join(extras)}"
        return _say(f"{wanted}. Likely fix: pip install 'worldsim[{extras[0]}]'", debug=debug)
    except OSError as error:
        if error.errno not in _SYSTEM_REFUSALS:
            raise
        return _say(
            f"the system refused: {error}. Likely fix: check the path, its owner and the free space", debug=debug
        )
    except (MemoryError, RuntimeError) as error:
        if not _lacks_memory(error):
            raise
        got, less = str(error).partition("\n")[0], _LESS.get(name or "", "--workers 1, where the command has it")
        return _say(
            f"memory ran out: {got}. What was saved is whole. Likely fix: {less}, or what else needs memory ended",
            debug=debug,
        )
    except KeyboardInterrupt:
        left = COMMANDS[name].after_interrupt if name else ""
        return _say(f"interrupted. {left}", debug=debug, code=INTERRUPTED)
    return 0


def _say(paragraph: str, *, debug: bool, code: int = USER_ERROR) -> int:
    """Print the exception being handled as one paragraph, its traceback too if asked for; return the exit code."""
    if debug:
        traceback.print_exc()
    print(f"worldsim: {paragraph}", file=sys.stderr)
    return code


def _check_writable(path: Path) -> None:
    """Refuse, before hours of work, a place where nothing can be written."""
    there = next(one for one in (path, *path.parents) if one.exists())
    if there.is_dir() and not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def _lacks_memory(error: BaseException) -> bool:
    """Whether memory ran out in this process, on its GPU, or for one of its workers, which the system then ends."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"MemoryError", "OutOfMemoryError", "TerminatedWorkerError"}) or "can't allocate memory" in str(
        error
    )


def info(checkpoint: str = "arena-small") -> dict[str, Any]:
    """Show what a checkpoint is: its world, its size, and how it was trained.

    Args:
        checkpoint: an embedded name, a checkpoint folder or a training run's folder.

    """
    from worldsim.checkpoint import load, resolve

    loaded = load(checkpoint)
    return {
        "folder": str(resolve(checkpoint)),
        "parameters": sum(tensor.numel() for tensor in loaded.weights.values()),
        "sampler_steps": loaded.sampler_steps,
        "model": loaded.model.to_json(),
        "world": loaded.world.to_json(),
        "dataset": dict(loaded.dataset),
        "training": dict(loaded.training),
    }


def _underscored(word: str) -> str:
    """Write ``--env-kwargs`` as the flag ``--env_kwargs``: both are accepted."""
    flag, equals, value = word.partition("=")
    return "--" + flag[2:].replace("-", "_") + equals + value if re.fullmatch(r"--[a-z][\w.-]*", flag) else word


def _function(target: str) -> Callable[..., Any]:
    """Import the function behind a command."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _called(command: Command, function: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """Call the function behind a command, inside what is around it."""
    if command.around is None:
        return function(**options)
    around = _function(command.around)
    outer = inspect.signature(around).parameters
    with around(**{name: options[name] for name in outer}):
        return function(**{name: value for name, value in options.items() if name not in outer})


def _extras_with(module: str) -> list[str]:
    """Return worldsim's extras that install the distribution of ``module``, going by its name."""
    wanted = module.partition(".")[0].replace("_", "-").lower()
    found = []
    for line in importlib.metadata.requires("worldsim") or []:
        match = re.match(r"([\w.-]+).*extra == [\"']([\w-]+)[\"']", line)
        if match and match[1].replace("_", "-").lower() == wanted != "worldsim":
            found.append(match[2])
    return found


class _HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and keeps the line breaks of examples."""


def _parser(**kwargs: Any) -> ArgumentParser:
    parser = ArgumentParser(allow_abbrev=False, exit_on_error=False, formatter_class=_HelpFormatter, **kwargs)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _parse(words: Sequence[str], name: str | None, function: Callable[..., Any] | None) -> dict[str, Any]:
    """Return the function's arguments; only the command that was given gets its flags, so that others stay unimported.

    Help and version leave by SystemExit(0), mistakes by UsageError.
    """
    parser = _parser(prog="worldsim", description=(worldsim.__doc__ or "").partition("\n")[0], epilog=_OVERVIEW)
    parser.add_argument("--version", action="version", version=f"worldsim {worldsim.__version__}")
    commands = parser.add_subcommands(dest="command", required=True)
    for other, command in COMMANDS.items():
        sub = _parser(epilog=f"examples:\n{command.examples}")
        if other == name and function is not None:
            _add_flags(sub, function, command)
        commands.add_subcommand(other, sub, help=command.summary)
        sub.prog = f"worldsim {other}"
    try:
        parsed = parser.parse_args(list(words))
    except ArgumentError as error:
        raise _mistake(error, words, name, function) from error
    assert name is not None
    options = parser.instantiate(parsed)[name]
    assert isinstance(options, Namespace)
    return {key: value for key, value in vars(options).items() if key != "debug"}


def _add_flags(parser: ArgumentParser, function: Callable[..., Any], command: Command) -> None:
    """Add one flag per parameter; the ``positional`` one has none, and booleans need no value."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    documentation = [docstring_parser.parse(one.__doc__ or "") for one in _documented(function, command)]
    described = {parameter.arg_name: parameter.description for one in documentation for parameter in one.params}
    parser.description = documentation[0].short_description
    for name, parameter in _parameters(function, command).items():
        flag, settings = f"--{name}", dict[str, Any](help=described.get(name))
        if parameter.default is not inspect.Parameter.empty:
            settings["default"] = parameter.default
        elif name != command.positional:
            settings["required"] = True
        if parameter.annotation is bool:
            settings |= {"dest": name, "action": "store_false" if parameter.default else "store_true"}
            flag = f"--no_{name}" if parameter.default else flag
        else:
            settings["type"] = _flag_type(parameter.annotation)
        if dataclasses.is_dataclass(settings.get("type")) and settings["default"] is None:
            del settings["default"]  # its fields have defaults of their own, and flags: --config.field
        if name == command.positional:
            flag = name
            settings |= {"nargs": "?"} if "default" in settings else {}
        parser.add_argument(flag, **settings)


def _parameters(function: Callable[..., Any], command: Command) -> dict[str, inspect.Parameter]:
    """Return the parameters that can be given on the command line."""
    signatures = [inspect.signature(one, eval_str=True).parameters for one in _documented(function, command)]
    parameters = {name: parameter for one in signatures for name, parameter in one.items()}
    return {name: parameter for name, parameter in parameters.items() if name not in command.not_flags}


def _documented(function: Callable[..., Any], command: Command) -> list[Callable[..., Any]]:
    """Return the functions whose parameters are a command's flags: that behind it, and what is around it."""
    return [function] if command.around is None else [function, _function(command.around)]


def _flag_type(annotation: Any) -> Any:
    """Return what a flag takes: of a union the text (a name or path) or the dataclass, which Python may leave None."""
    if not isinstance(annotation, types.UnionType):
        return annotation
    accepted = typing.get_args(annotation)
    if str in accepted:
        return str | None if type(None) in accepted else str
    return next((kind for kind in accepted if dataclasses.is_dataclass(kind)), annotation)


def _mistake(
    error: ArgumentError, words: Sequence[str], name: str | None, function: Callable[..., Any] | None
) -> UsageError:
    """Word a parsing error as a UsageError that offers the closest known command or flag."""
    got = " ".join(words) or "nothing"
    if name is None or function is None:
        first = next((word for word in words if not word.startswith("-")), "")
        return UsageError("command", got=got, allowed=", ".join(COMMANDS), fix=suggestion(first, tuple(COMMANDS)))
    positional = COMMANDS[name].positional
    flags = [f"--{parameter}" for parameter in _parameters(function, COMMANDS[name]) if parameter != positional]
    text = " ".join(str(error).split()).replace(f"{name}.{positional}", str(positional).upper())
    text = re.sub(rf"(?<![\w.]){name}\.", "--", text)
    close = [match for word in words for match in difflib.get_close_matches(word, flags, n=1) if word not in flags]
    hint = f"did you mean {close[0]}? " if close else ""
    return UsageError(
        f"worldsim {name}",
        got=f"{got} ({text})",
        allowed=", ".join([*([positional.upper()] if positional else []), *flags]),
        fix=f"{hint}see `worldsim {name} --help`",
    )


_OVERVIEW = """from nothing to an environment of your own, in three steps:
  worldsim record worldsim/Arena-v0 --episodes 200 --out data/arena
  worldsim train data/arena --preset nano --minutes 10 --out runs/arena
  python -c "import gymnasium; gymnasium.make('worldsim:worldsim/Dream-v0', checkpoint='runs/arena').reset(seed=0)"

`worldsim COMMAND --help` explains a command and shows examples."""
