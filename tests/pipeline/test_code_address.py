"""Addresses of code: what moves them and what does not, on made-up packages; and that our own can be followed."""

import ast
from pathlib import Path

import pytest
from flow import ARROWS, PACKAGE, ROOT, closure, modules

from leanmotion.clips.latents import encode_clips
from leanmotion.distillation.rounds import TRAINING
from leanmotion.errors import LeanmotionError
from leanmotion.features.embedding import EMBEDDING
from leanmotion.pipeline.code_address import code_address, definitions
from leanmotion.pipeline.module_source import STATEMENTS, WHOLE, Definition, PackageSource
from leanmotion.study.trial import APART, TRIAL
from leanmotion.videos.store import DRAWING

SOURCES = {
    "draw": """
        from functools import cache

        from numpy import float32, ones

        from house import palette
        from house.errors import HouseError
        from house.paint import Brush, mix as blend
        from house.pipeline.files import write

        SIZE = 8
        GRID = SIZE // 2

        class Painter(Brush):
            width = 3

            def __init__(self, colour, *, steps=2):
                self.colour, self.steps = colour, steps

            @property
            def area(self):
                return GRID * self.width

        @cache
        def picture(colour="red", steps=5):
            from house.light import shade

            painter = Painter(colour, steps=steps)
            if steps < 0:
                raise HouseError("steps")
            values = [blend(painter.area, palette.DARK), shade(float32(steps)), even(steps)]
            write(values)
            return ones(GRID) * sum(values)

        def even(n):
            return True if n == 0 else odd(n - 1)

        def odd(n):
            return False if n == 0 else even(n - 1)

        def unused():
            return 1
    """,
    "paint": """
        from typing import NamedTuple

        class Brush:
            wet = False

        class Mixture(NamedTuple):
            first: int
            second: int = 2

        def mix(a, b):
            return Mixture(a, b).first + b
    """,
    "palette": "DARK, LIGHT = 1, 2\nUNUSED = 3",
    "light": """
        import math as m

        def shade(x):
            return m.sqrt(x)
    """,
    "errors": "class HouseError(Exception):\n    pass",
    "pipeline/files": "def write(values):\n    print(values)",
}


def build(folder: Path, sources: dict[str, str]) -> Path:
    """A package `house` of these modules."""
    house = folder / "house"
    for name, text in {"__init__": "", **sources}.items():
        path = house / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_dedented(text))
        (path.parent / "__init__.py").touch()
    return house


def _dedented(text: str) -> str:
    from textwrap import dedent

    return dedent(text).strip() + "\n"


@pytest.fixture
def address(tmp_path: Path):
    """`address({"draw": [("old", "new")]}, other="…")`: of `picture`, after edits and with another module."""
    counter = iter(range(1000))

    def of(edits: dict[str, list[tuple[str, str]]] | None = None, root: str = "house.draw:picture", **new: str) -> str:
        sources = {name: _dedented(text) for name, text in SOURCES.items()}
        for name, pairs in (edits or {}).items():
            for old, other in pairs:
                assert sources[name].count(old) == 1, f"{name} holds {old!r} {sources[name].count(old)} times"
                sources[name] = sources[name].replace(old, other)
        sources |= {name.replace("__", "/"): text for name, text in new.items()}
        return code_address(root, package=build(tmp_path / f"{next(counter)}", sources))

    return of


ADDED = """    if added(steps == 7):
        from house.light import shine

        return shine(steps)"""

