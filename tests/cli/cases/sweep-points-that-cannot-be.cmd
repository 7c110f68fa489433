moeplan sweep $SAMPLES/decode.mpt 2:h100 -m gpt-oss-20b --batch 2,64 --nodes 1,2 --strategy lpt --steps 8 --interval-groups 0 --quiet
moeplan sweep $SAMPLES/decode.mpt 2x2:h100 --batch 512,1024 --strategy lpt --quiet --json
echo "exit code $?"
