"""The command line: one file a command, each imported only when it runs."""

import importlib

import click

from kdbias.version import __version__
from kdbias.wording import nearest

# name -> (module, the line that `kdbias --help` shows); commands in the order in which data flows.
COMMANDS = {
    "run": ("run_command", "From images to a verdict: embed, measure, weigh, report, advise."),
    "embed": ("embed_command", "Turn images into a table of teacher embeddings."),
    "uniformity": ("uniformity_command", "Measure density and uniformity of embeddings."),
    "suspects": ("suspects_command", "List images, copies and labels that look wrong."),
    "weights": ("weights_command", "Write a manifest of how often to draw each sample."),
    "advise": ("advise_command", "Say what to do with your data, and what to type."),
    "changes": ("changes_command", "Say what a manifest changes, by group and sample."),
    "train": ("train_command", "Train a student (or teacher), sampling by a manifest."),
    "evaluate": ("evaluate_command", "Judge a model or an embedding table by a protocol."),
    "compare": ("compare_command", "Say whether the difference of two evaluations is real."),
    "report": ("report_command", "One HTML page about any outputs."),
    "inspect": ("inspect_command", "Say what a file or folder is."),
    "study": ("study_command", "Compare ways of drawing over data, biases and seeds."),
    "demo": ("demo_command", "All stages on real digits, in minutes, offline."),
}


class LazyGroup(click.Group):
    """Imports a command's module when it is asked for, so that `--help` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, imported or not."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of a name, imported now; None for an unknown name."""
        if name not in COMMANDS:
            return None
        return importlib.import_module(f"kdbias.cli.{COMMANDS[name][0]}").command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments name; says which is near an unknown one."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if "id you mean" not in error.message:  # click itself may say so
                error.message = error.message.rstrip(".") + nearest(args[0], COMMANDS)  # type: ignore[misc]
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands into the help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, message="kdbias %(version)s")
def main() -> None:
    """Measure and rectify the data bias in knowledge distillation.

    embed -> uniformity -> weights -> train -> evaluate -> report

    \b
    kdbias demo                                       # the whole story on real digits
    kdbias embed photos/ -o emb --teacher torchvision:resnet50
    kdbias uniformity emb -o density
    kdbias weights density -o weights.parquet
    kdbias train photos/ -o run --embeddings emb --weights weights.parquet
    """
