printf '{"physical_to_logical_map": [[0,1,2,3],[0,1,2,3]]}' > old.json
printf '{"physical_to_logical_map": [[3,2,1,0],[3,0,2,1]]}' > new.json
moeplan migrate old.json new.json --gpus 2 -o own.yaml
moeplan inspect own.yaml | grep -E "what|layers|gpus"
moeplan migrate old.json own.yaml --gpus 2 -q | sed -n 3,5p
