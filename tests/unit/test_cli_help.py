"""The help of every command: each says itself in its parent's list, and each option what it is for."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from kilonova.cli import main


def commands(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from commands(child, click.Context(child, info_name=name, parent=context))


TOP = click.Context(main, info_name="kilonova", terminal_width=80)
ALL = {context.command_path: command for command, context in commands(main, TOP)}
GROUPS = [path for path, command in ALL.items() if isinstance(command, click.Group)]


def test_there_are_commands_of_commands() -> None:
    assert {"kilonova up", "kilonova db upgrade", "kilonova cluster add-host"} <= ALL.keys()


@pytest.mark.parametrize("path", GROUPS)
def test_a_group_lists_its_commands_in_whole_sentences(path: str) -> None:
    listed = ALL[path].get_help(click.Context(ALL[path], info_name=path, terminal_width=80))
    assert "..." not in listed.removeprefix(f"Usage: {path} [OPTIONS] COMMAND [ARGS]...")


@pytest.mark.parametrize("path", ALL)
def test_every_option_says_what_it_is_for(path: str) -> None:
    silent = [one.name for one in ALL[path].params if isinstance(one, click.Option) and not one.help]
    assert silent == []
