"""The rules of the layout, and that dvc.yaml names what can change each stage's result."""

import ast
import importlib
import operator
import re
import runpy
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from flow import ARROWS, NEUTRAL, PACKAGE, ROOT, closure, imports, modules, room, script, stages

FILES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((ROOT / "stages").glob("*.py"))
STAGES = stages()


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> set[str]:
    """First names of all modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{named(path)} imports by a relative name"
            found.add((node.module or "").split(".")[0])
    return found


def test_the_library_knows_no_stages() -> None:
    scripts = {path.stem for path in SCRIPTS} | {"stages"}
    for path in FILES:
        assert not imported(path) & scripts, named(path)


def test_stages_do_not_know_each_other() -> None:
    scripts = {path.stem for path in SCRIPTS} | {"stages"}
    for path in SCRIPTS:
        assert not imported(path) & scripts, named(path)


def test_no_script_hides_another_module() -> None:
    """`python stages/x.py` puts stages/ first on the path: a stages/inspect.py would be everyone's `inspect`."""
    for path in SCRIPTS:
        assert path.stem not in sys.stdlib_module_names, named(path)
        assert path.stem not in {"torch", "diffusers", "transformers", "numpy", "evaluate", "datasets"} - {"evaluate"}


_STORING = {"listing", "rendering", "store"}
_TIMING = {"in_call", "latency", "timing"}
_PRUNED = {"judged_sampling", "pruned_adapter", "pruned_pipeline", "whole_saving"}
_ADDRESS = {"sampling_address"}
_DRAWING = {*_PRUNED, *_ADDRESS, "compiling", "memory", "removal", "requests", "sampler", "samplers", "variants"}
_RANKING = {"agreement", "criteria", "deletions", "importance", "probes", "ranking", "reranking"}
_CHANGES = {"output_changes", "partial_calls", "parts", "step_weights", "trajectory"}
UNUSED: dict[str, dict[str, set[str]]] = {
    "check": {
        "checking": {"taken"}, "cost": _TIMING, "evaluation": {"confirmation", "looks"}, "export": {"lean"},
        "probing": {"best_sets", "similarity"}, "ranking": _RANKING, "videos": {"listing"},
    },
    "inspect": {"cost": _TIMING, "model": {*_PRUNED, *_ADDRESS, "samplers", "variants"}},
    "prompts": {"sprites": {"renderer"}},
    "similarity": {"model": _ADDRESS, "probing": {"best_sets", "probe_sets"}},
    "influence": {"cost": {"inspection", *_TIMING}},
    "profile": {"cost": {"inspection"}, "model": _ADDRESS},
    "probe": {"probing": {"best_sets", "similarity"}},
    "embed": {"videos": _STORING},
    "rank": {
        "features": {
            "embedding", "extractors", "frame_batches", "motion", "pinned", "sprites_reader", "token_extractors"
        },
        "influence": _CHANGES, "probing": {"similarity"}, "ranking": {"reranking"}, "videos": _STORING,
    },
    "clips": {"videos": {"listing"}},
    "rerank": {
        "probing": {"best_sets", "probe_sets", "similarity_tables"}, "videos": {"listing"},
        "ranking": {*_RANKING - {"reranking"}, "resampling", "rounding"}, "influence": {"tables"},
    },
    "evaluate": {
        "evaluation": {"confirmation", "selection"}, "model": _DRAWING, "sprites": {"renderer"},
        "videos": _STORING, "ranking": _RANKING,
    },
    "select": {
        "evaluation": {"clip_scores", "confirmation", "evaluation", "looks"},
        "ranking": {*_RANKING, "fvd", "resampling"},
    },
    "confirm": {
        "evaluation": {"clip_scores", "looks", "selection"}, "ranking": _RANKING, "sprites": {"renderer"},
        "videos": _STORING,
    },
    "export": {"cost": {"inspection", *_TIMING}, "export": {"lean"}},
    "measure": {"cost": {"inspection"}, "model": _ADDRESS},
    "report": {
        "model": {
            *_DRAWING, "adapter_files", "base_kinds", "motion_norm", "motion_state", "original_format", "teacher",
            "units", "weights", "whole_base",
        },
        "videos": _STORING, "influence": _CHANGES, "probing": {"probe_sets", "similarity"}, "report": {"gallery"},
        "ranking": _RANKING - {"agreement", "criteria"},
    },
}  # fmt: skip
"""Stage -> room -> modules there that it does not use: an edit of these reruns it for nothing."""


