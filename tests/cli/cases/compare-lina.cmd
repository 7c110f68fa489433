moeplan compare "$SAMPLES"/decode.mpt 4:h100 --batch 8 --steps 16 --redundant 4 --strategy contiguous,lina-online,lina-free,lina-actual,lina-blind,lina-once --interval-groups 0 -q
moeplan compare "$SAMPLES"/decode.mpt 4:h100 --batch 8 --steps 16 --strategy contiguous,lina-online --set lina-online.hide=2,lina-online.check-us=0,lina-online.schedule-us=10 --interval-groups 0 -q --json | python3 -c 'import json, sys; print(json.dumps(json.load(sys.stdin)["results"][1]["online"], sort_keys=True))'
moeplan compare "$SAMPLES"/decode.mpt 4:h100 --strategy lina-online --set lina-online.estimate=5
moeplan compare "$SAMPLES"/decode.mpt 4:h100 --strategy lina-free --set lina-free.estimate=1
moeplan plan "$SAMPLES"/decode.mpt 4:h100 --strategy lina-once -o p.yaml
