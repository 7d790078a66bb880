"""Published checkpoints as people hold them: folders, single files, the hub's cache; what is read and refused."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from committed import SETTINGS, default_params, embedded_project
from diffusers import MotionAdapter, StableDiffusionPipeline, UNet2DConditionModel
from huggingface_hub import constants
from models import TEXT_WIDTH, TOPOLOGIES, seeded
from published import published
from safetensors.torch import save_file
from tiny import tiny_settings

from leanmotion.commands.estimate import clips_to_draw
from leanmotion.cost.inspection import check_adapter, inspect_teacher
from leanmotion.errors import LeanmotionError
from leanmotion.model.original_format import load_adapter, original_state
from leanmotion.model.requests import Request
from leanmotion.model.sampler import Sampler, make_scheduler
from leanmotion.model.samplers import Samplers
from leanmotion.model.teacher import TeacherRecord, fingerprint, load_pipeline, verify, weight_files
from leanmotion.model.units import block_ids
from leanmotion.pipeline.settings import Sampling, Settings, Teacher, load_settings
from leanmotion.pipeline.watched_paths import read_pin, watched
from leanmotion.prompts.splits import load_prompts

ROOT = Path(__file__).parents[2]
PRESETS = {path.stem: path for path in sorted((ROOT / "presets").glob("*.yaml"))}
WIDTHS = (32, 32, 64, 64)
"""Small, and fit for what files do not tell and loaders assume: 8 heads, 32 norm groups."""

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LCM_CONFIG = {
    "_class_name": "MotionAdapter", "_diffusers_version": "0.27.0.dev0", "block_out_channels": list(WIDTHS),
    "conv_in_channels": None, "motion_layers_per_block": 2, "motion_max_seq_length": 32,
    "motion_mid_block_layers_per_block": 1, "motion_norm_num_groups": 32, "motion_num_attention_heads": 8,
    "use_motion_mid_block": True,
}  # fmt: skip
"""As published, but for the widths; the v2 and v3 repositories' lack `motion_max_seq_length`."""


