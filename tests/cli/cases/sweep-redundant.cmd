moeplan sweep $SAMPLES/decode.mpt 2x2:h100 -m gpt-oss-20b --redundant 0:8:4 --strategy eplb --batch 4 --steps 16 --quiet
