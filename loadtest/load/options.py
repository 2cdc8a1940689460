"""The options that `run` and `search` share, each said once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class WorkloadName(StrEnum):
    zipf = "zipf"
    latest = "latest"
    trace = "trace"
    dlrm = "dlrm"


class ArrivalsName(StrEnum):
    poisson = "poisson"
    constant = "constant"
    closed = "closed"


class OpenArrivalsName(StrEnum):
    poisson = "poisson"
    constant = "constant"


class RowDtype(StrEnum):
    f32 = "f32"
    f16 = "f16"
    bf16 = "bf16"
    q8 = "q8"


class Pooling(StrEnum):
    sum = "sum"
    mean = "mean"
    none = "none"


_SERVICE, _TABLES, _ASKED, _LOAD, _OUT = "Service", "Tables", "What is asked", "Load", "Report"

Workload = Annotated[WorkloadName, typer.Argument(help="What is asked: zipf, latest, trace FILE, dlrm.")]
File = Annotated[Path | None, typer.Argument(help="Of `trace`: ids as .npy, .npz or text.", dir_okay=False)]

Url = Annotated[str | None, typer.Option(help="Of a service: http://... or http+unix:///...", rich_help_panel=_SERVICE)]
Token = Annotated[
    str | None, typer.Option(envvar="EMBCACHE_TOKEN", help="Where the service asks for one.", rich_help_panel=_SERVICE)
]
Serve = Annotated[
    bool, typer.Option("--serve", help="Start a service on a free port, and stop it.", rich_help_panel=_SERVICE)
]
Warm = Annotated[
    str | None,
    typer.Option(help='Of --serve: its warm tier, as "64MiB"; all rows fit without it.', rich_help_panel=_SERVICE),
]
Timeout = Annotated[
    float, typer.Option(help="Seconds after which a request is given up.", min=0.01, rich_help_panel=_SERVICE)
]
Deadline = Annotated[
    int | None, typer.Option(help="Milliseconds that a lookup gives the service.", min=1, rich_help_panel=_SERVICE)
]

Tables = Annotated[
    list[str] | None,
    typer.Option("--table", help="A table to ask; may be given again. Of dlrm: a prefix.", rich_help_panel=_TABLES),
]
Fill = Annotated[
    bool, typer.Option("--fill", help="Make the tables; they are dropped at the end.", rich_help_panel=_TABLES)
]
Keep = Annotated[bool, typer.Option("--keep", help="Leave the tables that were made.", rich_help_panel=_TABLES)]
Preload = Annotated[
    bool | None,
    typer.Option(help="Look every id up once first; as standard for tables that are made.", rich_help_panel=_TABLES),
]
Rows = Annotated[
    int | None,
    typer.Option(
        help="Ids of a table: 100,000 if it is made; of dlrm 20,000 at most.",
        min=1,
        rich_help_panel=_TABLES,
        show_default=False,
    ),
]
Dim = Annotated[
    int | None, typer.Option(help="Of tables that are made: 64; of dlrm 128.", min=1, rich_help_panel=_TABLES)
]
TableDtype = Annotated[RowDtype, typer.Option(help="Of tables that are made.", rich_help_panel=_TABLES)]
Keys = Annotated[
    str,
    typer.Option(
        help="The ids of a table: dense (0 to rows - 1), read (from the service), or a file of them.",
        rich_help_panel=_TABLES,
    ),
]

Alpha = Annotated[float, typer.Option(help="Of the Zipf distribution; 0 is uniform.", min=0, rich_help_panel=_ASKED)]
Scatter = Annotated[
    bool, typer.Option("--scatter/--no-scatter", help="Hot ids lie apart, or side by side.", rich_help_panel=_ASKED)
]
Ids = Annotated[int, typer.Option(help="Of each table in a lookup.", min=1, rich_help_panel=_ASKED)]
Mix = Annotated[
    str, typer.Option(help="Shares of lookup, assign, add and delete: lookup=0.95,add=0.05", rich_help_panel=_ASKED)
]
UpdateRows = Annotated[int, typer.Option(help="Of an update.", min=1, rich_help_panel=_ASKED)]
PoolingOption = Annotated[
    Pooling | None, typer.Option(help="Of dlrm: sum as standard.", rich_help_panel=_ASKED, show_default=False)
]
Dtype = Annotated[RowDtype, typer.Option(help="Of rows on the wire.", rich_help_panel=_ASKED)]
Seed = Annotated[int, typer.Option(help="Of ids and arrivals.", min=0, rich_help_panel=_ASKED)]

Arrivals = Annotated[
    ArrivalsName,
    typer.Option(help="Open loop: poisson, constant. Closed loop: closed.", rich_help_panel=_LOAD),
]
OpenArrivals = Annotated[OpenArrivalsName, typer.Option(help="poisson or constant.", rich_help_panel=_LOAD)]
Rate = Annotated[
    float | None,
    typer.Option(help="Requests a second: 500; of dlrm 10.", min=0.001, rich_help_panel=_LOAD, show_default=False),
]
Clients = Annotated[
    int, typer.Option(help="Connections, over all processes: so many requests at once.", min=1, rich_help_panel=_LOAD)
]
Processes = Annotated[int, typer.Option(help="That generate load.", min=1, rich_help_panel=_LOAD)]
Warmup = Annotated[float, typer.Option(help="Seconds of load before the window.", min=0, rich_help_panel=_LOAD)]
Duration = Annotated[float, typer.Option(help="Seconds of the window.", min=0.1, rich_help_panel=_LOAD)]
Slo = Annotated[
    float, typer.Option(help="Milliseconds within which an answer is good.", min=0.001, rich_help_panel=_LOAD)
]
Precision = Annotated[
    float,
    typer.Option(help="How far the ends of the bracket are apart, as a share.", min=0.01, rich_help_panel=_LOAD),
]

Json = Annotated[Path | None, typer.Option(help="Write the report here as JSON.", dir_okay=False, rich_help_panel=_OUT)]
Html = Annotated[
    Path | None, typer.Option(help="Write the report here as one HTML page.", dir_okay=False, rich_help_panel=_OUT)
]
