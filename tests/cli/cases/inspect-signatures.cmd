moeplan inspect "$SAMPLES/signed.mpt"
moeplan convert -q "$SAMPLES/signed.mpt" bare.mpt --drop-signatures
moeplan convert -q "$SAMPLES/signed.mpt" kept.mpt
cmp "$SAMPLES/signed.mpt" kept.mpt && moeplan inspect bare.mpt | grep -E "signatures|pairs"
moeplan generate --layers 6 --experts 8 --top-k 2 --n-requests 24 --tokens-per-request 32 --phase train --signatures gpt2 -o made.mpt
