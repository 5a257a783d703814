#!/usr/bin/env bash
# How the recommenders of 2026-11-25_dense and the value head of 2026-11-25_vstar search: diagnosis and frontier, all on validation.
# Reads from work/ what those experiments made: {office,beauty} datasets, NAME_vectors, NAME_0 and NAME_sasrec runs, office_value.
#   GENREC        the command, if it is not on the PATH
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p results
genrec=${GENREC:-genrec}
export OMP_NUM_THREADS=1

look() { # verb name dataset run key=value ...
  [ -f results/$2.json ] && return
  "$genrec" $1 dataset=work/$3 recommender=work/$4/recommender output=work/$2 overwrite=true "${@:5}" --json > work/$2.json
  mv work/$2.json results/$2.json
}

look diagnose office_diagnosis office office_0 max_cases=2000 embeddings=work/office_vectors
look diagnose office_narrow office office_0 max_cases=2000 search.beam_width=10
look diagnose office_value_diagnosis office office_value max_cases=300
look diagnose beauty_diagnosis beauty beauty_0 max_cases=200 embeddings=work/beauty_vectors
look frontier office_indexes office office_sasrec max_cases=300 num_requests=100
look frontier office_frontier office office_0 max_cases=300 num_requests=50 'beam_widths=[5,10,50]' target=p50:30ms
