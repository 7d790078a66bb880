"""Several large units against few small ones: the comparison that the method starts from."""

from dataclasses import dataclass
from statistics import median

from markupsafe import Markup

from leanmotion.pipeline.numbers import amount, data, listed, short, within
from leanmotion.ranking.rounding import rounded_table
from leanmotion.report.artefacts import Artefacts, Frame
from leanmotion.report.elements import Figure, Table
from leanmotion.report.sections.similarity import NAMES
from leanmotion.report.svg import Axis, Chart, legend, steep

FEW = 3
_STYLES = {"temporal_transformer": "one", "transformer_block": "two", "attention": "three"}
_SHAPES = {"temporal_transformer": "square", "transformer_block": "triangle", "attention": "circle"}


def probes_figure(found: Artefacts) -> Figure:
    """FVD against what is removed, in MACs and in parameters."""
    planes = (("macs", "MACs removed"), ("parameters", "parameters removed"))
    charts = [_plane(found, *plane) for plane in planes]
    entries = [(_STYLES[g], _SHAPES[g], NAMES[g]) for g in _STYLES if (found.probes["granularity"] == g).any()]
    entries += [
        ("one", "line", "joined: the 1, 3, 6 … most similar units"),
        ("one open", "circle", "hollow: random or single"),
    ]
    rows = [
        [
            str(p["probe"]), NAMES[p["granularity"]], p["pick"], data(p["count"]), data(p["fvd"]),
            within(p["paired"], p["paired_low"], p["paired_high"]), data(p["motion"]),
            data(p["macs"], amount(p["macs"])), data(p["parameters"], amount(p["parameters"])),
            listed(list(p["units"])),
        ]
        for p in found.probes.to_dict("records")
    ]  # fmt: skip
    head = ["Probe", "Granularity", "Pick", "Units", "FVD", "Paired", "Motion", "MACs", "Parameters", "Which"]
    return Figure(
        "What removal at each granularity does",
        charts,
        legend(entries),
        table=Table("Every probe", head, rows),
        csv="probes.csv",
    )


def _plane(found: Artefacts, column: str, title: str) -> Markup:
    probes, null = found.probes, found.figure("null_fvd")
    log = steep([*probes["fvd"], null])
    chart = Chart(
        f"FVD against {title}",
        Axis.over(title, probes[column].astype(float), zero=True, write=amount),
        Axis.over("FVD, same seeds" + (" (log)" if log else ""), [*probes["fvd"], null], zero=True, log=log),
    )
    if null is not None:
        chart.across(null, "null", f"null: FVD {short(null)}")
    for granularity, style in _STYLES.items():
        rows = probes[probes["granularity"] == granularity].sort_values(["count", "probe"], kind="stable")
        similar = rows[rows["pick"] == "similar"]
        if len(similar):
            chart.line([(float(x), float(y)) for x, y in zip(similar[column], similar["fvd"], strict=True)], style)
        for row in rows.to_dict("records"):
            hollow = "" if row["pick"] == "similar" else " open"
            tip = f"{row['probe']}: FVD {short(row['fvd'])}, {amount(row[column])}"
            chart.mark(float(row[column]), row["fvd"], style + hollow, _SHAPES[granularity], tip)
    return chart.svg()


@dataclass(frozen=True)
class Compared:
    """Each probe of several similar transformers against each of as few or fewer attention layers."""

    several: Frame
    few: Frame
    pairs: int
    milder: int

    @classmethod
    def of(cls, found: Artefacts) -> "Compared | None":
        """None where the run holds no probe of one kind."""
        probes = found.probes
        similar = probes[(probes["granularity"] == "temporal_transformer") & (probes["pick"] == "similar")]
        several = similar[similar["count"] > 1].sort_values("count", kind="stable")
        few = probes[(probes["granularity"] == "attention") & (probes["count"] <= FEW)]
        if several.empty or few.empty:
            return None
        fewer = few["count"].to_numpy()[None, :] <= several["count"].to_numpy()[:, None]
        milder = several["fvd"].to_numpy()[:, None] < few["fvd"].to_numpy()[None, :] - 1e-9
        return cls(several, few, int(fewer.sum()), int((fewer & milder).sum()))

    @property
    def seen(self) -> bool:
        """Whether any of these removals changes a video."""
        return bool(max(self.several["fvd"].max(), self.few["fvd"].max()) >= 1e-9)


def finding(found: Artefacts) -> str:
    """Whether the authors' observation holds here."""
    compared = Compared.of(found)
    if compared is None:
        return (
            "This run holds no probe of several temporal transformers or none of few attention layers: "
            "add them under probe.sets to see whether the authors' observation holds."
        )
    if not compared.seen:
        return "Whether the authors' observation holds cannot be seen: none of the compared removals changes a video."
    pairs, milder = compared.pairs, compared.milder
    held = "holds" if milder == pairs else "does not hold" if milder == 0 else "holds in part"
    return (
        f"That several temporal transformers are lost with less harm than one or few attention layers, as the authors "
        f"saw, {held} here: in {milder} of {pairs} comparisons."
    )


def verdict(found: Artefacts) -> str:
    """What was compared, in numbers; empty where nothing was, or nothing is to be seen."""
    compared = Compared.of(found)
    if compared is None or not compared.seen:
        return ""
    most, few = compared.several.iloc[-1], compared.few
    return (
        f"Removing the {int(most['count'])} most similar temporal transformers ({amount(most['macs'])} MACs) gives an "
        f"FVD of {short(most['fvd'])}. Removing 1 to {int(few['count'].max())} attention layers (median "
        f"{amount(median(few['macs']))} MACs) gives {short(few['fvd'].min())} to {short(few['fvd'].max())}, median "
        f"{short(median(few['fvd']))}, over {len(few)} probes. Compared is each probe of several similar transformers "
        f"with each of 1 to {FEW} attention layers. The distances have no interval; the paired ones in the table have."
    )


def probes_csv(found: Artefacts) -> Frame:
    """One row a probe."""
    columns = ["probe", "granularity", "pick", "count", "parameters", "macs", "fvd", "kvd", "paired", "motion"]
    return rounded_table(found.probes[columns], found.nulls)
