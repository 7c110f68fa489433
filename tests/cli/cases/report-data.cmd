# The data of a page, for a small plan: every key and figure.
moeplan plan "$SAMPLES/lines.mpt" 2:h100 --strategy lpt --batch 1 --resample --steps 4 --redundant 2 -q -o plan.yaml > plan.out
moeplan report plan.yaml "$SAMPLES/lines.mpt" 2:h100 -q --json -o -
