"""A map of the UNet: down on the left, mid at the bottom, up on the right, one row a resolution."""

import re
from collections.abc import Callable

from markupsafe import Markup

from leanmotion.pipeline.numbers import data, short
from leanmotion.report.artefacts import Artefacts
from leanmotion.report.elements import Figure, Table
from leanmotion.report.svg import Axis, frame, heat, steep, text

_CELL, _HIGH, _GAP, _TOP = 62, 46, 4, 30


def finding(found: Artefacts) -> Markup:
    """On which level of the UNet blocks matter most, and on which least."""
    fvd = found.ranking.set_index("block")["fvd"].astype(float)
    depths = found.whole_blocks.set_index("block")["depth"]
    medians = fvd.groupby(depths.loc[fvd.index].to_numpy()).median()
    most, least = int(medians.idxmax()), int(medians.idxmin())
    if most == least:
        return Markup("All blocks lie on one level: median FVD without one {}.").format(data(float(medians[most])))
    return Markup(
        "Blocks on row {} matter most (median FVD without one {}), those on row {} least ({}); row 1 holds the "
        "largest maps."
    ).format(most + 1, data(float(medians[most])), least + 1, data(float(medians[least])))


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
    """Top left corner of each block; columns as wide as the widest level needs."""
    sides: dict[str, dict[int, list[str]]] = {"down": {}, "mid": {}, "up": {}}
    for block, depth in zip(found.whole_blocks["block"], found.whole_blocks["depth"], strict=True):
        side = re.split(r"_", block)[0]
        sides[side].setdefault(int(depth), []).append(block)
    deepest = max(depth for side in sides.values() for depth in side)
    places: dict[str, tuple[int, int]] = {}
    left = 8
    for side, levels in sides.items():
        # The mid block is drawn below all, so that a U is seen.
        for depth, blocks in levels.items():
            row = deepest + 1 if side == "mid" else depth
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
    rows = deepest + (2 if sides["mid"] else 1)
    return places, left, _TOP + rows * (_HIGH + 10)


def _heads(places: dict[str, tuple[int, int]]) -> list[tuple[str, float]]:
    heads = []
    for side in ("down", "mid", "up"):
        xs = [x for block, (x, _) in places.items() if block.startswith(side)]
        if xs:
            heads.append((side, (min(xs) + max(xs) + _CELL) / 2))
    return heads
