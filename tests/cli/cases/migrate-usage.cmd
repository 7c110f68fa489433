printf '{"physical_to_logical_map": [[0,1,2,3],[0,1,2,3]]}' > old.json
printf '{"physical_to_logical_map": [[0,1,2,3]]}' > short.json
printf '{"physical_to_logical_map": [[0,1,2,3,4,5],[0,1,2,3,4,5]]}' > more.json
moeplan migrate old.json old.json
moeplan migrate old.json old.json 4x4:h100
moeplan migrate old.json short.json --gpus 2
moeplan migrate old.json more.json --gpus 2
moeplan migrate old.json missing.json --gpus 2
moeplan migrate old.json old.json --gpus 2 -o - --json
moeplan migrate old.json old.json --gpus 2 --score-on $SAMPLES/decode.mpt --step-gain 5
moeplan migrate old.json old.json --gpus 2 --score-on $SAMPLES/decode.mpt -q
moeplan migrate old.json old.json 2:h100 -o old.json
moeplan plan $SAMPLES/decode.mpt 4:h100 --batch 4 --steps 8 --strategy lpt -o a.yaml -q --interval-groups 0 > /dev/null
moeplan plan $SAMPLES/decode.mpt 2:h100 --batch 4 --steps 8 --strategy lpt -o b.yaml -q --interval-groups 0 > /dev/null
moeplan migrate a.yaml b.yaml
moeplan migrate a.yaml a.yaml 2x4:h100
