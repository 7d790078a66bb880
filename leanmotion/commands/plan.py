"""What `dvc repro` would run, and why: DVC's own status and graph, stage families folded."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leanmotion.commands.estimate import duration
from leanmotion.pipeline.durations import KEPT, longest
from leanmotion.pipeline.dvc import ask, edges, require_dvc
from leanmotion.pipeline.settings import load_settings
from leanmotion.pipeline.sources import read_flow, refuse_missing
from leanmotion.pipeline.watched_paths import check_paths

_STATES = {"deleted": "missing", "not in cache": "not in DVC's cache"}


@dataclass(frozen=True)
class Plan:
    """Stages whose inputs changed, with the reasons; those behind them, which run if their inputs come out new; and
    changed stages that are frozen: `dvc repro` leaves them as they are.
    """

    changed: dict[str, list[str]]
    behind: list[str]
    frozen: list[str]


def refuse_incomplete(params: Path = Path("params.yaml")) -> None:
    """Refuse what `dvc repro` in this folder would stop at in the middle: wrong settings, or a missing file.

    Raises:
        LeanmotionError: such a thing, with the mend. DVC itself would say "Errno 2", at the stage that reads the file.
        ModuleNotFoundError: DVC is not installed.
    """
    require_dvc()
    check_paths(load_settings(params))
    refuse_missing()


def plan(root: Path = Path()) -> Plan:
    """Ask DVC.

    Raises:
        LeanmotionError: not a DVC project, or DVC cannot read it.
    """
    status = json.loads(ask(root, "status", "--json"))
    graph = edges(ask(root, "dag", "--dot"))
    changed = {stage: reasons(entries) for stage, entries in status.items()}
    stages = read_flow(root / "dvc.yaml")
    frozen = sorted(stage for stage in changed if stages.get(stage, {}).get("frozen"))
    changed = {stage: why for stage, why in changed.items() if why and stage not in frozen}
    # What always writes the same, such as `check`, reruns nothing behind it.
    moving = [stage for stage in changed if not stages.get(stage, {}).get("meta", {}).get("constant")]
    return Plan(changed, [stage for stage in _behind(moving, graph) if stage not in changed], frozen)


def reasons(entries: Iterable[Any]) -> list[str]:
    """One stage's entries of `dvc status --json` in words: "params.yaml: ranking.criterion", "data/x missing"."""
    found: list[str] = []
    for entry in entries:
        if not isinstance(entry, Mapping):
            found.append("its command changed" if entry == "changed command" else str(entry))
            continue
        for kind, paths in entry.items():
            # Outputs without their names, so that the stages of a family share a line.
            found += [_reason("its output" if kind == "changed outs" else path, state) for path, state in paths.items()]
    return list(dict.fromkeys(found))


def _reason(what: str, state: str | Mapping[str, str]) -> str:
    """What changed: the settings of a params file by name, or how a file is."""
    return f"{what} is {_STATES.get(state, state)}" if isinstance(state, str) else f"{what}: {', '.join(sorted(state))}"


def lines(planned: Plan, taken: Callable[[str], float | None] = longest) -> list[str]:
    """The plan as lines of text; stages of one family with the same reasons share a line.

    Args:
        planned: What would run.
        taken: A stage's seconds, as far as they are on record.
    """
    left = [f"left alone, as it is frozen: {stage} (`dvc unfreeze {stage}` first)" for stage in planned.frozen]
    if not planned.changed:
        return ["nothing to run: every stage is up to date", *left]
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for stage, why in planned.changed.items():
        groups.setdefault((stage.partition("@")[0], tuple(why)), []).append(stage)
    said = ["would run:"]
    for (family, why), members in groups.items():
        said.append(f"  {_named(family, members)}{_time(members, taken)}")
        said += [f"      {reason}" for reason in why]
    if planned.behind:
        families: dict[str, list[str]] = {}
        for stage in planned.behind:
            families.setdefault(stage.partition("@")[0], []).append(stage)
        said += ["then, where what they read comes out different:"]
        said += [f"  {_named(family, members)}{_time(members, taken)}" for family, members in families.items()]
    return [*said, *_times(planned, taken), *left]


def _named(family: str, members: list[str]) -> str:
    return members[0] if len(members) == 1 else f"{family} ({len(members)} stages)"


def _time(members: Iterable[str], taken: Callable[[str], float | None]) -> str:
    members = list(members)
    known = [seconds for stage in members if (seconds := taken(stage)) is not None]
    of = f" for {len(known)} of them" if len(known) < len(members) else ""
    return f": {duration(sum(known))}{of}" if known else ""


def _times(planned: Plan, taken: Callable[[str], float | None]) -> list[str]:
    """What all of it comes to, and of what nothing is known."""
    stages = [*planned.changed, *planned.behind]
    unknown = dict.fromkeys(stage.partition("@")[0] for stage in stages if taken(stage) is None)
    if all(taken(stage) is None for stage in stages):
        return ["how long: not on record here; `leanmotion check --measure` works out what a whole run takes"]
    first, more = (sum(taken(stage) or 0.0 for stage in some) for some in (planned.changed, planned.behind))
    follows = f", then {duration(more)}" if planned.behind else ""
    bound, rest = ("at least", f"; no run of {', '.join(unknown)} is on record") if unknown else ("at most", "")
    return [f"{bound} about {duration(first)}{follows}, by the longest of each stage's last {KEPT} runs here{rest}"]


def _behind(changed: Iterable[str], edges: Mapping[str, list[str]]) -> list[str]:
    """All stages downstream of these, nearest first."""
    seen: dict[str, None] = {}
    todo = list(changed)
    while todo:
        for stage in edges.get(todo.pop(0), []):
            if stage not in seen:
                seen[stage] = None
                todo.append(stage)
    return list(seen)
