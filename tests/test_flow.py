"""The rules of the layout, and that dvc.yaml names what can change each stage's result."""

import ast
import re
import sys
from pathlib import Path

import pytest
from flow import EXEMPT, ROOT, closure, imports, script, stages

PACKAGE = sorted((ROOT / "leanmotion").rglob("*.py"))
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
    for path in PACKAGE:
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


@pytest.mark.parametrize("name", STAGES)
def test_deps_name_what_can_change_the_result(name: str) -> None:
    stage = STAGES[name]
    deps = {dep for dep in map(_path, stage["deps"]) if dep.endswith(".py")}
    own = named(script(stage))
    assert script(stage).is_file() and own in deps
    wanted = closure(script(stage)) - {"leanmotion/report/__init__.py"}
    folders = [dep for dep in map(_path, stage["deps"]) if (ROOT / dep).is_dir() and dep.startswith("leanmotion/")]
    wanted = {path for path in wanted if not any(path.startswith(f"{folder}/") for folder in folders)}
    assert sorted(wanted - deps) == [], f"{name} lacks deps"
    assert sorted(deps - wanted - {own}) == [], f"{name} has deps that it does not use"


def test_exempt_modules_are_there_with_a_reason() -> None:
    files = {path.stem for path in PACKAGE}
    assert all(reason for reason in EXEMPT.values()) and set(EXEMPT) - {"launch"} <= files


def test_exempt_modules_use_no_others() -> None:
    """What is left out of deps must not be a way round them."""
    for name in set(EXEMPT) & {path.stem for path in PACKAGE}:
        for used in imports(ROOT / "leanmotion" / f"{name}.py"):
            # `summary` only prints: what it uses reaches no result.
            known = {("stage", "chunks"), ("summary", "video"), ("summary", "numbers")}
            assert used.stem in EXEMPT or (name, used.stem) in known, f"{name} imports {used.stem}"


def test_every_script_is_a_stage_and_every_stage_has_one() -> None:
    apart = {"stages/study.py"}  # `make study`: an experiment on the flow's results, no part of the flow
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
    for path, limit in [*((p, 300) for p in PACKAGE), *((p, 100) for p in SCRIPTS)]:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= limit, f"{named(path)} has {lines} lines"


def test_no_drawers() -> None:
    drawers = {"util", "utils", "common", "helper", "helpers", "misc", "shared", "core", "base", "tools"}
    assert not [named(path) for path in [*PACKAGE, *SCRIPTS] if {path.stem, path.parent.name} & drawers]


CLOCKS = re.compile(r"\b(?:datetime\.now|datetime\.today|date\.today|time\.time|time\.strftime|gethostname|getuser)\b")


def test_no_clock_and_no_host_in_results() -> None:
    """`time.monotonic` and `perf_counter` measure; a date or a host's name would make equal results differ."""
    for path in [*PACKAGE, *SCRIPTS]:
        assert not CLOCKS.search(path.read_text(encoding="utf-8")), named(path)


def test_nothing_is_unpickled() -> None:
    for path in [*PACKAGE, *SCRIPTS]:
        text = path.read_text(encoding="utf-8")
        # `pickle.UnpicklingError` may be caught: it is what torch raises on a file that it refuses.
        assert not re.search(r"pickle\.(?:loads?|Unpickler)\b", text), named(path)
        assert "trust_remote_code=True" not in text and "weights_only=False" not in text, named(path)
        assert all("weights_only=True" in call for call in re.findall(r"torch\.load\([^\n]*", text)), named(path)


def _path(entry: object) -> str:
    """A dep or an output, with options or without."""
    return str(next(iter(entry)) if isinstance(entry, dict) else entry)