@pytest.fixture(scope="module")
def base(teacher_folder, tmp_path_factory) -> Path:
    """The tiny base pipeline's folder, with a UNet of these widths."""
    topology = {**TOPOLOGIES[4], "block_out_channels": WIDTHS}
    unet = seeded(
        0,
        lambda: UNet2DConditionModel(
            sample_size=8, layers_per_block=2, norm_num_groups=32, cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=8, **topology,
        ),
    )  # fmt: skip
    pipeline = StableDiffusionPipeline.from_pretrained(teacher_folder().base, unet=unet, safety_checker=None)
    folder = tmp_path_factory.mktemp("base")
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter() -> MotionAdapter:
    """A v2 adapter, 21 blocks."""
    config = {key: value for key, value in LCM_CONFIG.items() if not key.startswith("_")}
    return seeded(1, lambda: MotionAdapter(**config)).eval()  # pyright: ignore


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """`hub(name, files)`: a repository in a hub cache of its own, offline; files as path -> what writes it."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def put(name: str, files: dict[str, Any]) -> Path:
        repository = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs/main").write_text(COMMIT)
        for path, write in files.items():
            target = repository / "snapshots" / COMMIT / path
            target.parent.mkdir(parents=True, exist_ok=True)
            write(target)
        return repository / "snapshots" / COMMIT

    return put


def settings(base: Any, adapter: Any, **more: Any) -> Teacher:
    return Teacher(base=str(base), adapter=str(adapter), **more)


def pinned(folder: Path, hub: str, revision: str | None = None) -> Path:
    """A pin of a model of the hub."""
    path = folder / f"{hub.replace('/', '-')}-{revision}.yaml"
    path.write_text(yaml.safe_dump({"hub": hub, "revision": revision}))
    return path


def drawn(teacher: Teacher, **sampling: Any) -> np.ndarray:
    values: dict[str, Any] = {"frames": 2, "height": 32, "width": 32, "steps": 2, "guidance": 1.0, "chunk": 1}
    chosen = Sampling.model_validate(values | {"threads": 1} | sampling)
    return Sampler(load_pipeline(teacher), chosen)([Request("a dog", "", 1)])


# preset: middle block, length of the positional encoding in the original file, of the adapter once loaded
FILES = {
    "animatediff-v1-4": (False, 24, 24),
    "animatediff-v1-5-2": (True, 32, 32),
    "animatediff-v3": (False, 32, 32),
    "animatelcm": (True, None, 64),
}


@pytest.mark.numeric
@pytest.mark.parametrize("name", FILES)
def test_original_single_files_make_a_teacher(base, tmp_path, name: str) -> None:
    """`mm_sd_v14.ckpt` and its like: the blocks are the preset's, the longest clip is the file's, clips come out."""
    mid, length, longest = FILES[name]
    file = tmp_path / "mm.ckpt"
    torch.save(published(mid=mid, length=length, widths=WIDTHS), file)
    teacher = settings(base, file)
    unet = load_pipeline(teacher).unet
    if name in PRESETS:
        assert block_ids(unet) == load_settings(PRESETS[name]).teacher.blocks
    assert len(block_ids(unet)) == (21 if mid else 20)
    assert unet.config["motion_max_seq_length"] == longest
    assert [key for key in weight_files(teacher) if key.startswith("adapter/")] == ["adapter/mm.ckpt"]


@pytest.mark.numeric
def test_one_file_of_a_hub_id(base, adapter, hub, monkeypatch) -> None:
    """AnimateDiff-Lightning: diffusers keys in half precision, one file for each number of steps, no config."""
    state = {key: value.half().contiguous() for key, value in adapter.state_dict().items()}
    name = "animatediff_lightning_4step_diffusers.safetensors"
    snapshot = hub("ByteDance/AnimateDiff-Lightning", {name: lambda path: save_file(state, path)})
    preset = load_settings(PRESETS["animatediff-lightning-4step"])
    monkeypatch.chdir(ROOT)
    teacher = settings(base, preset.teacher.adapter)
    assert weight_files(teacher)[f"adapter/{name}"] == snapshot / name
    pipeline = load_pipeline(teacher)
    assert block_ids(pipeline.unet) == preset.teacher.blocks
    assert pipeline.unet.config["motion_max_seq_length"] == 32
    key = "mid_block.motion_modules.0.proj_in.weight"
    assert torch.equal(pipeline.unet.state_dict()[key], state[key].float())
    scheduler = make_scheduler(pipeline.scheduler, preset.sampling.scheduler)
    assert (scheduler.config.timestep_spacing, scheduler.config.beta_schedule) == ("trailing", "linear")
    scheduler.set_timesteps(preset.sampling.steps)
    assert scheduler.timesteps.tolist() == [999, 749, 499, 249], "those that the four-step file was trained on"
    assert drawn(teacher, scheduler="euler", steps=4).std() > 1


@pytest.mark.numeric
def test_a_hub_id_in_diffusers_format(base, adapter, hub, tmp_path, monkeypatch) -> None:
    """AnimateLCM: config and weights at the top, beside fp16 copies, the original file and a LoRA that nobody reads."""
    state = {key: value.contiguous() for key, value in adapter.state_dict().items()}
    snapshot = hub(
        "wangfuyun/AnimateLCM",
        {
            "config.json": lambda path: path.write_text(json.dumps(LCM_CONFIG)),
            "diffusion_pytorch_model.safetensors": lambda path: save_file(state, path),
            "diffusion_pytorch_model.fp16.safetensors": lambda path: path.write_bytes(b"not read"),
            "AnimateLCM_sd15_t2v.ckpt": lambda path: path.write_bytes(b"not read"),
        },
    )
    preset = load_settings(PRESETS["animatelcm"])
    monkeypatch.chdir(ROOT)
    teacher = settings(base, preset.teacher.adapter)
    files = {key: path for key, path in weight_files(teacher).items() if key.startswith("adapter/")}
    assert set(files) == {"adapter/config.json", "adapter/diffusion_pytorch_model.safetensors"}
    assert block_ids(load_pipeline(teacher).unet) == preset.teacher.blocks
    # The original file of the same weights has no positional encoding; its users take 64 frames as the most, the
    # published config says 32. The encodings of the first 32 frames are the same.
    original = {k: v for k, v in original_state(adapter).items() if not k.endswith("pos_encoder.pe")}
    torch.save(original, tmp_path / "AnimateLCM_sd15_t2v.ckpt")
    longer = load_adapter(tmp_path / "AnimateLCM_sd15_t2v.ckpt")
    assert longer.config["motion_max_seq_length"] == 64
    assert np.array_equal(
        drawn(teacher, scheduler="lcm", guidance=2.0),
        drawn(settings(base, tmp_path / "AnimateLCM_sd15_t2v.ckpt"), scheduler="lcm", guidance=2.0),
    )
    # A commit names the same place; another one is not there.
    at = [pinned(tmp_path, "wangfuyun/AnimateLCM", commit) for commit in (COMMIT, COMMIT[::-1])]
    assert weight_files(settings(base, at[0])) == weight_files(teacher)
    assert snapshot in files["adapter/config.json"].parents
    with pytest.raises(LeanmotionError, match=rf"AnimateLCM at {COMMIT[::-1]} .*HF_HUB_OFFLINE is set"):
        weight_files(settings(base, at[1]))


def test_a_base_from_the_hub_and_the_record_of_its_commit(base, adapter, hub, tmp_path, teacher_folder) -> None:
    folder = teacher_folder(levels=2, layers=1)
    names = [path.relative_to(folder.base) for path in folder.base.rglob("*") if path.is_file()]
    files = {str(n): lambda path, n=n: shutil.copyfile(folder.base / n, path) for n in names}
    snapshot = hub("someone/base", files)
    # What a cache may hold beside: another variant, a checkpoint of the whole, the safety checker.
    for extra in (
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "v1-5-pruned.ckpt",
        "safety_checker/model.safetensors",
    ):
        (snapshot / extra).parent.mkdir(exist_ok=True)
        (snapshot / extra).write_bytes(b"not read")
    pin = pinned(tmp_path, "someone/base")
    from_hub = settings(pin, folder.adapter)
    from_folder = settings(folder.base, folder.adapter)
    assert fingerprint(from_hub) == fingerprint(from_folder)
    assert fingerprint(from_folder)[1].keys() >= {"base/model_index.json", "base/unet/config.json"}
    both = SimpleNamespace(base=pin, adapter=folder.adapter)
    record, _ = inspect_teacher(tiny_settings(both))
    assert record.revisions == {"base": COMMIT}
    record.write(tmp_path / "teacher.json")
    assert TeacherRecord.read(tmp_path / "teacher.json") == record
    assert inspect_teacher(tiny_settings(folder))[0].revisions == {}
    # Another newest commit on the hub: nothing in the project has changed, but other weights are refused.
    (snapshot / "unet/config.json").unlink()
    shutil.copyfile(folder.base / "model_index.json", snapshot / "unet/config.json")
    with pytest.raises(LeanmotionError, match=rf"base/unet/config\.json .*name the commit .* `revision` in {pin}"):
        verify(from_hub, record)


def test_another_dtype_than_the_records_is_refused(teacher_folder) -> None:
    """It decides every frame: what was drawn under another is not to stand for it."""
    folder = teacher_folder(levels=2, layers=1)
    whole = tiny_settings(folder)
    half = whole.model_copy(update={"teacher": whole.teacher.model_copy(update={"dtype": "bfloat16"})})
    record, _ = inspect_teacher(whole)
    assert record.dtype == "float32" and Samplers(whole, record).teacher().dtype == "float32"
    with pytest.raises(
        LeanmotionError, match=r"teacher\.dtype is bfloat16, data/teacher\.json records float32: `dvc rep"
    ):
        Samplers(half, record)
    assert inspect_teacher(half)[0].dtype == "bfloat16"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hub: owner/name\nrevision: main\n", "revision is 'main'"),
        ("hub: owner/name\nrevison: null\n", "revison: unknown setting (did you mean 'revision'?)"),
        ("hub: name\n", "hub is 'name'"),
        ("hub: https://huggingface.co/owner/name\n", "hub is 'https"),
        ("revision: null\n", "hub: missing"),
        ("owner/name\n", "pins nothing: write `hub: owner/name`"),
        ("hub: [", "is not YAML"),
    ],
)
def test_a_pin_that_is_none_is_one_line(tmp_path, teacher_folder, text: str, said: str) -> None:
    pin = tmp_path / "pin.yaml"
    pin.write_text(text)
    with pytest.raises(LeanmotionError, match=rf"teacher\.base: {pin}.*{re.escape(said)}") as caught:
        weight_files(settings(pin, teacher_folder(levels=2, layers=1).adapter))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("role", ["adapter", "base"])
def test_a_model_that_is_not_to_be_had_is_one_line(hub, tmp_path, teacher_folder, role: str) -> None:
    folder = teacher_folder(levels=2, layers=1)
    pin = pinned(tmp_path, "someone/model" if role == "base" else "someone/model/some.safetensors")
    teacher = settings(*(pin if role == part else getattr(folder, part) for part in ("base", "adapter")))
    with pytest.raises(
        LeanmotionError, match=rf"teacher\.{role}: someone/model.*HF_HUB_OFFLINE is set, and the hub's ca"
    ):
        weight_files(teacher)


@pytest.mark.parametrize(
    ("role", "name", "said"),
    [
        ("adapter", "guoyww/animatediff-motion-adapter-v1-5-2", "is missing: restore it"),
        ("adapter", "mm_sd_v15_v2.ckpt", "is missing: restore it"),
        ("adapter", "weights/mm_sd_v15_v2.ckpt", "is missing: restore it"),
        ("adapter", "tests/models/mm_sd_v15_v2.ckpt", "is missing: restore it"),
        ("base", "./some/base", "is missing: restore it"),
        ("base", "/some/base", "is missing: restore it"),
        ("base", "data/teacher/bsae", "is missing: restore it"),
    ],
)
def test_what_is_not_to_be_had_is_one_line(hub, teacher_folder, monkeypatch, role: str, name: str, said: str) -> None:
    monkeypatch.chdir(ROOT)
    folder = teacher_folder(levels=2, layers=1)
    teacher = settings(*(name if role == part else getattr(folder, part) for part in ("base", "adapter")))
    with pytest.raises(LeanmotionError, match=rf"teacher\.{role}: {re.escape(name)}.*{re.escape(said)}") as caught:
        weight_files(teacher)
    assert "\n" not in str(caught.value)


def test_a_base_that_is_no_pipeline(tmp_path, teacher_folder) -> None:
    (tmp_path / "base").mkdir()
    with pytest.raises(LeanmotionError, match=r"no readable model_index\.json: give a diffusers pipeline's folder"):
        weight_files(settings(tmp_path / "base", teacher_folder(levels=2, layers=1).adapter))


# The presets.


@pytest.fixture(params=PRESETS, scope="module")
def preset(request) -> tuple[Path, Settings]:
    return PRESETS[request.param], load_settings(PRESETS[request.param])


def named(model: Any) -> Any:
    """Every setting that there is, as a tree of names; what stands under names of one's own is left out."""
    fields = getattr(model, "model_fields", None)
    return None if fields is None else {name: named(field.annotation) for name, field in fields.items()}


