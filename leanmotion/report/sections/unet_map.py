"""A map of the UNet: down on the left, mid at the bottom, up on the right, one row a resolution."""

from collections.abc import Callable

from markupsafe import Markup

from leanmotion.pipeline.numbers import data, short
from leanmotion.report.artefacts import Artefacts
from leanmotion.report.elements import Figure, Table
from leanmotion.report.svg import Axis, frame, heat, steep, text

_CELL, _HIGH, _GAP, _TOP = 62, 46, 4, 30


def finding(found: Artefacts) -> Markup:
    """Which blocks stand out, by name and place: the two that are missed most, and the one that is missed least."""
    fvd = found.ranking.set_index("block")["fvd"].astype(float).sort_values(kind="stable")
    least, most = fvd.index[0], fvd.index[:0:-1][:2]
    if fvd.iloc[0] == fvd.iloc[-1]:
        return Markup("No block stands out: FVD without any one of them is {}.").format(data(float(fvd.iloc[0])))
    rows = _rows(found)

    def said(block: str) -> Markup:
        words = Markup("{} (FVD {} without it; {}, row {} of {})")
        return words.format(
            block, data(float(fvd[block])), block.partition("_")[0], rows[block] + 1, max(rows.values()) + 1
        )

    return Markup("Most missed: {}. Least missed: {}. Rows count from the top; row 1 holds the largest maps.").format(
        Markup(", then ").join(said(block) for block in most), said(least)
    )


def unet_map(found: Artefacts) -> Figure:
    """The map, its blocks coloured by FVD; the page's script marks what the picked round deleted."""
    fvd = found.ranking.set_index("block")["fvd"].astype(float)
    position = found.ranking.set_index("block")["position"]
    places, width, height = _places(found)
    shade = _shade([float(value) for value in fvd])
    low, high = max(float(fvd.min()), 0.0), float(fvd.max())
    gone = set(found.removed[found.chosen])
    parts = [text(x, 18, words, "middle", "title") for words, x in _heads(places)]
    for block, (x, y) in places.items():
        value = float(fvd.get(block, 0.0))
        fill, ink = heat(shade(value))
        body = Markup(
            '<g class="block{}" data-block="{}" transform="translate({} {})"><title>{}</title>'
            '<rect width="{}" height="{}" rx="5" fill="{}"/>'
            '<text x="{}" y="19" text-anchor="middle" style="fill:{}">{}</text>'
            '<text x="{}" y="36" text-anchor="middle" style="fill:{}">{}</text>'
            '<path class="cross" style="stroke:{}" d="M4 4L{} {}M{} 4L4 {}"/></g>'
        )
        tip = f"{block}: FVD {short(value)} without it; place {int(position.get(block, 0)) + 1} from least important"
        parts.append(
            body.format(
                " gone" if block in gone else "", block, x, y, tip, _CELL, _HIGH, fill, _CELL / 2, ink, block,
                _CELL / 2, ink, short(value), ink, _CELL - 4, _HIGH - 4, _CELL - 4, _HIGH - 4,
            )
        )  # fmt: skip
    title = "Map of the UNet's motion blocks, coloured by the FVD that their removal causes"
    rows = [
        [block, data(float(fvd[block])), *("deleted" if block in found.removed[name] else "" for name in found.rounds)]
        for block in found.blocks
    ]
    shades = Markup("").join(Markup('<i style="background:{}"></i>').format(heat(i / 6)[0]) for i in range(7))
    scale = Markup('<p class="legend"><span>FVD without the block: {} <b class="scale">{}</b> {}</span>').format(
        short(low), shades, short(high)
    ) + Markup("<span>{}crossed out, dashed: deleted in the picked round</span></p>").format(
        "colours by the logarithm; " if steep(fvd) else ""
    )
    return Figure(
        title,
        [frame(title, width, height, parts, "map")],
        scale,
        table=Table("FVD without each block, and the rounds that delete it", ["Block", "FVD", *found.rounds], rows),
        csv="ranking.csv",
    )


def _shade(values: list[float]) -> Callable[[float], float]:
    """Distance to a shade of 0 to 1; by its logarithm where a few blocks would paint all others the same."""
    log = steep(values)
    axis = Axis.over("", values, zero=not log, log=log)
    return lambda value: axis.place(value)


def _places(found: Artefacts) -> tuple[dict[str, tuple[int, int]], int, int]:
    """Top left corner of each block; columns as wide as the widest row needs."""
    sides: dict[str, dict[int, list[str]]] = {"down": {}, "mid": {}, "up": {}}
    in_row = _rows(found)
    for block, row in in_row.items():
        sides[block.partition("_")[0]].setdefault(row, []).append(block)
    places: dict[str, tuple[int, int]] = {}
    left = 8
    for side, levels in sides.items():
        for row, blocks in levels.items():
            for i, block in enumerate(blocks):
                places[block] = (left + i * (_CELL + _GAP), _TOP + row * (_HIGH + 10))
        widest = max((len(blocks) for blocks in levels.values()), default=0)
        left += widest * (_CELL + _GAP)
        # Below both arms the mid block needs no column of its own, only a gap to stand under.
        if side == "mid" and widest == 1:
            block = next(iter(levels.values()))[0]
            left += 34 - _CELL - _GAP
            places[block] = (left - 17 - (_CELL + _GAP) // 2, places[block][1])
        elif side == "down" and not sides["mid"]:
            left += 24
    return places, left, _TOP + (max(in_row.values()) + 1) * (_HIGH + 10)


def _rows(found: Artefacts) -> dict[str, int]:
    """Block -> its row in the picture, from 0 at the top: its depth, and mid below all, so that a U is seen."""
    depths = {str(row.block): int(row.depth) for row in found.whole_blocks.itertuples()}
    deepest = max(depths.values())
    return {block: deepest + 1 if block.startswith("mid") else depth for block, depth in depths.items()}


def _heads(places: dict[str, tuple[int, int]]) -> list[tuple[str, float]]:
    heads = []
    for side in ("down", "mid", "up"):
        xs = [x for block, (x, _) in places.items() if block.startswith(side)]
        if xs:
            heads.append((side, (min(xs) + max(xs) + _CELL) / 2))
    return heads
