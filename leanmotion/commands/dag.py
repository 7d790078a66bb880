"""The pipeline's graph on one screen: a row for each family of stages, links that others imply left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import networkx

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.dvc import ask, drawn_stages, edges
from leanmotion.pipeline.params_file import read_params
from leanmotion.pipeline.sources import read_flow


@dataclass(frozen=True)
class Family:
    """Stages that differ in one name, as `ablate@up_0_1` and `ablate@up_0_2`; and the families that they wait for."""

    name: str
    stages: int
    after: Sequence[str]


def families(root: Path = Path()) -> list[Family]:
    """Ask DVC for its graph, and fold it.

    `dvc dag --collapse-foreach-matrix` folds as well, but stops with an error at a family that reads from itself, as
    rounds do (DVC 3.67).

    Raises:
        LeanmotionError: not a DVC project, no params.yaml, or DVC cannot read them.
    """
    written = list(read_flow(root / "dvc.yaml"))
    try:
        dot = ask(root, "dag", "--dot")
    except LeanmotionError:
        read_params(root / "params.yaml")  # its families are named there: without it DVC says so in its own words
        raise
    return folded(drawn_stages(dot), edges(dot), written)


def folded(stages: Sequence[str], readers: Mapping[str, Sequence[str]], written: Sequence[str]) -> list[Family]:
    """Families in an order in which they can run, as near as it can be to that of dvc.yaml.

    A link is left out where a longer way says the same. Families that read from one another, a stage of one from a
    stage of the other, keep the links among them.

    Args:
        stages: all stages.
        readers: stage -> the stages that read what it writes.
        written: families in the order of dvc.yaml.
    """
    graph = networkx.DiGraph()
    graph.add_nodes_from(name for name in written if any(name == _family(stage) for stage in stages))
    links = ((_family(one), _family(reader)) for one, many in readers.items() for reader in many)
    graph.add_edges_from(link for link in links if link[0] != link[1])
    groups = networkx.condensation(graph)
    place, group = {name: i for i, name in enumerate(written)}, groups.graph["mapping"]
    members = {one: sorted(groups.nodes[one]["members"], key=place.__getitem__) for one in groups}
    ordered = networkx.lexicographical_topological_sort(groups, key=lambda one: place[members[one][0]])
    names = [name for one in ordered for name in members[one]]
    direct = {(one, one) for one in groups} | set(networkx.transitive_reduction(groups).edges)
    return [
        Family(
            name,
            sum(_family(stage) == name for stage in stages),
            [one for one in names if graph.has_edge(one, name) and (group[one], group[name]) in direct],
        )
        for name in names
    ]


def lines(found: Sequence[Family]) -> list[str]:
    """A line each: the family, how many stages it has, what it waits for."""
    wide = max(len(name) for name in ["family", *(one.name for one in found)])
    head = f"{'family':<{wide}}  stages  after"
    return [head, *(f"{one.name:<{wide}}  {one.stages:>6}  {', '.join(one.after)}".rstrip() for one in found)]


def _family(stage: str) -> str:
    return stage.partition("@")[0]
