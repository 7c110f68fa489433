moeplan plan $SAMPLES/decode.mpt 2x2:h100 -m gpt-oss-20b --batch 4 --steps 8 --strategy lpt -o old.yaml -q --interval-groups 0 > /dev/null
moeplan plan $SAMPLES/decode.mpt 2x2:h100 -m gpt-oss-20b --batch 4 --steps 8 --strategy random -o new.yaml -q --interval-groups 0 > /dev/null
moeplan migrate old.yaml new.yaml -o own.yaml
moeplan verify own.yaml
moeplan migrate own.yaml new.yaml | sed -n 3,6p
moeplan migrate old.yaml new.yaml --dispatcher hierarchical --step-gain 1000 | tail -n +3
moeplan migrate old.yaml old.yaml --step-gain 1000 -o same.yaml
cmp old.yaml same.yaml && echo unchanged
