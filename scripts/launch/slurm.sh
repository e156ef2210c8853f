#!/usr/bin/env bash
# Two machines of eight GPUs, from the folder of this repository; --output lies on a disk that the machines share:
#   sbatch scripts/launch/slurm.sh train --recipe thumos14_swin_tiny --output runs/mine ...
#SBATCH --job-name=re2tal
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
# As many as the machines have: videos are decoded on them, by data.num_workers for each GPU.
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# Two minutes before the time is over, the training saves what it has of its epoch and ends.
#SBATCH --signal=TERM@120
set -uo pipefail
first=$(scontrol show hostnames "${SLURM_JOB_NODELIST:?is not set: sbatch scripts/launch/slurm.sh ...}" | head -n 1)
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" re2tal launch --config_file scripts/launch/2x8_gpus.yaml \
    --num_machines "$SLURM_NNODES" --num_processes "$((SLURM_NNODES * 8))" \
    --rdzv_backend c10d --main_process_ip "$first" "$@"
code=$?
# 143 is SIGTERM: queued again, the same command goes on where it was.
if [ "$code" -eq 143 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
