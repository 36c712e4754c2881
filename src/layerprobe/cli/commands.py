"""The commands of `layerprobe`: registration, help texts, and messages for mistyped names."""

import dataclasses
import functools
import inspect
import itertools
import re
import shutil
import textwrap
from collections.abc import Callable, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from tyro.conf import Positional, arg
from tyro.extras import SubcommandApp

from layerprobe.errors import did_you_mean

COMPLETION = "--tyro-print-completion"  # prints a script that completes commands and options in a shell
T = TypeVar("T")


class Commands(SubcommandApp):
    """A group of commands. Parsing returns the call of a command instead of running it.

    Parameters
    ----------
    brief : bool
        Whether the help of the group shows only the first line of each command's docstring. The help of a
        command itself then is this line too.
    """

    def __init__(self, *, brief: bool = False) -> None:
        super().__init__()
        self.brief = brief
        self.entries: dict[str, Callable[..., None] | Commands] = {}

    def group(self, name: str, purpose: str) -> "Commands":
        """Add an empty group and return it.

        Parameters
        ----------
        name : str
        purpose : str
            Its help, one line.
        """
        inner = Commands(brief=self.brief)
        self.entries[name] = inner
        self.command(inner, name=name, help=purpose)
        return inner

    def add(self, name: str, func: Callable[..., None]) -> None:
        """Add a command, a function of `readable_options`; its signature and docstring are the help.

        Parameters
        ----------
        name : str
        func : callable
        """
        self.entries[name] = func

        @functools.wraps(func)
        def later(*args: Any, **kwargs: Any) -> Callable[[], None]:
            return functools.partial(func, *args, **kwargs)

        later.__doc__ = re.sub(
            r"\n {8,}", " ", inspect.cleandoc(func.__doc__ or "")
        )  # tyro keeps some line breaks
        later.__signature__ = inspect.signature(func)  # type: ignore[attr-defined]
        del later.__wrapped__  # its docstring has the line breaks
        self.command(name=name, help=later.__doc__.partition("\n")[0] if self.brief else None)(later)

    def named(self, words: Sequence[str]) -> "tuple[list[str], Callable[..., None] | Commands]":
        """Return the words of a call that name a command or a group, and this command or group."""
        path: list[str] = []
        node: Callable[..., None] | Commands = self
        for word in words:
            if not isinstance(node, Commands) or word not in node.entries:
                break
            node = node.entries[word]
            path.append(word)
        return path, node

    def mistake(self, words: Sequence[str]) -> str:
        """Return the message for a mistyped or missing command or option of a call; empty without one."""
        path, node = self.named(words)
        command = " ".join(["layerprobe", *path])
        rest = list(itertools.takewhile(lambda word: word != "--", words[len(path) :]))
        given = [word.split("=")[0].replace("_", "-") for word in rest if re.match(r"--?[A-Za-z]", word)]
        if {"-h", "--help"} & set(given):
            return ""
        if isinstance(node, Commands):
            if not rest or rest[0] == COMPLETION:
                return ""
            if rest[0].startswith("-"):
                return f"{command} has no option {rest[0]}. See {command} --help."
            hint, every = did_you_mean(rest[0], node.entries), ", ".join(node.entries)
            return f"{command} has no command {rest[0]!r}.{hint} Its commands are {every}."
        options = _options(node)
        for word in given:
            if word.startswith("--") and word not in options:
                return f"{command} has no option {word}.{did_you_mean(word, options)} See {command} --help."
        missing = [name for name, option in options.items() if option.required and name not in given]
        if any(not word.startswith("-") for word in rest):  # one may be a positional argument
            missing = [name for name in missing if name.startswith("-")]
        return f"{command} needs {' and '.join(missing)}. See {command} --help." if missing else ""

    def refusal(self, words: Sequence[str], text: str) -> str:
        """Return the message for a call that tyro refused.

        Parameters
        ----------
        words : sequence of str
            The arguments of the call.
        text : str
            The output of tyro, in a box.
        """
        plain = re.sub(r"\x1b\[[0-9;]*m|[\u2500-\u257f]+|-{3,}", " ", text).partition("For full helptext")[0]
        plain = " ".join(plain.split())
        path, node = self.named(words)
        if extra := re.search(r"Unrecognized options: (.*)", plain):
            command = " ".join(["layerprobe", *path])
            return f"{command} does not take {extra[1].strip()}. See {command} --help."
        named = re.search(r"--[\w-]+", plain)
        option = _options(node).get(named[0]) if named else None
        given = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
        if named is None or option is None or named[0] not in given:
            return plain
        after = given[len(given) - given[::-1].index(named[0]) :]  # of a repeated option the last one counts
        values = " ".join(itertools.takewhile(lambda word: not word.startswith("--"), after))
        return f"expected {named[0]} {option.metavar or '(without a value)'}, got {values or 'no value'}"


def readable_options(target: T) -> T:
    """Give the options of a function or dataclass type names and defaults that a shell user can read.

    An option that may be left out shows the type of its values, as TEXT, not ``{None}|STR``. A default that
    means "not given" is not shown: the help text says what happens then.
    """
    for name, annotation in target.__annotations__.items():
        base, marks = _unpacked(annotation)
        if name != "return" and not dataclasses.is_dataclass(base):
            metavar = None if base is bool else _metavar(base)
            shown = arg(metavar=metavar, help_behavior_hint=_default)
            target.__annotations__[name] = Annotated[(base, shown, *marks)]
    return target


def wrapped(text: str) -> str:
    """Return a help text of tyro with its long lines broken at the width of the terminal."""
    width = shutil.get_terminal_size().columns
    return "\n".join(
        line.rstrip() if len(line) <= width else textwrap.fill(line, width, break_on_hyphens=False)
        for line in re.sub(r"\n{3,}", "\n\n", text).split("\n")
    )


class _Option(NamedTuple):
    metavar: str | None  # the name of its type
    required: bool


def _options(function: Any) -> dict[str, _Option]:
    """Return the options of a function or dataclass. The name of a positional argument is its metavar."""
    options: dict[str, _Option] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        base, marks = _unpacked(function.__annotations__[name])
        if dataclasses.is_dataclass(base):
            options |= _options(base)
            continue
        metavar = next((m.metavar for m in reversed(marks) if getattr(m, "metavar", None)), None)
        negative = "no-" if parameter.default is True else ""
        option = metavar if Positional in marks else f"--{negative}{name.replace('_', '-')}"
        options[str(option)] = _Option(metavar, parameter.default is inspect.Parameter.empty)
    return options


def _unpacked(annotation: Any) -> tuple[Any, list[Any]]:
    if get_origin(annotation) is Annotated:
        base, *marks = get_args(annotation)
        return base, marks
    return annotation, []


def _default(label: str) -> str:
    return "" if label in ("", "''", "None", "False", "True") else f"(default: {label})"


def _metavar(kind: Any) -> str:
    """Return the name of a type: INT, TEXT, PATH, {a,b}; "TEXT ..." for several values."""
    values = [value for value in get_args(kind) if value is not type(None)]
    if get_origin(kind) in (Union, UnionType):
        return _metavar(values[0])
    if get_origin(kind) is Literal:
        return "{" + ",".join(map(str, values)) + "}"
    if get_origin(kind) is tuple:
        return f"{_metavar(values[0])} ..." if ... in values else " ".join(map(_metavar, values))
    return {"int": "INT", "float": "FLOAT", "Path": "PATH"}.get(kind.__name__, "TEXT")
