#!/usr/bin/env bash
# Two other settings, compared on validation alone; needs work/ of run.sh.
set -euo pipefail
cd "$(dirname "$0")"
genrec=${GENREC:-genrec}
export OMP_NUM_THREADS=1
common="dataset=work/office semantic_ids=work/ids seed=0 stopping.patience=8 stopping.max_epochs=14 stopping.max_cases=2500
  optimizer.learning_rate=1e-3 optimizer.weight_decay=0.01 optimizer.node_weight_decay=0"

# shellcheck disable=SC2086
"$genrec" train $common run=work/trial_a model.dropout_input=0.2 model.dropout_blocks=0.2 model.dropout_nodes=0.2
# shellcheck disable=SC2086
"$genrec" train $common run=work/trial_b model.dropout_input=0.4 model.dropout_blocks=0.3 model.dropout_nodes=0.0
