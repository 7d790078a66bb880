#!/bin/bash
# The whole pipeline on two machines of eight GPUs: `sbatch configs/slurm.sh`, from the project's folder, which both see.
# DVC and everything that runs on one process stay on the first machine; heavy stages run on all sixteen GPUs.
# Killed or out of time: submit it again, finished work is kept.
#SBATCH --job-name=leanmotion
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
set -euo pipefail

export PATH="$PWD/.venv/bin:$PATH"
export LEANMOTION_SCRATCH="${LEANMOTION_SCRATCH:-$PWD/.scratch}"
mkdir -p "$LEANMOTION_SCRATCH"

# Slurm says only now which machines these are.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export LEANMOTION_ACCELERATE_CONFIG="$LEANMOTION_SCRATCH/accelerate-$SLURM_JOB_ID.yaml"
sed "s/^main_process_ip:.*/main_process_ip: $first/" configs/accelerate-2x8gpu.yaml > "$LEANMOTION_ACCELERATE_CONFIG"

# One launcher a machine, each with all of its GPUs.
export LEANMOTION_LAUNCHER="srun --nodes=$SLURM_JOB_NUM_NODES --ntasks-per-node=1 --gpus-per-node=8 --kill-on-bad-exit=1"
exec dvc repro
