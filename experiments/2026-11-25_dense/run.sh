#!/usr/bin/env bash
# The recorded trials, on validation: SASRec on Office and Beauty, hybrids on Office, own semantic IDs of two embeddings.
# Then, on test: what validation chose.
#   GENREC_DATA   absolute folder of the raw data sets
#   GENREC        the command, if it is not on the PATH
# The generative side of the hybrids is nodes_apao_msl_0 of ../2026-11-25_apao, to be trained there first.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p work results
genrec=${GENREC:-genrec}
export OMP_NUM_THREADS=1

"$genrec" prepare office raw_dir="$GENREC_DATA/apao_office" output=work/office overwrite=true
"$genrec" prepare beauty raw_dir="$GENREC_DATA/amazon2014_beauty" output=work/beauty overwrite=true

number=0 # each line of the trials is: dataset key=value ... | what came out | seconds
while read -r line; do
  words=${line%% |*}
  [[ $words == *projection* ]] && continue # a setting that is gone
  number=$((number + 1))
  "$genrec" train model=sasrec dataset=work/${words%% *} run=work/sasrec_$number accelerator=cpu ${words#* }
done < results/sasrec_trials.txt

generative=../2026-11-25_apao/work/nodes_apao_msl_0/recommender
"$genrec" fuse dataset=../2026-11-25_apao/work/office generative=$generative output=work/mixture_knn overwrite=true \
  weights=[0,0.1,0.25,0.5,1,2,3,4,6] max_cases=null
"$genrec" fuse dataset=../2026-11-25_apao/work/office generative=$generative output=work/ranks_knn overwrite=true \
  method=rank_fusion weights=[1,2] constants=[20,60] max_cases=null

for data in office beauty; do
  for embedding in text_and_signals minilm_and_signals; do
    "$genrec" embed $embedding dataset=work/$data output=work/${data}_$embedding overwrite=true
    "$genrec" tokenize tokenizer=residual_kmeans tokenizer.embeddings=work/${data}_$embedding dataset=work/$data \
      output=work/ids_${data}_$embedding gates.max_collision_rate=0.9 overwrite=true
    "$genrec" train own_$data.yaml dataset=work/$data semantic_ids=work/ids_${data}_$embedding run=work/own_${data}_${embedding}_0 \
      accelerator=cpu
  done
done

for seed in 1 2; do
  "$genrec" train own_office.yaml dataset=work/office semantic_ids=work/ids_office_text_and_signals seed=$seed accelerator=cpu \
    run=work/own_office_text_and_signals_$seed
done
"$genrec" train sasrec_office dataset=work/office run=work/sasrec_office_0 stopping.max_cases=null accelerator=cpu

for seed in 0 1 2; do
  "$genrec" train sasrec_beauty dataset=work/beauty run=work/sasrec_beauty_$seed seed=$seed accelerator=cpu
done

rows=(recommenders.minilm_0=work/own_office_minilm_and_signals_0/recommender recommenders.sasrec_0=work/sasrec_office_0/recommender)
for seed in 0 1 2; do rows+=("recommenders.own_$seed=work/own_office_text_and_signals_$seed/recommender"); done
"$genrec" evaluate office dataset=work/office models=[item_knn] reference=item_knn "${rows[@]}" output=work/test_office \
  overwrite=true --json > results/test_office.json
"$genrec" evaluate beauty dataset=work/beauty models=[item_knn] reference=item_knn output=work/test_beauty overwrite=true \
  recommenders.own_0=work/own_beauty_text_and_signals_0/recommender \
  recommenders.minilm_0=work/own_beauty_minilm_and_signals_0/recommender --json > results/test_beauty.json
rows=()
for seed in 0 1 2; do rows+=("recommenders.sasrec_$seed=work/sasrec_beauty_$seed/recommender"); done
"$genrec" evaluate beauty dataset=work/beauty models=[item_knn] reference=item_knn "${rows[@]}" output=work/test_beauty_sasrec \
  overwrite=true --json > results/test_beauty_sasrec.json
rows=work/test_beauty_sasrec
"$genrec" compare systems.knn=$rows:item_knn systems.sasrec=[$rows:sasrec_0,$rows:sasrec_1,$rows:sasrec_2] \
  systems.own=work/test_beauty:own_0 systems.minilm=work/test_beauty:minilm_0 output=work/compare_beauty overwrite=true
cp work/compare_beauty/report.json results/compare_beauty.json
rows=work/test_office
"$genrec" compare systems.knn=$rows:item_knn systems.own=[$rows:own_0,$rows:own_1,$rows:own_2] systems.sasrec=$rows:sasrec_0 \
  output=work/compare_office overwrite=true
cp work/compare_office/report.json results/compare_office.json
