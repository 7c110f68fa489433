# The first line is a header only if it is no attempt at a number.
printf '0.8o\n0.7\n' > h.csv
moeplan plan "$SAMPLES/signed.mpt" 4:h100 --strategy contiguous --tokens-per-rank 64 --interval-groups 0 -o plan.yaml -q > out
moeplan simulate plan.yaml "$SAMPLES/signed.mpt" 4:h100 --condense h.csv -q
