#!/usr/bin/env bash
# The trials behind configs/train/office.yaml, on validation alone; needs work/ of run.sh. A column of README.md a line.
set -euo pipefail
cd "$(dirname "$0")"
genrec=${GENREC:-genrec}
export OMP_NUM_THREADS=1

trial() { # name key=value ...
  "$genrec" train dataset=work/office semantic_ids=work/ids_apao run=work/trial_$1 optimizer.learning_rate=1e-3 \
    optimizer.weight_decay=0.05 optimizer.node_weight_decay=3 optimizer.item_weight_decay=3 stopping.max_cases=null \
    stopping.validate_every=312 stopping.patience=null stopping.max_epochs=16 "${@:2}"
}
dropout() { echo "model.dropout_input=$1 model.dropout_blocks=$2 model.dropout_depth=$3"; }
memory=model.memory.followers=256

# shellcheck disable=SC2046
{
  trial T1 $memory $(dropout 0.6 0.6 0.6)
  trial T2 model.joint_depth=4 $(dropout 0.6 0.5 0.5) stopping.max_epochs=24 \
    optimizer.node_weight_decay=2 optimizer.item_weight_decay=2
  trial T3 model.joint_depth=4 $memory $(dropout 0.6 0.6 0.6)
  trial T4 model.joint_depth=4 $memory $(dropout 0.6 0.6 0.6) stopping.max_epochs=24
  trial T5 model.joint_depth=4 $(dropout 0.6 0.6 0.6) stopping.max_epochs=24
  trial T6 model.joint_depth=4 $memory $(dropout 0.6 0.6 0.6) seed=1
  trial T7 model.joint_depth=4 $memory $(dropout 0.7 0.6 0.6) seed=1 model.num_layers=1
  trial P1 model.node_embeddings=false $(dropout 0.6 0.6 0.6) stopping.max_epochs=24
  trial P2 model.node_embeddings=false $(dropout 0.4 0.3 0.2) stopping.max_epochs=24
}
