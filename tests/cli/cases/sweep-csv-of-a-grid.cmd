moeplan sweep $SAMPLES/prefill.mpt 2x2:h100 --gpus 4:6:2 --nodes 1,2,4 --strategy contiguous --tokens-per-rank 128 --interval-groups 0 --quiet --csv