SAME = {
    "docstrings and comments": {
        "draw": [
            ("SIZE = 8", '"""A module."""\n\nSIZE = 8  # pixels\n"""Pixels of a side."""'),
            ("def even(n):", 'def even(n):\n    """Whether n is even."""'),
            ("    width = 3", '    """Paints."""\n\n    width = 3\n    """Of its brush."""'),
        ]
    },
    "layout": {"draw": [("return GRID * self.width", "return (\n            GRID  *  self.width\n        )")]},
    "annotations": {
        "draw": [
            ("from functools import cache", "from functools import cache\nfrom typing import TYPE_CHECKING, Any"),
            ("SIZE = 8", "if TYPE_CHECKING:\n    from torch import Tensor\n\nSIZE: int = 8"),
            ("def even(n):", "def even(n: int) -> bool:"),
            ('def picture(colour="red", steps=5):', 'def picture(colour: str = "red", steps: "Any" = 5) -> "Tensor":'),
            ("    values = [", "    values: list[float] = ["),
        ]
    },
    "a type that changes in a field": {"paint": [("first: int", "first: float | None")]},
    "another order of definitions": {
        "draw": [
            ("def even(n):\n    return True if n == 0 else odd(n - 1)\n\n", ""),
            ("def unused():", "def even(n):\n    return True if n == 0 else odd(n - 1)\n\ndef unused():"),
        ]
    },
    "what is not used": {
        "draw": [("def unused():\n    return 1", "def unused():\n    return 2\n\ndef more():\n    return SIZE")],
        "palette": [("UNUSED = 3", "UNUSED = 4")],
    },
    "what came with a setting that was added later": {
        "draw": [
            ("    values = [", f"{ADDED}\n    values = ["),
            ("from functools import cache", "from functools import cache\nfrom house.pipeline.files import added"),
        ],
        "pipeline/files": [("def write", "def added(on):\n    return on\n\ndef write")],
        "light": [("def shade", "def shine(x):\n    return -x\n\ndef shade")],
    },
    "how a module of ours is imported": {
        "draw": [("from house import palette", "import house.palette as palette")],
    },
    "what no result depends on": {
        "pipeline/files": [("print(values)", "print(len(values))")],
        "errors": [("pass", "code = 2")],
    },
    "imports in another order": {
        "draw": [
            ("from house.errors import HouseError\n", ""),
            ("from functools import cache", "from house.errors import HouseError\nfrom functools import cache"),
        ]
    },
}


@pytest.mark.parametrize("edits", SAME.values(), ids=SAME)
def test_what_changes_no_behaviour_leaves_an_address_alone(address, edits) -> None:
    assert address(edits) == address()


def test_moving_and_renaming_leave_an_address_alone(address) -> None:
    before = address()
    circle = "\ndef even(n):\n    return True if n == 0 else odd(n - 1)\n"
    odd = "\ndef odd(n):\n    return False if n == 0 else even(n - 1)\n"
    # A definition moves to a module of its own, half of a circle too.
    first = "from house import palette\n"
    moved = {"draw": [(circle, ""), (first, f"{first}from house.parity import even\n")]}
    assert address(moved, parity=f"from house.draw import odd\n{circle}") == before
    # Both of it; what it leaves behind imports it again.
    both = {"draw": [(circle, ""), (odd, ""), (first, f"{first}from house.rooms.parity import even, odd\n")]}
    assert address(both, rooms__parity=circle + odd) == before
    # A module is renamed, and one split in two of which one hands on.
    renamed = {"draw": [("from house.light import shade", "from house.lamp import shade")]}
    assert address(renamed, lamp=SOURCES["light"], light="") == before
    split = {"paint": [("class Brush:\n    wet = False\n", "from house.brush import Brush\n")]}
    assert address(split, brush="class Brush:\n    wet = False\n") == before
    # Of two imports inside a function one goes elsewhere.
    line = "from house.light import shade"
    pair = {"draw": [(line, f"{line}\n    from house.paint import mix")]}
    one = {"draw": [(line, "from house.paint import mix, shade")]}
    assert address(pair) == address(one, paint=f"{line}\n{_dedented(SOURCES['paint'])}")
    # The module of the root itself.
    assert address({}, root="house.canvas:picture", canvas=SOURCES["draw"]) == before


OTHER = {
    "another way beside an added one": {
        "draw": [
            ("SIZE = 8", "added = bool\nSIZE = 8"),
            ("    values = [", f"{ADDED}\n    else:\n        steps = 3\n    values = ["),
        ],
        "light": [("def shade", "def shine(x):\n    return -x\n\ndef shade")],
    },
    "a constant": {"draw": [("SIZE = 8", "SIZE = 9")]},
    "a constant in another module": {"palette": [("DARK, LIGHT = 1, 2", "DARK, LIGHT = 2, 1")]},
    "a default": {"draw": [("steps=5", "steps=6")]},
    "a default by keyword": {"draw": [("*, steps=2", "*, steps=3")]},
    "an operator": {"draw": [("SIZE // 2", "SIZE / 2")]},
    "a body far away": {"light": [("m.sqrt(x)", "m.sqrt(x) + 1")]},
    "another function of the same name": {"light": [("import math as m", "import cmath as m")]},
    "another library's function of the same name": {"draw": [("numpy import float32", "torch import float32")]},
    "a decorator": {"draw": [("@cache\n", "")]},
    "a base class": {"draw": [("class Painter(Brush)", "class Painter")]},
    "what a base class holds": {"paint": [("wet = False", "wet = True")]},
    "a class attribute": {"draw": [("width = 3", "width = 4")]},
    "the order of fields": {"paint": [("    first: int\n    second: int = 2", "    second: int\n    first: int = 2")]},
    "a field's default": {"paint": [("second: int = 2", "second: int = 3")]},
    "the order of arguments": {"draw": [("Painter(colour, steps=steps)", "Painter(steps, steps=colour)")]},
    "one half of a circle": {"draw": [("return False if n == 0", "return None if n == 0")]},
    "another definition under the same name": {"draw": [("mix as blend", "Mixture as blend")]},
    "a name that was a builtin": {"draw": [("SIZE = 8", "def sum(values):\n    return max(values)\n\nSIZE = 8")]},
    "a statement that changes what others have bound": {"paint": [("class Brush:", "print(1)\n\nclass Brush:")]},
    "a second binding": {"palette": [("UNUSED = 3", "DARK = 5")]},
    "what a module that is imported does": {"palette": [("UNUSED = 3", "import house.errors\nprint(house)")]},
    "a register": {"paint": [("class Brush:", "def keep(f): ...\n\n@keep\ndef other(): ...\n\nclass Brush:")]},
}  # fmt: skip


