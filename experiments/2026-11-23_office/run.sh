#!/usr/bin/env bash
# Office with APAO's semantic IDs: the hierarchical recommender with and without trie-node embeddings, three seeds.
#   GENREC_DATA   absolute folder of the raw data sets
#   GENREC        the command, if it is not on the PATH
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p work results
genrec=${GENREC:-genrec}
export OMP_NUM_THREADS=1

"$genrec" prepare office raw_dir="$GENREC_DATA/apao_office" output=work/office overwrite=true
"$genrec" tokenize imported dataset=work/office output=work/ids overwrite=true
for seed in 0 1 2; do
  for kind in nodes plain; do
    node_embeddings=$([ $kind = nodes ] && echo true || echo false)
    "$genrec" train office dataset=work/office semantic_ids=work/ids run=work/${kind}_$seed seed=$seed \
      model.node_embeddings=$node_embeddings --json > results/train_${kind}_$seed.json
  done
  "$genrec" evaluate office dataset=work/office recommenders.nodes=work/nodes_$seed/recommender \
    recommenders.plain=work/plain_$seed/recommender reference=plain output=work/evaluation_$seed overwrite=true \
    --json > results/evaluation_$seed.json
  cp work/evaluation_$seed/report.json results/report_$seed.json
done
