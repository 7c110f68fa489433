moeplan convert "$SAMPLES/prefill.mpt" train.mpt --phase train -q > /dev/null
moeplan plan train.mpt 2x2:h100 --strategy contiguous --tokens-per-rank 256 --policy lina -o plan.yaml -q > /dev/null
moeplan simulate plan.yaml train.mpt 2x2:h100 --rehome matching --interval-groups 0 -q
moeplan simulate plan.yaml train.mpt 2x2:h100 --rehome swept --rehome-balance sequences --interval-groups 0 -q --json | grep -A18 '"rehome": \['
moeplan compare "$SAMPLES/prefill.mpt" 2x2:h100 --strategy contiguous,lpt --tokens-per-rank 256 --rehome luffy --rehome-candidates 1 --rehome-slack 0.1 -q
moeplan simulate plan.yaml train.mpt 2x2:h100 --rehome matchings
moeplan simulate plan.yaml train.mpt 2x2:h100 --rehome-slack 0.1
moeplan compare "$SAMPLES/decode.mpt" 2x2:h100 --rehome matching
moeplan compare "$SAMPLES/prefill.mpt" 2x2:h100 --rehome matching --sources coupled
moeplan simulate plan.yaml train.mpt 2x2:h100 --rehome matching --travel janus
moeplan list rehomes
moeplan plan "$SAMPLES/signed.mpt" 2x2:h100 --strategy lpt --tokens-per-rank 64 -o signed.yaml -q > /dev/null
moeplan simulate signed.yaml "$SAMPLES/signed.mpt" 2x2:h100 --condense 0.8 --rehome matching --interval-groups 0 -q | head -9