@pytest.mark.parametrize("edits", OTHER.values(), ids=OTHER)
def test_what_changes_behaviour_moves_an_address(address, edits) -> None:
    assert address(edits) != address()


def test_all_these_addresses_differ(address) -> None:
    """A change is told from another one, not only from none."""
    assert len({address(edits) for edits in OTHER.values()}) == len(OTHER)


def test_another_f_of_the_same_name(address) -> None:
    """Names count by what they are bound to, however they are spelt where they are used."""
    one, other = "def f():\n    return 1\n", "def f():\n    return 2\n"
    use = "from house.{} import f\n\ndef g():\n    return f()\n"
    addresses = [address({}, root="house.use:g", a=one, b=other, use=use.format(name)) for name in ("a", "b")]
    assert addresses[0] != addresses[1]
    assert addresses[0] == address({}, root="house.use:g", a=other, b=one, use=use.format("b"))


def test_a_module_handed_on_counts_whole(address) -> None:
    handed = {"draw": [("palette.DARK", "vars(palette)")]}
    changed = {**handed, "palette": [("UNUSED = 3", "UNUSED = 4")]}
    assert address(handed) != address(changed)


def test_what_is_apart_counts_by_its_name(tmp_path) -> None:
    house = build(tmp_path / "a", SOURCES)
    other = build(tmp_path / "b", {**SOURCES, "light": SOURCES["light"].replace("m.sqrt(x)", "m.sqrt(2 * x)")})
    apart = ["house.light:shade"]
    found = [code_address("house.draw:picture", apart=apart, package=package) for package in (house, other)]
    assert found[0] == found[1] != code_address("house.draw:picture", package=house)


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ({"draw": [("sum(values)", "total(values)")]}, r"house\.draw: 'total' of 'picture' cannot be followed"),
        ({"draw": [("sum(values)", "len(__file__)")]}, r"'__file__' of 'picture' cannot be followed"),
        ({"draw": [("import shade", "import shine as shade")]}, r"no such definition"),
        ({"draw": [("from house.light import", "from .light import")]}, r"import by full names"),
        ({"palette": [("DARK, LIGHT = 1, 2", "from house.light import *")]}, r"import by full names"),
    ],
)
def test_what_cannot_be_followed_is_named(address, edits, said) -> None:
    with pytest.raises(LeanmotionError, match=said):
        address(edits)


def test_a_root_that_is_not_there(address) -> None:
    for root in ("house.draw:nothing", "house.nothing:picture", "house.draw:cache"):
        with pytest.raises(LeanmotionError, match=f"{root}: no such definition"):
            address(root=root)


ALL = {
    **definitions(*DRAWING),
    **definitions(*TRAINING),
    **definitions(*EMBEDDING),
    **definitions(*TRIAL, apart=APART),
    **definitions(encode_clips),
}
"""All that any address covers."""


def reached(*roots) -> set[Path]:
    """Files of the modules that roots reach."""
    source = PackageSource(PACKAGE)
    files = {source._file(definition.module) for definition in definitions(*roots)}
    assert None not in files
    return {file for file in files if file is not None}


NOT_DRAWING = {
    "model/compiling.py": "under `torch_compile` its code is in the address (model/sampling_address.py)",
    "model/judged_sampling.py": "how an export was judged; students are drawn by the settings",
    "model/motion_norm.py": "under `frame` it is in the digest that stands for the teacher (model/teacher.py)",
    "model/pruned_pipeline.py": "the pipeline that users load; students are drawn with the stock one",
    "model/requests.py": "requests are in the address themselves; Variant, which is reached, stands there too",
    "model/sampling_address.py": "the settings of sampling as addresses have them",
    "model/student.py": "finds and verifies a student's folder; its weights and removed units are in the address",
    "model/whole_saving.py": "what diffusers' own saving writes; no student is saved so",
    "videos/listing.py": "says what was drawn, to the terminal",
    "videos/rendering.py": "asks for chunks, waits, and puts them in order",
    "videos/store.py": "keeps and finds chunks by their addresses",
}
"""Modules that `stages/generate.py` imports and drawing does not reach, each with the reason why that is right."""


