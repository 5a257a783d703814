#!/usr/bin/env bash
# Beauty and MovieLens 1M, one seed each: the recipes as they are.
#   GENREC_DATA   absolute folder of the raw data sets
#   GENREC        the command, if it is not on the PATH
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p work results
genrec=${GENREC:-genrec}
export OMP_NUM_THREADS=1

# The ratings of MovieLens 1M are read from a file of the 5-core; with the official ratings.dat, leave the key out.
"$genrec" run ml_1m output=work/ml_1m prepare.raw_dir="$GENREC_DATA/ml-1m" \
  prepare.source.ratings=derived_interactions_5core.tsv.gz
"$genrec" run beauty output=work/beauty prepare.raw_dir="$GENREC_DATA/amazon2014_beauty"
for name in ml_1m beauty; do
  cp work/$name/train/metrics.jsonl results/metrics_$name.jsonl
  cp work/$name/evaluation/report.json results/report_$name.json
done
