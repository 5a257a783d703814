#!/usr/bin/env bash
# Office with APAO's semantic IDs and with our own: the hierarchical recommender, what its parts add, three seeds.
#   GENREC_DATA   absolute folder of the raw data sets
#   GENREC        the command, if it is not on the PATH
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p work results
genrec=${GENREC:-genrec}
export OMP_NUM_THREADS=1

"$genrec" prepare office raw_dir="$GENREC_DATA/apao_office" output=work/office overwrite=true
"$genrec" tokenize imported dataset=work/office output=work/ids_apao overwrite=true
"$genrec" embed tfidf dataset=work/office output=work/embeddings overwrite=true
"$genrec" tokenize tokenizer=residual_kmeans tokenizer.embeddings=work/embeddings dataset=work/office output=work/ids_own \
  overwrite=true

train() { # kind seed ids key=value ...
  "$genrec" train office dataset=work/office semantic_ids=work/ids_$3 run=work/$1_$2 seed=$2 "${@:4}" --json \
    > results/train_$1_$2.json
}

pure=(model.memory.followers=0 stopping.max_epochs=24) # without counts, learning takes longer
for seed in 0 1 2; do
  train plain $seed apao "${pure[@]}" model.joint_depth=1 model.node_embeddings=false \
    model.dropout_input=0.4 model.dropout_blocks=0.3 model.dropout_depth=0.2
  train nodes $seed apao "${pure[@]}"
  train memory $seed apao
  train own $seed own
  names=(plain nodes memory own)
  if [ $seed = 0 ]; then # what the joint softmax adds, on one seed
    train tree $seed apao "${pure[@]}" model.joint_depth=1
    names+=(tree)
  fi
  recommenders=()
  for name in "${names[@]}"; do recommenders+=("recommenders.$name=work/${name}_$seed/recommender"); done
  "$genrec" evaluate office dataset=work/office "${recommenders[@]}" reference=plain output=work/evaluation_$seed \
    overwrite=true --json > results/evaluation_$seed.json
  "$genrec" evaluate office dataset=work/office recommenders.nodes=work/nodes_$seed/recommender \
    recommenders.memory=work/memory_$seed/recommender recommenders.own=work/own_$seed/recommender reference=item_knn \
    output=work/against_knn_$seed overwrite=true --json > results/against_knn_$seed.json
done
python3 table.py
