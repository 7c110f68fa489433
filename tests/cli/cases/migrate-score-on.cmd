moeplan plan $SAMPLES/decode.mpt 2x2:h100 -m gpt-oss-20b --batch 4 --steps 16 --strategy contiguous -o old.yaml -q --interval-groups 0 > /dev/null
moeplan plan $SAMPLES/decode.mpt 2x2:h100 -m gpt-oss-20b --batch 4 --steps 16 --strategy search -o new.yaml -q --interval-groups 0 > /dev/null
moeplan migrate old.yaml new.yaml --score-on $SAMPLES/decode.mpt --wide | tail -n 9
moeplan migrate new.yaml old.yaml --score-on $SAMPLES/decode.mpt --keep-labels | tail -n 2
