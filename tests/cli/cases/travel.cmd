G="moeplan generate -q --experts 8 --top-k 2 --layers 4 --phase train --n-requests 120 --tokens-per-request 64 --stickiness 0.8"
$G --seed 1 -o a.mpt > /dev/null
moeplan compare a.mpt 2x2:h100 --strategy contiguous,janus,fastermoe --tokens-per-rank 512 --dispatcher a2av -q
moeplan plan a.mpt 2x2:h100 --strategy contiguous --tokens-per-rank 512 -o p.yaml -q > /dev/null
moeplan simulate p.yaml a.mpt 2x2:h100 --travel fastermoe -q | head -12
moeplan simulate p.yaml "$SAMPLES/signed.mpt" 2x2:h100 --travel train
