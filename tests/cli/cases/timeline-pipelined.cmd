# Every GPU on its own clock: both readings in text and JSON, no bound for it; plans chosen by it say so, claim what is
# verified with barriers, and are then read and drawn that way unless asked otherwise.
moeplan plan $SAMPLES/decode.mpt 2x4:h100 --seed 1 --strategy lpt --resample --steps 8 -o plan.yaml -q || exit
moeplan simulate plan.yaml $SAMPLES/decode.mpt 2x4:h100 -q --interval-groups 0 --timeline pipelined
moeplan simulate plan.yaml $SAMPLES/decode.mpt 2x4:h100 -q --interval-groups 0 --timeline pipelined --json |
    python3 -c "import json, sys; r = json.load(sys.stdin); print(r['timeline'], r['step_time_ns']['mean'], r['step_time_barrier_ns'], r['lower_bound_ns'], r['gap'])"
moeplan simulate plan.yaml $SAMPLES/decode.mpt 2x4:h100 -q --interval-groups 0 --json |
    python3 -c "import json, sys; r = json.load(sys.stdin); print(r['timeline'], r['step_time_ns']['mean'], 'step_time_barrier_ns' in r)"
moeplan compare $SAMPLES/decode.mpt 2x4:h100 -q --interval-groups 0 --strategy contiguous,lpt --resample --steps 8 --split none --timeline pipelined
moeplan compare $SAMPLES/decode.mpt 2x4:h100 -q --timeline both
moeplan plan $SAMPLES/decode.mpt 2x4:h100 --seed 1 --strategy lpt --resample --steps 8 --timeline pipelined -o chosen.yaml -q || exit
diff plan.yaml chosen.yaml | grep -v checksum
moeplan verify chosen.yaml $SAMPLES/decode.mpt 2x4:h100 -q
moeplan simulate chosen.yaml $SAMPLES/decode.mpt 2x4:h100 -q --interval-groups 0 | sed -n 2p
moeplan simulate chosen.yaml $SAMPLES/decode.mpt 2x4:h100 -q --interval-groups 0 --timeline barrier | sed -n 2p
moeplan export chosen.yaml $SAMPLES/decode.mpt 2x4:h100 -q --to chrome-trace -o pipelined.json
moeplan export plan.yaml $SAMPLES/decode.mpt 2x4:h100 -q --to chrome-trace -o barrier.json
moeplan export plan.yaml $SAMPLES/decode.mpt 2x4:h100 -q --to chrome-trace --timeline pipelined -o same.json
cmp pipelined.json same.json
python3 -c "import json
for name in ('barrier', 'pipelined'):
    t = json.load(open(name + '.json'))
    print(t['otherData']['timeline'], t['otherData']['step_ns'], max(round(1000 * (e['ts'] + e['dur'])) for e in t['traceEvents'] if e['ph'] == 'X'))"
moeplan export plan.yaml --to sglang --timeline pipelined -o placement.json
moeplan plan $SAMPLES/decode.mpt $SAMPLES/decode.mpt 2x4:h100 --colocate --timeline pipelined -o a.yaml --out-b b.yaml
moeplan simulate chosen.yaml $SAMPLES/decode.mpt 2x4:h100 -q --network sjf --timeline pipelined --interval-groups 0 | sed -n 2p
moeplan export chosen.yaml $SAMPLES/decode.mpt 2x4:h100 -q --to chrome-trace --network sjf -o none.json
