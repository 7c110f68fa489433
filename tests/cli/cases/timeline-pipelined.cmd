# Every GPU on its own clock: both readings in text and JSON, no bound for it, and plans are made as without the option.
moeplan plan $SAMPLES/decode.mpt 2x4:h100 --seed 1 --strategy lpt --resample --steps 8 -o plan.yaml -q || exit
moeplan simulate plan.yaml $SAMPLES/decode.mpt 2x4:h100 -q --interval-groups 0 --timeline pipelined
moeplan simulate plan.yaml $SAMPLES/decode.mpt 2x4:h100 -q --interval-groups 0 --timeline pipelined --json |
    python3 -c "import json, sys; r = json.load(sys.stdin); print(r['timeline'], r['step_time_ns']['mean'], r['step_time_barrier_ns'], r['lower_bound_ns'], r['gap'])"
moeplan simulate plan.yaml $SAMPLES/decode.mpt 2x4:h100 -q --interval-groups 0 --json |
    python3 -c "import json, sys; r = json.load(sys.stdin); print(r['timeline'], r['step_time_ns']['mean'], 'step_time_barrier_ns' in r)"
moeplan compare $SAMPLES/decode.mpt 2x4:h100 -q --interval-groups 0 --strategy contiguous,lpt --resample --steps 8 --split none --timeline pipelined
moeplan compare $SAMPLES/decode.mpt 2x4:h100 -q --timeline both
