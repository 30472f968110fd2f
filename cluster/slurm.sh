#!/usr/bin/env bash
#SBATCH --job-name=pixcon
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --exclusive
#SBATCH --time=08:00:00
#SBATCH --output=%x-%j.log

# Ray over the nodes of a Slurm job, and pixcon's command on the first of them: docs/slurm.md. From the project's
# folder, which has .venv and which all nodes see, like --out:
#
#   sbatch cluster/slurm.sh --search --trials 40 --out /shared/me/pixcon
set -euo pipefail

# The environment of README's installation; another one by PIXCON_VENV.
. "${PIXCON_VENV:-$SLURM_SUBMIT_DIR/.venv}/bin/activate"

# Ray's ports are open to everybody on the cluster's network: whoever has no token is refused. One token for each job,
# in a file that only you can read, on the file system that the nodes share.
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="$SLURM_SUBMIT_DIR/.ray-token-$SLURM_JOB_ID"
(umask 077; python -c "import secrets; print(secrets.token_hex(32), end='')" > "$RAY_AUTH_TOKEN_PATH")
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

# The first node by its address, so that all mean the same interface; a port that other jobs of yours do not have.
read -r first < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
read -r ip _ < <(srun --nodes=1 --ntasks=1 --nodelist="$first" hostname --ip-address)
address=$ip:$((20000 + SLURM_JOB_ID % 10000))

# Nodes start at different times; the default is 30 seconds.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

# Starts Ray on each node, runs the command on the first, and stops Ray everywhere. The dashboard listens on the first
# node's localhost. A folder of our own, since /tmp/ray may belong to somebody else.
srun ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "$SLURM_CPUS_PER_TASK" --temp-dir "/tmp/ray-$SLURM_JOB_ID" \
    -- env RAY_ADDRESS="$address" python -m pipeline.run "$@"
