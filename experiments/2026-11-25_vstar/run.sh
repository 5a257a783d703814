#!/usr/bin/env bash
# Policy optimisation of the hierarchical recommender on Office: GRPO, Sibling-GRPO, V-STAR, with and without anchor and hints.
#   ./run.sh train | finetune | beauty | evaluate | curve
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
  "$genrec" prepare beauty raw_dir="$GENREC_DATA/amazon2014_beauty" output=work/beauty overwrite=true
  "$genrec" embed text_and_signals dataset=work/beauty output=work/beauty_vectors overwrite=true
  "$genrec" tokenize tokenizer=residual_kmeans tokenizer.embeddings=work/beauty_vectors dataset=work/beauty output=work/beauty_ids \
    gates.max_collision_rate=0.9 overwrite=true
  "$genrec" train ../2026-11-25_dense/own_beauty.yaml dataset=work/beauty semantic_ids=work/beauty_ids run=work/beauty_supervised_0 \
    accelerator=cpu
fi

tune() { # name seed data configuration key=value ...
  local name=$1_$2
  [ "$3" = office ] || name=$3_$name
  [ -f results/$name.json ] && return
  rm -rf work/$name
  "$genrec" finetune $4 dataset=work/$3 embeddings=work/${vectors:-vectors} run=work/$name seed=$2 accelerator=cpu \
    stopping.patience=null "${@:5}" --json > work/$name.json
  cp work/$name/metrics.jsonl results/${name}_metrics.jsonl
  mv work/$name.json results/$name.json
}

# One reward and one rate for all. The rate was chosen on validation, seed 0, from 2e-5 and 1e-4. The weights after the last step are
# kept, whatever validation says of them: the supervised ones are the best of many on the same cases.
common="optimizer.learning_rate=${RATE:-2e-5} rewards.rank_discounted=0 rewards.prefix_depth=0.5 stopping.keep=last interpolation=[]"

if [ "$stage" = finetune ]; then
  for seed in 0 1 2; do
    from=work/supervised_$seed/recommender
    valued=work/value_$seed/recommender
    all="stopping.max_cases=null stopping.max_epochs=4"
    tune value $seed office vstar mode=value rollout.method=beam hints.share=0 $all initial=$from
    tune grpo $seed office grpo initial=$from $common $all
    tune sibling $seed office sibling_grpo initial=$from $common $all hints.share=0
    tune vstar $seed office vstar initial=$valued $common $all hints.share=0
    tune sibling_free $seed office sibling_grpo initial=$from $common $all anchor=0 hints.share=0
    tune sibling_hints $seed office sibling_grpo initial=$from $common $all hints.share=0.5 hints.max_length=1
    tune vstar_free $seed office vstar initial=$valued $common $all hints.share=0 anchor=0
    tune vstar_hints $seed office vstar initial=$valued $common $all hints.share=0.5 hints.max_length=1
  done
fi

if [ "$stage" = beauty ]; then # one seed, half the passes
  vectors=beauty_vectors from=work/beauty_supervised_0/recommender all=stopping.max_epochs=2
  tune value 0 beauty vstar mode=value rollout.method=beam hints.share=0 $all initial=$from
  tune grpo 0 beauty grpo initial=$from $common $all
  tune sibling 0 beauty sibling_grpo initial=$from $common $all hints.share=0
  tune vstar 0 beauty vstar initial=work/beauty_value_0/recommender $common $all hints.share=0
  tune sibling_free 0 beauty sibling_grpo initial=$from $common $all anchor=0 hints.share=0
  tune sibling_hints 0 beauty sibling_grpo initial=$from $common $all hints.share=0.5 hints.max_length=1
  tune vstar_free 0 beauty vstar initial=work/beauty_value_0/recommender $common $all hints.share=0 anchor=0
  tune vstar_hints 0 beauty vstar initial=work/beauty_value_0/recommender $common $all hints.share=0.5 hints.max_length=1
fi

if [ "$stage" = evaluate ]; then # on test: the weights after the last step
  for seed in 0 1 2; do
    rows=("recommenders.supervised=work/supervised_$seed/recommender")
    for name in grpo sibling vstar sibling_free sibling_hints vstar_free vstar_hints; do
      rows+=("recommenders.$name=work/${name}_$seed/recommender")
    done
    "$genrec" evaluate dataset=work/office models=[] "${rows[@]}" reference=supervised output=work/evaluation_$seed overwrite=true \
      search.beam_width=50 cutoffs=[1,3,5,10,50] --json > results/evaluation_$seed.json
  done
  systems=()
  for name in supervised grpo sibling sibling_free sibling_hints vstar vstar_free vstar_hints; do
    systems+=("systems.$name=[work/evaluation_0:$name,work/evaluation_1:$name,work/evaluation_2:$name]")
  done
  "$genrec" compare "${systems[@]}" pair_seeds=true output=work/comparison overwrite=true
  cp work/comparison/report.json results/compare_office.json
  rows=("recommenders.supervised=work/beauty_supervised_0/recommender")
  for name in grpo sibling vstar sibling_free sibling_hints vstar_free vstar_hints; do rows+=("recommenders.$name=work/beauty_${name}_0/recommender"); done
  "$genrec" evaluate dataset=work/beauty models=[] "${rows[@]}" reference=supervised output=work/evaluation_beauty overwrite=true \
    search.beam_width=50 cutoffs=[1,3,5,10,50] --json > results/evaluation_beauty.json
fi

# Recall against prefixes read, of the supervised weights and the value head trained on them, on validation: value-guided search by two
# rankings, and beams, which read their width x 3 prefixes after the first level. Nothing is chosen from it.
if [ "$stage" = curve ]; then
  for ranking in log_prob mixture; do
    "$genrec" frontier dataset=work/office recommender=work/value_0/recommender output=work/curve_$ranking overwrite=true k=10 \
      beam_widths=[16,32,50,100] node_budgets=[64,96,150,300] value_guided.rank_by=$ranking max_cases=1000 num_requests=3 warm_up=1
    cp work/curve_$ranking/frontier.json results/curve_$ranking.json
  done
fi
