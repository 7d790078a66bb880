"""Show it all on one page that works offline, and write the plots' CSVs for DVC's own views."""

from pathlib import Path
from typing import Annotated

import typer

from leanmotion.pipeline import stage
from leanmotion.pipeline.settings import load_settings
from leanmotion.report.page import write_report


def main(
    params: Path = Path("params.yaml"),
    data: Path = Path("data"),
    carried_over: Annotated[
        Path, typer.Option(help="the table of `make carry-over`, shown where it is of this teacher")
    ] = Path("metrics/carry_over.parquet"),
    out: Path = Path("data/report.html"),
    plots: Path = Path("metrics/plots"),
) -> None:
    """Write the page and metrics/plots/*.csv from the artefacts."""
    size = write_report(load_settings(params), data=data, carried_over=carried_over, out=out, plots=plots)
    print(f"{out}: {size / 1e6:.1f} MB; open it in a browser")


if __name__ == "__main__":
    stage.run(main)