def test_drawing_is_derived_and_nothing_is_missing() -> None:
    """Edits of units, weights, motion_state, variants and memory brought old frames back while the list was by hand."""
    found = {path.relative_to(PACKAGE).as_posix() for path in reached(*DRAWING)}
    names = ("units", "weights", "motion_state", "original_format", "pruned_adapter", "removal", "teacher", "variants",
             "samplers", "memory", "sampler")  # fmt: skip
    assert {*(f"model/{name}.py" for name in names), "videos/codec.py"} <= found
    imported = {path.relative_to(PACKAGE).as_posix() for path in closure(ROOT / "stages/generate.py")}
    assert imported - found == set(NOT_DRAWING) - {"model/requests.py"}


def test_our_own_room_renamed_and_written_otherwise_draws_nothing_anew(tmp_path) -> None:
    """The real package without its comments and layout, and with `model` under another name."""
    for path in PACKAGE.rglob("*.py"):
        copy = tmp_path / "leanmotion" / path.relative_to(PACKAGE).as_posix().replace("model/", "network/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        text = ast.unparse(ast.parse(path.read_text(encoding="utf-8")))
        copy.write_text(text.replace("leanmotion.model", "leanmotion.network"), encoding="utf-8")
    roots = ("leanmotion.network.samplers:Samplers", "leanmotion.videos.codec:encode")
    assert code_address(*roots, package=tmp_path / "leanmotion") == code_address(*DRAWING)


def test_training_reaches_all_of_its_room_but_what_keeps_rounds() -> None:
    """A round's address and a chunk's have the same reach into the model as what they do needs."""
    found = reached(*TRAINING)
    room = {path for path in modules() if path.parent == PACKAGE / "distillation"}
    assert room - found == {PACKAGE / "distillation/kept_rounds.py"}
    names = {definition.name for definition in definitions(*TRAINING)}
    assert {"distil", "comparison", "drawn_distance", "save_pruned", "make_scheduler", "CheckpointStore"} <= names
    assert not names & {"run_round", "KeptRounds", "Sampler"}, "storing and drawing retrain nothing"


def test_nothing_that_decides_a_result_is_looked_up_by_a_string() -> None:
    """Names in strings are not followed: no module or definition of ours is asked for by one."""
    builtin = {"eval", "exec", "globals", "locals", "vars", "__import__"}
    method = {"import_module", "find_spec", "__subclasses__", "register"}
    source = PackageSource(PACKAGE)
    for definition, text in ALL.items():
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Call):
                continue
            called = getattr(node.func, "id", "")
            asked = getattr(node.func, "attr", called)
            assert called not in builtin and asked not in method, f"{definition}: {ast.unparse(node)}"
            if called in {"getattr", "setattr"} and isinstance(node.args[0], ast.Name):
                owner = source.lookup(definition.module, node.args[0].id)
                assert not isinstance(owner, Definition), f"{definition}: {ast.unparse(node)}"


def test_definitions_suffice_nowhere_whole_modules_are_needed() -> None:
    """No module handed on as a whole, none whose top does more than bind names: an edit moves what it touches alone."""
    assert not [definition for definition in ALL if definition.name in {WHOLE, STATEMENTS}]


def test_no_module_of_ours_is_named() -> None:
    """Not in a string either, such as that of a root: a trial would be another one where a module has moved."""
    assert not [this for this, text in ALL.items() if any(f"leanmotion.{room}" in text for room in ARROWS)]
    assert set(definitions(*DRAWING)) <= set(definitions(*TRIAL, apart=APART))


DECORATORS = {
    "cache", "cached_property", "classmethod", "contextmanager", "dataclass", "lru_cache", "property",
    "runtime_checkable", "torch.inference_mode", "torch.no_grad",
}  # fmt: skip


def test_annotations_that_do_something_are_known() -> None:
    """Those of functions are dropped: none of these decorators reads them, nor registers what it decorates."""
    found = set()
    for text in ALL.values():
        for node in ast.walk(ast.parse(text)):
            for decorator in getattr(node, "decorator_list", []):
                found.add(ast.unparse(decorator.func if isinstance(decorator, ast.Call) else decorator))
    assert found <= DECORATORS
