moeplan sweep $SAMPLES/decode.mpt 4:h100 -m gpt-oss-20b --redundant 0,4 --batch 2 --strategy lpt-replicated --steps 8 --quiet --json
