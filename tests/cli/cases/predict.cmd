moeplan predict "$SAMPLES"/decode.mpt --path-length 2 -q
moeplan predict "$SAMPLES"/decode.mpt --path-length 1 --split time:0.5 -q --json | python3 -c 'import json, sys; x = json.load(sys.stdin); print(x["schema"], [r["path_length"] for r in x["rows"]], len(x["rows"][0]["bins"]))'
moeplan predict "$SAMPLES"/decode.mpt --path-length 7
