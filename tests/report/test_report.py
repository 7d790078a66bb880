"""The report: numbers traced to their artefacts, hostile text, bytes, and every picker in a real browser."""

import csv
import html
import itertools
import json
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser import chromium
from finished_run import CLIPS, Run
from markupsafe import Markup

from leanmotion.commands.readme import read_seconds
from leanmotion.pipeline.numbers import milli, short
from leanmotion.pipeline.tables import read_frame, write_table
from leanmotion.ranking.rounding import rounded
from leanmotion.report.artefacts import read_artefacts
from leanmotion.report.page import LIMIT, render_page
from leanmotion.report.sections import front, headline, media, unet_map
from leanmotion.report.sections.carry_over import CarriedOver
from leanmotion.report.sections.ranking import ranking_figure
from leanmotion.videos.codec import encode


class Reader(HTMLParser):
    """Numbers of `<data value>` by the id of the element that they stand in, attributes, and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.values: dict[str, list[float]] = {}
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.tags: list[str] = []
        self._inside: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.handlers += [name for name in found if name.startswith("on")]
        self.links += [str(found[name]) for name in ("src", "href", "action", "srcset", "poster") if name in found]
        if tag in ("p", "table", "figure", "section"):
            self._inside.append(str(found.get("id", "")))
        if tag == "data":
            for name in filter(None, self._inside):
                self.values.setdefault(name, []).append(float(str(found["value"])))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("p", "table", "figure", "section") and self._inside:
            self._inside.pop()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(run: Run) -> str:
    return run.write()


def numbers_of(run: Run, *tables: tuple[str, str]) -> set[float]:
    found: set[float] = set()
    for name, artefact in tables:
        frame = read_frame(run.data / f"{name}.parquet", artefact)
        for column in frame.columns:
            if frame[column].dtype.kind in "if":
                found |= {float(value) for value in frame[column]}
    return found


def test_every_number_of_headline_ranking_and_rounds_is_in_an_artefact(run: Run, page: str) -> None:
    shown = Reader(page).values
    latency = read_frame(run.data / "latency.parquet", "latency").set_index("variant")["saving"].to_dict()
    figures = json.loads((run.data / "selection.json").read_text())
    known = {float(v) for v in figures.values() if isinstance(v, int | float)}
    known |= numbers_of(run, ("latency", "latency"), ("profile", "profile"), ("ranking", "ranking"))
    known |= numbers_of(run, ("evaluation", "evaluation"), ("confirm", "confirm"))
    speed = float(latency["none"] / (latency["none"] - latency["r2"]))
    # Derived: the call's share, which the README leads with too, and after it how many times faster motion is.
    seconds = read_seconds(run.data / "latency.parquet")
    share = seconds["r2"] / seconds["base"]
    assert shown["headline"][:2] == [2.0, share] and speed in shown["motion-time"]
    confirming = read_frame(run.data / "confirm.parquet", "confirm").set_index(["motion_norm", "set"])
    together = confirming.loc["clip", "all"]
    assert {float(together["excess"]), float(together["excess_high"])} <= set(shown["headline"])
    assert {float(together["fvd_cross"]), float(together["null"])} <= set(shown["evidence"]) <= known
    assert float(confirming.loc[("frame", "all"), "excess"]) in shown["other-norm"]
    # What the front of budgets shows is worked out there: `test_the_front_is_what_no_set_beats` holds it.
    for place in ("headline", "facts", "ranking-table", "rounds-1", "rounds-2"):
        assert len(shown[place]) >= 5
        assert set(shown[place]) - {share} <= known, place
    # What MACs foretell of a block's time is worked out there.
    times = {row for name in ("saving", "predicted") for row in latency_of(run, name)}
    assert times <= set(shown["savings-figure"])


def words(page: str) -> str:
    """What a reader sees, in one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", page)).split())


def test_it_leads_with_the_readmes_sentence(run: Run, tmp_path: Path) -> None:
    """The same share of a call and the same excess, whichever way it goes."""
    # The README rounds what metrics/ hold, which is rounded: 0.514853 is 0.515 there, and so 52%.
    for excess, said in ((0.123, "12% more than"), (-0.0821, "8% less than"), (0.514853, "52% more than")):
        found = read_artefacts(run.settings, run.data)
        rows = found.confirmed.copy()
        rows.loc[rows["set"] == "all", "excess"] = excess
        top = words(str(headline.sentence(replace(found, confirmed=rows))))
        seconds = read_seconds(run.data / "latency.parquet")
        assert f"Without 2 of its 7 motion blocks the model needs {seconds['r2'] / seconds['base']:.0%} of the" in top
        assert f"FVD to the original's clips is {said} that of another seed (90% interval: " in top