def written(path: Path) -> Any:
    """The settings that a file writes out, likewise."""

    def names(tree: Any) -> Any:
        return {k: None if k in free else names(v) for k, v in tree.items()} if isinstance(tree, dict) else None

    free = {"rounds", "sets"}
    return names(yaml.safe_load(path.read_text(encoding="utf-8")))


def test_the_default_is_complete() -> None:
    """Every setting is written out, none is left to a default that may move; nor among the tests' own."""
    assert written(default_params()) == written(SETTINGS) == named(Settings)


def test_presets_are_complete(preset) -> None:
    path, chosen = preset
    assert written(path) == named(Settings)
    assert chosen.extractor.name == "i3d" and chosen.prompts.rank >= (32 if path.stem.endswith("evening") else 256)
    assert len(load_prompts(chosen.prompts.source)) >= 256
    assert all((ROOT / place).exists() for name, place, _ in watched(chosen) if name != "extractor.path")
    last = list(chosen.rounds.values())[-1]
    assert last.count == (14 if path.stem.endswith("evening") else len(chosen.teacher.blocks))


def test_presets_say_what_they_cost(preset) -> None:
    """The figures in the comment, from the MACs of a UNet call (8,874 G, counted in test_cost.py)."""
    path, chosen = preset
    if path.stem.endswith("evening"):
        pytest.skip("counted in tests/commands/test_counted.py")
    text = path.read_text()
    calls = chosen.sampling.steps * (2 if chosen.sampling.guidance > 1 else 1)
    clip = 2 * 8874e9 * calls
    clips = sum(clips_to_draw(chosen).values())
    d = chosen.distillation
    steps = sum(r.count < len(chosen.teacher.blocks) for r in chosen.rounds.values()) * d.steps * d.batch
    drawing, training = clips * clip, steps * 4 * 2 * 8874e9
    said = re.search(
        r"[Aa] clip is (\d+) UNet calls: ([\d.]+) PFLOP.*?about ([\d,]+) clips \(([\d.]+) EFLOP:\n# ([\d.]+) hours"
        r".*?trains ([\d,]+) clip steps \(([\d.]+) EFLOP: ([\d.]+) hours",
        text,
        re.DOTALL,
    )
    assert said is not None
    values = [float(value.replace(",", "")) for value in said.groups()]
    hours = [work / 200e12 / 3600 for work in (drawing, training)]
    computed = [calls, clip / 1e15, clips, drawing / 1e18, hours[0], steps, training / 1e18, hours[1]]
    assert values == pytest.approx(computed, rel=0.05), "rounded to two digits"


