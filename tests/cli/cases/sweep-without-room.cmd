moeplan sweep $SAMPLES/decode.mpt 4:h100 -m gpt-oss-20b --redundant 0,4 --strategy lpt --batch 4 --steps 4 --interval-groups 0 --context 1000000 --quiet