def idle(name: str) -> dict[str, set[str]]:
    """What `UNUSED` should say of a stage."""
    used = closure(script(STAGES[name]))
    found: dict[str, set[str]] = {}
    for module in modules():
        if module not in used and room(module) in {room(other) for other in used}:
            found.setdefault(room(module), set()).add(module.stem)
    return found


def test_time_is_counted_by_functions_that_there_are() -> None:
    """benchmarks/time_by_kind.py knows them by name: renamed, one would be counted for the rest in silence."""
    benchmark = runpy.run_path(str(ROOT / "benchmarks/time_by_kind.py"))
    for name in (*benchmark["KINDS"], benchmark["COMMAND"].partition(".<locals>")[0]):
        module, _, function = name.partition(":")
        found = operator.attrgetter(function)(importlib.import_module(module))
        # The import system's own module calls itself frozen.
        home = found.__module__.replace("_frozen_importlib", "importlib._bootstrap")
        assert f"{home}:{found.__qualname__}" == name


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_hangs_on_its_script_and_its_rooms(name: str) -> None:
    """All that can change its result, as folders. What else stands there is pinned, so that it cannot grow unseen."""
    stage = STAGES[name]
    code = {dep for dep in map(_path, stage["deps"]) if dep.startswith(("stages/", "leanmotion/"))}
    rooms = {room(module) for module in closure(script(stage))}
    assert code == {named(script(stage)), *(f"leanmotion/{name}" for name in rooms)}
    assert idle(name) == UNUSED.get(name, {})


def test_what_draws_trains_or_times_hangs_on_little() -> None:
    """`rerank` has five rooms: it draws only where `ranking.rerank` is on, and copies a list else."""
    drawing = {"generate", "ablate", "render", "confirm_videos"}
    pinned = {"distill", "clips", "similarity", "profile", "measure", "embed"}
    assert not any(UNUSED.get(name) for name in drawing)
    for name in pinned:
        assert sum(map(len, UNUSED.get(name, {}).values())) <= 3, name
    for name in {*drawing, *pinned, "probe", "influence"}:
        assert len({room(module) for module in closure(script(STAGES[name]))}) <= 4, name


def test_only_the_headline_knows_the_seeds_that_confirm() -> None:
    """No choice hangs on them, whatever is done with them: neither on their prompts nor on anything made of these.

    Apart from the flow, `leanmotion sweep` and what counts clips ahead name the sets; no other module does.
    """
    known = {"data/prompts/confirm"}
    readers: set[str] = set()
    while True:
        found = {name for name, stage in STAGES.items() if any(_within(_path(dep), known) for dep in stage["deps"])}
        if found == readers:
            break
        readers = found
        known |= {_path(out).partition("$")[0].rstrip("/") for name in readers for out in STAGES[name].get("outs", [])}
    # `export` and `report` print the headline.
    assert readers == {"confirm_videos", "confirm", "export", "report"}
    names = re.compile(r"confirm_splits|prompts/confirm|\"confirm/")
    using = {named(path) for path in [*FILES, *SCRIPTS] if names.search(path.read_text(encoding="utf-8"))}
    assert using == {
        "leanmotion/commands/sweep.py", "leanmotion/pipeline/settings.py", "leanmotion/prompts/splits.py",
        "stages/prompts.py", "stages/confirm.py", "stages/confirm_videos.py",
    }  # fmt: skip


