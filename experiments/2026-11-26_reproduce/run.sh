#!/usr/bin/env bash
# Cells of the ledger that a CPU can run, each from raw files to its verdict; what is unchanged is used again.
#   ./run.sh baselines | sasrec [seeds=[0]]
#   GENREC_DATA   absolute folder of the raw data sets
#   GENREC        the command, if it is not on the PATH
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p work results
genrec=${GENREC:-genrec}
export OMP_NUM_THREADS=1

reproduce() { # cell folder key=value ...
  "$genrec" reproduce "$1" raw_dir="$GENREC_DATA/$2" output="work/$1" "${@:3}" --json > "work/$1.json"
  python3 verdict.py "work/$1.json" > "results/$1.json"
}

if [ "${1:-baselines}" = baselines ]; then
  for data in office:apao_office beauty:amazon2014_beauty; do
    for cell in popularity-${data%:*} markov-${data%:*} item-knn-${data%:*} item-knn-${data%:*}-validation; do
      reproduce "$cell" "${data#*:}"
    done
  done
fi

if [ "${1:-}" = sasrec ]; then
  reproduce sasrec-office apao_office train.accelerator=cpu "${@:2}"
fi
