moeplan predict "$SAMPLES"/decode.mpt --path-length 1 -o model.paths -q | tail -1
moeplan predict "$SAMPLES"/decode.mpt --tables model.paths -q | sed -n 1,7p
moeplan predict "$SAMPLES"/decode.mpt --tables model.paths --split time:0.5 -q --json | python3 -c 'import json, sys; x = json.load(sys.stdin); print(x["scored"], x["n_learned"], len(x["sample_paths"]))'
moeplan predict "$SAMPLES"/decode.mpt --tables model.paths -o again.paths
moeplan predict "$SAMPLES"/decode.mpt -o -
moeplan predict "$SAMPLES"/decode.mpt --hint-places 2
moeplan predict "$SAMPLES"/prefill.mpt --tables model.paths
ls
