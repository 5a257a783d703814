#!/usr/bin/env bash
# Prepares every real data set, evaluates the baselines, and tunes item-kNN on validation. Results: results/*.json.
#   GENREC_DATA   absolute folder of the raw data sets (one sub-folder each)
#   GENREC        the command, if it is not on the PATH
set -euo pipefail
cd "$(dirname "$0")"
out=work
mkdir -p "$out" results
genrec=${GENREC:-genrec}

prepare() {  # configuration, raw folder, more words
  local name=$1 raw=$2; shift 2
  "$genrec" prepare "$name" raw_dir="$GENREC_DATA/$raw" output="$out/$name" overwrite=true "$@" --json > "results/prepare_$name.json"
}
evaluate() {  # result, words
  local result=$1; shift
  "$genrec" evaluate "$@" output="$out/evaluation_$result" overwrite=true --json > "results/$result.json"
}

prepare giftcards amazon2018_giftcards_raw
prepare all_beauty amazon2018_allbeauty5_raw
prepare all_beauty_2023 amazon2023_allbeauty_5core source.meta=meta_items_356.csv
prepare ml_100k ml-100k
prepare ml_1m ml-1m source.ratings=derived_interactions_5core.tsv.gz
prepare office apao_office
prepare beauty amazon2014_beauty

# The reference rows: constants as published with them; the report holds all three tie rules.
for split in validation test; do
  evaluate "office_$split" office dataset="$out/office" split=$split
  evaluate "beauty_$split" beauty dataset="$out/beauty" split=$split
done
for name in giftcards all_beauty_2023 ml_100k ml_1m; do
  evaluate "${name}_test" dataset="$out/$name"
done
evaluate all_beauty_test dataset="$out/all_beauty" "cutoffs=[1,5,10,20]"

# Our own search on the validation split; the test split is looked at once, with its winner.
for name in office beauty ml_1m; do
  rm -rf "$out/sweep_$name"
  "$genrec" sweep dataset="$out/$name" run="$out/sweep_$name" --json > "results/sweep_$name.json"
  evaluate "${name}_tuned_test" "$out/sweep_$name/best.yaml" dataset="$out/$name"
done
