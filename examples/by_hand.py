"""The method by hand: which motion blocks of AnimateDiff are redundant, and a lighter model.

`python examples/by_hand.py`: about a minute on two CPU cores, offline. `dvc repro` does this to all
blocks, in rounds, with more clips and intervals. FVD is in the features of the embedded extractor.
"""

from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from leanmotion import CaptionEncoder, DistillationSettings, Drawing, Request, Sampler, Sampling
from leanmotion import Teacher, distil, encode_clips, frechet_distance, judged_sampling, list_units
from leanmotion import load_extractor, load_pipeline, load_pruned_pipeline, measure_similarity
from leanmotion import rank_blocks, remove_units, save_pruned, similarity_ranges, without_units

data = Path(__file__).parents[1] / "data"

# The teacher is a Stable Diffusion base and a motion adapter, whose blocks attend across frames.
pipeline = load_pipeline(Teacher(base=f"{data}/teacher/base", adapter=f"{data}/teacher/adapter"))
teacher = pipeline.unet
units = list_units(teacher)
size = sum(unit.parameters for unit in units if unit.granularity == "temporal_transformer")
print(f"{len(units)} units: {', '.join(unit.id for unit in units[:4])} ...; {size:,} parameters")

# Each clip has a seed of its own: with and without a block, it starts from the same noise.
threads = torch.get_num_threads()
how = Sampling(frames=8, height=48, width=48, steps=10, guidance=1, chunk=16, threads=threads)
sampler = Sampler(pipeline, how)
colours, moves = ("red", "green", "blue", "yellow"), ("falls", "grows", "bounces", "slides across")
prompts = [f"a {colour} ring {move}" for colour in colours for move in moves]
clips = [Request(prompt, negative="", seed=i) for i, prompt in enumerate(prompts)]

# Similarity: a unit that gives out what it takes in (cosine near 1) does little.
for row in similarity_ranges(measure_similarity(teacher, lambda: sampler(clips))):
    print(f"cosine, {row['granularity']}, {row['measure']}: {row['min']:.2f} to {row['max']:.2f}")

# Importance: draw the same clips with and without a block, and compare the two sets of features.
extractor = load_extractor("sprites", path=data / "extractor")
original = extractor.features(sampler(clips))
ablated = {}
for block in ("up_2_1", "mid_0", "up_3_1"):
    with without_units(teacher, [block]):
        ablated[block] = extractor.features(sampler(clips))
    print(f"FVD without {block}: {frechet_distance(original, ablated[block]):.3g}")
ranking = rank_blocks(original, ablated)
print(f"least important first: {', '.join(ranking.order)}")

# Deletion: the two that matter least go for good. What is left is the student.
gone = ranking.order[:2]
with without_units(teacher, gone):
    pruned = frechet_distance(original, extractor.features(sampler(clips)))
student = remove_units(deepcopy(teacher), gone)

# Distillation from the teacher, on other clips that it drew; kept only if clips come closer to it.
captions = [prompt.replace("ring", "square") for prompt in prompts]
train = sampler([Request(caption, "", 100 + i) for i, caption in enumerate(captions)])
distil(
    student,
    teacher,
    pipeline.scheduler,
    (encode_clips(train, pipeline.vae), captions),
    DistillationSettings(steps=20, batch=8, learning_rate=5e-4, validation=8),
    encode=CaptionEncoder(pipeline.tokenizer, pipeline.text_encoder),
    drawing=Drawing(pipeline.scheduler, how.steps, how.guidance),
    validated=lambda before, after: print(f"loss on fresh noise: {before:.3g}, then {after:.3g}"),
)
pipeline.unet = student
drawn = sampler(clips)
distilled = frechet_distance(original, extractor.features(drawn))
print(f"FVD without {' and '.join(gone)}: {pruned:.3g} pruned only, {distilled:.3g} distilled")

# The lighter adapter: a folder of no more than what is left, which loads on the same base.
with TemporaryDirectory() as folder:
    save_pruned(student, folder, judged=judged_sampling(how, pipeline.scheduler))
    lighter = load_pruned_pipeline(folder, base=f"{data}/teacher/base")
same = bool((Sampler(lighter, how)(clips) == drawn).all())
left = sum(unit.parameters for unit in list_units(lighter.unet, "temporal_transformer"))
print(f"saved and loaded: {left:,} of {size:,} motion parameters; same clips: {same}")
