"""The command reference: `python -m kdbias.cli.reference > docs/commands.md`."""

import click

from kdbias.cli import COMMANDS, main

WIDTH = 100


def help_text(name: str | None = None) -> str:
    """What `kdbias [name] --help` prints, at a fixed width."""
    root = click.Context(main, info_name="kdbias", terminal_width=WIDTH, **main.context_settings)
    if name is None:
        return main.get_help(root)
    command = main.get_command(root, name)
    assert command is not None
    return command.get_help(click.Context(command, root, info_name=name, terminal_width=WIDTH))


def render() -> str:
    """The whole reference as Markdown."""
    parts = ["# Commands\n\nWhat `kdbias COMMAND --help` prints; made by `make docs`.\n"]
    parts += [f"## kdbias {name}\n\n```text\n{help_text(name)}\n```\n" for name in COMMANDS]
    return "\n".join(parts)


if __name__ == "__main__":
    click.echo(render(), nl=False)
