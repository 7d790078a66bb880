"""Prompt tables: prefixes, balance, seeds, and files that people write."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CAPTIONS, NONE

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.settings import Clips, Prompts, load_settings
from leanmotion.prompts.splits import SPLITS, load_prompts, prompt_rows, training_rows
from leanmotion.sprites.world import held_out_captions, training_captions

ROOT = Path(__file__).parents[2]


def prompts(count: int = 8, **changes) -> Prompts:
    counts = {"rank": count, "select": count, "report": count, "confirm": 4}
    return Prompts.model_validate({"source": CAPTIONS, "confirm_source": CAPTIONS, **counts} | changes)


EVERY = [*SPLITS, *prompts().confirm_splits]


def clips(count: int, seed: int = 0) -> Clips:
    return Clips(source="teacher", count=max(count, 1), seed=seed, path=NONE, captions=NONE)


@settings(max_examples=25, deadline=None)
@given(st.integers(4, 60), st.integers(0, 60), st.sampled_from(EVERY), st.integers(0, 2**32 - 1))
def test_a_larger_count_keeps_all_earlier_rows(count: int, more: int, split: str, seed: int) -> None:
    rows = prompt_rows(prompts(count, seed=seed), split)
    assert len(rows) == count and [row["index"] for row in rows] == list(range(count))
    assert prompt_rows(prompts(count + more, seed=seed), split)[:count] == rows
    sequence = training_rows(prompts(), clips(count, seed))
    assert training_rows(prompts(), clips(count + more, seed))[:count] == sequence


@pytest.mark.parametrize("count", [5, 24, 50, 72])
def test_every_prompt_comes_equally_often_but_for_one(count: int) -> None:
    for split in EVERY:
        times = Counter(row["prompt"] for row in prompt_rows(prompts(count), split))
        assert max(times.values()) - min(times.get(caption, 0) for caption in held_out_captions()) <= 1


def test_seeds_are_all_different_and_32_bit() -> None:
    rows = [row for split in EVERY for row in prompt_rows(prompts(500), split)]
    seeds = [row[name] for row in rows for name in ("seed_a", "seed_b")]
    # 7,000 draws from 2^32 collide with probability 0.6%; the numbers are fixed, so that this cannot flicker.
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**32 for seed in seeds)


def test_the_seed_changes_order_and_noise_alone() -> None:
    one, other = (prompt_rows(prompts(len(held_out_captions()), seed=seed), "rank") for seed in (0, 1))
    assert [row["prompt"] for row in one] != [row["prompt"] for row in other]
    assert sorted(row["prompt"] for row in one) == sorted(row["prompt"] for row in other)
    assert not {row["seed_a"] for row in one} & {row["seed_a"] for row in other}


def test_splits_differ_and_do_not_hang_on_each_other() -> None:
    a = prompt_rows(prompts(24), "rank")
    assert [r["prompt"] for r in a] != [r["prompt"] for r in prompt_rows(prompts(24), "select")]
    assert prompt_rows(prompts(24, select=5, report=90), "rank") == a


def test_training_prompts_are_never_evaluated() -> None:
    """Nor are their seeds: a student is not to have seen what it is judged on."""
    trained = training_rows(prompts(), clips(300))
    said = {row["prompt"] for row in trained}
    assert said == set(training_captions()) and not said & set(held_out_captions())
    judged = {row[name] for split in EVERY for row in prompt_rows(prompts(72), split) for name in ("seed_a", "seed_b")}
    assert not judged & {row[name] for row in trained for name in ("seed_a", "seed_b")}


def test_the_sets_that_confirm_change_no_other_table_and_each_its_own_alone() -> None:
    """So that what is drawn of the splits keeps its address whatever confirms, and of a set whatever the others are."""
    few, many = (prompts(8, confirm=confirm, confirm_source=source) for confirm, source in ((2, CAPTIONS), (4, "none")))
    for split in SPLITS:
        assert prompt_rows(few, split) == prompt_rows(many, split)
    assert few.confirm_splits == many.confirm_splits[:2] == ["confirm/1", "confirm/2"]
    one, two = (prompt_rows(few, split) for split in few.confirm_splits)
    assert one == prompt_rows(prompts(8, rank=4, report=9), "confirm/1")
    assert [row["prompt"] for row in one] != [row["prompt"] for row in two]


# Seeds of the first clips, before there were sets that confirm.
BEFORE = {
    "rank": (2043371592, 1604203068), "select": (728999652, 690814472), "report": (188557773, 2232722784),
}  # fmt: skip


def test_the_splits_are_those_of_before() -> None:
    found = {split: prompt_rows(prompts(48), split)[0] for split in SPLITS}
    assert {split: (row["seed_a"], row["seed_b"]) for split, row in found.items()} == BEFORE


PRESETS = sorted(f"presets/{path.name}" for path in (ROOT / "presets").glob("*.yaml"))


@pytest.mark.parametrize("name", ["params.yaml", *PRESETS])
def test_no_other_table_has_a_seed_or_a_prompt_that_confirms(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the embedded world the captions are all that there are, and the seeds new."""
    monkeypatch.chdir(ROOT)
    chosen = load_settings(name)
    others = [row for split in SPLITS for row in prompt_rows(chosen.prompts, split)]
    others += training_rows(chosen.prompts, chosen.clips)
    ours = [row for split in chosen.prompts.confirm_splits for row in prompt_rows(chosen.prompts, split)]
    assert len(ours) == chosen.prompts.confirm * chosen.prompts.select
    seeds = [row[name] for row in ours for name in ("seed_a", "seed_b")]
    assert len(set(seeds)) == len(seeds)
    assert not set(seeds) & {row[name] for row in others for name in ("seed_a", "seed_b")}
    if chosen.prompts.source != chosen.prompts.confirm_source:
        assert not {row["prompt"] for row in ours} & {row["prompt"] for row in others}


