"""`leanmotion show`: every artefact in a terminal's width, what is left out said, every word explained."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from finished_run import Run
from typer.testing import CliRunner

from leanmotion.commands.cli import app
from leanmotion.commands.show import lines
from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.meanings import PLAIN, ROWS, by_weight, heading, meaning
from leanmotion.pipeline.schemas import SCHEMAS
from leanmotion.pipeline.tables import artefact_of, read_frame, read_table, write_table

WIDTHS, _ENDS = (80, 120), ("_low", "_high")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("show"))


def words_of(said: list[str]) -> str:
    return " ".join(" ".join(said).split())


def test_every_column_is_explained_or_says_it_by_its_name() -> None:
    assert set(ROWS) == set(SCHEMAS)
    columns = {name for schema in SCHEMAS.values() for name in schema.names}
    assert not PLAIN - columns
    for artefact, schema in SCHEMAS.items():
        for column in schema.names:
            assert column in PLAIN or meaning(artefact, column), (artefact, column)
        assert sorted(by_weight(artefact, schema.names)) == sorted(schema.names)


@pytest.mark.parametrize("width", WIDTHS)
def test_every_artefact_fits_the_terminal(run: Run, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    shown = set[str]()
    for path in sorted(run.data.rglob("*.parquet")):
        said = lines(path, 3)
        assert max(map(len, said)) <= width, path
        name = artefact_of(path)
        shown.add(name)
        total = read_table(path, name).num_rows
        text = words_of(said)
        assert f"{name}: {total} rows" in text and (total <= 3 or f"--rows {total}" in text)
        head = [word for word in said[0].split() if word != "(ms)"]
        hidden = [column for column in SCHEMAS[name].names if column not in head and not column.endswith(_ENDS)]
        assert all(column in text for column in hidden), "what is not shown is said"
        assert all(f"{heading(name, column)}: " in text for column in head if column not in PLAIN)
    assert {"ranking", "evaluation", "profile", "videos", "influence", "losses", "confirm"} <= shown


def test_latency_of_a_ranking_comes_from_the_profile_beside_it(run: Run, tmp_path: Path) -> None:
    path = run.data / "ranking.parquet"
    assert read_table(path, "ranking").column("latency").null_count == 7
    profile: Any = read_frame(run.data / "profile.parquet", "profile").set_index("variant")["saving"]
    said = lines(path, 99, ["block", "latency"])
    cells = dict(line.split() for line in said[1:8])
    assert {block: float(cell) for block, cell in cells.items()} == {
        block: pytest.approx(1e3 * profile[block], rel=5e-3) for block in run.blocks
    }
    assert "profile.parquet" in words_of(said)
    alone = tmp_path / "ranking.parquet"
    alone.write_bytes(path.read_bytes())
    assert "latency" not in lines(alone, 9)[0] and "empty in all rows: latency" in words_of(lines(alone, 9))
    (tmp_path / "profile.parquet").write_bytes(b"damaged")
    assert "latency: " in words_of(lines(alone, 9)) and "corrupt" in words_of(lines(alone, 9))


def test_a_ranking_that_used_time_shows_its_own(run: Run, tmp_path: Path) -> None:
    frame = read_frame(run.data / "ranking.parquet", "ranking")
    frame["latency"] = 0.0205
    write_table(tmp_path / "ranking.parquet", "ranking", frame)
    (tmp_path / "profile.parquet").write_bytes((run.data / "profile.parquet").read_bytes())
    said = lines(tmp_path / "ranking.parquet", 9, ["latency"])
    assert [line.strip() for line in said[1:8]] == ["20.5"] * 7 and "is from" not in words_of(said)


def test_ranks_and_times_are_shown_as_the_report_shows_them(run: Run, tmp_path: Path) -> None:
    """From 1, and in ms under a heading that says so; files keep their units, and an end is counted as its figure."""
    rows = read_frame(run.data / "ranking.parquet", "ranking")
    said = lines(run.data / "ranking.parquet", 1, ["rank", "rank_low", "position"])
    first: Any = rows.iloc[0]
    places = [int(first[name]) + 1 for name in ("rank", "rank_low", "rank_high")]
    assert said[1].split() == [str(places[0]), f"[{places[1]},", f"{places[2]}]", str(places[1]), "1"]
    write_table(tmp_path / "ranks.parquet", "ranks", [{"block": "mid_0", "rank": 0, "probability": 1.0}])
    assert lines(tmp_path / "ranks.parquet", 1)[1].split() == ["mid_0", "1", "1"]
    for name in ("latency", "profile"):
        full: Any = read_frame(run.data / f"{name}.parquet", name).iloc[0]
        said = lines(run.data / f"{name}.parquet", 1, ["seconds", "saving"])
        assert said[0].split() == ["seconds", "(ms)", "saving", "(ms)"]
        assert float(said[1].split()[0]) == pytest.approx(1e3 * full["seconds"], rel=5e-3)
        assert float(said[1].split()[2].strip("[,")) == pytest.approx(1e3 * full["saving_low"], rel=5e-3)


def test_all_and_named_columns(run: Run) -> None:
    path = run.data / "ranking.parquet"
    everything = lines(path, 9, everything=True)[0].replace(" (ms)", "").split()
    full = [name for name in SCHEMAS["ranking"].names if not name.endswith(("_low", "_high"))]
    assert sorted(everything) == sorted(full)
    done = CliRunner().invoke(app, ["show", str(path), "--columns", "kvd_low, block"])
    assert done.exit_code == 0 and done.stdout.splitlines()[0].split() == ["kvd_low", "block"]
    with pytest.raises(LeanmotionError, match=r"--columns blok: .* \(did you mean 'block'\?\)"):
        lines(path, 9, ["blok"])
    with pytest.raises(LeanmotionError, match=r"--columns zzzzzz: .* name some of block, "):
        lines(path, 9, ["zzzzzz"])
    with pytest.raises(LeanmotionError, match=r"--columns video: holds bytes: `-o sheet\.png`"):
        lines(run.data / "videos/full/rank_a.parquet", 9, ["video"])


def test_long_cells_are_cut_unless_asked_for_and_wide_letters_count_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    prompt = "\u732b" * 60 + "\n" + "x" * 60
    row = {"split": "rank", "index": 0, "prompt": prompt, "negative": "", "seed_a": 1, "seed_b": 2}
    write_table(tmp_path / "p.parquet", "prompts", [row])
    said = lines(tmp_path / "p.parquet", 9)
    assert "..." in said[1] and len(said[1]) < 90
    assert " ".join(prompt.split()) in lines(tmp_path / "p.parquet", 9, ["prompt"])[1]


def test_a_table_without_rows_is_shown(tmp_path: Path) -> None:
    write_table(tmp_path / "l.parquet", "losses", pa.Table.from_pylist([], schema=SCHEMAS["losses"]))
    text = words_of(lines(tmp_path / "l.parquet", 9))
    assert text.startswith("step ") and "losses: 0 rows" in text and "nothing was trained" in text
