#!/usr/bin/env bash
# Policy optimisation of the hierarchical recommender on Office: GRPO, Sibling-GRPO, V-STAR, with and without anchor and hints.
#   ./run.sh train | finetune | evaluate
#   GENREC_DATA   absolute folder of the raw data sets
#   GENREC        the command, if it is not on the PATH
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p work results
genrec=${GENREC:-genrec}
export OMP_NUM_THREADS=1
stage=${1:-train}

if [ "$stage" = train ]; then # the supervised recommenders, of three seeds
  "$genrec" prepare office raw_dir="$GENREC_DATA/apao_office" output=work/office overwrite=true
  "$genrec" embed text_and_signals dataset=work/office output=work/vectors overwrite=true
  "$genrec" tokenize tokenizer=residual_kmeans tokenizer.embeddings=work/vectors dataset=work/office output=work/ids \
    gates.max_collision_rate=0.9 overwrite=true
  for seed in 0 1 2; do
    "$genrec" train ../2026-11-25_dense/own_office.yaml dataset=work/office semantic_ids=work/ids run=work/supervised_$seed \
      seed=$seed accelerator=cpu
  done
fi

tune() { # name seed configuration key=value ...
  [ -f results/$1_$2.json ] && return
  rm -rf work/$1_$2
  "$genrec" finetune $3 dataset=work/office embeddings=work/vectors run=work/$1_$2 seed=$2 accelerator=cpu \
    stopping.max_cases=null stopping.patience=null "${@:4}" --json > work/$1_$2.json
  cp work/$1_$2/metrics.jsonl results/$1_$2_metrics.jsonl
  mv work/$1_$2.json results/$1_$2.json
}

if [ "$stage" = finetune ]; then
  # One reward and one rate for all. The rate was chosen on validation, seed 0, from 2e-5 and 1e-4.
  common="optimizer.learning_rate=${RATE:-1e-4} rewards.rank_discounted=0 rewards.prefix_depth=0.5"
  for seed in 0 1 2; do
    from=work/supervised_$seed/recommender
    tune value $seed vstar mode=value rollout.method=beam hints.share=0 stopping.max_epochs=4 initial=$from
    valued=work/value_$seed/recommender
    tune grpo $seed grpo initial=$from $common
    tune sibling $seed sibling_grpo initial=$from $common
    tune vstar $seed vstar initial=$valued $common hints.share=0
    tune sibling_free $seed sibling_grpo initial=$from $common anchor=0
    tune sibling_hints $seed sibling_grpo initial=$from $common hints.share=0.5 hints.max_length=1
    tune vstar_free $seed vstar initial=$valued $common hints.share=0 anchor=0
    tune vstar_hints $seed vstar initial=$valued $common hints.share=0.5
  done
fi

if [ "$stage" = evaluate ]; then # on test: the weights after the last step, and those that validation chose
  for seed in 0 1 2; do
    rows=("recommenders.supervised=work/supervised_$seed/recommender")
    for name in grpo sibling vstar sibling_free sibling_hints vstar_free vstar_hints; do
      [ -f results/${name}_$seed.json ] && rows+=("recommenders.$name=work/${name}_$seed/recommender")
    done
    "$genrec" evaluate dataset=work/office models=[] "${rows[@]}" reference=supervised output=work/evaluation_$seed overwrite=true \
      search.beam_width=50 cutoffs=[1,3,5,10,50] --json > results/evaluation_$seed.json
  done
  # Recall against forwarded prefixes: value-guided search and beam search of about the same cost.
  for budget in 16 32 64 128; do
    for ranking in log_prob value; do
      "$genrec" evaluate dataset=work/office models=[] recommenders.vstar=work/value_0/recommender output=work/curve overwrite=true \
        cutoffs=[1,5,10] search.name=value_guided search.node_budget=$budget search.rank_by=$ranking \
        search.num_candidates=10 --json > results/curve_ved_${ranking}_$budget.json || true
    done
    "$genrec" evaluate dataset=work/office models=[] recommenders.vstar=work/value_0/recommender output=work/curve overwrite=true \
      cutoffs=[1,5,10] search.beam_width=$((budget / 3)) search.num_candidates=10 --json > results/curve_beam_$budget.json || true
  done
fi
