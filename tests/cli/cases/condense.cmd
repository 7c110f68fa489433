moeplan plan "$SAMPLES/signed.mpt" 4:h100 --strategy lpt --tokens-per-rank 64 -o plan.yaml -q > /dev/null
moeplan simulate plan.yaml "$SAMPLES/signed.mpt" 4:h100 --condense 0.8 -q
printf 'step,loss\n0,4\n1,3\n2,2.5\n' > losses.csv
moeplan compare "$SAMPLES/signed.mpt" 4:h100 --strategy contiguous,lpt --tokens-per-rank 64 --condense sigmoid:losses.csv --condense-history none -q
moeplan simulate plan.yaml "$SAMPLES/signed.mpt" 4:h100 --condense 0.8 -q --json | grep -A14 '"lossy": {'
moeplan simulate plan.yaml "$SAMPLES/signed.mpt" 4:h100 --condense-history 0.9,0.2
moeplan simulate plan.yaml "$SAMPLES/signed.mpt" 4:h100 --condense 0.8 --condense-history 0.2,0.9
moeplan simulate plan.yaml "$SAMPLES/signed.mpt" 4:h100 --condense 80
printf '0.5\n1.5\n' > h.csv
moeplan simulate plan.yaml "$SAMPLES/signed.mpt" 4:h100 --condense h.csv
moeplan compare "$SAMPLES/prefill.mpt" 4:h100 --condense 0.8
moeplan plan "$SAMPLES/signed.mpt" 4:h100 --strategy lpt --tokens-per-rank 64 --condense 0.9 -o lossy.yaml -q | grep LOSSY
grep -A5 "^condense" lossy.yaml
moeplan verify lossy.yaml "$SAMPLES/signed.mpt" 4:h100
moeplan inspect lossy.yaml | grep condensed
moeplan simulate lossy.yaml "$SAMPLES/signed.mpt" 4:h100 -q | head -7
moeplan convert -q "$SAMPLES/signed.mpt" bare.mpt --drop-signatures > /dev/null
moeplan simulate lossy.yaml bare.mpt 4:h100 | head -1
moeplan plan "$SAMPLES/signed.mpt" 4:h100 --strategy lpt --tokens-per-rank 64 --condense sigmoid:losses.csv -o lossy.yaml -q