def test_the_row_of_all_sets_is_not_taken_for_their_mean(run: Run, page: str) -> None:
    """Said beside each such table: the figure of all can lie outside of those of its sets."""
    place = page[page.index('id="dealt-anew"') : page.index('id="confirmed"')]
    assert f"deals these clips into as many sets anew, {run.settings.evaluation.resamples} times" in words(place)
    assert "not the mean of the rows below it" in words(place)
    for name in ("confirmed", "confirmed-under-other-norm"):
        table = page[page.index(f'id="{name}"') :].split("</table>")[0]
        assert re.findall(r'<th scope="row">([^<]+)</th>', table)[0] == "all, dealt anew"


def test_three_excesses_are_told_apart(run: Run, page: str) -> None:
    rows = read_frame(run.data / "evaluation.parquet", "evaluation").query("round == 'r2' and arm == 'distilled'")
    of: Any = rows.set_index("split")["excess"]
    together: Any = read_frame(run.data / "confirm.parquet", "confirm").query("set == 'all' and motion_norm == 'clip'")
    wanted = [float(value) for value in (of["select"], of["report"], together["excess"].iloc[0])]
    assert Reader(page).values["three-excesses"][::2] == wanted
    assert "Believe the last" in page


def latency_of(run: Run, name: str) -> list[float]:
    rows: Any = read_frame(run.data / "latency.parquet", "latency").set_index("variant")
    return rows.loc[["r2", "all", "none"], name].astype(float).tolist()


