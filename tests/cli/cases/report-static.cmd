# What a reader without scripts sees: the verdict first, then tables, certificates, limits, provenance.
moeplan plan "$SAMPLES/prefill.mpt" 2x2:h100 --strategy eplb --tokens-per-rank 64 --redundant 4 --split 0.5 -q -o plan.yaml > plan.out
moeplan report plan.yaml "$SAMPLES/prefill.mpt" 2x2:h100 -q -o report.html
sed -e '/^<style>/,/^<\/style>/d' -e '/^<script/,/^<\/script>/d' -e '/http-equiv/d' report.html
