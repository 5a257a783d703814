#!/usr/bin/env bash
# APAO on Office with the published semantic IDs: cross-entropy, MSL, and prefix-aware losses.
#   ./run.sh hierarchical | encoder_decoder | tables
#   GENREC_DATA   absolute folder of the raw data sets
#   GENREC        the command, if it is not on the PATH
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p work results
genrec=${GENREC:-genrec}
export OMP_NUM_THREADS=1

if [ ! -f work/ids/manifest.json ]; then
  "$genrec" prepare office raw_dir="$GENREC_DATA/apao_office" output=work/office overwrite=true
  "$genrec" tokenize imported dataset=work/office output=work/ids overwrite=true
fi

train() { # name key=value ...
  [ -f results/train_$1.json ] && [ -d work/$1/recommender ] && return
  rm -rf work/$1
  "$genrec" train dataset=work/office semantic_ids=work/ids run=work/$1 stopping.prefix_negatives=100 \
    stopping.max_cases=null accelerator=cpu "${@:2}" --json > work/$1.json
  mv work/$1.json results/train_$1.json
}

declare -A loss=(
  [ce]="model.normalisation=vocabulary"
  [msl]="model.normalisation=trie"
  [apao]="model.normalisation=vocabulary loss=prefix_pointwise loss.weights=stateless loss.beta=0.3 loss.eta=1e-4"
  [apao_msl]="model.normalisation=trie loss=prefix_pointwise loss.weights=stateless loss.beta=0.3 loss.eta=1e-4"
  [pair]="model.normalisation=vocabulary loss=prefix_pairwise loss.weights=stateless loss.beta=0.2 loss.eta=3e-5"
  [pair_msl]="model.normalisation=trie loss=prefix_pairwise loss.weights=stateless loss.beta=0.2 loss.eta=3e-5"
)
# Dropout as chosen on validation for the likelihood of each, in the experiment on Office.
declare -A kind=(
  [plain]="model.node_embeddings=false model.dropout_input=0.4 model.dropout_blocks=0.3 model.dropout_depth=0.2"
  [nodes]="model.dropout_input=0.6 model.dropout_blocks=0.6 model.dropout_depth=0.6"
)
budget="model.history_length=20 optimizer.learning_rate=1e-3 optimizer.weight_decay=0.05 optimizer.node_weight_decay=3
  optimizer.item_weight_decay=3 stopping.max_epochs=24 stopping.patience=null"

if [ "${1:-hierarchical}" = hierarchical ]; then
  for seed in 0 1 2; do
    for with in plain nodes; do
      for name in ce msl apao apao_msl; do
        train ${with}_${name}_$seed seed=$seed $budget ${kind[$with]} ${loss[$name]}
      done
    done
  done
  for with in plain nodes; do
    for name in pair pair_msl; do
      train ${with}_${name}_0 seed=0 $budget ${kind[$with]} ${loss[$name]} loss.num_negatives=16
    done
  done
fi

if [ "${1:-}" = encoder_decoder ]; then
  small="model=encoder_decoder model.node_embeddings=false model.encoder_layers=2 model.decoder_layers=2 model.width=64
    model.num_heads=4 model.head_width=16 model.hidden=256 optimizer.learning_rate=1e-3 optimizer.weight_decay=0.01
    stopping.max_epochs=10 stopping.patience=null"
  for name in ce msl apao pair; do
    more=$([ $name = pair ] && echo loss.num_negatives=16 || true)
    train tiger_${name}_0 seed=0 $small ${loss[$name]} $more
  done
fi

# The full-budget comparison of the paper: T5 and Llama of its size, 200 epochs at most, on a GPU.
if [ "${1:-}" = full ]; then
  common="accelerator=gpu precision=bf16-mixed model.attention=sdpa model.node_embeddings=false model.history_length=20
    optimizer.learning_rate=5e-4 optimizer.weight_decay=0.01 optimizer.warmup=0.01 optimizer.final_rate=0
    samples=pairs optimizer.batch_size=1024 stopping.max_epochs=200 stopping.patience=20"
  for seed in 0 1 2; do
    for name in ce msl apao pair; do
      train t5_${name}_$seed seed=$seed model=encoder_decoder $common ${loss[$name]}
    done
    train llama_ce_$seed seed=$seed model=decoder_only model.item_embeddings=false $common ${loss[ce]}
    train llama_apao_$seed seed=$seed model=decoder_only model.item_embeddings=false $common ${loss[apao]} \
      loss.beta=0.4 loss.eta=5e-4
  done
fi

evaluate() { # output reference name...
  local rows=()
  for name in "${@:2}"; do rows+=("recommenders.$name=work/$name/recommender"); done
  "$genrec" evaluate dataset=work/office models=[] "${rows[@]}" reference=$2 output=work/$1 overwrite=true \
    search.beam_width=20 cutoffs=[5,10,20] --json > results/$1.json
}

if [ "${1:-}" = tables ]; then # whatever has been trained, each kind and seed against its own cross-entropy
  for kind in plain nodes tiger t5 llama; do
    for seed in 0 1 2; do
      names=()
      for name in ce msl apao apao_msl pair pair_msl; do
        [ -d work/${kind}_${name}_$seed/recommender ] && names+=(${kind}_${name}_$seed)
      done
      [ ${#names[@]} -gt 1 ] || continue
      evaluate evaluation_${kind}_$seed "${names[@]}"
      python3 prefix_recall.py "${names[@]}" > results/prefixes_${kind}_$seed.json
    done
  done
  python3 table.py
  for kind in plain nodes; do # over seeds and cases
    systems=()
    for name in ce msl apao apao_msl; do
      rows=()
      for seed in 0 1 2; do rows+=("work/evaluation_${kind}_$seed:${kind}_${name}_$seed"); done
      systems+=("systems.$name=[$(IFS=,; echo "${rows[*]}")]")
    done
    "$genrec" compare "${systems[@]}" output=work/compare_$kind overwrite=true
    cp work/compare_$kind/report.json results/compare_$kind.json
  done
fi