def test_the_front_is_what_no_set_beats(run: Run, page: str) -> None:
    """Its table against all sets, counted one by one; the rounds stand in the charts with their own damage."""
    rows: Any = read_frame(run.data / "interaction.parquet", "interaction")
    rows = rows[rows["granularity"] == "temporal_transformer"]
    weighted = (rows["weight"] * rows["by_prompt"].map(np.mean)).groupby([rows["unit"], rows["other"]]).sum()
    product = {(a, b): value for (one, two), value in weighted.items() for a, b in ((one, two), (two, one))}
    profile: Any = read_frame(run.data / "profile.parquet", "profile").set_index("variant")["saving_fraction"]
    factor = profile["none"] / sum(profile[block] for block in run.blocks)

    def damage(gone: Sequence[str]) -> float:
        return float(sum(product[one, other] for one in gone for other in gone))

    sets = [gone for size in range(1, 8) for gone in itertools.combinations(run.blocks, size)]
    points = [(factor * float(sum(profile[block] for block in gone)), damage(gone)) for gone in sets]
    front = {(s, d) for s, d in points if not any(a >= s and b < d for a, b in points)}
    cells = Reader(page).values["front-table"]
    # Rows of time saved, MACs saved, damage; sums in another order.
    shown = [(row[0], row[2]) for row in zip(*[iter(cells[: 3 * (len(cells) // 3)])] * 3, strict=True)]
    assert shown and all(any(np.allclose(point, best, rtol=1e-9, atol=0) for best in front) for point in shown)
    for gone in run.removed.values():
        assert f"predicted damage {short(damage(gone))}" in page


def test_the_ranking_table_holds_every_block_in_order(run: Run, page: str) -> None:
    table = page[page.index('id="ranking-table"') :].split("</table>")[0]
    assert re.findall(r'<th scope="row">(\w+)</th>', table) == run.order
    # The run's FVD: 0.37, and 1.7 more with each place.
    chain = f"{run.order[0]}, {run.order[1]} (FVD 0.37 to 2.07)."
    assert f"do not tell a block from the next in its chain; ends of a chain may well differ. {chain}" in page


def test_the_map_names_what_stands_out_where_the_picture_has_it(run: Run, page: str) -> None:
    """By name, and by the row that is drawn: mid has one of its own, whatever its depth."""
    heights = {name: int(y) for name, y in re.findall(r'data-block="(\w+)" transform="translate\(\d+ (\d+)\)"', page)}
    rows = {y: place for place, y in enumerate(sorted(set(heights.values())), 1)}
    said = words(page.split('<section id="map">')[1].split("</p>")[0])
    for block, fvd in ((run.order[-1], 10.6), (run.order[-2], 8.87), (run.order[0], 0.37)):
        place = f"{block.partition('_')[0]}, row {rows[heights[block]]} of {len(rows)}"
        assert f"{block} (FVD {fvd} without it; {place})" in said
    found = read_artefacts(run.settings, run.data)
    least = found.ranking.assign(fvd=[0.0 if block == "mid_0" else 5.0 for block in found.ranking["block"]])
    assert f"Least missed: mid_0 (FVD 0 without it; mid, row {len(rows)} of {len(rows)})." in words(
        str(unet_map.finding(replace(found, ranking=least)))
    )


def test_lines_in_charts_say_what_their_numbers_are(page: str) -> None:
    labels = re.findall(r'class="said (?:null|limit)"[^>]*>([^<]+)<', page)
    assert labels and all(re.match(r"(null|stop rule): (FVD [\d.]+|accuracy \d+%|another seed)", one) for one in labels)


def test_the_videos_say_of_which_clips_each_fvd_is(run: Run, page: str) -> None:
    """The first is what stands below the chosen round's clip."""
    said = words(page.split('<section id="videos">')[1].split("</p>")[0])
    note = json.loads(page.split('id="store">')[1].split("</script>")[0])["notes"]["report/r2/distilled"][1]
    assert f"clips of r2 are at {note} to the original's on the report split ({CLIPS} clips" in said


def test_long_settings_are_folded(page: str) -> None:
    part = page.split('<section id="provenance">')[1]
    assert part.count("<pre") == 1 and "<details><summary>Settings</summary><pre" in part


def test_it_says_how_far_blocks_and_whole_calls_are_apart(run: Run, page: str) -> None:
    saved = read_frame(run.data / "profile.parquet", "profile").set_index("variant")["saving"].to_dict()
    added, whole = sum(saved[block] for block in run.blocks), saved["none"]
    assert f"together they take {milli(added)} ms" in page and f"is {milli(whole)} ms shorter" in page
    assert f"{abs(added - whole) / whole:.1%} apart. The clocks cost a call 0.2 ms [-0.1, 0.5]." in page


def test_hostile_text_is_only_text(page: str) -> None:
    read = Reader(page)
    assert read.tags.count("script") == 2
    assert "img" not in read.tags and not read.handlers
    assert not [link for link in read.links if "javascript" in link]
    assert "49" not in re.findall(r"<option[^>]*>4\. (.*?)</option>", page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    store = re.search(r'id="store">(.*?)</script>', page, re.DOTALL)
    assert store and "</" not in store[1] and json.loads(store[1])["clips"]


def test_nothing_is_fetched(page: str) -> None:
    assert all(link.startswith(("#", "data:")) for link in Reader(page).links)
    assert not re.search(r"https?://", page)
    assert "default-src 'none'" in page and "@import" not in page


def test_same_inputs_give_the_same_bytes(run: Run, page: str) -> None:
    before = {path.name: path.read_bytes() for path in run.plots.iterdir()}
    (run.plots / "stale.csv").write_text("")
    assert run.write() == page
    assert {path.name: path.read_bytes() for path in run.plots.iterdir()} == before
    assert len(page.encode()) <= LIMIT


def test_no_measured_time_in_the_csv_files_and_stable_columns(run: Run, page: str) -> None:
    heads = {path.name: next(csv.reader(path.open())) for path in run.plots.iterdir()}
    assert set(heads) == {
        "ranking.csv", "rounds.csv", "losses.csv", "similarity.csv", "similarity_units.csv", "probes.csv",
        "criteria.csv",
    }  # fmt: skip
    assert not any(
        "second" in name or "saving" in name or "latency" in name for head in heads.values() for name in head
    )
    assert heads["rounds.csv"][:5] == ["round", "removed", "macs", "parameters", "trained"]
    assert {"null", "distilled_fvd", "pruned_fvd", "select_distilled_excess"} <= set(heads["rounds.csv"])
    rows = read_frame(run.data / "evaluation.parquet", "evaluation")
    for row in csv.DictReader((run.plots / "rounds.csv").open()):
        for split, arm in ((s, a) for s in ("report", "select") for a in ("pruned", "distilled")):
            wanted = {"round": row["round"], "split": split, "arm": "original" if row["round"] == "base" else arm}
            (known,) = (r for r in rows.to_dict("records") if all(r[k] == v for k, v in wanted.items()))
            tag = "" if split == "report" else "select_"
            for column, name in {
                "fvd_same_seeds": "fvd",
                "fvd_same_seeds_high": "fvd_high",
                "excess_low": "excess_low",
            }.items():
                null = 1.0 if column.startswith("excess") else known["null"]
                assert float(row[f"{tag}{arm}_{column}"]) == rounded(known[name], null), (row["round"], column)
    rows = list(csv.DictReader((run.plots / "losses.csv").open()))
    assert [row["step"] for row in rows] == [str(i) for i in range(30)]


def test_verdict_is_computed(run: Run, page: str) -> None:
    # Three similar transformers: 0.63. Attention layers: 0.83, 2.49 and 0.5: milder than two of the three.
    assert "as the authors saw, holds in part here: in 2 of 3 comparisons." in page
    assert "Removing the 3 most similar temporal transformers" in page


def test_every_section_opens_with_its_finding(page: str) -> None:
    """One sentence or two between the heading and all else, and below the answer five lines on how to read."""
    sections = re.findall(r'<section id="([\w-]+)"[^>]*>\s*(.*?)</section>', page, re.DOTALL)
    names = [name for name, _ in sections]
    assert re.findall(r'<a href="#([\w-]+)">', page.split("<nav")[1].split("</nav>")[0]) == names
    assert names[0] == "answer" and sections[0][1].startswith('<p class="answer"')
    for name, body in sections[1:]:
        opening = re.match(r"<h2>[^<]+</h2>\s*<p class=\"finding\">(.+?)</p>", body)
        assert opening and opening[1].endswith((".", "&#34;)")), name
    guide = sections[0][1].split('class="guide"')[1].split("</dl>")[0]
    assert len(re.findall(r"<dt>", guide)) == 5


def test_a_round_that_was_not_repaired_is_shown_once(run: Run, page: str) -> None:
    """Its clips are the same before and after: one row, one mark a chart, one clip. A repaired round has both."""
    part = page.split('<section id="rounds">')[1].split("</section>")[0]
    rows = ["base, original", "r2, distilled", "r2, pruned", "all, not repaired"]
    assert re.findall(r'<th scope="row">([^<]+)</th>', part) == rows * 2
    chart = part.split('<svg class="chart ')[1].split("</svg>")[0]
    assert len(re.findall(r'<circle class="mark one( open)?"', chart)) == 3
    assert len(re.findall(r'<rect class="mark two"', chart)) == 1
    store = json.loads(page.split('id="store">')[1].split("</script>")[0])
    rounds = {key: note for key, note in store["notes"].items() if not key.startswith("report/base/")}
    assert set(rounds) == {key for key in store["clips"] if key.startswith("report/")} - {"report/full"}
    assert set(rounds) == {"report/r2/pruned", "report/r2/distilled", "report/all/pruned"}
    assert rounds["report/all/pruned"][0] == "pruned, not repaired: no motion block is left to train"


def test_a_run_without_repair_speaks_of_none(run: Run) -> None:
    """As with `distillation.steps: 0`: no arm of repaired rounds in legends, rows, clips."""
    found = read_artefacts(run.settings, run.data)
    pruned = found.evaluation[found.evaluation["arm"] == "pruned"]
    rows = pd.concat([found.evaluation[found.evaluation["arm"] == "original"], pruned, pruned.assign(arm="distilled")])
    bare = replace(found, evaluation=rows, losses={name: table.head(0) for name, table in found.losses.items()})
    page = render_page(bare, CarriedOver(None, why_not=Markup("Not measured.")))
    part = page.split('<section id="rounds">')[1].split("</section>")[0]
    assert (
        re.findall(r'<th scope="row">([^<]+)</th>', part)
        == ["base, original", "r2, not repaired", "all, not repaired"] * 2
    )
    assert "distilled" not in part and "two" not in "".join(re.findall(r'<rect class="mark (\w+)"', part))
    assert "It was not repaired: nothing was trained." in words(page)
    assert not [
        key for key in json.loads(page.split('id="store">')[1].split("</script>")[0])["clips"] if "distilled" in key
    ]


def test_the_ceiling_is_not_contradicted_by_noise(run: Run, page: str) -> None:
    """A round of all blocks is the very model that the ceiling is of, and may well measure faster."""
    calls: Any = read_frame(run.data / "latency.parquet", "latency").set_index("variant")
    said = words(page)
    for name, before in (("none", "takes "), ("all", "all is that same model, timed once more: ")):
        assert f"{before}{milli(calls.loc[name, 'seconds'])} ms" in said
        three = [milli(calls.loc[name, f"saving{end}"]) for end in ("", "_low", "_high")]
        assert f"{three[0]} [{three[1]}, {three[2]}] ms" in said
    assert "what measures as more is noise" in said and "can save more" not in said


@pytest.mark.parametrize(("factor", "where"), [(1.0, "inside"), (0.5, "above"), (2.0, "below")])
def test_predicted_and_measured_savings_are_told_apart(run: Run, factor: float, where: str) -> None:
    found = read_artefacts(run.settings, run.data)
    budgets = front.Budgets.of(found)
    predicted = budgets.saved(budgets.time, found.removed["r2"])
    whole = float(found.latency.loc["full", "seconds"])
    times = found.latency.copy()
    for end, width in (("", 1.0), ("_low", 0.9), ("_high", 1.1)):
        times.loc["r2", f"saving{end}"] = factor * width * predicted * whole
    said = words(str(front.measured(replace(found, latency=times), budgets)))
    assert f"the prediction lies {where} that range" in said and f"{predicted:.1%} for r2" in said
    assert f"it saves {1 - times.loc['r2', 'seconds'] / whole:.1%}" in said


@pytest.mark.parametrize(("clips", "order"), [(1, [2]), (3, [2, 4, 0]), (9, [2, 4, 0, 1, 3])])
def test_the_first_clip_is_the_median_one(run: Run, clips: int, order: list[int]) -> None:
    """Five clips at rising distances of the chosen round's from the original's; the split has them out of order."""
    found = read_artefacts(run.settings, run.data)
    shuffled = [3, 0, 4, 2, 1]
    clip = np.full((2, 16, 16, 3), 100, np.uint8)
    rows = {
        "report/full": [{"video": encode(clip)} for _ in shuffled],
        "report/r2/distilled": [{"video": encode(clip + np.uint8(10 * place))} for place in shuffled],
    }
    picked = media._spread(found, rows, clips)
    assert [shuffled[place] for place in picked.places] == order
    assert picked.names == ["the median clip", "the furthest", "the nearest", "1 of 4 others nearer",
                            "3 of 4 others nearer"][: len(order)]  # fmt: skip
    assert "No clip was picked by hand" in picked.rule


def test_each_group_of_videos_says_how_its_clips_were_picked(page: str) -> None:
    assert page.count("No clip was picked by hand") == 1 and page.count("The clips are the first of the split") == 2
    assert "(the median clip)</option>" in page


BLOCK_FVDS = [10.0 ** (-6.5 + 0.45 * i) for i in range(21)]
"""Nine decades, as the embedded teacher's blocks span them."""


def test_blocks_are_told_apart_by_eye_where_they_span_decades(run: Run) -> None:
    """The chart of the ranking: all marks at places of their own, the null among them, on a chart for a phone."""
    found = read_artefacts(run.settings, run.data)
    rows = pd.concat([found.ranking] * 3, ignore_index=True)
    for end, factor in (("", 1.0), ("_low", 0.5), ("_high", 2.0)):
        rows[f"fvd{end}"] = [value * factor for value in BLOCK_FVDS]
    chart = str(ranking_figure(replace(found, ranking=rows)).charts[0])
    assert "(log)" in chart
    marks = sorted(float(x) for x in re.findall(r'<circle[^>]* cx="([\d.]+)"', chart))
    marks += [float(x) + 3.5 for x in re.findall(r'<rect class="mark[^>]* x="([\d.]+)"', chart)]
    marks.sort()
    assert len(marks) == 21 and min(b - a for a, b in itertools.pairwise(marks)) > 4
    (null,) = re.findall(r'<line class="rule null" x1="([\d.]+)"', chart)
    # 3.21 lies between the 15th, 10^-0.2, and the 17th.
    assert marks[15] < float(null) < marks[16]


@pytest.mark.parametrize("level", [0.0, 1e-14, 5.0])
def test_a_run_in_which_nothing_differs_has_a_page(run: Run, level: float) -> None:
    """As of a random or an idle teacher: equal or no distances, no influence, no time saved, no null."""
    found = read_artefacts(run.settings, run.data)
    fvd = {f"fvd{end}": level for end in ("", "_low", "_high")}
    times = dict.fromkeys(("saving", "saving_low", "saving_high", "saving_fraction"), 0.0)
    flat = replace(
        found,
        meta={k: v for k, v in found.meta.items() if k != "null_fvd"},
        ranking=found.ranking.assign(**fvd, influence=level, similarity=1.0),
        probes=found.probes.assign(fvd=level),
        interaction=found.interaction.assign(by_prompt=[[0.0] * 4] * len(found.interaction)),
        profile=found.profile.assign(**times),
        latency=found.latency.assign(**times, predicted=0.0),
        criteria=found.criteria.assign(kendall=0.0, kendall_low=0.0, kendall_high=0.0),
    )
    page = render_page(flat, CarriedOver(None, why_not=Markup("Not measured.")))
    assert not re.search(r"\b(nan|inf)\b", page.split("</style>")[1].split('id="store"')[0])


@pytest.mark.parametrize("further", [0, 2])
def test_what_was_measured_elsewhere_is_shown(tmp_path: Path, further: int) -> None:
    run = Run(tmp_path)
    run.carry_over(further)
    page = run.write()
    part = page.split('<section id="carry-over">')[1].split("</section>")[0]
    assert ("Under none of 4 conditions do these clips tell r2 from another seed" in part) == (further == 0)
    which = "another base (10 times the null) and 16 frames, and longer (10 times the null)."
    assert (which in part) == ("Under 2 of 4 conditions r2 is further" in part) == (further == 2)
    assert ("Whether it is worse there than as judged is another question" in part) == (further == 2)
    assert len(re.findall(r'<circle class="mark one"', part)) == 4 + 1  # a condition each, and the legend
    assert "img" not in Reader(page).tags


@pytest.mark.parametrize("of", [{}, {"teacher": "0" * 64}, {"weights": "0" * 64}])
def test_what_is_not_of_this_student_is_left_out(tmp_path: Path, of: dict[str, str]) -> None:
    """No table, an empty one, one of another teacher, of a round trained anew: a line how to make it, and no figure."""
    run = Run(tmp_path)
    if of:
        run.carry_over(2, **of)
    part = run.write().split('<section id="carry-over">')[1].split("</section>")[0]
    assert "<code>make carry-over</code> measures it" in part and "<figure" not in part
    write_table(run.carried_over, "carry_over", [])
    assert "Not measured. <code>make carry-over</code> measures it" in run.write()


@pytest.mark.parametrize(("blocks", "heads", "chosen"), [(6, False, "base"), (7, True, "all"), (6, True, "r2")])
def test_other_models_rounds_and_selections(tmp_path: Path, blocks: int, heads: bool, chosen: str) -> None:
    page = Run(tmp_path, blocks, heads, chosen).write()
    assert ("Motion read" in page) == heads
    assert len(re.findall(r'<g class="block[^>]*data-block="', page)) == blocks
    assert ("No block of 6 is deleted" in page) == (chosen == "base")
    assert 'data-block="mid_0"' in page if blocks == 7 else 'data-block="mid_0"' not in page


def test_fewer_prompts_where_videos_are_large(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read_artefacts(run.settings, run.data)
    whole = media.read_media(found)
    assert {len(clips) for clips in whole.clips.values()} == {3}
    one = sum(len(clips[0]) for clips in whole.clips.values())
    monkeypatch.setattr(media, "BUDGET", one)
    assert {len(clips) for clips in media.read_media(found).clips.values()} == {1}
    assert len(media.read_media(found).groups["rounds"].prompts) == 1


@pytest.fixture
def browse(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def call(path: Path, *flags: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--no-first-run",
             "--autoplay-policy=no-user-gesture-required", "--virtual-time-budget=60000", *flags,
             f"{path.resolve().as_uri()}#selftest"],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip

    return call


@pytest.mark.parametrize("width", [390, 1280])
def test_pickers_and_videos_work_in_a_browser(
    run: Run, page: str, browse: Callable[..., subprocess.CompletedProcess[str]], width: int
) -> None:
    done = browse(run.out, "--dump-dom", f"--window-size={width},900")
    report = re.search(r'<pre id="selftest">(.*?)</pre>', done.stdout, re.DOTALL)
    assert report, done.stderr[-2000:]
    found = json.loads(report[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert found["failures"] == [] and found["errors"] == []
    # Prompts of three groups, and the rounds twice.
    assert found["pickers"] == 5 and found["choices"] == 3 * 3 + 2 * 2
    # Of the round that was not repaired two clips, the original's and its own.
    assert found["videos"] == 3 * 3 + (3 + 2) + 3 * 3 + 3 * 4
    assert found["overflow"] == 0, "the page is wider than the screen"
    assert "CONSOLE" not in done.stderr, done.stderr[-2000:]