def test_a_text_file(tmp_path) -> None:
    lines = [
        "# a comment", "", "  a dog, running  ", 'she said "hi"', "it's <b>5</b> & more", "a fire 🔥 at night, café",
        "x" * 10_000, "   ", "a dog, running", "tab\there", "two\u2028in one\x0cline",
    ]  # fmt: skip
    (tmp_path / "p.txt").write_text("\n".join(lines), encoding="utf-8")
    read = load_prompts(str(tmp_path / "p.txt"))
    assert read == [*(line.strip() for line in lines[2:7]), "tab\there", "two\u2028in one\x0cline"]
    rows = prompt_rows(prompts(14, source=str(tmp_path / "p.txt"), negative="ugly, 'bad'"), "rank")
    assert Counter(row["prompt"] for row in rows) == dict.fromkeys(read, 2)
    assert {row["negative"] for row in rows} == {"ugly, 'bad'"}


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfa dog\r\na cat\r\n", b"\xef\xbb\xbf# said\na dog\na cat"])
def test_a_text_file_from_windows(tmp_path, content: bytes) -> None:
    (tmp_path / "p.txt").write_bytes(content)
    assert load_prompts(str(tmp_path / "p.txt")) == ["a dog", "a cat"]


@pytest.mark.parametrize("content", [b"", b"\n \n\t\n", b"# only\n# comments"])
def test_a_file_without_prompts(tmp_path, content: bytes) -> None:
    (tmp_path / "p.txt").write_bytes(content)
    with pytest.raises(LeanmotionError, match=r"prompts\.source: .*p\.txt holds no prompts: write one a line"):
        load_prompts(str(tmp_path / "p.txt"))


def test_lines_with_nothing_to_see_are_no_prompts(tmp_path) -> None:
    (tmp_path / "p.txt").write_text("\u200b\n\u00a0 \na\u200dcat\n", encoding="utf-8")
    assert load_prompts(str(tmp_path / "p.txt")) == ["a\u200dcat"]


def test_a_built_in_is_known_by_its_first_line(tmp_path) -> None:
    (tmp_path / "copy").write_bytes(Path(CAPTIONS).read_bytes())
    assert load_prompts(str(tmp_path / "copy")) == load_prompts(CAPTIONS) == held_out_captions()
    with pytest.raises(
        LeanmotionError, match=r"prompts\.source: .*none is the built-in 'none': name builtin/sprites-cap"
    ):
        load_prompts(NONE)
    with pytest.raises(LeanmotionError, match=r"prompts\.source: sprites is missing: .* or builtin/sprites-captions"):
        load_prompts("sprites")


def test_files_that_are_no_text(tmp_path) -> None:
    (tmp_path / "p.txt").write_bytes("naïve".encode("latin-1"))
    for source, match in (
        ("p.txt", "not a UTF-8 text file"), ("q.txt", "missing: name a text file"), (".", "not a UTF-8 text file"),
    ):  # fmt: skip
        with pytest.raises(LeanmotionError, match=rf"prompts\.source: .*{match}"):
            load_prompts(str(tmp_path / source))
    with pytest.raises(LeanmotionError, match=r"^prompts\.confirm_source: q\.txt is missing"):
        prompt_rows(prompts(confirm_source="q.txt"), "confirm/1")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a cat\na dog\n".encode("utf-16-le"), "NULs"),
        (b"prompt\na cat\n", "a table or JSON"),
        (b'id,prompt\n1,"a cat, big"\n', "a table or JSON"),
        (b'["a cat", "a dog"]\n', "a table or JSON"),
        (b'{"prompt": "a cat"}\n{"prompt": "a dog"}\n', "a table or JSON"),
        (b'[{"prompt": "a cat"}]\n', "a table or JSON"),
        (b"prompt,seed\na cat,3\n", "a table or JSON"),
        (b"id,description\n1,a cat\n", "a table or JSON"),
        (b'[\n  "a cat",\n  "a dog"\n]\n', "as a program writes it"),
        (b'{\n  "prompts": ["a cat"]\n}\n', "as a program writes it"),
        (b"['a cat', 'a dog']\n", "as a program writes it"),
        (b"# mine\n['a cat',\n 'a dog']\n", "as a program writes it"),
        (b"- a cat\n- a dog\n", "a dash or quotes around every line"),
        (b'"a cat",\n"a dog"\n', "a dash or quotes around every line"),
        (b"a cat\na\x1b[31m dog\n", r"U\+001B"),
        ("caf\ufffd\n".encode(), "wrong encoding before"),
        (b"<html>Not found</html>\n", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a Git LFS pointer"),
        (b"PAR1rest", "a Parquet table"),
    ],
)
def test_what_is_no_list_of_prompts(content: bytes, said: str, tmp_path: Path) -> None:
    """Its heading, quotes and brackets would be drawn as prompts."""
    (tmp_path / "prompts.txt").write_bytes(content)
    with pytest.raises(LeanmotionError, match=said) as caught:
        load_prompts(str(tmp_path / "prompts.txt"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "prompt",
    [
        '"a cat", said the dog',
        "a caption, in red",
        "text, everywhere",
        "[a cat:1.2]",
        "{a cat|a dog}",
        "- a cat",
        "'a cat'",
    ],
)
def test_prompts_that_look_like_something_else_are_prompts(prompt: str, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text(f"{prompt}\na dog\n")
    assert load_prompts(str(tmp_path / "prompts.txt")) == [prompt, "a dog"]
