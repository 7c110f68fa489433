# One table a result: the main one, or --table's; what is not in the result is an empty table and a note; other words are refused.
moeplan plan $SAMPLES/decode.mpt 2x2:h100 --batch 4 --steps 4 --strategy eplb --redundant 4 --quiet -o p.yaml > out
moeplan check p.yaml $SAMPLES/decode.mpt --format csv
moeplan check p.yaml $SAMPLES/decode.mpt --format csv --table layers | head -n 3
moeplan verify p.yaml --format csv
moeplan verify p.yaml --format csv --table proofs
moeplan inspect 2x2:h100 --format csv
moeplan list stacks --format markdown | head -n 5
for words in "check p.yaml $SAMPLES/decode.mpt --format csv --table drift" "check p.yaml $SAMPLES/decode.mpt --table layers" "plan $SAMPLES/decode.mpt 2x2:h100 --format csv -o -"; do
    moeplan $words
    echo "$?" >&2
done