def test_the_hub_ids_of_the_presets() -> None:
    pins = {name: read_pin(ROOT / load_settings(path).teacher.adapter, "adapter") for name, path in PRESETS.items()}
    named = {name: pin and pin.hub for name, pin in pins.items()}
    lightning = "ByteDance/AnimateDiff-Lightning/animatediff_lightning_4step_diffusers.safetensors"
    assert named == {
        "animatediff-v1-5-2": "guoyww/animatediff-motion-adapter-v1-5-2",
        "animatediff-v1-5-2-evening": "guoyww/animatediff-motion-adapter-v1-5-2",
        "animatediff-v3": "guoyww/animatediff-motion-adapter-v1-5-3",
        "animatelcm": "wangfuyun/AnimateLCM",
        "animatediff-lightning-4step": lightning,
    }


def test_the_default_pins_the_weights_that_are_committed(tmp_path, monkeypatch) -> None:
    """And lists all their blocks."""
    default = load_settings(default_params())
    monkeypatch.chdir(embedded_project(tmp_path))
    pinned = load_settings()
    if (default.teacher.base, default.teacher.adapter) != (pinned.teacher.base, pinned.teacher.adapter):
        pytest.skip("params.yaml as committed is of another teacher than the embedded one")
    assert default.teacher.sha256 == pinned.teacher.sha256 and default.extractor.sha256 == pinned.extractor.sha256
    assert check_adapter(default) == len(default.teacher.blocks)


def test_one_line_names_the_unknown_and_the_missing_blocks(embedded: Path) -> None:
    settings = load_settings(embedded / "params.yaml")
    local = {"adapter": str(embedded / settings.teacher.adapter), "base": str(embedded / settings.teacher.base)}

    def listing(blocks: list[str]) -> Settings:
        teacher = settings.teacher.model_copy(update={**local, "blocks": blocks})
        return settings.model_copy(update={"teacher": teacher})

    present = settings.teacher.blocks
    assert check_adapter(listing(present)) == len(present)
    with pytest.raises(LeanmotionError) as caught:
        check_adapter(listing(["up_3_3" if block == "up_3_2" else block for block in present]))
    assert "has no up_3_3 (did you mean 'up_3_2'?) and has up_3_2 too: list all its blocks" in str(caught.value)
    with pytest.raises(LeanmotionError, match="the model has down_0_0 too: list all"):
        check_adapter(listing(present[1:]))
