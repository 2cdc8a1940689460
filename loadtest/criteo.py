"""The command `criteo`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from loadtest.load import options as o

FailuresSaid = Callable[[Console], AbstractContextManager[None]]

_MODEL = "Model"

Data = Annotated[
    Path,
    typer.Option("--data", help="Label, I1 to I13 and C1 to C26 a line, as Criteo's display-ads data.", dir_okay=False),
]
Url = Annotated[
    str | None, typer.Option(help="Of a service; without it one is started, and stopped.", rich_help_panel="Service")
]
Name = Annotated[
    str, typer.Option(help="The tables are NAME_c1 to NAME_c26, the producer NAME.", rich_help_panel="Tables")
]
HeldOut = Annotated[
    float, typer.Option(help="The share of rows, the last ones, that are not learned.", min=0.01, max=0.99)
]
Epochs = Annotated[int, typer.Option(help="Over the rows that are learned.", min=1, rich_help_panel=_MODEL)]
Batch = Annotated[int, typer.Option(help="Rows of a step.", min=1, max=65_536, rich_help_panel=_MODEL)]
Dim = Annotated[int, typer.Option(help="Elements of a table's rows.", min=1, max=1024, rich_help_panel=_MODEL)]
Lr = Annotated[float, typer.Option(help="Of the tables' rows, by SGD.", min=0, rich_help_panel=_MODEL)]
DenseLr = Annotated[float, typer.Option(help="Of the layers, by Adam.", min=0, rich_help_panel=_MODEL)]
Seed = Annotated[
    int, typer.Option(help="Of the layers' first weights and of the order.", min=0, rich_help_panel=_MODEL)
]


def add_criteo(app: typer.Typer, failures_said: FailuresSaid) -> None:
    """Put the command into the application. failures_said: turns what can go wrong into a line and an exit status."""

    @app.command()
    def criteo(
        data: Data,
        url: Url = None,
        token: o.Token = None,
        timeout: o.Timeout = 10.0,
        name: Name = "loadtest_criteo",
        keep: o.Keep = False,
        held_out: HeldOut = 0.2,
        epochs: Epochs = 4,
        batch: Batch = 64,
        dim: Dim = 8,
        lr: Lr = 5.0,
        dense_lr: DenseLr = 0.002,
        seed: Seed = 1,
    ) -> None:
        """Learn clicks with PyTorch, its 26 tables in a service, and the same with torch.nn.EmbeddingBag. Needs torch.

        Both begin with the same rows and see the same rows in the same order; their AUC is that of the last rows.
        """
        from loadtest.processes import terminated_as_interrupted

        console = Console()
        _check_torch(console)
        from loadtest.criteo_model import Settings
        from loadtest.criteo_run import Wanted, print_outcome, run

        settings = Settings(epochs, batch, dim, lr, dense_lr, seed)
        wanted = Wanted(data, settings, url, token, timeout, name, keep, held_out)
        with failures_said(console), terminated_as_interrupted():
            print_outcome(run(wanted, console), wanted, console)


def _check_torch(console: Console) -> None:
    try:
        import embcache_client.torch  # noqa: F401 - says what it needs
    except ImportError as error:
        console.print(f"loadtest: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