def _within(dep: str, known: set[str]) -> bool:
    """Whether a dependency holds some of these files, or lies among them."""
    dep = re.sub(r"\$\{.*?\}", "one", dep)
    return any(f"{dep}/".startswith(f"{one}/") or f"{one}/".startswith(f"{dep}/") for one in known)


def test_rooms_import_in_one_direction() -> None:
    """Only along the arrows of the plan, all of which are used; and no way leads back."""
    found: dict[str, set[str]] = {name: set() for name in ARROWS}
    for module in modules():
        if room(module) != "errors":
            found[room(module)] |= {room(used) for used in imports(module)} - {room(module)} - NEUTRAL
    assert found == ARROWS
    assert not imports(ROOT / "leanmotion/errors.py")
    assert not {room(used) for path in modules() if room(path) == "pipeline" for used in imports(path)} - NEUTRAL
    TopologicalSorter(ARROWS).prepare()  # raises CycleError


def test_rooms_say_what_they_are_for() -> None:
    """One paragraph, and what may not be in it."""
    folders = {path.parent.relative_to(PACKAGE).as_posix() for path in modules()} - {"."}
    for folder in folders:
        said = ast.get_docstring(ast.parse((PACKAGE / folder / "__init__.py").read_text(encoding="utf-8")))
        assert said and len(said) > 60, folder
    assert {folder for folder in folders if "/" not in folder} == set(ARROWS)


def test_every_script_is_a_stage_and_every_stage_has_one() -> None:
    # `make study`, `carry-over`, `teacher`, `extractor`, `teacher-check`: before the flow, or after it.
    apart = {f"stages/{name}.py" for name in ("study", "carry_over", "teacher", "extractor", "prove_teacher")}
    assert {named(script(stage)) for stage in STAGES.values()} | apart == {named(path) for path in SCRIPTS}


def test_commands_name_files_that_the_stage_declares() -> None:
    for name, stage in STAGES.items():
        outs = {_path(out) for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])}
        for option, value in re.findall(r"--(out[\w-]*) (\S+)", str(stage["cmd"])):
            assert value in outs, f"{name}: --{option} {value} is not among its outputs"
        assert not any(
            isinstance(out, dict) and next(iter(out.values())).get("persist") for out in stage.get("outs", [])
        )


def test_sizes() -> None:
    for path, limit in [*((p, 300) for p in FILES), *((p, 100) for p in SCRIPTS)]:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= limit, f"{named(path)} has {lines} lines"


def test_no_drawers() -> None:
    drawers = {"util", "utils", "common", "helper", "helpers", "misc", "shared", "core", "base", "tools"}
    assert not [named(path) for path in [*FILES, *SCRIPTS] if {path.stem, path.parent.name} & drawers]


CLOCKS = re.compile(r"\b(?:datetime\.now|datetime\.today|date\.today|time\.time|time\.strftime|gethostname|getuser)\b")


def test_no_clock_and_no_host_in_results() -> None:
    """`time.monotonic` and `perf_counter` measure; a date or a host's name would make equal results differ."""
    for path in [*FILES, *SCRIPTS]:
        assert not CLOCKS.search(path.read_text(encoding="utf-8")), named(path)


def test_nothing_is_unpickled() -> None:
    for path in [*FILES, *SCRIPTS]:
        text = path.read_text(encoding="utf-8")
        # `pickle.UnpicklingError` may be caught: it is what torch raises on a file that it refuses.
        assert not re.search(r"pickle\.(?:loads?|Unpickler)\b", text), named(path)
        assert "trust_remote_code=True" not in text and "weights_only=False" not in text, named(path)
        assert all("weights_only=True" in call for call in re.findall(r"torch\.load\([^\n]*", text)), named(path)


def _path(entry: object) -> str:
    """A dep or an output, with options or without."""
    return str(next(iter(entry)) if isinstance(entry, dict) else entry)
